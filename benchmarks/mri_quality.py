"""Quality of the MRI bundles' models on subjects that did not train them, beside the baselines.

    python benchmarks/mri_quality.py mri_recon --conditions 4 8 16 --dataset-dir $D3GM_DATA/mri \
        --model regression=benchmarks/mri_recon/models/regression.pt --model D3GM=bundles/mri_recon/models/model.pt \
        --output benchmarks/mri_recon/results/quality.json

A condition is an acceleration for mri_recon (simulated single-coil k-space from magnitude images, random masks, SNR 50)
and a factor for mri_sr (low resolution simulated from magnitude images, SNR 50). Every slice has the same measurement
for all methods. They know its noise unless ``--estimate-noise`` is given. ``--data '{"mask_per": "volume"}'`` draws one
mask for all slices of a volume. A model with half of the input channels is a regression. The sampler is the bundle's
unless a setting or ``--options`` says otherwise. Prints tables and writes one JSON with every slice's figures, the
machine and the versions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import bundle_sampler, is_option, load_model, set_threads, write_result
from tqdm import tqdm

from monai_d3gm.data import KspaceSliceDataset, LowResolutionSliceDataset, VolumeBatchSampler, collate_slices
from monai_d3gm.engines import (
    KSPACE_BASELINES,
    batch_image,
    downsampling_consistency,
    kspace_consistency,
    magnitude,
    nonnegative,
)
from monai_d3gm.inferers import RegressionInferer, RestorationInferer
from monai_d3gm.metrics import (
    evaluate_images,
    foreground_mask,
    format_table,
    paired_difference,
    radial_power_spectrum,
    summarise,
)
from monai_d3gm.sde import Sampler

# split -> subjects of ds002748, patients of open_ms; none of them in training
SUBJECTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "development": (("22", "33", "40", "47", "50", "58"), ("03",)),
    "calibration": (("48", "51", "55", "56", "62", "67", "68", "69", "70", "71"), ("09", "19")),
}

FIGURES = {
    "psnr/slice/whole": "PSNR",
    "ssim/slice/whole": "SSIM",
    "psnr/slice/foreground": "PSNR, foreground",
    "ssim/slice/foreground": "SSIM, foreground",
    "nmse/slice/whole": "NMSE",
}

# consistency: correct each evaluation by the measurement; the rest are options of Sampler and RestorationInferer
SETTINGS: dict[str, dict[str, Any]] = {
    "one evaluation": {"steps": 1, "consistency": False},
    "one evaluation, projected": {"steps": 1},
    "mean path": {"steps": 5, "temperature": 0.0},
    "5 evaluations": {"steps": 5, "temperature": 1.0},
    "mean of 8, 5 evaluations": {"steps": 5, "temperature": 1.0, "num_samples": 8},
    "mean of 8, 100 evaluations": {"steps": 100, "temperature": 1.0, "num_samples": 8},
}


@dataclass(frozen=True)
class Task:
    """What the two bundles do not share: the data, the measurement, what a sample shows, and what to compare with."""

    dataset: Callable[..., Any]
    consistency: Callable[[Mapping[str, Any]], Any]
    to_image: Callable[[torch.Tensor], torch.Tensor]
    classical: Mapping[str, Callable[[Mapping[str, Any]], torch.Tensor]]
    compared: tuple[str, ...]


def _kspace(files: list[Path], condition: float, **options: Any) -> KspaceSliceDataset:
    return KspaceSliceDataset(files, acceleration=condition, **options)


def _low_resolution(files: list[Path], condition: float, **options: Any) -> LowResolutionSliceDataset:
    return LowResolutionSliceDataset(files, factor=int(condition), simulate=True, **options)


TASKS = {
    "mri_recon": Task(
        _kspace,
        kspace_consistency,
        magnitude,
        KSPACE_BASELINES,
        ("zero-filled", "L1-wavelet"),
    ),
    "mri_sr": Task(
        _low_resolution,
        downsampling_consistency,
        nonnegative,
        {name: batch_image(name) for name in ("sinc", "bicubic")},
        ("sinc", "bicubic"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=TASKS)
    parser.add_argument("--dataset-dir", type=Path, default=Path(os.environ.get("D3GM_DATA", ".")) / "mri")
    parser.add_argument("--split", choices=SUBJECTS, default="development")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--settings", nargs="*", default=["one evaluation, projected", "5 evaluations"])
    parser.add_argument("--options", default="{}", help="JSON, options of a Sampler for every setting")
    parser.add_argument("--data", default="{}", help="JSON, further arguments of the data set, such as degradation")
    parser.add_argument("--conditions", nargs="+", type=float, default=[4.0], help="accelerations or factors")
    parser.add_argument("--show", type=Path, metavar="JSON", help="print the tables of an earlier run, and end")
    parser.add_argument("--slices", type=int, default=1, help="slices of each volume")
    parser.add_argument("--only", default="", help="regular expression: the volumes whose names it is found in")
    parser.add_argument("--snr", type=float, default=50.0)
    parser.add_argument("--estimate-noise", action="store_true", help="as of a measurement, in place of knowing it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_threads()

    task = TASKS[arguments.bundle]
    if arguments.show:
        _print(json.loads(arguments.show.read_text())["rows"], task.compared, arguments.markdown)
        return
    files = volume_files(arguments.dataset_dir, arguments.split, arguments.only)
    paths = dict(text.split("=", 1) for text in arguments.model)
    models = {name: load_model(arguments.bundle, path) for name, path in paths.items()}
    sampler = bundle_sampler(arguments.bundle, **json.loads(arguments.options))
    rows: list[dict[str, Any]] = []
    for condition in arguments.conditions:
        chosen = {"slices": arguments.slices, "snr": arguments.snr, "seed": arguments.seed}
        chosen |= {"estimate_noise": arguments.estimate_noise}
        dataset = task.dataset(files, condition, **chosen | json.loads(arguments.data))
        batches = VolumeBatchSampler(dataset, batch_size=arguments.slices)
        for volume, indices in zip(dataset.volumes, tqdm(batches, desc=f"{condition:g}x"), strict=True):
            items = [dataset[i] for i in indices]
            match = re.match(r"(?:sub-|patient)(\d+).*_([A-Z0-9]+W|T1w|FLAIR)$", volume.stem)
            assert match is not None
            about = {"volume": volume.stem, "subject": match[1], "contrast": match[2].upper().replace("T1W", "T1w")}
            about |= {"condition": condition}
            for method, images, std in _restore(items, task, models, arguments, sampler):
                for k, item in enumerate(items):
                    reference = item["reference"].numpy()
                    row = about | {"slice": item["slice"], "method": method}
                    row |= evaluate_images(images[k], reference, "slice")
                    if std is not None:
                        inside = foreground_mask(reference)
                        row["std"] = float(np.sqrt(np.mean(std[k][inside] ** 2)))
                    rows.append(row | {"spectrum": radial_power_spectrum(images[k])[1].tolist()})

    _print(rows, task.compared, arguments.markdown)
    if arguments.output:
        noise = "estimated" if arguments.estimate_noise else "known"
        command = {k: v for k, v in vars(arguments).items() if k not in ("output", "dataset_dir", "model", "show")}
        result = {
            "command": command | {"sampler": sampler.config()},
            "protocol": f"{dataset.volumes[0].origin}; slice protocol; noise {noise}",
            "rows": rows,
        }
        write_result(arguments.output, result, paths)


def volume_files(folder: Path, split: str, only: str = "") -> list[Path]:
    """The volumes of a split whose names the regular expression ``only`` is found in."""
    subjects, patients = SUBJECTS[split]
    files = [folder / "ds002748" / f"sub-{subject}_T1w.nii.gz" for subject in subjects]
    for patient in patients:
        files += sorted((folder / "open_ms").glob(f"patient{patient}_*.nii.gz"))
    return [file for file in files if re.search(only, file.name)]


def _restore(
    items: list[dict[str, Any]],
    task: Task,
    models: dict[str, Any],
    arguments: argparse.Namespace,
    sampler: Sampler,
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Images (slices, H, W) of each method, with the standard deviation over samples where there is one."""
    batch = collate_slices(items)
    mu, consistency = batch["mu"], task.consistency(batch)
    channels = mu.shape[1]

    def shown(x: torch.Tensor) -> np.ndarray:
        return task.to_image(x)[:, 0].numpy()

    for name, make in task.classical.items():
        yield name, make(batch)[:, 0].numpy(), None
    for name, (network, scheduler) in models.items():
        if network.in_channels == channels:
            regression = RegressionInferer(scheduler)
            bound = consistency.with_prior_std(scheduler.prior_std)
            yield name, shown(regression.restore(mu, network)), None
            yield f"{name}, projected", shown(regression.restore(mu, network, bound)), None
            continue
        for setting in arguments.settings:
            chosen = dict(SETTINGS[setting])
            hold = consistency if chosen.pop("consistency", True) else None
            own = replace(sampler, **{name: value for name, value in chosen.items() if is_option(name)})
            others = {name: value for name, value in chosen.items() if not is_option(name)}
            samples: list[np.ndarray] = []

            def with_image(x: torch.Tensor, seen: list[np.ndarray] = samples) -> torch.Tensor:
                seen.extend(shown(x))
                return torch.cat([x, task.to_image(x)], dim=1)

            inferer = RestorationInferer(scheduler, own, batch_size=4, seed=arguments.seed, **others)
            mean, std = inferer.moments(mu, network, hold, [item["key"] for item in items], of=with_image)
            several = inferer.num_samples > 1
            yield f"{name}: {setting}", shown(mean[:, :channels]), std[:, channels].numpy() if several else None
            if several:
                yield f"{name}: {setting}, the first sample", np.stack(samples[: len(mu)]), None


def _print(rows: list[dict[str, Any]], compared: tuple[str, ...], markdown: bool) -> None:
    """For each condition the means over subjects, then the differences within subjects."""
    for condition in sorted({row["condition"] for row in rows}):
        print(f"\n{condition:g}x, PSNR (dB) / SSIM:\n\n{format_table(quality(rows, condition), markdown=markdown)}")
        gained = gains(rows, condition, compared)
        print(f"\n{format_table(gained, markdown=markdown)}" if gained else "")
    methods = {row["method"] for row in rows}
    for few, many in itertools.permutations(sorted(m for m in methods if f"{m}, the first sample" in methods), 2):
        if "100 evaluations" in many:
            _compare(rows, few, many)


def quality(rows: list[dict[str, Any]], condition: float) -> list[dict[str, object]]:
    """A row for each method: PSNR (dB) / SSIM, means over subjects, inside the object and of the whole image."""
    chosen = _by_contrast(rows, condition)
    methods = dict.fromkeys(row["method"] for row in rows)
    about = {}
    for contrast, part in chosen.items():
        subjects, slices = len({r["subject"] for r in part}), len(part) // len(methods)
        about[contrast] = f"{contrast} ({subjects} subject{'s' * (subjects > 1)}, {slices} slices)"

    def figures(method: str, contrast: str, region: str) -> str:
        psnr, ssim = (
            summarise(_values(chosen[contrast], method, f"{measure}/slice/{region}")).mean
            for measure in ("psnr", "ssim")
        )
        return f"{psnr:.2f} / {ssim:.3f}"

    table: list[dict[str, object]] = []
    for method in (m for m in methods if not m.endswith(", the first sample")):
        inside = {f"{about[c]}, foreground": figures(method, c, "foreground") for c in chosen}
        whole = {f"{c}, whole image": figures(method, c, "whole") for c in chosen}
        table.append({"method": method, **inside, **whole})
    return table


def gains(rows: list[dict[str, Any]], condition: float, compared: tuple[str, ...]) -> list[dict[str, object]]:
    """Differences paired by subject, inside the object: of each mean from each baseline and regression."""
    chosen = _by_contrast(rows, condition)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    regressions = [method for method in methods if method.endswith(", projected") and ":" not in method]
    others = [*(method for method in compared if method in methods), *regressions]
    judged = [
        m for m in methods if re.search(r": (one evaluation, projected|mean path|mean of \d+, \d+ evaluations)$", m)
    ]
    table: list[dict[str, object]] = []
    for method, other in itertools.product(judged, others):
        for measure, digits in (("psnr", 2), ("ssim", 3)):
            line: dict[str, object] = {f"{condition:g}x, foreground": f"{measure.upper()}: {method}, less {other}"}
            for contrast, part in chosen.items():
                key = f"{measure}/slice/foreground"
                gain = paired_difference(_values(part, method, key), _values(part, other, key))
                line[contrast] = gain.format(digits)
            table.append(line)
    return table


def _by_contrast(rows: list[dict[str, Any]], condition: float) -> dict[str, list[dict[str, Any]]]:
    contrasts = sorted({row["contrast"] for row in rows}, key=lambda name: ["T1w", "T2W", "FLAIR"].index(name))
    return {c: [r for r in rows if r["condition"] == condition and r["contrast"] == c] for c in contrasts}


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
    psnr, ssim = ((of(one[0], key) - of(one[1], key)).mean() for key in ("psnr/slice/whole", "ssim/slice/whole"))
    spread = of(few, "std").mean() / of(many, "std").mean()
    spectrum = 10 * np.log10(of(one[0], "spectrum").mean(0) / of(one[1], "spectrum").mean(0))
    print(f"\n{few} against {many}: a sample's PSNR {psnr:+.3f} dB, SSIM {ssim:+.4f}; std over samples x {spread:.3f};")
    print(f"radial power spectrum {np.array2string(spectrum, precision=2)} dB")


if __name__ == "__main__":
    main()
