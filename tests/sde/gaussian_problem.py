"""Images of a Gaussian law given mu, of which everything is known in closed form.

For ``x0 ~ N(m, s^2)`` given ``mu`` the denoiser ``E[x0 | x_t]`` is linear, the probability-flow equation keeps
``(x_t - a m - b mu) / sqrt(a^2 s^2 + c^2)``, and every quantity of a trajectory has a formula.
"""

from __future__ import annotations

import math

import pytest
import torch

from monai_d3gm.sde import PROCESSES, DiffusionProcess, OrnsteinUhlenbeckBridge

BRIDGE = OrnsteinUhlenbeckBridge()
ALL = [kind() for kind in PROCESSES.values()]
OPEN = [process for process in ALL if process != BRIDGE]  # those that start with noise


def by_name(process: DiffusionProcess) -> str:
    return type(process).__name__


every_process = pytest.mark.parametrize("process", ALL, ids=by_name)
open_process = pytest.mark.parametrize("process", OPEN, ids=by_name)


class GaussianProblem:
    """``x0 ~ N(mu + shift, spread^2)`` per value."""

    def __init__(self, process: DiffusionProcess, shift: float = 0.3, spread: float = 0.1) -> None:
        self.process, self.shift, self.spread = process, shift, spread

    def law(self, mu: torch.Tensor, t: float) -> tuple[torch.Tensor, float]:
        a, b, c = (float(curve) for curve in self.process.curves(t))
        return a * (mu + self.shift) + b * mu, math.hypot(a * self.spread, c)

    def denoiser(self, x: torch.Tensor, mu: torch.Tensor, t: float) -> torch.Tensor:
        a = float(self.process.curves(t)[0])
        mean, std = self.law(mu, t)
        gain = a * self.spread**2 / std**2 if std > 0 else 0.0
        return mu + self.shift + gain * (x - mean)

    def flow(self, x: torch.Tensor, mu: torch.Tensor, t: float, s: float) -> torch.Tensor:
        (mean, std), (end_mean, end_std) = self.law(mu, t), self.law(mu, s)
        return end_mean + end_std / std * (x - mean)


def images(batch: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(batch, 1, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def rho_times(process: DiffusionProcess, first: float, last: float, steps: int) -> list[float]:
    rho = torch.linspace(float(process.rho(first)), float(process.rho(last)), steps + 1, dtype=torch.float64)
    return [first, *process.time_of_rho(rho[1:]).tolist()]
