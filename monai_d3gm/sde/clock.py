"""The clock: every process here depends on time only through ``Theta(t)``, the integral of a rate ``theta(t) >= 0``.

A schedule is a shape for ``Theta``; :class:`Clock` scales it so that ``exp(-Theta(1))`` is the terminal decay. The
shapes are those of the paper's Table 2 (arXiv 2406.13652), with its missing minus signs and ``-ln 2`` put back, and the
integral of ``1 - alpha_bar`` of improved DDPM (Nichol and Dhariwal 2021), the schedule of the paper's experiments. All
of it is float64 on the CPU, and accurate relative to ``Theta`` itself down to ``t = 0``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_LOGISTIC_STEEPNESS = 10.0
_NICHOL_OFFSET = 0.008


def as_time(t: float | Tensor, name: str = "t") -> Tensor:
    """A time as a float64 CPU tensor, checked.

    Args:
        t: a number, or a tensor of shape () or (B,), in [0, 1].
        name: what to call it in the message of an error.

    Returns:
        A float64 tensor on the CPU, shaped like ``t``.

    Raises:
        ValueError: if ``t`` has more than one axis, or a value outside [0, 1] or not a number.

    Example:
        >>> as_time(0.5)
        tensor(0.5000, dtype=torch.float64)
    """
    time = torch.as_tensor(t, dtype=torch.float64).detach().cpu()
    if time.ndim > 1:
        raise ValueError(f"{name} has shape {tuple(time.shape)}; accepted: a number or a tensor of shape () or (B,).")
    if not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError(f"{name} is {time.tolist()}; accepted: numbers in [0, 1].")
    return time


# x - sin x = x^3 sum_j (-1)^j x^2j / (2j + 3)!, highest power first: nine terms reach 1e-17 of the sum for x < 1.
_X_MINUS_SIN = [(-1) ** j / math.factorial(2 * j + 3) for j in range(8, -1, -1)]


def _x_minus_sin(x: Tensor) -> Tensor:
    """``x - sin x``, by its series where the difference would cancel."""
    square = x**2
    series = torch.full_like(x, _X_MINUS_SIN[0])
    for coefficient in _X_MINUS_SIN[1:]:
        series = series * square + coefficient
    return torch.where(x < 1, series * square * x, x - torch.sin(x))


def _constant(t: Tensor) -> tuple[Tensor, Tensor]:
    return t, torch.ones_like(t)


def _linear(t: Tensor) -> tuple[Tensor, Tensor]:
    return t**2 / 2, t


def _quadratic(t: Tensor) -> tuple[Tensor, Tensor]:
    return t**3 / 3, t**2


def _cosine(t: Tensor) -> tuple[Tensor, Tensor]:
    return _x_minus_sin(math.pi * t) / math.pi, 2 * torch.sin(math.pi * t / 2) ** 2


def _logistic(t: Tensor) -> tuple[Tensor, Tensor]:
    k = _LOGISTIC_STEEPNESS
    return torch.log1p(torch.expm1(k * t) / 2) / k, torch.sigmoid(k * t)


def _cosine_nichol(t: Tensor) -> tuple[Tensor, Tensor]:
    # 1 - cos^2(w (t + q) / 2) / cos^2(w q / 2) and its integral, by angle sum formulas that leave no cancellation.
    q = _NICHOL_OFFSET
    w = math.pi / (1 + q)
    scale = math.cos(w * q / 2) ** 2
    integral = (math.cos(w * q) * _x_minus_sin(w * t) + math.sin(w * q) * 2 * torch.sin(w * t / 2) ** 2) / (2 * w)
    return integral / scale, torch.sin(w * (t + 2 * q) / 2) * torch.sin(w * t / 2) / scale


SCHEDULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "constant": _constant,
    "linear": _linear,
    "quadratic": _quadratic,
    "cosine": _cosine,
    "logistic": _logistic,
    "cosine_nichol": _cosine_nichol,
}
"""Name to shape: a function of a float64 tensor ``t`` that returns ``Theta`` and ``theta``, up to one common scale."""


class Clock:
    """``Theta(t)`` of a named schedule, scaled so that ``exp(-Theta(1)) = terminal_decay``.

    Args:
        schedule: one of :data:`SCHEDULES`.
        terminal_decay: the share of ``x0 - mu`` that is left at ``t = 1``, in (0, 1).

    Raises:
        ValueError: if the schedule is unknown or the terminal decay is out of range.

    Example:
        >>> clock = Clock("cosine", 0.005)
        >>> round(float(torch.exp(-clock(1.0))), 12)
        0.005
        >>> float(clock(0.0))
        0.0
    """

    def __init__(self, schedule: str, terminal_decay: float) -> None:
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}; accepted: one of {', '.join(SCHEDULES)}.")
        if not 0 < terminal_decay < 1:
            raise ValueError(f"terminal_decay is {terminal_decay!r}; accepted: a number in (0, 1).")
        self.schedule = schedule
        self.terminal_decay = float(terminal_decay)
        self._shape = SCHEDULES[schedule]
        self._scale = -math.log(terminal_decay) / float(self._shape(torch.ones((), dtype=torch.float64))[0])

    def __call__(self, t: float | Tensor) -> Tensor:
        """``Theta(t)``: 0 at ``t = 0``, ``-ln terminal_decay`` at ``t = 1``; float64 on the CPU, shaped like ``t``."""
        return self._scale * self._shape(as_time(t))[0]

    def rate(self, t: float | Tensor) -> Tensor:
        """``theta(t) = Theta'(t)``: zero at most at ``t = 0``; float64 on the CPU, shaped like ``t``."""
        return self._scale * self._shape(as_time(t))[1]
