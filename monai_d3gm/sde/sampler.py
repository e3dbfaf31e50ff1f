"""The options of a trajectory, in one object: it sets each run, and its values are recorded.

The sections named below are those of ``docs/theory.md``.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from monai_d3gm.sde.process import DiffusionProcess
from monai_d3gm.sde.solvers import SOLVERS

GRIDS = ("rho", "t")
"""The grids by name."""

MAX_STEPS = 10_000
"""The most evaluations for a sample."""

_MAX_ORDER = 3


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How a trajectory of the reverse process is made; see "Solvers" in the theory for the formulas.

    Every option is checked here and nowhere else. Sequences become tuples, and an ``eta`` with two equal ends becomes
    one number, so that equal samplers compare equal.

    Args:
        steps: evaluations of the denoiser, at least 1.
        solver: ``exponential`` or ``euler_maruyama``.
        order: of the exponential solver, 1 to 3; at most 2 where ``eta`` > 0.
        eta: share of noise in each step, at least 0: 0 the probability-flow equation, 1 the reverse equation. Two
            numbers are those of the first and of the last step that draws noise; the others lie on the line between.
        temperature: multiplies all noise drawn, the initial state's too; at least 0.
        grid: ``rho``, uniform in rho from ``start`` to ``t_min``, then 0; or ``t``, uniform in t from ``start`` to 0.
        t_first: the second time of the rho grid, in (t_min, start): the first step leads straight to it, and the times
            are uniform in rho from there on. None spaces the first step as the others.
        t_min: the last time but 0 of the rho grid, in (0, start).
        grid_power: p, above 0, of the rho grid: rho = rho_first + (rho_last - rho_first) u^p for uniform u in [0, 1].
            1 is uniform; below 1 the times lie closer towards ``t_min``.
        start: the first time, in (0, 1]. Below 1 a trajectory starts from an estimate of the clean image.
        clip: (low, high), to which each prediction is clipped; None for no clipping.
        noise_scaling: (reference r > 0, exponent p >= 0) of a grid of each image's own: at the times between the first
            and the last, c / a is (d / r)^p times the grid's, at least 1/8 and at most 8 times, with d the amplitude
            of the change that the first evaluation makes ("A grid of each image's own"). None for one grid.
        last_prior_scales: factors, at least 0, of the consistency's gamma in the last corrections, as many as there are
            factors, but never in the first ("The last corrections").

    Raises:
        ValueError: an option is out of range, unknown, or contradicts another.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> sampler = Sampler(steps=3, eta=[0, 1.6], t_first=0.55)
        >>> [round(t, 2) for t in sampler.times(D3GMProcess()).tolist()]
        [1.0, 0.55, 0.02, 0.0]
        >>> Sampler(**sampler.config()) == sampler
        True
    """

    steps: int = 5
    solver: str = "exponential"
    order: int = 2
    eta: float | Sequence[float] = 0.0
    temperature: float = 1.0
    grid: str = "rho"
    t_first: float | None = None
    t_min: float = 0.02
    grid_power: float = 1.0
    start: float = 1.0
    clip: Sequence[float] | None = None
    noise_scaling: Sequence[float] | None = None
    last_prior_scales: Sequence[float] = ()

    def __post_init__(self) -> None:
        _check_choice("solver", self.solver, SOLVERS)
        _check_choice("grid", self.grid, GRIDS)
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; accepted: an integer, at least 1.")
        if self.steps > MAX_STEPS:
            raise ValueError(f"steps is {self.steps}; accepted: up to {MAX_STEPS}.")
        if type(self.order) is not int or not 1 <= self.order <= _MAX_ORDER:
            raise ValueError(f"order is {self.order!r}; accepted: 1, 2 or 3.")
        ends = self._numbers("eta", self.eta if isinstance(self.eta, list | tuple) else [self.eta])
        if not (1 <= len(ends) <= 2 and min(ends) >= 0):
            raise ValueError(
                f"eta is {self.eta!r}; accepted: a number, or those of the first and of the last step, each at least 0."
            )
        self._keep("eta", ends[0] if ends[0] == ends[-1] else ends)
        if self.solver == "exponential" and max(ends) > 0 and self.order > 2:
            raise ValueError(f"order is {self.order} with eta {max(ends)}; accepted where eta > 0: at most 2.")
        for name in ("temperature", "t_min", "grid_power", "start"):
            self._keep(name, self._numbers(name, [getattr(self, name)])[0])
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature!r}; accepted: at least 0.")
        if self.grid_power <= 0:
            raise ValueError(f"grid_power is {self.grid_power!r}; accepted: above 0.")
        if not 0 < self.start <= 1:
            raise ValueError(f"start is {self.start!r}; accepted: a number in (0, 1].")
        if self.grid == "rho" and not 0 < self.t_min < self.start:
            raise ValueError(f"t_min is {self.t_min!r}; accepted: a number in (0, start = {self.start}).")
        if self.t_first is not None:
            self._keep("t_first", self._numbers("t_first", [self.t_first])[0])
            if self.grid == "rho" and not self.t_min < self.t_first < self.start:
                raise ValueError(
                    f"t_first is {self.t_first!r}; accepted: a number in (t_min = {self.t_min}, start = {self.start})."
                )
        if self.clip is not None:
            self._keep("clip", self._numbers("clip", self.clip))
            if len(self.clip) != 2 or not self.clip[0] < self.clip[1]:
                raise ValueError(f"clip is {self.clip!r}; accepted: (low, high) with low < high.")
        if self.noise_scaling is not None:
            self._keep("noise_scaling", self._numbers("noise_scaling", self.noise_scaling))
            if len(self.noise_scaling) != 2 or not (self.noise_scaling[0] > 0 and self.noise_scaling[1] >= 0):
                raise ValueError(
                    f"noise_scaling is {self.noise_scaling}; accepted: a reference above 0 and an exponent, at least 0."
                )
        self._keep("last_prior_scales", self._numbers("last_prior_scales", self.last_prior_scales))
        if min(self.last_prior_scales, default=0) < 0:
            raise ValueError(f"last_prior_scales is {self.last_prior_scales}; accepted: at least 0 each.")

    @property
    def eta_ends(self) -> tuple[float, float]:
        """``eta`` of the first and of the last step that draws noise."""
        first, last = self.eta if isinstance(self.eta, Sequence) else (self.eta, self.eta)
        return first, last

    def times(self, process: DiffusionProcess, fidelity: float = 0.0) -> Tensor:
        """The decreasing times of a trajectory: an evaluation at each but the last ("Grids" in the theory).

        Where ``a(start) = 0`` (the bridge at ``t = 1``) rho is not finite at ``start``, and the second time is
        ``start - t_min`` unless ``t_first`` is given.

        Args:
            process: gives rho.
            fidelity: 0 goes on to ``t_min``; 1 is one evaluation, at ``start``. Between them the last evaluation is at
                rho_first + (1 - fidelity) (rho_last - rho_first), the "Fidelity dial", with rho_first at ``t_first``
                where that is given.

        Returns:
            ``steps + 1`` times (2 where ``fidelity`` is 1), float64 on the CPU: ``start`` first, 0 last.

        Raises:
            ValueError: ``fidelity`` is out of range, or lies between 0 and 1 on the grid ``t``; or ``t_min`` does not
                fit the process.
        """
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity is {fidelity!r}; accepted: a number in [0, 1].")
        if self.grid == "t" and 0 < fidelity < 1:
            raise ValueError(f"grid is 't' with fidelity {fidelity!r}; accepted for a fidelity between 0 and 1: 'rho'.")
        ends = torch.tensor([self.start, 0.0], dtype=torch.float64)
        if fidelity == 1:
            return ends
        if self.grid == "t":
            return torch.linspace(self.start, 0, self.steps + 1, dtype=torch.float64)
        first = self.t_first
        if first is None and not math.isfinite(float(process.rho(self.start))):
            first = self.start - self.t_min
            if not self.t_min < first:
                raise ValueError(
                    f"t_min is {self.t_min!r}; accepted where rho(start) is infinite: below {self.start / 2}."
                )
        inner = self.steps if first is None else self.steps - 1  # times that are spaced by rho
        rho_first = float(process.rho(self.start if first is None else first))
        rho_last = float(process.rho(self.t_min))
        if fidelity > 0:
            rho_last = rho_first + (1 - fidelity) * (rho_last - rho_first)
        # From the end, so that of two times one is t_min: linspace of one point is its first.
        share = torch.linspace(1, 0, inner, dtype=torch.float64).flip(0) ** self.grid_power
        times = process.time_of_rho(rho_first + (rho_last - rho_first) * share)
        if first is None:
            times = times[1:]  # its first is start itself, exactly; for one evaluation in place of t_min
        return torch.cat([ends[:1], times, ends[1:]])

    def config(self) -> dict[str, Any]:
        """Every option as plain containers: ``Sampler(**config)`` is the same sampler."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def _keep(self, name: str, value: Any) -> None:
        """Store an option in its one form."""
        object.__setattr__(self, name, value)

    @staticmethod
    def _numbers(name: str, values: Any) -> tuple[float, ...]:
        """An option's numbers as floats."""
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise ValueError(f"{name} is {values!r}; accepted: a list of numbers.")
        for value in values:
            if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}; accepted: finite numbers.")
        return tuple(float(value) for value in values)


def _check_choice(name: str, value: Any, accepted: Any) -> None:
    if not isinstance(value, str) or value not in accepted:
        raise ValueError(f"{name} is {value!r}; accepted: one of {', '.join(accepted)}.")
