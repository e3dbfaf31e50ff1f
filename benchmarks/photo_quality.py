"""Quality of the photographs' bundles on the development photographs, beside a classical peer and a regression.

    python benchmarks/photo_quality.py derain --model D3GM=bundles/derain/models/model.pt \
        --model regression=benchmarks/photos/models/derain.pt --output benchmarks/photos/results/derain.json

Rain and haze are synthetic, on photographs that no weights were trained on; every method gets the same degraded
photograph. A model with three input channels is a regression (``regression.json``). The sampler is the bundle's unless
``--options`` says otherwise, and has the same seeds at all values of the fidelity. Prints a table for each amount and
writes one JSON with every photograph's figures, the machine and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import bundle_sampler, inference_config, load_model, set_threads, write_result
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from photo_peers import PEERS
from tqdm import tqdm

from monai_d3gm.data import ImageDataset
from monai_d3gm.inferers import RegressionInferer, RestorationInferer
from monai_d3gm.metrics import evaluate_photograph, format_table, photograph_detail, summarise
from monai_d3gm.transforms.weather import SimulateHaze, SimulateRain

DEVELOPMENT = ("kodim05", "kodim11", "kodim19", "kodim24", "clic2025/final-test_[0-9]*")
WEATHER = {"derain": SimulateRain, "dehaze": SimulateHaze}
FIDELITIES = (1.0, 0.75, 0.5, 0.25, 0.0)
FIGURES = {
    "psnr/rgb/whole": "PSNR RGB",
    "ssim/rgb/whole": "SSIM RGB",
    "psnr/y/whole": "PSNR Y",
    "ssim/y/whole": "SSIM Y",
    "gmsd/y/whole": "GMSD Y",
    "spectrum_mean_db/y/whole": "spectrum Y (dB)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=WEATHER)
    parser.add_argument("--dataset-dir", type=Path, default=Path(os.environ.get("D3GM_DATA", ".")) / "photos")
    parser.add_argument("--photographs", nargs="+", default=DEVELOPMENT, help="patterns, without suffix")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--options", default="{}", help="JSON, options of a Sampler")
    parser.add_argument("--amounts", nargs="+", type=float, default=[0.2, 0.6, 1.0], help="0 light, 1 heavy or dense")
    parser.add_argument("--samples", type=int, default=4, help="samples of the mean of 5 evaluations; 0 for none")
    parser.add_argument("--fidelities", nargs="+", type=float, default=FIDELITIES, help="places of the dial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=Path, metavar="JSON", help="print and draw an earlier run, and end")
    parser.add_argument("--figure", type=Path, help="PNG: PSNR and detail against the fidelity, means over photographs")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_threads()

    if arguments.show:
        _report(json.loads(arguments.show.read_text())["rows"], arguments)
        return
    sampler = bundle_sampler(arguments.bundle, **{"steps": 5} | json.loads(arguments.options))
    options = {"sampler": sampler, "roi_size": inference_config(arguments.bundle)["roi_size"], "seed": arguments.seed}
    paths = dict(text.split("=", 1) for text in arguments.model)
    models = {name: load_model(arguments.bundle, path) for name, path in paths.items()}
    files = [path for name in arguments.photographs for path in sorted(arguments.dataset_dir.glob(f"{name}.*"))]
    rows: list[dict[str, Any]] = []
    for amount in arguments.amounts:
        dataset = photographs(arguments.bundle, files, amount, arguments.seed)
        for index in tqdm(range(len(dataset)), desc=f"amount {amount:g}"):
            item = dataset[index]
            truth = item["reference"].movedim(0, -1).numpy()
            for method, image in _restore(item, models, options, arguments):
                row = {"photograph": item["key"].split(":")[0], "amount": amount, "method": method}
                rows.append(row | evaluate_photograph(image, truth) | photograph_detail(image, truth))

    _report(rows, arguments)
    if arguments.output:
        result = {
            "bundle": arguments.bundle,
            "protocol": f"{dataset.volumes[0].origin}; data range 1; see monai_d3gm.metrics.photograph",
            "seed": arguments.seed,
            "sampler": sampler.config(),
            "rows": rows,
        }
        write_result(arguments.output, result, paths)


def photographs(bundle: str, files: Sequence[Path], amount: float, seed: int) -> ImageDataset:
    """Clean photographs in one amount of a bundle's weather, with the bundle's first estimate where it makes one."""
    estimate = ConfigParser({"estimate": inference_config(bundle).get("estimate")}).get_parsed_content("estimate")
    return ImageDataset(files, WEATHER[bundle]((amount, amount)), seed, estimate)


def middle(image: torch.Tensor, extent: int) -> torch.Tensor:
    """The middle of an image (C, H, W)."""
    rows, columns = (max(size - extent, 0) // 2 for size in image.shape[1:])
    return image[:, rows : rows + extent, columns : columns + extent]


def _restore(
    item: dict[str, Any], models: dict[str, Any], options: dict[str, Any], arguments: argparse.Namespace
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Photographs (H, W, 3) of each method."""
    mu, keys = item["mu"][None], [item["key"]]

    def shown(x: torch.Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(x[0].movedim(0, -1).clamp(0, 1).numpy())

    degraded = shown(item.get("degraded", item["mu"])[None])
    yield "input", degraded
    peer, remove = PEERS[arguments.bundle]
    yield peer, remove(degraded)
    if "degraded" in item:
        yield "first estimate (mu)", shown(mu)
    for name, (network, scheduler) in models.items():
        if network.in_channels == mu.shape[1]:
            yield name, shown(RegressionInferer(scheduler).restore(mu, network))
            continue
        settings: dict[str, dict[str, Any]] = {
            f"fidelity {value:g}": {"fidelity": value} for value in arguments.fidelities
        }
        if arguments.samples:
            name_of_mean = f"mean of {arguments.samples} samples, 5 evaluations each"
            settings[name_of_mean] = {"num_samples": arguments.samples}
        for setting, chosen in settings.items():
            inferer = RestorationInferer(scheduler, **options, **chosen)
            yield f"{name}: {setting}", shown(inferer(mu, network, items=keys))


def _report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    _print(rows, arguments.markdown)
    if arguments.figure:
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        _draw(rows, arguments.figure)


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The dial: each figure against the fidelity, a line for each amount."""
    titles = {
        "psnr/rgb/whole": "PSNR RGB (dB)",
        "gmsd/y/whole": "GMSD of Y",
        "spectrum_mean_db/y/whole": "spectrum of Y (dB)",
    }
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for amount in sorted({row["amount"] for row in rows}):
            points: dict[float, list[float]] = {}
            for row in rows:
                dial = re.search(r": fidelity ([\d.]+)$", row["method"])
                if dial and row["amount"] == amount:
                    points.setdefault(float(dial[1]), []).append(row[key])
            x = sorted(points)
            axes.plot(x, [np.mean(points[value]) for value in x], "o-", label=f"amount {amount:g}")
        axes.set(xlabel="fidelity", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


def _print(rows: list[dict[str, Any]], markdown: bool) -> None:
    for amount in sorted({row["amount"] for row in rows}):
        count = len({row["photograph"] for row in rows if row["amount"] == amount})
        print(f"\namount {amount:g}: means over {count} photographs\n")
        print(format_table(quality(rows, amount), digits=3, markdown=markdown))
        print(f"\n{format_table(each_photograph(rows, amount), digits=2, markdown=markdown)}")


def quality(rows: list[dict[str, Any]], amount: float) -> list[dict[str, object]]:
    """A row for each method: means over the photographs."""
    chosen = [row for row in rows if row["amount"] == amount]
    table: list[dict[str, object]] = []
    for method in dict.fromkeys(row["method"] for row in chosen):
        line: dict[str, object] = {"method": method}
        for key, title in FIGURES.items():
            line[title] = summarise({r["photograph"]: [r[key]] for r in chosen if r["method"] == method}).mean
        table.append(line)
    return table


def each_photograph(rows: list[dict[str, Any]], amount: float) -> list[dict[str, object]]:
    """A row for each photograph: PSNR of RGB in dB of each method."""
    chosen = [row for row in rows if row["amount"] == amount]
    psnr = {(row["photograph"], row["method"]): row["psnr/rgb/whole"] for row in chosen}
    methods = dict.fromkeys(row["method"] for row in chosen)
    return [{"PSNR RGB": name, **{m: psnr[name, m] for m in methods}} for name in dict.fromkeys(k for k, _ in psnr)]


if __name__ == "__main__":
    main()
