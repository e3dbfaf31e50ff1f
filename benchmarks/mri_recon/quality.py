"""Quality of the MRI reconstruction bundle's models on the development subjects, beside the baselines.

    python benchmarks/mri_recon/quality.py --dataset-dir $D3GM_DATA/mri --model d3gm=bundles/mri_recon/models/model.pt \
        --output benchmarks/mri_recon/results/quality.json

Simulated single-coil k-space from magnitude images, random masks, SNR 50; every slice has the same phase, noise and
mask for all methods. A model with two input channels is a regression. Prints a table and writes one JSON with every
slice's figures, the machine and the versions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from tqdm import tqdm

from monai_d3gm.data import KspaceSliceDataset, VolumeBatchSampler, collate_slices
from monai_d3gm.data.files import atomic_path
from monai_d3gm.engines import kspace_consistency
from monai_d3gm.inferers import RegressionInferer, RestorationInferer, l1_wavelet
from monai_d3gm.metrics import (
    evaluate_images,
    foreground_mask,
    format_table,
    paired_difference,
    radial_power_spectrum,
    summarise,
)
from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint, read_checkpoint, weights_hash
from monai_d3gm.networks.nets import ConditionalNAFNet

SUBJECTS = ("22", "33", "40", "47", "50", "58")
PATIENT = "03"

FIGURES = {
    "psnr/slice/whole": "PSNR",
    "ssim/slice/whole": "SSIM",
    "psnr/slice/foreground": "PSNR, foreground",
    "ssim/slice/foreground": "SSIM, foreground",
    "nmse/slice/whole": "NMSE",
}

# consistency: hold the measurement at every step; the rest are arguments of RestorationInferer
SETTINGS: dict[str, dict[str, Any]] = {
    "one evaluation": {"num_inference_steps": 1, "consistency": False},
    "one evaluation, projected": {"num_inference_steps": 1},
    "mean path": {"num_inference_steps": 5, "eta": 1.0, "order": 1, "temperature": 0.0},
    "5 evaluations": {"num_inference_steps": 5},
    "5 evaluations, no consistency": {"num_inference_steps": 5, "consistency": False},
    "5 evaluations, eta 1": {"num_inference_steps": 5, "eta": 1.0, "order": 1},
    "mean of 8, 5 evaluations": {"num_inference_steps": 5, "num_samples": 8},
    "mean of 8, 5 evaluations, eta 1": {"num_inference_steps": 5, "num_samples": 8, "eta": 1.0, "order": 1},
    "mean of 8, 100 evaluations": {"num_inference_steps": 100, "num_samples": 8},
    "mean of 8, 100 evaluations, eta 1": {"num_inference_steps": 100, "num_samples": 8, "eta": 1.0, "order": 1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, default=Path(os.environ.get("D3GM_DATA", ".")) / "mri")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--settings", nargs="*", default=["one evaluation, projected", "5 evaluations"])
    parser.add_argument("--options", default="{}", help="JSON, arguments of RestorationInferer for every setting")
    parser.add_argument("--accelerations", nargs="*", type=float, default=[4.0, 8.0, 16.0])
    parser.add_argument("--slices", type=int, default=2, help="slices of each volume")
    parser.add_argument("--only", default="", help="regular expression: the volumes whose names it is found in")
    parser.add_argument("--wavelet", action="store_true", help="add L1-wavelet")
    parser.add_argument("--snr", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

    files = [arguments.dataset_dir / "ds002748" / f"sub-{subject}_T1w.nii.gz" for subject in SUBJECTS]
    files += sorted((arguments.dataset_dir / "open_ms").glob(f"patient{PATIENT}_*.nii.gz"))
    files = [file for file in files if re.search(arguments.only, file.name)]
    paths = dict(text.split("=", 1) for text in arguments.model)
    models = {name: _load(path) for name, path in paths.items()}
    options = json.loads(arguments.options)
    rows: list[dict[str, Any]] = []
    for acceleration in arguments.accelerations:
        dataset = KspaceSliceDataset(
            files, acceleration=acceleration, slices=arguments.slices, snr=arguments.snr, seed=arguments.seed
        )
        batches = VolumeBatchSampler(dataset, batch_size=arguments.slices)
        for volume, indices in zip(dataset.volumes, tqdm(batches, desc=f"{acceleration:g}x"), strict=True):
            items = [dataset[i] for i in indices]
            match = re.match(r"(?:sub-|patient)(\d+).*_([A-Z0-9]+W|T1w|FLAIR)$", volume.stem)
            assert match is not None
            about = {"volume": volume.stem, "subject": match[1], "contrast": match[2].upper().replace("T1W", "T1w")}
            about |= {"acceleration": acceleration}
            for method, images, extra in _restore(items, models, arguments, options):
                for k, item in enumerate(items):
                    reference = item["reference"].numpy()
                    figures = evaluate_images(images[k], reference, "slice")
                    inside = foreground_mask(reference)
                    spread = {name: float(np.sqrt(np.mean(x[k][inside] ** 2))) for name, x in extra.items()}
                    spectrum = radial_power_spectrum(images[k])[1].tolist()
                    rows.append(about | {"slice": item["slice"], "method": method, **figures, **spread})
                    rows[-1]["spectrum"] = spectrum

    _print(rows, arguments.markdown)
    if arguments.output:
        result = {
            "command": {k: (str(v) if isinstance(v, Path) else v) for k, v in vars(arguments).items() if k != "output"},
            "protocol": "simulated single-coil k-space from magnitude images, random mask; slice protocol",
            "models": {name: weights_hash(path) for name, path in paths.items()},
            "machine": {"platform": platform.machine(), "threads": torch.get_num_threads()},
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__},
            "rows": rows,
        }
        for path in ("dataset_dir", "model"):
            result["command"].pop(path)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(arguments.output) as temporary:
            temporary.write_text(json.dumps(result))


def _load(path: str) -> tuple[torch.nn.Module, Any]:
    state = read_checkpoint(path)["model"]
    width, channels = state["intro.weight"].shape[:2]
    network = ConditionalNAFNet(
        in_channels=channels,
        width=width,
        encoder_blocks=(2, 2),
        middle_blocks=6,
        decoder_blocks=(2, 2),
        patch_size=state["intro.weight"].shape[-1],
    ).eval()
    scheduler = build_scheduler(load_checkpoint(path, network))
    return network, scheduler


def _restore(
    items: list[dict[str, Any]], models: dict[str, Any], arguments: argparse.Namespace, options: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """Magnitude images (slices, H, W) of each method, with the standard deviation over samples where there is one."""
    batch = collate_slices(items)
    mu, consistency = batch["mu"], kspace_consistency(batch)
    yield "zero-filled", batch["zero_filled"].norm(dim=1).numpy(), {}
    yield "phase-constrained (mu)", mu.norm(dim=1).numpy(), {}
    if arguments.wavelet:
        images = [l1_wavelet(k, mask=m) for k, m in zip(batch["kspace"], batch["mask"], strict=True)]
        yield "L1-wavelet", torch.stack(images).abs().numpy(), {}
    for name, (network, scheduler) in models.items():
        if network.in_channels == mu.shape[1]:
            regression = RegressionInferer(scheduler)
            bound = consistency.with_prior_std(scheduler.prior_std)
            yield name, regression.restore(mu, network).norm(dim=1).numpy(), {}
            yield f"{name}, projected", regression.restore(mu, network, bound).norm(dim=1).numpy(), {}
            continue
        for setting in arguments.settings:
            chosen = {"batch_size": 4, "seed": arguments.seed, **options, **SETTINGS[setting]}
            hold = consistency if chosen.pop("consistency", True) else None
            samples: list[torch.Tensor] = []
            mean, std = RestorationInferer(scheduler, **chosen).moments(
                mu, network, hold, [item["key"] for item in items], of=lambda x, seen=samples: _with_magnitude(x, seen)
            )
            if chosen.get("num_samples", 1) > 1:
                yield f"{name}: {setting}", mean[:, :2].norm(dim=1).numpy(), {"std": std[:, 2].numpy()}
                yield f"{name}: {setting}, the first sample", torch.cat(samples)[: len(mu)].numpy(), {}
            else:
                yield f"{name}: {setting}", mean[:, :2].norm(dim=1).numpy(), {}


def _with_magnitude(x: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
    """The samples with their magnitude as a third channel, of which the deviation is taken; ``seen`` keeps it."""
    magnitude = x.norm(dim=1, keepdim=True)
    seen.append(magnitude[:, 0])
    return torch.cat([x, magnitude], dim=1)


def _print(rows: list[dict[str, Any]], markdown: bool) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for acceleration in sorted({row["acceleration"] for row in rows}):
        for contrast in sorted({row["contrast"] for row in rows}):
            chosen = [r for r in rows if r["acceleration"] == acceleration and r["contrast"] == contrast]
            table = []
            for method in methods:
                line: dict[str, object] = {"method": method}
                for key, title in FIGURES.items():
                    line[title] = summarise(_values(chosen, method, key)).mean
                for other in ("zero-filled", "L1-wavelet"):
                    if other in methods:
                        gain = paired_difference(_values(chosen, method), _values(chosen, other))
                        line[f"PSNR less {other}"] = gain.format(2)
                table.append(line)
            subjects = len({r["subject"] for r in chosen})
            print(f"\n{acceleration:g}x, {contrast}: {subjects} subjects, {len(chosen) // len(methods)} slices\n")
            print(format_table(table, digits=3, markdown=markdown))
    for few, many in itertools.permutations([m for m in methods if f"{m}, the first sample" in methods], 2):
        if "100 evaluations" in many:
            _compare(rows, few, many)


def _values(rows: list[dict[str, Any]], method: str, key: str = "psnr/slice/whole") -> dict[str, list[float]]:
    """A figure by subject."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["method"] == method:
            values.setdefault(row["subject"], []).append(row[key])
    return values


def _compare(rows: list[dict[str, Any]], few: str, many: str) -> None:
    """Few evaluations against many, on the same slices and seeds."""

    def of(method: str, key: str) -> np.ndarray:
        return np.array([row[key] for row in rows if row["method"] == method])

    one = [f"{method}, the first sample" for method in (few, many)]
    psnr = (of(one[0], "psnr/slice/whole") - of(one[1], "psnr/slice/whole")).mean()
    spread = of(few, "std").mean() / of(many, "std").mean()
    spectrum = 10 * np.log10(of(one[0], "spectrum").mean(0) / of(one[1], "spectrum").mean(0))
    print(f"\n{few} against {many}: PSNR of a sample {psnr:+.3f} dB; standard deviation over samples x {spread:.3f};")
    print(f"radial power spectrum {np.array2string(spectrum, precision=2)} dB")


if __name__ == "__main__":
    main()
