"""A diffusion process between a clean image ``x0`` and its degraded version ``mu``: the base of all.

A process is its three curves, ``x_t = a(t) x0 + b(t) mu + c(t) eps``. All are linear, Gaussian and Markov, so the
curves alone give the marginal, the transition, the posterior and the score in closed form, right for any spacing of
times, and everything written on the curves (:mod:`~monai_d3gm.sde.solvers`) serves all of them. With
``rho = ln(a / c)``, half the logarithm of the signal to noise ratio, ``s < t`` and ``h = rho_s - rho_t > 0``:

- transition ``x_t | x_s``: mean ``b_t mu + (a_t / a_s) (x_s - b_s mu)``, variance ``c_t^2 (1 - e^{-2h})``;
- posterior ``x_s | x_t, x0``: mean ``a_s x0 + b_s mu + (c_s / c_t) e^{-h} (x_t - a_t x0 - b_t mu)``, variance
  ``c_s^2 (1 - e^{-2h})``.

They are derived in the section "Three curves, five processes" of ``docs/theory.md``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_d3gm.sde.clock import Clock, as_time

DEFAULT_STATIONARY_STD = 10 / 255
"""The paper's lambda, 10 grey levels of 255, for images on [0, 1]."""

DEFAULT_TERMINAL_DECAY = 0.005
"""The share of ``x0 - mu`` that remains at ``t = 1``."""

_BISECTIONS = 54  # halvings of [0, 1] until its parts are below float64's spacing at 1


def positive(name: str, value: float) -> float:
    """A finite number above 0 as a float, checked.

    Args:
        name: what to call it in the message of an error.
        value: the number.

    Raises:
        ValueError: it is not such a number.

    Example:
        >>> positive("sigma_min", 2)
        2.0
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value!r}; accepted: a finite number above 0.")
    return float(value)


def check_images(**images: Tensor) -> None:
    """Check that images are floating tensors of one shape, batch first.

    Args:
        images: the tensors by the names their caller knows them by.

    Raises:
        ValueError: if one is not a real floating tensor with a batch axis, or the shapes differ.

    Example:
        >>> check_images(x0=torch.zeros(1, 2), mu=torch.zeros(1, 2))
    """
    (first, reference), *_ = images.items()
    for name, image in images.items():
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim < 1:
            kind = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{name} is {kind}; accepted: a real floating tensor (B, ...).")
        if image.shape != reference.shape:
            raise ValueError(
                f"{name} has shape {tuple(image.shape)}; accepted: that of {first}, {tuple(reference.shape)}."
            )


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in for images of ``dtype``: float32 for the half precisions, else ``dtype`` itself.

    Example:
        >>> computing_dtype(torch.bfloat16), computing_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class DiffusionProcess(ABC):
    """A linear Gaussian process ``x_t = a x0 + b mu + c eps``, ``t`` in [0, 1], ``a(0) = 1``, ``b(0) = c(0) = 0``.

    Times are floats, or tensors of shape () or (B,) with one time per batch element. Curves are float64 on the CPU.
    Means have the shape, dtype and device of the first image given; standard deviations broadcast to them. Half
    precision images are computed in float32. Two processes are equal if their :meth:`config` is.

    Args:
        schedule: name of the clock's shape, one of :data:`~monai_d3gm.sde.clock.SCHEDULES`.
        terminal_decay: ``exp(-Theta(1))``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> process = D3GMProcess(schedule="linear", tau=2.0)
        >>> isinstance(process, DiffusionProcess), process.terminal_decay
        (True, 0.005)
    """

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "terminal_decay")

    def __init__(self, schedule: str = "cosine", terminal_decay: float = DEFAULT_TERMINAL_DECAY) -> None:
        self.clock = Clock(schedule, terminal_decay)
        self.schedule = self.clock.schedule
        self.terminal_decay = self.clock.terminal_decay

    @abstractmethod
    def noise_std(self, t: float | Tensor) -> Tensor:
        """The curve ``c(t)``, float64 on the CPU, shaped like ``t``."""

    @abstractmethod
    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients ``(f, h, g)`` of the forward equation ``dx = (f x + h mu) dt + g dW``, shaped like ``t``."""

    @abstractmethod
    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The law that sampling starts from at ``t = 1``: its mean, shaped like ``mu``, and standard deviation, ()."""

    def decay_exponent(self, t: float | Tensor) -> Tensor:
        """``-ln a(t)``, the process's own clock: ``Theta(t)`` unless the process says otherwise."""
        return self.clock(t)

    def curves(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three curves ``(a, b, c)`` at ``t``: float64 CPU tensors shaped like ``t``.

        Raises:
            ValueError: if ``t`` is outside [0, 1] or has more than one axis.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> a, b, c = D3GMProcess(tau=2.0).curves(1.0)
            >>> print(f"{a:.4f} {b:.4f} {c:.4f}")
            0.0050 0.9950 0.0784
        """
        exponent = self.decay_exponent(t)
        return torch.exp(-exponent), -torch.expm1(-exponent), self.noise_std(t)

    def rho(self, t: float | Tensor) -> Tensor:
        """``ln(a / c)``, which falls with ``t``: ``+inf`` where ``c = 0``, ``-inf`` where ``a = 0``; shaped like ``t``.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> print(f"{D3GMProcess().rho(1.0):.4f}")
            -2.7529
        """
        exponent, c = self.decay_exponent(t), self.noise_std(t)
        return torch.where(torch.isinf(exponent), -torch.inf, -exponent - torch.log(c))

    def time_of_rho(self, rho: float | Tensor) -> Tensor:
        """The inverse of :meth:`rho`, by bisection: the time in [0, 1], float64 on the CPU, shaped like ``rho``.

        Args:
            rho: values not below ``rho(1)`` (by more than rounding); any shape.

        Raises:
            ValueError: if a value is not a number or lies below ``rho(1)``.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> process = D3GMProcess()
            >>> print(f"{process.time_of_rho(process.rho(0.3)):.12f}")
            0.300000000000
        """
        target = torch.as_tensor(rho, dtype=torch.float64).detach().cpu()
        lowest = float(self.rho(1.0))
        if not bool((target >= lowest - 1e-6).all()):  # false for nan too; the margin lets float32 values through
            raise ValueError(f"rho is {target.tolist()}; accepted: numbers not below rho(1) = {lowest:.6g}.")
        low, high = torch.zeros(target.numel(), dtype=torch.float64), torch.ones(target.numel(), dtype=torch.float64)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            later = self.rho(middle) > target.flatten()
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return high.reshape(target.shape)

    def marginal(self, x0: Tensor, mu: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of ``x_t | x0``: ``a x0 + b mu`` and ``c``.

        Args:
            x0: clean images (B, ...).
            mu: degraded images, of the same shape.
            t: time, () or (B,).

        Raises:
            ValueError: if shapes do not fit or ``t`` is out of range.

        Example:
            >>> from monai_d3gm.sde import OrnsteinUhlenbeckProcess
            >>> x0, mu = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
            >>> mean, std = OrnsteinUhlenbeckProcess().marginal(x0, mu, 0.0)
            >>> bool((mean == x0).all()), float(std)
            (True, 0.0)
        """
        check_images(x0=x0, mu=mu)
        a, b, c = self.curves(t)
        return _combine(x0, (a, x0), (b, mu), std=c)

    def transition(self, x_s: Tensor, mu: Tensor, s: float | Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of ``x_t | x_s`` for ``s <= t``.

        For D3GM it depends on ``Theta(t) - Theta(s)`` alone: the measure-preserving (cocycle) property.

        Args:
            x_s: state at the earlier time (B, ...).
            mu: degraded images, of the same shape.
            s: earlier time, () or (B,).
            t: later time, () or (B,).

        Raises:
            ValueError: if shapes do not fit, a time is out of range, or ``s > t``.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> x, mu = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
            >>> process = D3GMProcess()
            >>> direct = process.transition(x, mu, 0.2, 0.8)[0]
            >>> composed = process.transition(process.transition(x, mu, 0.2, 0.5)[0], mu, 0.5, 0.8)[0]
            >>> bool(torch.allclose(direct, composed, rtol=1e-12))
            True
        """
        check_images(x_s=x_s, mu=mu)
        start, end = torch.broadcast_tensors(as_time(s, "s"), as_time(t, "t"))
        if bool((start > end).any()):
            raise ValueError(f"s is {start.tolist()} and t is {end.tolist()}; accepted: s at or before t.")
        (_, b_s, _), (_, b_t, c_t) = self.curves(start), self.curves(end)
        same = start == end  # also where both curves vanish or the signal to noise ratio is infinite: the identity
        decay = torch.where(same, 1.0, torch.exp(self.decay_exponent(start) - self.decay_exponent(end)))
        drop = torch.where(same, 0.0, self.rho(end) - self.rho(start))
        return _combine(x_s, (decay, x_s), (b_t - decay * b_s, mu), std=c_t * torch.sqrt(-torch.expm1(2 * drop)))

    def posterior(
        self, x_t: Tensor, x0: Tensor, mu: Tensor, t: float | Tensor, s: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of ``x_s | x_t, x0`` for ``s < t``.

        Where ``c(t) = 0`` (the bridge at ``t = 1``) the state ``x_t = mu`` says nothing of ``x_s``, and the limit is
        the marginal at ``s``.

        Args:
            x_t: state at the later time (B, ...).
            x0: clean images, of the same shape.
            mu: degraded images, of the same shape.
            t: later time, () or (B,).
            s: earlier time, () or (B,).

        Raises:
            ValueError: if shapes do not fit, a time is out of range, or ``s >= t``.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> x = torch.zeros(1, 1, 2, 2)
            >>> mean, std = D3GMProcess().posterior(x, x, x, 0.5, 0.25)
            >>> tuple(mean.shape), float(std) > 0
            ((1, 1, 2, 2), True)
        """
        check_images(x_t=x_t, x0=x0, mu=mu)
        end, start = torch.broadcast_tensors(as_time(t, "t"), as_time(s, "s"))
        if bool((start >= end).any()):
            raise ValueError(f"s is {start.tolist()} and t is {end.tolist()}; accepted: s before t.")
        (a_t, b_t, c_t), (a_s, b_s, c_s) = self.curves(end), self.curves(start)
        drop = self.rho(end) - self.rho(start)
        pull = torch.where(c_t == 0, 0.0, c_s / c_t * torch.exp(drop))
        return _combine(
            x_t,
            (pull, x_t),
            (a_s - pull * a_t, x0),
            (b_s - pull * b_t, mu),
            std=c_s * torch.sqrt(-torch.expm1(2 * drop)),
        )

    def score(self, x_t: Tensor, x0: Tensor, mu: Tensor, t: float | Tensor) -> Tensor:
        """Gradient in ``x_t`` of the logarithm of the marginal's density: ``-(x_t - mean) / c^2``.

        Args:
            x_t: state at ``t`` (B, ...).
            x0: clean images, of the same shape.
            mu: degraded images, of the same shape.
            t: time, () or (B,).

        Raises:
            ValueError: if shapes do not fit, ``t`` is out of range, or ``c(t) = 0``, where there is no density.

        Example:
            >>> from monai_d3gm.sde import D3GMProcess
            >>> x = torch.zeros(1, 1, 2, 2)
            >>> float(D3GMProcess().score(x, x, x, 0.5).abs().max())
            0.0
        """
        check_images(x_t=x_t, x0=x0, mu=mu)
        a, b, c = self.curves(t)
        if bool((c == 0).any()):
            raise ValueError(f"t is {t}; accepted: a time at which the noise's standard deviation is not 0.")
        precision = c**-2
        return _combine(x_t, (-precision, x_t), (precision * a, x0), (precision * b, mu), std=c)[0]

    def config(self) -> dict[str, Any]:
        """Name and arguments as a plain dictionary, from which :func:`process_from_config` makes the process again.

        Example:
            >>> from monai_d3gm.sde import OrnsteinUhlenbeckProcess
            >>> OrnsteinUhlenbeckProcess(stationary_std=0.1).config()["stationary_std"]
            0.1
        """
        return {"name": type(self).__name__, **{name: getattr(self, name) for name in self._parameters}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._parameters)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DiffusionProcess) and self.config() == other.config()

    def __hash__(self) -> int:
        return hash(tuple(self.config().items()))


def _combine(like: Tensor, *terms: tuple[Tensor, Tensor], std: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of weight times image, and a standard deviation that broadcasts to it, in ``like``'s dtype and device."""
    dtype = computing_dtype(like.dtype)

    def spread(weight: Tensor) -> Tensor:
        if weight.ndim == 1 and weight.shape[0] != like.shape[0]:
            raise ValueError(
                f"there are {weight.shape[0]} times; accepted: one, or one per item of the batch of {like.shape[0]}."
            )
        return weight.to(dtype).to(like.device).reshape(weight.shape + (1,) * (like.ndim - 1) * weight.ndim)

    mean = torch.zeros((), dtype=dtype, device=like.device)
    for weight, image in terms:
        mean = mean + spread(weight) * image.to(dtype)
    return mean.to(like.dtype), spread(std).to(like.dtype)
