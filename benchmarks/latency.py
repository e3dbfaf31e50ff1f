"""How long a restoration takes, what of it is not the network, and how it compares with 100 Euler-Maruyama steps.

    python benchmarks/latency.py --device cuda --batches 1 8 32 --samples 1 8 --modes eager compiled cuda-graph \
        --precisions fp32 tf32 bf16 --networks mri_recon paper --output benchmarks/results/latency_gpu.json

Every part is timed on random images with a random network of the size in question: time does not depend on the values.
All parts restore with the bundle mri_recon's sampler and, unless ``--no-consistency``, its k-space consistency.

latency     restorations of a batch, with one sample and with several in one pass: seconds a slice, slices a second,
            peak memory
overhead    the time of a restoration in which no evaluation of the network is under way, in units of their time
peer        a restoration against 100 Euler-Maruyama steps of the reverse equation with the same network, in turn
large       whole against tiled images of the sizes ``--large``

Times are medians over ``--repeats`` after one run that is not counted. Ratios are taken within the run: of the wall's
clock on a GPU, of the process's CPU time on a CPU, which other processes on the machine disturb less.
"""

from __future__ import annotations

import argparse
import itertools
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import bundle_network, bundle_sampler, set_threads, write_result
from torch import Tensor, nn
from tqdm import tqdm

from monai_d3gm.consistency import KspaceConsistency, channels_to_complex, fft2c
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.metrics import format_table
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler

# The paper prints its network's width and number of parameters; these blocks have that number.
PAPER = {"width": 64, "encoder_blocks": (1, 1, 1, 10), "middle_blocks": 1, "decoder_blocks": (1, 1, 1, 1)}
MODES: dict[str, bool | str] = {"eager": False, "compiled": True, "cuda-graph": "reduce-overhead"}
PRECISIONS = ("fp32", "tf32", "bf16")
PARTS = ("latency", "overhead", "peer", "large")
PEER_STEPS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=("mri_recon", "paper"), default=["mri_recon"])
    parser.add_argument("--size", nargs=2, type=int, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--steps", type=int, default=5, help="evaluations of the network for a sample")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="slices")
    parser.add_argument("--samples", nargs="+", type=int, default=[1], help="samples of each slice")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32"])
    parser.add_argument("--large", nargs="*", type=int, default=[], help="extents of square images")
    parser.add_argument("--roi", type=int, default=512, help="extent of the tiles of large images")
    parser.add_argument("--no-consistency", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    set_threads()
    torch.manual_seed(arguments.seed)

    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        bench = Bench(arguments, name)
        for part in arguments.parts:
            done = list(tqdm(getattr(bench, part)(), desc=f"{name}, {part}", unit="row"))
            columns = [key for row in done for key in row if key not in ("part", "cpu_seconds")]
            shown = [{key: _short(row.get(key, "")) for key in dict.fromkeys(columns)} for row in done]
            if done:
                print(f"\n{part}, {name}, {bench.parameters / 1e6:.1f} M parameters\n\n{format_table(shown)}\n")
            rows += [{"network": name, "parameters": bench.parameters, **row} for row in done]
    if arguments.output:
        command = {key: value for key, value in vars(arguments).items() if key != "output"}
        write_result(arguments.output, {"command": command, "rows": rows}, {}, arguments.device)


class Bench:
    """The parts of the benchmark for one network; each yields rows."""

    def __init__(self, arguments: argparse.Namespace, name: str) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.device)
        network = bundle_network("mri_recon") if name == "mri_recon" else ConditionalNAFNet(**PAPER)
        self.network = network.to(self.device).eval()
        self.parameters = sum(p.numel() for p in network.parameters())
        self.scheduler = D3GMScheduler()

    def latency(self) -> Iterator[dict[str, Any]]:
        chosen = self.arguments
        settings = itertools.product(chosen.batches, chosen.samples, chosen.modes, chosen.precisions)
        for batch, samples, mode, precision in settings:
            if self.device.type == "cpu" and (mode == "cuda-graph" or precision == "tf32"):
                continue
            mu, consistency = self._images(batch, chosen.size)
            options = {"num_samples": samples, "batch_size": batch * samples, "compile": MODES[mode]}
            restore = self._inferer(precision, **options)
            with _matrix_precision(precision):
                (taken,), peak = self._time(lambda r=restore, m=mu, c=consistency: r.moments(m, self.network, c))
            seconds = taken["seconds"] / batch
            row = {"part": "latency", "batch": batch, "samples": samples, "mode": mode, "precision": precision}
            row |= {"seconds_per_slice": seconds, "slices_per_second": 1 / seconds}
            yield row | {"cpu_seconds_per_slice": taken["cpu_seconds"] / batch, "peak_memory_mib": peak}

    def overhead(self) -> Iterator[dict[str, Any]]:
        for batch, precision in itertools.product(self.arguments.batches, self.arguments.precisions):
            if self.device.type == "cpu" and precision == "tf32":
                continue
            mu, consistency = self._images(batch, self.arguments.size)
            restore = self._inferer(precision)
            shares = []
            with _matrix_precision(precision), _clocked(self.network, self.device) as clock:
                for _ in range(self.arguments.repeats + 1):
                    whole, network = clock(lambda r=restore, m=mu, c=consistency: r(m, self.network, c))
                    shares.append((whole - network) / network)
            row = {"part": "overhead", "batch": batch, "precision": precision, "network_seconds": network}
            yield row | {"outside_the_network": statistics.median(shares[1:])}

    def peer(self) -> Iterator[dict[str, Any]]:
        mu, _ = self._images(1, self.arguments.size)
        restore = self._inferer("fp32")
        (ours, theirs), _ = self._time(
            lambda: restore(mu, self.network), lambda: euler_maruyama_loop(self.network, mu, PEER_STEPS)
        )
        row = {"part": "peer", "evaluations": self.arguments.steps, "seconds": ours["seconds"]}
        row |= {"peer_evaluations": PEER_STEPS, "peer_seconds": theirs["seconds"]}
        yield row | {"times_faster": self._ratio(theirs, ours)}

    def large(self) -> Iterator[dict[str, Any]]:
        for extent, roi in itertools.product(self.arguments.large, (self.arguments.roi, None)):
            mu, consistency = self._images(1, (extent, extent))
            restore = self._inferer(self.arguments.precisions[-1], roi_size=roi)
            (taken,), peak = self._time(lambda r=restore, m=mu, c=consistency: r(m, self.network, c))
            yield {"part": "large", "extent": extent, "tiles": roi or "whole", **taken, "peak_memory_mib": peak}

    def _inferer(self, precision: str, **options: Any) -> RestorationInferer:
        amp = "bfloat16" if precision == "bf16" else None
        sampler = bundle_sampler("mri_recon", steps=self.arguments.steps)
        return RestorationInferer(self.scheduler, sampler, amp=amp, **options)

    def _images(self, batch: int, size: tuple[int, int]) -> tuple[Tensor, KspaceConsistency | None]:
        mu = torch.rand(batch, 2, *size)
        if self.arguments.no_consistency:
            return mu.to(self.device), None
        mask = torch.rand(size[1]) < 0.25
        noise_std = torch.full((batch,), 0.02)
        consistency = KspaceConsistency(fft2c(channels_to_complex(mu)), mask, noise_std=noise_std)
        return mu.to(self.device), consistency.to(self.device)

    def _time(self, *functions: Callable[[], Any]) -> tuple[list[dict[str, float]], float]:
        """Median seconds of functions that are run in turn, and the peak of memory in MiB.

        The peak is that of the device; on the CPU that of the process so far.
        """
        on_gpu = self.device.type == "cuda"
        taken: list[list[tuple[float, float]]] = [[] for _ in functions]
        for repeat in range(self.arguments.repeats + 1):
            if repeat == 1 and on_gpu:  # compiling is over
                torch.cuda.reset_peak_memory_stats(self.device)
            for function, times in zip(functions, taken, strict=True):
                if on_gpu:
                    torch.cuda.synchronize(self.device)
                start = time.perf_counter(), time.process_time()
                function()
                if on_gpu:
                    torch.cuda.synchronize(self.device)
                times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        peak = (
            torch.cuda.max_memory_allocated(self.device) / 2**20
            if on_gpu
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )
        names = ("seconds", "cpu_seconds")
        return [
            {name: statistics.median(column) for name, column in zip(names, zip(*times[1:], strict=True), strict=True)}
            for times in taken
        ], peak

    def _ratio(self, numerator: dict[str, float], denominator: dict[str, float]) -> float:
        clock = "seconds" if self.device.type == "cuda" else "cpu_seconds"
        return numerator[clock] / denominator[clock]


@contextmanager
def _clocked(network: nn.Module, device: torch.device) -> Iterator[Callable[[Callable[[], Any]], tuple[float, float]]]:
    """A function that runs another and gives its seconds, and those of the network within it: of the GPU, or the CPU.

    On a GPU the network's are those between events before and after each evaluation, so that nothing is waited for.
    """
    on_gpu = device.type == "cuda"
    marks: list[Any] = []

    def mark(*_: Any) -> None:
        if on_gpu:
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.process_time())

    def clock(function: Callable[[], Any]) -> tuple[float, float]:
        marks.clear()
        mark()
        function()
        mark()
        if on_gpu:
            torch.cuda.synchronize(device)
        first, *inner, last = marks
        pairs = [(first, last), *zip(inner[::2], inner[1::2], strict=True)]
        whole, *evaluations = (a.elapsed_time(b) / 1e3 if on_gpu else b - a for a, b in pairs)
        return whole, sum(evaluations)

    hooks = [network.register_forward_pre_hook(mark), network.register_forward_hook(mark)]
    try:
        yield clock
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def euler_maruyama_loop(network: nn.Module, mu: Tensor, steps: int, stationary_std: float = 10 / 255) -> Tensor:
    """The reverse equation of IR-SDE (arXiv 2301.11699, Eq. 6) by Euler-Maruyama on tables, as its authors sample.

    A table of rates theta_i by the cosine schedule, scaled so that the product of the decays is 0.005; in each step the
    network predicts the noise, score = -noise / sigma_bar_i, and

        x <- x - [theta_i (mu - x) - sigma_i^2 score] dt - sigma_i sqrt(dt) z.
    """
    i = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha_bar = torch.cos((i + 0.008) / 1.008 * math.pi / 2) ** 2
    theta = (1 - alpha_bar / alpha_bar[0])[1:]
    dt = -math.log(0.005) / float(theta.sum())
    elapsed = theta.cumsum(0) * dt
    sigma = (2 * stationary_std**2 * theta).sqrt().float().to(mu.device)
    sigma_bar = (stationary_std**2 * -torch.expm1(-2 * elapsed)).sqrt().float().to(mu.device)
    theta = theta.float().to(mu.device)
    x = mu + stationary_std * torch.randn_like(mu)
    for step in reversed(range(steps)):
        time_step = torch.full((1,), float(step), device=mu.device)
        noise = network(torch.cat([x - mu, mu], dim=1), timesteps=time_step, context=None)
        score = -noise / sigma_bar[step]
        drift = (theta[step] * (mu - x) - sigma[step] ** 2 * score) * dt
        x = x - drift - sigma[step] * math.sqrt(dt) * torch.randn_like(x)
    return x


@contextmanager
def _matrix_precision(precision: str) -> Iterator[None]:
    """TensorFloat-32 in matrix products and convolutions, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _short(value: Any) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
