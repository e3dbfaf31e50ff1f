"""Five processes under one network: trajectories on a shared grid of noise levels, and how far their images differ.

    python benchmarks/one_network.py --output benchmarks/results/one_network.json --figure docs/images/one_network.png

The bundle mri_recon's network restores the middle slice of a volume, k-space simulated, under each process from the
same w = (x - b mu) / a at the first noise level. The theory's proposition ("One network makes the processes one") says
that w and the image are the same. Prints a table: for each process the largest difference of its image from that of
D3GM, and of its states x_t from D3GM's at the same noise level, in units of the image's range.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import torch
from common import load_model, set_threads, shipped_weights, write_result

from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path, collate_slices
from monai_d3gm.engines import kspace_consistency
from monai_d3gm.metrics import format_table
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import PROCESSES, Sampler, Step, sample

NOISES = (5.0, 1.0, 0.3, 0.1, 0.03, 0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default=str(bundled_epi_path()), help="a magnitude volume, or fully sampled k-space")
    parser.add_argument("--acceleration", type=float, default=4.0)
    parser.add_argument("--order", type=int, default=2)
    parser.add_argument("--eta", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    set_threads()

    weights = shipped_weights("mri_recon")
    network, trained = load_model("mri_recon", weights)
    dataset = KspaceSliceDataset(arguments.input, acceleration=arguments.acceleration, slices=1, seed=arguments.seed)
    batch = collate_slices([dataset[0]])
    found = {name: _trajectory(network, trained, kind(), batch, arguments) for name, kind in PROCESSES.items()}
    own = found["D3GMProcess"]
    extent = float(own["image"].norm(dim=1).max())
    rows = [
        {
            "process": name,
            "times": " ".join(f"{t:.3f}" for t in each["times"]),
            "x_t from D3GM's": _distance(each["x"], own["x"]) / extent,
            "w from D3GM's": _distance(each["w"], own["w"]) / extent,
            "image from D3GM's": _distance([each["image"]], [own["image"]]) / extent,
        }
        for name, each in found.items()
    ]
    print(format_table([{k: f"{v:.1e}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]))
    if arguments.output:
        command = {k: v for k, v in vars(arguments).items() if k in ("acceleration", "order", "eta", "seed")}
        result = {"command": command | {"noises": NOISES, "input": Path(arguments.input).name}}
        write_result(arguments.output, result | {"rows": rows}, {"one": weights})
    if arguments.figure:
        _draw(found, extent, arguments.figure)


def _trajectory(network: Any, trained: Any, process: Any, batch: dict[str, Any], arguments: Any) -> dict[str, Any]:
    """Times, states x_t, the same as w, and the image. The shared noise levels are those that the network has seen."""
    scheduler = D3GMScheduler(process, prediction_type=trained.prediction_type, sigma_data=trained.sigma_data)
    mu = batch["mu"]
    times = process.time_of_rho(-torch.tensor(NOISES, dtype=torch.float64).log()).tolist()
    a, b, _ = (float(curve) for curve in process.curves(times[0]))
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(arguments.seed))
    correct = kspace_consistency(batch, "cpu").with_prior_std(scheduler.prior_std)
    states: list[torch.Tensor] = []

    def keep(step: Step) -> None:
        states.append(step.x)

    image = sample(
        scheduler.denoiser(network),
        mu,
        process,
        sampler=Sampler(order=arguments.order, eta=arguments.eta),
        times=[*times, 0.0],
        state=a * (mu + NOISES[0] * noise) + b * mu,
        seed=arguments.seed,
        items=batch["key"],
        correct=correct,
        callback=keep,
    )
    curves = [[float(curve) for curve in process.curves(t)] for t in times]
    w = [(x - b * mu) / a for x, (a, b, _) in zip(states, curves, strict=True)]
    residuals = [x - (a + b) * mu for x, (a, b, _) in zip(states, curves, strict=True)]
    scaled = [r / a for r, (a, _, _) in zip(residuals, curves, strict=True)]
    return {"times": times, "x": states, "w": w, "r": residuals, "r/a": scaled, "image": image}


def _distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def _sizes(images: list[torch.Tensor]) -> list[float]:
    """Root mean squares."""
    return [float(image.square().mean().sqrt()) for image in images]


def _draw(found: dict[str, dict[str, Any]], extent: float, path: Path) -> None:
    matplotlib.use("Agg")
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    own = found["D3GMProcess"]
    for number, (name, each) in enumerate(found.items()):
        style: dict[str, Any] = {"marker": "o", "markersize": 9 - 1.6 * number, "linewidth": 3.5 - 0.6 * number}
        left.semilogy(each["times"], _sizes(each["r"]), label=name.removesuffix("Process"), **style)
        middle.loglog(NOISES, _sizes(each["r/a"]), **style)
        right.barh(name.removesuffix("Process"), _distance([each["image"]], [own["image"]]) / extent)
    left.set(xlabel="t", ylabel="root mean square", title="$r=x_t-(a+b)\\mu$ against time")
    left.legend(fontsize=7)
    middle.set(xlabel="c / a", title="$r/a$ against the noise level")
    middle.invert_xaxis()
    right.set(xlabel="largest, as a share of the range", title="images: difference from D3GM's")
    right.invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
