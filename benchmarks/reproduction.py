"""What a run of the recipes of ``benchmarks/reproduce`` costs, on generated data of each data set's own shapes.

    python benchmarks/reproduction.py --output benchmarks/results/reproduction.json

For each recipe as it stands: a temporary folder with the data set's own number of files, names and image sizes (one
content under all names), then one training step of the network at the paper's size, and one evaluation of it on a test
image, or on one tile where the recipe has ``roi_size``. Each runs in a process of its own, whose peak memory is stated.
Operations are counted by `torch.utils.flop_counter` on one patch; a training step counts as three evaluations of its
batch. The hours are those of all steps and all tests at ``--rate`` operations a second, which is an assumption about
the GPU and not measured. On a CPU, seconds are CPU time of the process, the reading of the data included.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from common import ROOT, set_threads, write_result
from ignite.engine import Events
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from monai_d3gm.comparison.experiment import Experiment
from monai_d3gm.consistency import fft2c
from monai_d3gm.data import write_image, write_kspace
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import format_table
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import Sampler

RECIPES = ROOT / "benchmarks" / "reproduce"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=sorted(SHAPES), metavar="RECIPE", help=", ".join(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rate", type=float, default=30e12, help="operations a second for the estimates")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_threads()
    rows = []
    for recipe in arguments.recipes:
        with tempfile.TemporaryDirectory() as folder:
            SHAPES[recipe](Path(folder))
            row: dict[str, Any] = {"recipe": recipe}
            for part in (one_step, one_evaluation):
                row |= _alone(part, RECIPES / f"{recipe}.json", folder, arguments.device)
        hours = row["training operations"] / arguments.rate / 3600, row["test operations"] / arguments.rate / 3600
        rows.append(row | {"training hours": hours[0], "test hours": hours[1]})
        print(format_table(table(rows[-1:])), flush=True)
    if arguments.output:
        command = {"recipes": arguments.recipes, "rate": arguments.rate}
        write_result(arguments.output, {"command": command, "rows": rows}, {}, arguments.device)


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row for each recipe, as the page shows it."""
    return [
        {
            "recipe": f"`{row['recipe']}.json`",
            "a step's memory (GB)": f"{row['training memory'] / 1e9:.1f}",
            "an evaluation's memory (GB)": f"{row['test memory'] / 1e9:.1f}",
            "test image": " x ".join(map(str, row["test shape"])),
            "test images": row["test images"],
            "training, hours on the GPU": f"{row['training hours']:.0f}",
            "tests, hours": f"{row['test hours']:.1f}",
            "a step here (s)": f"{row['training seconds']:.0f}",
        }
        for row in rows
    ]


def _alone(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a part gives in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(part, arguments)


def one_step(recipe: Path, folder: str, device: str) -> dict[str, Any]:
    """A training step: seconds, memory, and the operations of all steps of the recipe."""
    experiment = Experiment(recipe, {"dataset_dir": folder})
    (name,) = experiment.networks
    whole = experiment.parser(name, seed=0, output_dir=folder, device=device)
    steps = whole.get_parsed_content("max_epochs") * whole.get_parsed_content("epoch_length")
    short = {"max_epochs": 1, "epoch_length": 1, "num_workers": 0, "train_handlers": []}
    parser = experiment.parser(name, seed=0, output_dir=folder, device=device, **short)
    trainer = parser.get_parsed_content("trainer")
    times: list[float] = []
    for event in (Events.GET_BATCH_STARTED, Events.ITERATION_COMPLETED):
        trainer.add_event_handler(event, lambda: times.append(_clock(device)))
    trainer.run()
    network = parser.get_parsed_content("network_def")
    image = parser.get_parsed_content("train_dataset")[0]["mu"]
    forward = _operations(network, torch.zeros(1, network.in_channels, *image.shape[1:], device=device))
    batch = parser.get_parsed_content("batch_size")
    return {
        "training seconds": times[1] - times[0],
        "training memory": _memory(device),
        "training operations": 3 * forward * batch * steps,
        "patch": list(image.shape),
        "operations of a patch": forward,
    }


def one_evaluation(recipe: Path, folder: str, device: str) -> dict[str, Any]:
    """An evaluation on a test image or one tile of it: seconds, memory, and the operations of all tests."""
    experiment = Experiment(recipe, {"dataset_dir": folder})
    (name,), (setting,) = experiment.networks, experiment.settings
    parser = experiment.parser(name, seed=0, output_dir=folder, device=device)
    network = parser.get_parsed_content("network_def").to(device).eval()
    scheduler = D3GMScheduler(parser.get_parsed_content("process"))
    restore = RestorationInferer(scheduler, Sampler(steps=1))
    datasets = [experiment.dataset(condition) for condition in experiment.final.values()]
    mu, tile = datasets[0][0]["mu"][None], experiment.component("roi_size")
    shape = list(mu.shape[2:])
    part = (mu if tile is None else mu[..., :tile, :tile]).to(device)
    start = _clock(device)
    restore(part, network)
    seconds = _clock(device) - start
    patch = torch.zeros(1, network.in_channels, 128, 128, device=device)
    images = sum(len(dataset) for dataset in datasets)
    evaluations = images * setting.sampler.steps * math.prod(shape) / 128**2
    return {
        "test seconds": seconds,
        "test memory": _memory(device),
        "test operations": _operations(network, patch) * evaluations,
        "test shape": shape,
        "tile": tile,
        "test images": images,
    }


def _clock(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def _memory(device: str) -> int:
    """Peak bytes: of the device, or of the process on a CPU."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _operations(network: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to(x.device)(x, torch.zeros(1, device=x.device))
    return int(counter.get_total_flops())


def _disc(rows: int, columns: int) -> NDArray[np.float32]:
    """A textured disc in noise."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    noise = np.random.default_rng(0).normal(size=(rows, columns))
    return ((y**2 + x**2 < 0.5) * (1.2 + np.sin(40 * y) * np.cos(30 * x)) + 0.02 * noise).astype(np.float32)


def _under_names(first: Path, names: Iterable[str]) -> None:
    """The content of one file under other names."""
    for name in names:
        path = first.parent / name
        if not path.exists():
            os.link(first, path)


def _pairs(size: tuple[int, int], folders: Mapping[tuple[str, str], range]) -> Callable[..., None]:
    """Pairs of photographs; their names have the number in place of ``{}``."""

    def write(root: Path) -> None:
        for patterns, numbers in folders.items():
            for pattern, level in zip(patterns, (0.3, 0.6), strict=True):
                first = root / pattern.format(numbers[0])
                first.parent.mkdir(parents=True, exist_ok=True)
                write_image(first, np.clip(level + 0.1 * np.repeat(_disc(*size)[None], 3, axis=0), 0, 1))
                _under_names(first, (Path(pattern.format(number)).name for number in numbers))

    return write


def _rain(letter: str, train: int) -> Callable[..., None]:
    test = f"Rain100{letter}"
    folders = {
        (f"RainTrain{letter}/rain-{{}}.png", f"RainTrain{letter}/norain-{{}}.png"): range(1, train + 1),
        (f"{test}/rain/rain-{{:03d}}.png", f"{test}/norain/norain-{{:03d}}.png"): range(1, 101),
    }
    return _pairs((321, 481), folders)


def _fastmri(root: Path) -> None:
    """The single-coil knees: 973 and 199 files of 36 slices, 640 x 368 samples, images of 320 x 320."""
    plane = torch.from_numpy(_disc(640, 368)).to(torch.complex64)
    kspace = fft2c(plane).expand(36, -1, -1).contiguous()
    (root / "singlecoil_train").mkdir()
    first = root / "singlecoil_train" / "file1000000.h5"
    write_kspace(first, kspace, recon_size=(320, 320))
    _under_names(first, (f"file{1000000 + i}.h5" for i in range(973)))
    (root / "singlecoil_val").mkdir()
    os.link(first, root / "singlecoil_val" / "file2000000.h5")
    _under_names(root / "singlecoil_val" / "file2000000.h5", (f"file{2000000 + i}.h5" for i in range(199)))


def _ixi(root: Path) -> None:
    """T2 volumes of 256 x 256 x 130 voxels of 184 subjects of HH, and of 30 of each other site."""
    volume = np.repeat((1000 * _disc(256, 256).clip(0))[:, :, None], 130, axis=2).astype(np.int16)
    image = nibabel.Nifti1Image(volume, np.diag([0.94, 0.94, 1.25, 1.0]))
    first = root / "IXI000-HH-1000-T2.nii.gz"
    nibabel.save(image, first)
    numbers = {"HH": range(184), "Guys": range(200, 230), "IOP": range(300, 330)}
    _under_names(first, (f"IXI{n:03d}-{site}-{1000 + n}-T2.nii.gz" for site, each in numbers.items() for n in each))


SHAPES: Mapping[str, Callable[[Path], None]] = {
    "fastmri_knee_phase": _fastmri,
    "fastmri_knee_frequency": _fastmri,
    "ixi": _ixi,
    "rain100h": _rain("H", 1800),
    "rain100l": _rain("L", 200),
    "o_haze": _pairs((3612, 5436), {("hazy/{:02d}_outdoor_hazy.png", "GT/{:02d}_outdoor_GT.png"): range(1, 46)}),
    "dense_haze": _pairs((1200, 1600), {("hazy/{:02d}_hazy.png", "GT/{:02d}_GT.png"): range(1, 56)}),
}
"""What writes each data set: the layouts are those of its manifest, the sizes those of its publication."""


if __name__ == "__main__":
    main()
