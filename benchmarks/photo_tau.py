"""What tau is worth: one small network trained for each tau at one budget, and the tau of `calibrate_tau` beside them.

    python benchmarks/photo_tau.py derain --work runs/tau --output benchmarks/photos/results/tau_derain.json

The trainings are the bundle's own ``train.json`` with a narrower network, fewer steps and another tau; all see the same
pairs, noise and times. Each ends in ``WORK/tau_<tau>/model.pt``, which is taken as it is where it is there already, and
one that was stopped goes on. They are compared on the development photographs, cropped about their middle, under one
amount of weather. Prints a table and writes one JSON.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import bundle_sampler, load_model, set_threads, write_result
from monai.bundle import ConfigParser
from photo_quality import DEVELOPMENT, WEATHER, middle, photographs
from tqdm import tqdm

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import evaluate_photograph, format_table, photograph_detail, summarise
from monai_d3gm.sde import calibrate_tau, temporal_discrepancy

SETTINGS: dict[str, dict[str, Any]] = {
    "one evaluation": {"fidelity": 1.0},
    "a sample": {},
    "mean of 4": {"num_samples": 4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=WEATHER)
    parser.add_argument("--dataset-dir", type=Path, default=Path(os.environ.get("D3GM_DATA", ".")) / "photos")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--taus", nargs="+", type=float, default=[1.0, 2.0, 4.0], help="beside the calibrated one")
    parser.add_argument("--epochs", type=int, default=10, help="of 100 steps")
    parser.add_argument("--width", type=int, default=16, help="of the network")
    parser.add_argument("--pairs", type=int, default=200, help="training pairs that tau is calibrated on")
    parser.add_argument("--amount", type=float, default=1.0, help="of rain or haze, 0 light and 1 heavy or dense")
    parser.add_argument("--crop", type=int, default=256, help="extent of what is taken of each photograph")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_threads()

    root = Path(find_bundle_root(arguments.bundle))
    train = ConfigParser(ConfigParser.load_config_file(root / "configs" / "train.json"))
    train["dataset_dir"], train["max_epochs"] = str(arguments.dataset_dir), arguments.epochs
    dataset = train.get_parsed_content("train_dataset")
    items = (dataset[i] for i in tqdm(range(arguments.pairs), desc="calibrating tau"))
    pairs = [(item["image"], item["mu"]) for item in items]
    calibrated = round(calibrate_tau(pairs), 2)

    rows: list[dict[str, Any]] = []
    paths = {}
    for tau in sorted({calibrated, *arguments.taus}):
        path = _train(root, tau, arguments)
        paths[f"tau {tau:g}"] = path
        network, scheduler = load_model(arguments.bundle, path)
        divergence = np.mean(
            [float(temporal_discrepancy(*(x[None] for x in pair), scheduler.process)[0]) for pair in pairs]
        )
        for name, figures in _evaluate(network, scheduler, arguments):
            rows.append({"tau": tau, "calibrated": tau == calibrated, "discrepancy": divergence, "setting": name})
            rows[-1] |= figures

    print(f"\n{format_table(quality(rows), markdown=arguments.markdown)}")
    if arguments.output:
        command = {k: v for k, v in vars(arguments).items() if k not in ("output", "dataset_dir", "work", "markdown")}
        result = {
            "command": command | {"calibrated": calibrated},
            "rows": rows,
        }
        write_result(arguments.output, result, paths)


def _train(root: Path, tau: float, arguments: argparse.Namespace) -> Path:
    """The weights of one training, made where they are not there yet."""
    output = arguments.work / f"tau_{tau:g}"
    if not (output / "model.pt").is_file():
        keys = {
            "dataset_dir": arguments.dataset_dir.absolute(),
            "output_dir": output.absolute(),
            "max_epochs": arguments.epochs,
            "seed": arguments.seed,
            "network_def#width": arguments.width,
            "process#tau": tau,
        }
        command = [sys.executable, "-m", "monai.bundle", "run"]
        command += ["--config_file", str(root / "configs" / "train.json")]
        subprocess.run([*command, *(str(text) for key in keys for text in (f"--{key}", keys[key]))], check=True)
    return output / "model.pt"


def _evaluate(network: Any, scheduler: Any, arguments: argparse.Namespace) -> Any:
    """The figures of each setting, means over the development photographs; the sampler is the bundle's."""
    sampler = bundle_sampler(arguments.bundle, steps=5)
    files = [arguments.dataset_dir / f"{name}.png" for name in DEVELOPMENT]
    dataset = photographs(arguments.bundle, files, arguments.amount, arguments.seed)
    for setting, chosen in SETTINGS.items():
        figures: dict[str, dict[str, list[float]]] = {}
        inferer = RestorationInferer(scheduler, sampler, seed=arguments.seed, **chosen)
        for index in range(len(dataset)):
            item = dataset[index]
            mu, truth = (middle(item[name], arguments.crop) for name in ("mu", "reference"))
            mean, std = inferer.moments(mu[None], network, items=[item["key"]])
            image, reference = (np.ascontiguousarray(x.movedim(0, -1).numpy()) for x in (mean[0].clamp(0, 1), truth))
            found = evaluate_photograph(image, reference) | photograph_detail(image, reference)
            found["std"] = float(std.square().mean().sqrt())
            for name, value in found.items():
                figures.setdefault(name, {})[item["key"]] = [value]
        yield setting, {name: summarise(values).mean for name, values in figures.items()}


def quality(rows: list[dict[str, Any]]) -> list[dict[str, object]]:
    """A row for each tau."""
    table = []
    for tau in dict.fromkeys(row["tau"] for row in rows):
        chosen = {row["setting"]: row for row in rows if row["tau"] == tau}
        first = next(iter(chosen.values()))
        line: dict[str, object] = {"tau": f"{tau:g}{' (calibrated)' * first['calibrated']}"}
        line["KL per pixel"] = f"{first['discrepancy']:.1e}"
        for name, row in chosen.items():
            line[f"{name}: PSNR RGB / SSIM"] = f"{row['psnr/rgb/whole']:.2f} / {row['ssim/rgb/whole']:.3f}"
        line["std"] = f"{chosen['mean of 4']['std']:.3f}"
        line["a sample: spectrum (dB)"] = f"{chosen['a sample']['spectrum_mean_db/y/whole']:+.2f}"
        table.append(line)
    return table


if __name__ == "__main__":
    main()
