"""The classical reconstructions: their weights from simulated calibration data, and beside D3GM on real slices.

    python benchmarks/classical.py tune --dataset-dir $D3GM_DATA/mri \
        --output benchmarks/results/mri_recon/classical_weights.json
    python benchmarks/classical.py measure $D3GM_DATA/kspace/brain_8coil_full.h5 $D3GM_DATA/kspace/brain_7coil_full.h5 \
        --output benchmarks/results/mri_recon/classical_real.json

``tune`` simulates scans of calibration subjects with a random scanner, by one coil and by eight, at 4x and 8x, and
takes the foreground PSNR of every weight of each method. The best mean over scans is the default of
`monai_d3gm.baselines`.

``measure`` undersamples fully sampled k-space at 4x and 8x with two kinds of masks and several seeds. D3GM is the
shipped bundle ``mri_recon``. Each classical method has the default weight and the *oracle* weight: the best one on
average over the masks of this very slice and acceleration, by its truth. Where the truth is not known, no method can do
as well: it is the row to beat.

Both write after every condition and go on from where their output ends. The figures are those of the foreground under
the protocol ``slice``, in the units of the file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from common import belongs_to, set_threads, shipped_weights, write_result
from fastmri.data.transforms import center_crop
from torch import Tensor
from tqdm import tqdm

from monai_d3gm import load
from monai_d3gm.baselines import cg_sense, l1_wavelet, total_variation
from monai_d3gm.baselines.operator import WEIGHTS, as_problem
from monai_d3gm.bundle.model import TrainedModel
from monai_d3gm.consistency import channels_to_complex, prepare_coils
from monai_d3gm.data import KspaceSliceDataset, collate_slices
from monai_d3gm.engines import kspace_consistency
from monai_d3gm.metrics import evaluate_images
from monai_d3gm.transforms.kspace.functional import (
    cartesian_mask,
    crop_to_acquired_band,
    keyed_generator,
)
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight, phase_reference
from monai_d3gm.transforms.kspace.scanner import RandomScanner

METHODS: Mapping[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "L1-wavelet": (l1_wavelet, (0.002, 0.004, 0.008, 0.016)),
    "TV": (total_variation, (0.002, 0.004, 0.008, 0.016)),
    "CG-SENSE": (cg_sense, (0.003, 0.01, 0.03)),
}
SCANS = (
    ("ds002748/sub-48_T1w.nii.gz", 0.55),
    ("ds002748/sub-62_T1w.nii.gz", 0.45),
    ("ds002748/sub-69_T1w.nii.gz", 0.6),
    ("open_ms/patient09_study2_FLAIR.nii.gz", 0.5),
    ("open_ms/patient19_study1_FLAIR.nii.gz", 0.5),
    ("open_ms/patient19_study2_T1W.nii.gz", 0.5),
)
"""Volumes of calibration subjects, and where along them the slice lies."""

D3GM = "D3GM"

FIGURES = ("psnr/slice/foreground", "ssim/slice/foreground")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tune = commands.add_parser("tune", help="weights from calibration subjects")
    tune.add_argument("--dataset-dir", type=Path, required=True)
    tune.add_argument("--coils", type=int, nargs="+", default=[8, 1])
    measure = commands.add_parser("measure", help="figures on fully sampled k-space")
    measure.add_argument("files", type=Path, nargs="+")
    measure.add_argument("--masks", nargs="+", default=["random", "equispaced_fraction"])
    measure.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for each in (tune, measure):
        each.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0])
        each.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
        each.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    set_threads()
    models = {D3GM: shipped_weights("mri_recon")} if arguments.command == "measure" else {}
    result = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"rows": []}
    rows: list[dict[str, Any]] = result["rows"]
    if models and result.get("weights") != belongs_to(models)["weights"]:
        rows = [row for row in rows if row["method"] != D3GM]  # of other weights
    done = {(*row["condition"].items(), row["method"]) for row in rows}
    conditions = _simulated if arguments.command == "tune" else _real
    for condition, scan in tqdm(list(conditions(arguments))):
        methods = [*arguments.methods, D3GM] if arguments.command == "measure" else arguments.methods
        left = [name for name in methods if (*condition.items(), name) not in done]
        if left:
            known = (*condition.items(), "zero-filled") in done
            rows += _reconstruct(condition, scan(), left)[1 if known else 0 :]
            summary = (_weights if arguments.command == "tune" else _summary)(rows)
            write_result(arguments.output, {"protocol": __doc__, "summary": summary, "rows": rows}, models)
    print(json.dumps((_weights if arguments.command == "tune" else _summary)(rows), indent=1))


def _simulated(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Scans of calibration subjects by a random scanner."""
    for coils in arguments.coils:
        for name, place in SCANS:
            for acceleration in arguments.accelerations:
                condition = {"scan": Path(name).stem.split(".")[0], "coils": coils, "acceleration": acceleration}
                yield condition, lambda c=condition, n=name, p=place: _simulate(arguments.dataset_dir / n, p, c)


def _simulate(path: Path, place: float, condition: Mapping[str, Any]) -> dict[str, Any]:
    volume = nibabel.load(path)
    number = round(place * volume.shape[2])
    planes = np.asarray(volume.dataobj[:, :, number - 1 : number + 2], dtype=np.float32)
    magnitude = crop_to_acquired_band(planes, (0, 1))[0][:, :, 1]
    rng = keyed_generator(0, condition["scan"], condition["coils"])
    scan = RandomScanner()(magnitude / np.percentile(magnitude, 99.5), rng, coils=condition["coils"])
    seed = int(keyed_generator(0, "mask", condition["scan"]).integers(2**32))
    lines = cartesian_mask(magnitude.shape[1], condition["acceleration"], "random", seed=seed)
    mask = lines.reshape((1,) * (scan.kspace.ndim - 1) + (-1,))
    kspace, truth, intensity, noise_std = scan.kspace * mask, scan.image.abs(), None, scan.noise_std
    maps = torch.ones_like(kspace[None]) if condition["coils"] == 1 else None
    if maps is None:
        system = prepare_coils(kspace, mask)
        kspace, maps = system.apply(kspace), system.sensitivity.maps
        intensity, noise_std = system.intensity, system.noise_std
    else:
        kspace, mask = kspace[None], mask[None]
    maps = maps * phase_reference(kspace, mask, maps)
    return {"kspace": kspace, "mask": mask, "maps": maps, "noise_std": noise_std, "truth": truth, "factor": intensity}


def _real(arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Real slices, undersampled: every slice with the first seed before any with the second."""
    for seed in arguments.seeds:
        for path in arguments.files:
            for acceleration in arguments.accelerations:
                for mask in arguments.masks:
                    condition = {"slice": path.stem, "acceleration": acceleration, "mask": mask, "seed": seed}
                    yield condition, lambda p=path, c=condition: _measured(p, c)


def _measured(path: Path, condition: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: condition[name] for name in ("acceleration", "mask", "seed")}
    item = KspaceSliceDataset(path, **chosen)[0]
    factor = item["intensity"] * item["scale"]
    return {
        "item": item,
        "kspace": item["kspace"],
        "mask": item["mask"],
        "maps": item["sensitivity_maps"] * item["phase"],
        "noise_std": item["noise_std"],
        "truth": item["reference"] * center_crop(factor, item["reference"].shape),
        "factor": factor,
    }


def _reconstruct(condition: dict[str, Any], scan: Mapping[str, Any], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Every method with every weight, and the zero-filled image."""
    kspace, mask, maps = scan["kspace"], scan["mask"], scan["maps"]
    weight = phase_constraint_weight(kspace, mask, maps, scan["noise_std"])
    about = {"condition": condition, "phase_weight": weight}

    def row(method: str, regularisation: float | None, image: Tensor) -> dict[str, Any]:
        shown = image.abs() if scan["factor"] is None else image.abs() * scan["factor"]
        figures = evaluate_images(center_crop(shown, scan["truth"].shape), scan["truth"])
        return {**about, "method": method, "regularisation": regularisation, **{k: figures[k] for k in FIGURES}}

    problem = as_problem(kspace, maps, mask)
    rows = [row("zero-filled", None, problem.start * problem.scale)]
    for method in methods:
        if method == D3GM:
            rows.append(row(D3GM, None, _d3gm(scan["item"])))
            continue
        solve, weights = METHODS[method]
        for regularisation in weights:
            options = {"mask": mask, "regularisation": regularisation, "phase_weight": weight}
            rows.append(row(method, regularisation, solve(kspace, maps, **options)))
    return rows


def _d3gm(item: Mapping[Any, Any]) -> Tensor:
    """The complex image by the shipped bundle with its default settings."""
    model = _bundle()
    batch = collate_slices([item])
    with torch.no_grad():
        image = model.inferer(batch["mu"], model.network, kspace_consistency(batch))
    return channels_to_complex(image[0])


@cache
def _bundle() -> TrainedModel:
    return load("mri_recon", device="cpu")


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[float | None, list[float]]:
    """By weight, the means of the figures."""
    weights = dict.fromkeys(row["regularisation"] for row in rows)
    return {
        weight: [round(float(np.mean([r[f] for r in rows if r["regularisation"] == weight])), 4) for f in FIGURES]
        for weight in weights
    }


def _weights(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By method and number of coils, the weight with the best mean foreground PSNR."""
    found: dict[str, Any] = {}
    for method in METHODS:
        for coils in sorted({row["condition"]["coils"] for row in rows}):
            part = [row for row in rows if row["method"] == method and row["condition"]["coils"] == coils]
            if part:
                means = _means(part)
                best = max(means, key=lambda weight: means[weight][0])
                found[f"{method}, {coils} coils"] = {"best": best, "means": {str(k): v for k, v in means.items()}}
    return found


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By slice and acceleration the foreground figures of each method with the default and the oracle weight."""
    found: dict[str, Any] = {}
    places = dict.fromkeys((row["condition"]["slice"], row["condition"]["acceleration"]) for row in rows)
    for place in places:
        name, acceleration = place
        table: dict[str, Any] = {}
        for method in ("zero-filled", *METHODS, D3GM):
            part = [
                row
                for row in rows
                if row["method"] == method and (row["condition"]["slice"], row["condition"]["acceleration"]) == place
            ]
            if not part:
                continue
            means = _means(part)
            if method in ("zero-filled", D3GM):
                table[method] = means[None]
                continue
            best = max(means, key=lambda weight: means[weight][0])
            usual = WEIGHTS[METHODS[method][0].__name__][1]
            table[f"{method}, oracle weight {best}"] = means[best]
            table[f"{method}, tuned weight {usual}"] = means.get(usual)
        masks = {
            str(r["condition"]) for r in rows if (r["condition"]["slice"], r["condition"]["acceleration"]) == place
        }
        found[f"{name}, {acceleration:g}x, {len(masks)} masks"] = table
    return found


def best_weights(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row for each slice and acceleration: PSNR (dB) / SSIM of each method's oracle weight, the best in bold."""
    found: list[dict[str, object]] = []
    for place in dict.fromkeys((row["condition"]["slice"], row["condition"]["acceleration"]) for row in rows):
        means = {}
        for method in ("zero-filled", "CG-SENSE", "TV", "L1-wavelet", D3GM):
            part = [r for r in rows if r["method"] == method]
            part = [r for r in part if (r["condition"]["slice"], r["condition"]["acceleration"]) == place]
            if part:
                means[method] = max(_means(part).values())
        best = max(means.values())
        cells = {name: f"{psnr:.2f} / {ssim:.3f}" for name, (psnr, ssim) in means.items()}
        bold = {name: f"**{cell}**" if means[name] == best else cell for name, cell in cells.items()}
        found.append({"slice": f"{place[0]}, {place[1]:g}x", **bold})
    return found


if __name__ == "__main__":
    main()
