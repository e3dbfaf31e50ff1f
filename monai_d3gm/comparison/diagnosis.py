"""Measures of a process on pairs of images: discrepancy, cocycle defect, round trips, trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_d3gm.comparison.evaluation import process_scheduler
from monai_d3gm.networks.lipschitz import local_lipschitz
from monai_d3gm.networks.schedulers import D3GMScheduler, pad_to_multiple, size_multiple
from monai_d3gm.sde import (
    DiffusionProcess,
    Step,
    calibrate_tau,
    cocycle_defect,
    proposition2_bound,
    sample,
    temporal_discrepancy,
)
from monai_d3gm.sde.noise import INITIAL_STEP, keyed_noise

__all__ = ["TIMES", "Diagnosis", "Pair", "diagnose_process", "draw_trajectories", "lipschitz"]

TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Trajectories are shown at these times, and round trips start from all but 0."""

LIPSCHITZ_NOISE = 0.2
"""The noise level c / a at which a network's Jacobian is taken."""

Correction = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Pair:
    """A clean image and its degraded version, (1, C, *spatial), and the measurement's correction or None."""

    x0: Tensor
    mu: Tensor
    correct: Correction | None = None


@dataclass(frozen=True)
class Diagnosis:
    """Measures of a process on pairs; means over the pairs.

    Attributes:
        process: name and arguments.
        kl_per_pixel: temporal discrepancy, in nats; None where it has no meaning (the bridge).
        w2_per_pixel: the same as Wasserstein-2 distance, in image units.
        proposition2: the expression of the paper's Eq. 5, in squared image units; for comparing processes.
        cocycle_defect: 0 if the process preserves its measure.
        tau: calibrated to the pairs, for the process's stationary_std, or the paper's where it has none.
        round_trip: time -> PSNR (dB) of the image sampled from x_t of the clean image; empty without a network for the
            process.
        lipschitz: the network's largest stretch at c / a = 0.2, the largest over the pairs; None without a network.
        refused: why the network does not serve the process; None if it does, or without a network.
    """

    process: dict[str, Any]
    kl_per_pixel: float | None
    w2_per_pixel: float
    proposition2: float
    cocycle_defect: float
    tau: float
    round_trip: dict[str, float]
    lipschitz: float | None
    refused: str | None


def diagnose_process(
    process: DiffusionProcess,
    pairs: Sequence[Pair],
    network: nn.Module | None = None,
    information: Mapping[str, Any] | None = None,
    *,
    score_bound: float = 1.0,
    tolerance: float = 2e-5,
    steps: int = 10,
    seed: int = 0,
) -> Diagnosis:
    """Measure a process on pairs of images.

    A round trip adds the noise of time t to the clean image and samples back from there, with ancestral steps
    (order 1, eta 1) of ``steps`` evaluations.

    Args:
        process: the process.
        pairs: at least one.
        network: F(x, timesteps, context=None); None measures the process alone.
        information: the entry ``d3gm`` of the network's checkpoint.
        score_bound: C of Eq. 5.
        tolerance: of the calibration of tau, in nats per pixel.
        steps: evaluations of a round trip.
        seed: of its noise.

    Raises:
        ValueError: there is no pair, or an argument is out of range.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> pair = Pair(torch.full((1, 1, 8, 8), 0.7), torch.full((1, 1, 8, 8), 0.5))
        >>> print(f"{diagnose_process(D3GMProcess(tau=1.0), [pair]).tau:.2f}")
        4.03
    """
    if not pairs:
        raise ValueError("pairs is empty; accepted: at least one pair of images.")
    found = [temporal_discrepancy(pair.x0, pair.mu, process) for pair in pairs]
    kl = float(torch.cat([one.kl_per_pixel for one in found]).mean())
    bound = torch.cat([proposition2_bound(p.x0, p.mu, process, score_bound=score_bound) for p in pairs]).mean()
    scheduler, refused = None, None
    if network is not None and information is not None:
        try:
            scheduler = process_scheduler(process, information)
        except ValueError as error:
            refused = str(error)
    trips: dict[str, float] = {}
    constant = None
    if network is not None and scheduler is not None:
        for t in TIMES[:-1]:
            trips[f"{t:g}"] = float(np.mean([_round_trip(scheduler, network, p, t, steps, seed) for p in pairs]))
        constant = max(lipschitz(network, scheduler, pair.mu, seed) for pair in pairs)
    return Diagnosis(
        process=process.config(),
        kl_per_pixel=None if math.isnan(kl) else kl,
        w2_per_pixel=float(torch.cat([one.w2_per_pixel for one in found]).mean()),
        proposition2=float(bound),
        cocycle_defect=cocycle_defect(process),
        tau=_tau(process, pairs, tolerance),
        round_trip=trips,
        lipschitz=constant,
        refused=refused,
    )


def _tau(process: DiffusionProcess, pairs: Sequence[Pair], tolerance: float) -> float:
    options = {"terminal_decay": process.terminal_decay}
    if hasattr(process, "stationary_std"):
        options["stationary_std"] = process.stationary_std
    return calibrate_tau([(pair.x0, pair.mu) for pair in pairs], tolerance, **options)


def _round_trip(scheduler: D3GMScheduler, network: nn.Module, pair: Pair, t: float, steps: int, seed: int) -> float:
    """PSNR of the returned image; its range is the clean image's largest modulus."""
    back = sample(
        scheduler.denoiser(network),
        pair.mu,
        scheduler.process,
        steps=steps,
        order=1,
        eta=1.0,
        start=t,
        initial=pair.x0,
        seed=seed,
        correct=_bound(pair.correct, scheduler),
    )
    error = float((back - pair.x0).square().sum(1).mean())
    return 10 * math.log10(float(pair.x0.square().sum(1).max()) / max(error, 1e-20))


def _bound(correct: Correction | None, scheduler: D3GMScheduler) -> Correction | None:
    """A correction, bound to the scheduler's gamma_t if it has one."""
    bind = getattr(correct, "with_prior_std", None)
    return correct if bind is None else bind(scheduler.prior_std)


def lipschitz(network: nn.Module, scheduler: D3GMScheduler, mu: Tensor, seed: int = 0) -> float:
    """The largest singular value of a network's Jacobian in its input, at mu with noise of c / a = 0.2.

    Args:
        network: F(x, timesteps, context=None), in evaluation mode.
        scheduler: gives its input.
        mu: a degraded image (1, C, *spatial).
        seed: of the noise.
    """
    process = scheduler.process
    rho = max(-math.log(LIPSCHITZ_NOISE), float(process.rho(1.0)))
    t = float(process.time_of_rho(rho))
    a, b, c = (float(curve) for curve in process.curves(t))
    state = (a + b) * mu + c * keyed_noise(mu.shape[1:], seed, 0, 0, INITIAL_STEP)[None].to(mu)
    inputs, time = scheduler.network_input(state, mu, t)
    inputs = pad_to_multiple(inputs, size_multiple(network))
    return float(local_lipschitz(lambda x: network(x, timesteps=time, context=None), inputs)[0])


def draw_trajectories(
    methods: Mapping[str, tuple[DiffusionProcess, nn.Module | None, Mapping[str, Any] | None]],
    pair: Pair,
    *,
    steps: int = 20,
    seed: int = 0,
    view: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda image: image,
    aspect: float = 1.0,
) -> Figure:
    """One image under each process at t = 1, 0.75, 0.5, 0.25 and 0, with the truth.

    Two rows for a process: the states of its forward law, with one noise for all, and below them the states of sampling
    with its network. The second row says why it is empty where the network does not serve the process. Without any
    network there is one row for a process.

    Args:
        methods: name -> process, network and the entry ``d3gm`` of its checkpoint.
        pair: the image, grey (C = 1), complex (C = 2) or in colour (C = 3).
        steps: evaluations, on the grid uniform in t; a multiple of 4.
        seed: of the noise.
        view: turns an image (rows, columns, ...) for drawing, such as `monai_d3gm.handlers.panel.slice_view`.
        aspect: height of a pixel over its width.

    Raises:
        ValueError: ``steps`` is no multiple of 4.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> pair = Pair(torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5))
        >>> figure = draw_trajectories({"D3GM": (D3GMProcess(), None, None)}, pair, steps=4)
        >>> len(figure.axes) >= 5
        True
    """
    if steps < 4 or steps % 4:
        raise ValueError(f"steps is {steps}; accepted: a multiple of 4.")
    sampling = any(network is not None for _, network, _ in methods.values())
    rows: dict[str, dict[float, Tensor] | str] = {}
    for name, (process, network, information) in methods.items():
        rows[f"{name}\nforward law"] = _forward(process, pair, seed)
        if sampling:
            rows[f"{name}\nsampling"] = _sampled(process, network, information, pair, steps, seed)
    figure = Figure(figsize=(1.75 * (len(TIMES) + 2), 1.95 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(TIMES) + 2, squeeze=False)
    top = float(np.percentile(_picture(pair.x0), 99.8)) or 1.0
    for line, (name, states) in enumerate(rows.items()):
        axes[line][0].set_ylabel(name, fontsize=8)
        if isinstance(states, str):
            _say(axes[line], states)
            continue
        columns = {"truth": pair.x0, "mu": pair.mu, **{f"t = {t:g}": states[t] for t in TIMES}}
        for axis, (title, image) in zip(axes[line], columns.items(), strict=True):
            drawn = (view(_picture(image)) / top).clip(0, 1)
            axis.imshow(drawn, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect=aspect)
            axis.set_xticks([])
            axis.set_yticks([])
            if line == 0:
                axis.set_title(title, fontsize=9)
    return figure


def _say(axes: Sequence[Axes], reason: str) -> None:
    """A sentence in place of a row of images."""
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    text = axes[0].text(0.0, 0.5, "\n".join(wrap(reason, 110)), fontsize=8, va="center", transform=axes[0].transAxes)
    text.set_in_layout(False)  # it runs over all columns, and the first would grow to hold it


def _forward(process: DiffusionProcess, pair: Pair, seed: int) -> dict[float, Tensor]:
    """States of the forward law at `TIMES`."""
    noise = keyed_noise(pair.mu.shape[1:], seed, 0, 0, INITIAL_STEP)[None].to(pair.mu)
    laws = {t: process.marginal(pair.x0, pair.mu, t) for t in TIMES}
    return {t: mean + std * noise for t, (mean, std) in laws.items()}


def _sampled(
    process: DiffusionProcess,
    network: nn.Module | None,
    information: Mapping[str, Any] | None,
    pair: Pair,
    steps: int,
    seed: int,
) -> dict[float, Tensor] | str:
    """States of sampling at `TIMES`, or why there are none."""
    if network is None or information is None:
        return "No network."
    try:
        scheduler = process_scheduler(process, information)
    except ValueError as error:
        return str(error)
    seen: dict[float, Tensor] = {}

    def keep(step: Step) -> None:
        seen[round(float(step.t) * steps) / steps] = step.x

    result = sample(
        scheduler.denoiser(network),
        pair.mu,
        scheduler.process,
        steps=steps,
        grid="t",
        order=1,
        eta=1.0,
        seed=seed,
        correct=_bound(pair.correct, scheduler),
        callback=keep,
    )
    return {**{t: seen[t] for t in TIMES[:-1]}, 0.0: result}


def _picture(x: Tensor) -> NDArray[np.float32]:
    """(1, C, H, W) as (H, W), or (H, W, 3) in colour."""
    image: NDArray[np.float32] = x[0].detach().cpu().float().numpy()
    if len(image) == 3:
        return np.moveaxis(image, 0, -1)
    return np.sqrt(np.square(image).sum(0)) if len(image) == 2 else image[0]
