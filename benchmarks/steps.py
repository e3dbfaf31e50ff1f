"""Quality against evaluations of the network, and the search for a bundle's sampler.

    python benchmarks/steps.py curve mri_recon --condition 8 --output benchmarks/mri_recon/results/curve_8x.json
    python benchmarks/steps.py search mri_recon --condition 8 --split calibration --output search_8x.json

``curve`` runs each of the samplers below with each number of ``--evaluations``; ``search`` runs all combinations of
``--orders``, ``--etas`` (a number, or ``[first,last]``), ``--t-firsts``, ``--t-mins``, ``--grid-powers``,
``--noise-scalings`` and ``--last-prior-scales`` on the rho grid with each number of evaluations, and with ``--refine
N`` that many more, on the way that Nelder and Mead's method takes from the best with each number. All is judged
against the ``--reference``, by default ancestral steps, 100 evaluations on the rho grid, on the same slices,
measurements and seeds, by what a sample shows: a sampler is worth it where PSNR is lower by at most 0.05 dB and SSIM by
at most 0.002, the standard deviation over samples is within 10 %, and the radial power spectrum within 0.5 dB in every
band. ``excess`` is the largest of the four in units of its tolerance: 1 or less is accepted.

``--exact N`` adds, for samplers without noise, the root mean square distance of the first sample to the solution of the
probability-flow equation with N evaluations of order 3 from the same state.

A condition is an acceleration for mri_recon, a factor for mri_sr, and an amount of weather in [0, 1] for derain and
dehaze, whose four photographs are those that no weights were trained on unless ``--photographs`` names others. Choose
samplers on the calibration subjects or on training photographs, state them on the development ones. Prints a table and
writes one JSON with every slice's figures, the machine and the versions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import bundle_sampler, load_model, set_threads, shipped_weights, write_result
from mri_quality import SUBJECTS, TASKS, volume_files
from numpy.typing import NDArray
from photo_quality import DEVELOPMENT, WEATHER, middle, photographs
from scipy.optimize import minimize
from tqdm import tqdm

from monai_d3gm.data import VolumeBatchSampler, collate_slices
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import (
    evaluate_images,
    evaluate_photograph,
    foreground_mask,
    format_table,
    luma,
    radial_power_spectrum,
)
from monai_d3gm.sde import Sampler

ANCESTRAL = Sampler(order=1, eta=1.0)
SAMPLERS: dict[str, Sampler] = {
    "ancestral, rho": ANCESTRAL,
    "ancestral, t": replace(ANCESTRAL, grid="t"),
    "ancestral of order 2, rho": replace(ANCESTRAL, order=2),
    "DDIM, rho": replace(ANCESTRAL, eta=0.0),
    "ODE of order 2, rho": replace(ANCESTRAL, eta=0.0, order=2),
    "ODE of order 3, rho": replace(ANCESTRAL, eta=0.0, order=3),
    "Euler-Maruyama, t": replace(ANCESTRAL, solver="euler_maruyama", grid="t"),
}
# what a search combines
SEARCHED = ("order", "eta", "t_first", "t_min", "grid_power", "noise_scaling", "last_prior_scales")
# what a refinement moves: lowest, highest, first move
MOVES = {
    "eta": (0.0, 2.0, 0.1),
    "t_first": (0.3, 0.95, 0.02),
    "t_min": (0.01, 0.25, 0.01),
    "grid_power": (0.4, 2.0, 0.05),
    "last_prior_scales": (0.0, 1.0, 0.2),
}
TOLERANCES = {"psnr": 0.05, "ssim": 0.002, "std": 0.1, "spectrum": 0.5}


@dataclass(frozen=True)
class Case:
    """Degraded images of one volume or photograph, with what is needed to restore and to judge them."""

    name: str
    mu: torch.Tensor
    consistency: Any
    keys: list[str]
    truths: list[NDArray[np.float32]]
    to_image: Callable[[torch.Tensor], torch.Tensor] | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("curve", "search"))
    parser.add_argument("bundle", choices=(*TASKS, *WEATHER))
    parser.add_argument("--weights", type=Path, help="those of the bundle if not given")
    parser.add_argument("--dataset-dir", type=Path, help="by default mri or photos in $D3GM_DATA")
    parser.add_argument("--split", choices=SUBJECTS, default="development")
    parser.add_argument("--photographs", nargs="+", default=DEVELOPMENT, help="names without suffix, for rain and haze")
    parser.add_argument("--crop", type=int, default=256, help="extent of the middle that is taken of photographs")
    parser.add_argument("--only", default="", help="regular expression: the volumes whose names it is found in")
    parser.add_argument("--condition", type=float, default=4.0, help="acceleration, factor or amount")
    parser.add_argument("--slices", type=int, default=1, help="slices of each volume")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--evaluations", nargs="+", type=int, help="1 2 3 5 10 20 100, or for a search 3 4 5")
    parser.add_argument("--orders", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--etas", nargs="+", type=json.loads, default=[0.0, 0.5, 1.0])
    parser.add_argument("--t-firsts", nargs="+", type=json.loads, default=[None, 0.4, 0.46, 0.55])
    parser.add_argument("--t-mins", nargs="+", type=float, default=[0.05, 0.1, 0.15])
    parser.add_argument("--grid-powers", nargs="+", type=float, default=[1.0])
    parser.add_argument("--noise-scalings", nargs="+", type=json.loads, default=[None], help="such as [0.08,0.6]")
    parser.add_argument("--last-prior-scales", nargs="+", type=json.loads, default=[[]], help="such as [0.5]")
    parser.add_argument("--refine", type=int, default=0, metavar="N", help="further samplers of a search")
    parser.add_argument("--reference", type=json.loads, default={"steps": 100}, help="JSON, options of its sampler")
    parser.add_argument("--exact", type=int, default=0, metavar="N", help="evaluations of the exact solution")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.refine and arguments.what != "search":
        parser.error(f"--refine {arguments.refine}: only a search goes on")
    set_threads()

    weights = arguments.weights or shipped_weights(arguments.bundle)
    network, scheduler = load_model(arguments.bundle, weights)
    network = network.to(arguments.device)
    clip = bundle_sampler(arguments.bundle).clip
    samplers = {"reference": replace(ANCESTRAL, **arguments.reference), **_samplers(arguments)}
    samplers = {name: replace(sampler, clip=clip) for name, sampler in samplers.items()}
    common = {"num_samples": arguments.samples, "batch_size": arguments.batch, "seed": arguments.seed}
    rows: list[dict[str, Any]] = []
    cases = list(_cases(arguments))
    solutions = [_exact(case, network, scheduler, common, arguments) for case in cases]
    counts = sorted({sampler.steps for name, sampler in samplers.items() if name != "reference"})
    with tqdm(total=len(cases) * (len(samplers) + len(counts) * arguments.refine), unit="sampler") as bar:

        def run(name: str) -> float:
            restore = RestorationInferer(scheduler, samplers[name], **common)
            for case, solution in zip(cases, solutions, strict=True):
                exact = solution if samplers[name].eta == 0 else None
                rows.extend(_figures(case, name, restore, network, exact, arguments.device))
                bar.update()
            return _excess(rows, name)

        def further(sampler: Sampler) -> float:
            known = next((name for name, each in samplers.items() if each == sampler), None)
            if known is not None:
                return _excess(rows, known)
            name = _name(sampler)
            samplers[name] = sampler
            return run(name)

        for name in samplers:
            run(name)
        for n in counts if arguments.refine else ():
            best = next(line["sampler"] for line in _judge(rows) if line["evaluations"] == n)
            _refine(samplers[best], arguments.refine, further)
    table = _judge(rows)
    print(format_table(judged(table), markdown=arguments.markdown))
    if arguments.output:
        command = {k: v for k, v in vars(arguments).items() if k not in ("output", "dataset_dir", "weights")}
        result = {
            "command": command,
            "tolerances": TOLERANCES,
            "samplers": {name: sampler.config() for name, sampler in samplers.items()},
            "table": table,
            "rows": rows,
        }
        write_result(arguments.output, result, {"network": weights}, arguments.device)


def _samplers(arguments: argparse.Namespace) -> dict[str, Sampler]:
    """The samplers that are judged, by name; those that the solver does not have are left out."""
    counts = arguments.evaluations or ([1, 2, 3, 5, 10, 20, 100] if arguments.what == "curve" else [3, 4, 5])
    own = bundle_sampler(arguments.bundle)
    if arguments.what == "curve":
        kinds = {"the bundle's": own, **SAMPLERS}
        return {f"{name}: {n}": replace(kind, steps=n) for name, kind in kinds.items() for n in counts}
    chosen = {f"the bundle's: {n}": replace(own, steps=n) for n in counts}
    ranges = (
        arguments.orders,
        arguments.etas,
        arguments.t_firsts,
        arguments.t_mins,
        arguments.grid_powers,
        arguments.noise_scalings,
        arguments.last_prior_scales,
    )
    for n, *values in itertools.product(counts, *ranges):
        options = dict(zip(SEARCHED, values, strict=True))
        noisy = options["eta"] not in (0, [0, 0])
        if (noisy and options["order"] > 2) or (options["t_first"] or 1) <= options["t_min"]:
            continue
        sampler = Sampler(steps=n, **options)
        chosen[_name(sampler)] = sampler
    return chosen


def _name(sampler: Sampler) -> str:
    options = sampler.config()
    return ", ".join(f"{key} {options[key]}" for key in SEARCHED) + f": {sampler.steps}"


def _refine(sampler: Sampler, count: int, excess: Callable[[Sampler], float]) -> None:
    """Asks for the excess of ``count`` samplers on the way that Nelder and Mead's method takes from one, to 0.001.

    What it has of `MOVES` is moved: no noise stays no noise, and a spacing without ``t_first`` stays without.
    """
    options = sampler.config()
    numbers = {key: np.atleast_1d(options[key]) for key in MOVES if options[key]}
    keys = [key for key, values in numbers.items() for _ in values]
    lowest, highest, move = np.array([MOVES[key] for key in keys]).T
    first = np.concatenate(list(numbers.values()))
    corners = first + np.diag(np.where(first + move > highest, -move, move))

    def moved(x: NDArray[np.float64]) -> float:
        found = {key: [round(float(v), 3) for v, k in zip(x, keys, strict=True) if k == key] for key in numbers}
        changes = {key: v if isinstance(options[key], list) else v[0] for key, v in found.items()}
        return excess(replace(sampler, **changes))

    limits = {"maxfev": count, "initial_simplex": np.stack([first, *corners]), "xatol": 0.0, "fatol": 0.0}
    minimize(moved, first, method="Nelder-Mead", bounds=list(zip(lowest, highest, strict=True)), options=limits)


def _cases(arguments: argparse.Namespace) -> Iterator[Case]:
    data = Path(os.environ.get("D3GM_DATA", "."))
    if arguments.bundle in WEATHER:
        folder = arguments.dataset_dir or data / "photos"
        files = [folder / f"{name}.png" for name in arguments.photographs]
        for item in photographs(arguments.bundle, files, arguments.condition, arguments.seed):
            mu, truth = (middle(item[name], arguments.crop) for name in ("mu", "reference"))
            truths = [np.ascontiguousarray(truth.movedim(0, -1).numpy())]
            yield Case(item["key"].split(":")[0], mu[None], None, [item["key"]], truths, None)
        return
    task = TASKS[arguments.bundle]
    files = volume_files(arguments.dataset_dir or data / "mri", arguments.split, arguments.only)
    dataset = task.dataset(files, arguments.condition, slices=arguments.slices, snr=50.0, seed=arguments.seed)
    for volume, indices in zip(dataset.volumes, VolumeBatchSampler(dataset, arguments.slices), strict=True):
        batch = collate_slices([dataset[i] for i in indices])
        truths = [truth.numpy() for truth in batch["reference"]]
        yield Case(volume.stem, batch["mu"], task.consistency(batch), batch["key"], truths, task.to_image)


def _restore(case: Case, restore: RestorationInferer, network: Any, device: str) -> NDArray[np.float32]:
    """Samples (samples, slices, H, W), or (samples, 1, H, W, 3) of a photograph."""
    seen: list[torch.Tensor] = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.cpu())
        return x

    consistency = None if case.consistency is None else case.consistency.to(device)
    restore.moments(case.mu.to(device), network, consistency, case.keys, of=keep)
    images = torch.cat(seen)
    images = images.movedim(1, -1).clamp(0, 1) if case.to_image is None else case.to_image(images)[:, 0]
    return images.unflatten(0, (-1, len(case.keys))).numpy()


def _exact(case: Case, network: Any, scheduler: Any, common: dict[str, Any], arguments: argparse.Namespace) -> Any:
    """The first samples by the probability-flow equation in many steps, or None where they are not asked for."""
    if not arguments.exact:
        return None
    clip = bundle_sampler(arguments.bundle).clip
    restore = RestorationInferer(
        scheduler, Sampler(steps=arguments.exact, order=3, clip=clip), **common | {"num_samples": 1}
    )
    return _restore(case, restore, network, arguments.device)[0]


def _figures(
    case: Case, name: str, restore: RestorationInferer, network: Any, exact: Any, device: str
) -> Iterator[dict[str, Any]]:
    """A row for each slice: the mean over samples of what each one shows, and their spread."""
    samples = _restore(case, restore, network, device)
    for k, truth in enumerate(case.truths):
        shown, std = samples[:, k], samples[:, k].std(0, ddof=1 if len(samples) > 1 else 0)
        if truth.ndim == 3:
            figures = [evaluate_photograph(image, truth) for image in shown]
            kind, planes, inside = "rgb", [luma(image) for image in shown], np.ones(truth.shape[:2], dtype=bool)
        else:
            figures = [evaluate_images(image[None], truth[None], "slice") for image in shown]
            kind, planes, inside = "slice", list(shown), foreground_mask(truth)
        row: dict[str, Any] = {"case": case.name, "slice": k, "sampler": name, "evaluations": len(restore.times) - 1}
        row |= {key: float(np.mean([each[f"{key}/{kind}/whole"] for each in figures])) for key in ("psnr", "ssim")}
        row |= {"std": float(np.sqrt(np.mean(std[inside] ** 2)))}
        row |= {"spectrum": np.mean([radial_power_spectrum(plane)[1] for plane in planes], axis=0).tolist()}
        if exact is not None:
            row["distance"] = float(np.sqrt(np.mean((shown[0] - exact[k]) ** 2)))
        yield row


def judged(table: list[dict[str, Any]]) -> list[dict[str, object]]:
    """The table of a result as it is printed: a sampler's differences from the reference."""
    units = {"PSNR (dB)": "+.2f", "SSIM": "+.4f", "std x": ".2f", "spectrum (dB)": ".2f", "distance": ".4f"}
    rows: list[dict[str, object]] = []
    for line in table:
        if line["sampler"] == "reference":
            continue
        figures = {k: format(line[k], unit) for k, unit in units.items() if isinstance(line.get(k), float)}
        accepted = "yes" if line["excess"] <= 1 else "no"
        rows.append({"sampler": line["sampler"].rsplit(":", 1)[0], "evaluations": line["evaluations"]})
        rows[-1] |= {**figures, "accepted": accepted}
    return rows


def _excess(rows: list[dict[str, Any]], sampler: str) -> float:
    return float(next(line["excess"] for line in _judge(rows) if line["sampler"] == sampler))


def _judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each sampler its differences from the reference, the best first within each number of evaluations."""

    def of(sampler: str, key: str) -> NDArray[np.float64]:
        return np.array([row[key] for row in rows if row["sampler"] == sampler and key in row])

    table = []
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        gain = {key: float((of(sampler, key) - of("reference", key)).mean()) for key in ("psnr", "ssim")}
        reference_std = of("reference", "std").mean()
        spread = float(of(sampler, "std").mean() / reference_std) if reference_std > 0 else float("nan")
        bands = 10 * np.log10(of(sampler, "spectrum").mean(0) / of("reference", "spectrum").mean(0))
        spectrum = float(np.abs(bands).max())
        off = {"psnr": -gain["psnr"], "ssim": -gain["ssim"], "std": abs(spread - 1), "spectrum": spectrum}
        line: dict[str, Any] = {"sampler": sampler, "evaluations": int(of(sampler, "evaluations")[0])}
        line |= {"PSNR": float(of(sampler, "psnr").mean()), "PSNR (dB)": gain["psnr"], "SSIM": gain["ssim"]}
        line |= {"std x": spread, "spectrum (dB)": spectrum}
        line["excess"] = max(0.0, *(off[key] / TOLERANCES[key] for key in off))
        if len(distance := of(sampler, "distance")):
            line["distance"] = float(distance.mean())
        table.append(line)
    if any("distance" in line for line in table):
        table = [line | {"distance": line.get("distance", "")} for line in table]
    return sorted(table, key=lambda line: (line["evaluations"], line["excess"]))


if __name__ == "__main__":
    main()
