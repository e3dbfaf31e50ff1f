"""Quality of the photographs' bundles on the development photographs, beside a classical peer and a regression.

    python benchmarks/photos/quality.py derain --model D3GM=bundles/derain/models/model.pt \
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
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from peers import PEERS
from tqdm import tqdm

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.data import ImageDataset
from monai_d3gm.data.files import atomic_path
from monai_d3gm.inferers import RegressionInferer, RestorationInferer
from monai_d3gm.metrics import evaluate_photograph, format_table, photograph_detail, summarise
from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint, read_checkpoint, weights_hash
from monai_d3gm.transforms.weather import SimulateHaze, SimulateRain

DEVELOPMENT = ("kodim05", "kodim11", "kodim19", "kodim24")
WEATHER = {"derain": SimulateRain, "dehaze": SimulateHaze}
FIDELITIES = (0.75, 0.5, 0.25)
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
    parser.add_argument("--photographs", nargs="+", default=DEVELOPMENT, help="names without suffix")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--options", default="{}", help="JSON, arguments of RestorationInferer")
    parser.add_argument("--amounts", nargs="+", type=float, default=[0.2, 0.6, 1.0], help="0 light, 1 heavy or dense")
    parser.add_argument("--samples", type=int, default=4, help="samples of the mean of 5 evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

    root = Path(find_bundle_root(arguments.bundle))
    config = ConfigParser.load_config_file(root / "configs" / "inference.json")
    options = {name: config[name] for name in ("order", "eta", "t_first", "t_min", "roi_size")}
    options |= {"clip": config["inferer"]["clip"], "seed": arguments.seed} | json.loads(arguments.options)
    paths = dict(text.split("=", 1) for text in arguments.model)
    models = {name: _load(path, config["network_def"]) for name, path in paths.items()}
    files = [arguments.dataset_dir / f"{name}.png" for name in arguments.photographs]
    rows: list[dict[str, Any]] = []
    for amount in arguments.amounts:
        dataset = ImageDataset(files, WEATHER[arguments.bundle]((amount, amount)), arguments.seed)
        for index in tqdm(range(len(dataset)), desc=f"amount {amount:g}"):
            item = dataset[index]
            truth = item["reference"].movedim(0, -1).numpy()
            for method, image in _restore(item, arguments.bundle, models, options, arguments.samples):
                row = {"photograph": item["key"].split(":")[0], "amount": amount, "method": method}
                rows.append(row | evaluate_photograph(image, truth) | photograph_detail(image, truth))

    _print(rows, arguments.markdown)
    if arguments.output:
        result = {
            "bundle": arguments.bundle,
            "protocol": f"{dataset.volumes[0].origin}; data range 1; see monai_d3gm.metrics.photograph",
            "seed": arguments.seed,
            "sampler": options,
            "models": {name: weights_hash(path) for name, path in paths.items()},
            "machine": {"platform": platform.machine(), "threads": torch.get_num_threads()},
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__},
            "rows": rows,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(arguments.output) as temporary:
            temporary.write_text(json.dumps(result))


def _load(path: str, network_def: dict[str, Any]) -> tuple[Any, Any]:
    """The network of the bundle's config with as many input channels as the weights have, and their scheduler."""
    channels = read_checkpoint(path)["model"]["intro.weight"].shape[1]
    network = ConfigParser({"network": network_def | {"in_channels": channels}}).get_parsed_content("network").eval()
    return network, build_scheduler(load_checkpoint(path, network))


def _restore(
    item: dict[str, Any], bundle: str, models: dict[str, Any], options: dict[str, Any], samples: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Photographs (H, W, 3) of each method."""
    mu, keys = item["mu"][None], [item["key"]]

    def shown(x: torch.Tensor) -> NDArray[np.float32]:
        return np.ascontiguousarray(x[0].movedim(0, -1).clamp(0, 1).numpy())

    degraded = shown(mu)
    yield "input", degraded
    peer, remove = PEERS[bundle]
    yield peer, remove(degraded)
    for name, (network, scheduler) in models.items():
        if network.in_channels == mu.shape[1]:
            yield name, shown(RegressionInferer(scheduler).restore(mu, network))
            continue
        settings = {"fidelity 1, one evaluation": {"fidelity": 1.0}}
        settings |= {f"fidelity {value:g}, 5 evaluations": {"fidelity": value} for value in (*FIDELITIES, 0.0)}
        settings |= {f"mean of {samples} samples, 5 evaluations each": {"num_samples": samples}}
        for setting, chosen in settings.items():
            inferer = RestorationInferer(scheduler, num_inference_steps=5, **options, **chosen)
            yield f"{name}: {setting}", shown(inferer(mu, network, items=keys))


def _print(rows: list[dict[str, Any]], markdown: bool) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for amount in sorted({row["amount"] for row in rows}):
        chosen = [row for row in rows if row["amount"] == amount]
        table: list[dict[str, object]] = []
        for method in methods:
            line: dict[str, object] = {"method": method}
            for key, title in FIGURES.items():
                line[title] = summarise({r["photograph"]: [r[key]] for r in chosen if r["method"] == method}).mean
            table.append(line)
        print(f"\namount {amount:g}: means over {len(chosen) // len(methods)} photographs\n")
        print(format_table(table, digits=3, markdown=markdown))


if __name__ == "__main__":
    main()
