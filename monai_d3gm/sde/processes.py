"""The five diffusion processes between a clean image ``x0`` and its degraded version ``mu``.

A process is its three curves, ``x_t = a(t) x0 + b(t) mu + c(t) eps``. All five are linear, Gaussian and Markov, so the
curves alone give the marginal, the transition, the posterior and the score in closed form, right for any spacing of
times, and everything written on the curves (:mod:`~monai_d3gm.sde.solvers`) serves all of them. With
``rho = ln(a / c)``, half the logarithm of the signal to noise ratio, ``s < t`` and ``h = rho_s - rho_t > 0``:

- transition ``x_t | x_s``: mean ``b_t mu + (a_t / a_s) (x_s - b_s mu)``, variance ``c_t^2 (1 - e^{-2h})``;
- posterior ``x_s | x_t, x0``: mean ``a_s x0 + b_s mu + (c_s / c_t) e^{-h} (x_t - a_t x0 - b_t mu)``, variance
  ``c_s^2 (1 - e^{-2h})``.

They are derived in the section "Three curves, five processes" of ``docs/theory.md``.

``Theta`` below is the :class:`~monai_d3gm.sde.clock.Clock`. Processes are of arXiv 2406.13652 (D3GM and the list it
compares with), arXiv 2301.11699 (IR-SDE), arXiv 2011.13456 (variance preserving) and arXiv 2312.10299 (GOUB).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_d3gm.sde.clock import Clock, as_time
from monai_d3gm.sde.device import moved

DEFAULT_STATIONARY_STD = 10 / 255
"""The paper's lambda, 10 grey levels of 255, for images on [0, 1]."""

DEFAULT_TERMINAL_DECAY = 0.005
"""What is left of ``x0 - mu`` at ``t = 1``."""

_BISECTIONS = 54  # halvings of [0, 1] until its parts are below float64's spacing at 1


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}.")
    return float(value)


def check_images(**images: Tensor) -> None:
    """Check that images are floating tensors of one shape, batch first.

    Args:
        images: the tensors by the names their caller knows them by.

    Raises:
        ValueError: if one is not a real floating tensor with a batch axis, or the shapes differ.

    >>> check_images(x0=torch.zeros(1, 2), mu=torch.zeros(1, 2))
    """
    (first, reference), *_ = images.items()
    for name, image in images.items():
        if not isinstance(image, Tensor) or not image.is_floating_point() or image.ndim < 1:
            kind = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{name} must be a real floating tensor (B, ...), got {kind}.")
        if image.shape != reference.shape:
            raise ValueError(
                f"{name} must have the shape of {first}, {tuple(reference.shape)}, got {tuple(image.shape)}."
            )


def computing_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision to compute in for images of ``dtype``: float32 for the half precisions, else ``dtype`` itself.

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

        >>> a, b, c = D3GMProcess(tau=2.0).curves(1.0)
        >>> print(f"{a:.4f} {b:.4f} {c:.4f}")
        0.0050 0.9950 0.0784
        """
        exponent = self.decay_exponent(t)
        return torch.exp(-exponent), -torch.expm1(-exponent), self.noise_std(t)

    def rho(self, t: float | Tensor) -> Tensor:
        """``ln(a / c)``, which falls with ``t``: ``+inf`` where ``c = 0``, ``-inf`` where ``a = 0``; shaped like ``t``.

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

        >>> process = D3GMProcess()
        >>> print(f"{process.time_of_rho(process.rho(0.3)):.12f}")
        0.300000000000
        """
        target = torch.as_tensor(rho, dtype=torch.float64).detach().cpu()
        lowest = float(self.rho(1.0))
        if not bool((target >= lowest - 1e-6).all()):  # false for nan too; the margin lets float32 values through
            raise ValueError(f"rho must not lie below rho(1) = {lowest:.6g}, got {target.tolist()}.")
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
            raise ValueError(f"s must not lie after t, got s = {start.tolist()} and t = {end.tolist()}.")
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

        >>> x = torch.zeros(1, 1, 2, 2)
        >>> mean, std = D3GMProcess().posterior(x, x, x, 0.5, 0.25)
        >>> tuple(mean.shape), float(std) > 0
        ((1, 1, 2, 2), True)
        """
        check_images(x_t=x_t, x0=x0, mu=mu)
        end, start = torch.broadcast_tensors(as_time(t, "t"), as_time(s, "s"))
        if bool((start >= end).any()):
            raise ValueError(f"s must lie before t, got s = {start.tolist()} and t = {end.tolist()}.")
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

        >>> x = torch.zeros(1, 1, 2, 2)
        >>> float(D3GMProcess().score(x, x, x, 0.5).abs().max())
        0.0
        """
        check_images(x_t=x_t, x0=x0, mu=mu)
        a, b, c = self.curves(t)
        if bool((c == 0).any()):
            raise ValueError(f"t must be a time at which the noise's standard deviation is not 0, got {t}.")
        precision = c**-2
        return _combine(x_t, (-precision, x_t), (precision * a, x0), (precision * b, mu), std=c)[0]

    def config(self) -> dict[str, Any]:
        """Name and arguments as a plain dictionary, from which :func:`process_from_config` makes the process again.

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


class D3GMProcess(DiffusionProcess):
    """The paper's process, ``dx = theta (mu - x) dt + tau sigma dW`` with ``sigma^2 = 2 lambda^2 theta``.

    ``a = e^{-Theta}``, ``b = 1 - a``, ``c = tau lambda sqrt(1 - a^2)``; it leaves ``N(mu, tau^2 lambda^2)`` invariant,
    and sampling starts from that law. Its marginals are those of an Ornstein-Uhlenbeck process of standard deviation
    ``tau lambda``: only that product and the terminal decay matter
    (:func:`~monai_d3gm.sde.discrepancy.calibrate_tau` chooses tau).

    Args:
        schedule: name of the clock's shape.
        stationary_std: lambda, in image units on [0, 1], above 0.
        tau: widening of the stationary measure, at least 1: 2 for moderate deviations, more across domains.
        terminal_decay: ``a(1)``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    >>> D3GMProcess(tau=4.0)
    D3GMProcess(schedule='cosine', stationary_std=0.0392156862745098, tau=4.0, terminal_decay=0.005)
    """

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "stationary_std", "tau", "terminal_decay")

    def __init__(
        self,
        schedule: str = "cosine",
        stationary_std: float = DEFAULT_STATIONARY_STD,
        tau: float = 2.0,
        terminal_decay: float = DEFAULT_TERMINAL_DECAY,
    ) -> None:
        super().__init__(schedule, terminal_decay)
        self.stationary_std = _positive("stationary_std", stationary_std)
        if not (math.isfinite(tau) and tau >= 1):
            raise ValueError(f"tau must be a finite number, at least 1, got {tau!r}.")
        self.tau = float(tau)

    def noise_std(self, t: float | Tensor) -> Tensor:
        return self.tau * self.stationary_std * torch.sqrt(-torch.expm1(-2 * self.clock(t)))

    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = self.clock.rate(t)
        return -theta, theta, self.tau * self.stationary_std * torch.sqrt(2 * theta)

    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        check_images(mu=mu)
        return mu.clone(), mu.new_full((), self.tau * self.stationary_std)


class OrnsteinUhlenbeckProcess(D3GMProcess):
    """The mean-reverting process of IR-SDE: D3GM with ``tau = 1``.

    Args:
        schedule: name of the clock's shape.
        stationary_std: lambda, in image units on [0, 1], above 0.
        terminal_decay: ``a(1)``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    >>> OrnsteinUhlenbeckProcess().curves(0.5)[2] == D3GMProcess(tau=1.0).curves(0.5)[2]
    tensor(True)
    """

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "stationary_std", "terminal_decay")

    def __init__(
        self,
        schedule: str = "cosine",
        stationary_std: float = DEFAULT_STATIONARY_STD,
        terminal_decay: float = DEFAULT_TERMINAL_DECAY,
    ) -> None:
        super().__init__(schedule, stationary_std, 1.0, terminal_decay)


class CoefficientDecoupledProcess(DiffusionProcess):
    """Mean reversion with a diffusion that is not tied to it: ``dx = theta (mu - x) dt + sigma dW``.

    ``sigma_u^2 = d/du [sigma_min (sigma_max / sigma_min)^u]^2``, the variance exploding schedule, so
    ``a = e^{-Theta}``, ``b = 1 - a`` and ``c^2 = int_0^t e^{-2 (Theta_t - Theta_u)} sigma_u^2 du``. The integral has no
    closed form for most schedules: it is done once over 64 panels by 16-point Gauss-Legendre quadrature, and from the
    panel's edge for each ``t``, to about 1e-14 of ``c``. Every term is positive, so ``c / a`` rises with ``t`` (``c``
    alone need not).

    Args:
        schedule: name of the clock's shape.
        sigma_min: s0, above 0.
        sigma_max: s1, above ``sigma_min``.
        terminal_decay: ``a(1)``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    >>> mean, std = CoefficientDecoupledProcess().prior(torch.zeros(1, 1, 2, 2))
    >>> 0 < float(std) < 0.5
    True
    """

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "sigma_min", "sigma_max", "terminal_decay")
    _panels: ClassVar[int] = 64

    def __init__(
        self,
        schedule: str = "cosine",
        sigma_min: float = 0.01,
        sigma_max: float = 0.5,
        terminal_decay: float = DEFAULT_TERMINAL_DECAY,
    ) -> None:
        super().__init__(schedule, terminal_decay)
        self.sigma_min = _positive("sigma_min", sigma_min)
        self.sigma_max = _positive("sigma_max", sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max must lie above sigma_min = {self.sigma_min}, got {sigma_max!r}.")
        self._nodes, self._weights = _gauss_legendre(16)
        edges = torch.arange(self._panels + 1, dtype=torch.float64) / self._panels
        panels = self._integral(edges[:-1], edges[1:])
        kept = torch.exp(2 * (self.clock(edges[:-1]) - self.clock(edges[1:])))
        variances = [0.0]
        for panel, keep in zip(panels.tolist(), kept.tolist(), strict=True):
            variances.append(keep * variances[-1] + panel)
        self._edge_variances = torch.tensor(variances, dtype=torch.float64)

    def _diffusion(self, t: Tensor) -> Tensor:
        growth = math.log(self.sigma_max / self.sigma_min)
        return math.sqrt(2 * growth) * self.sigma_min * torch.exp(growth * t)

    def _integral(self, start: Tensor, end: Tensor) -> Tensor:
        """``int_start^end e^{-2 (Theta_end - Theta_u)} sigma_u^2 du``, elementwise."""
        u = (start[:, None] + (end - start)[:, None] * self._nodes).clamp(0, 1)
        decay = torch.exp(2 * (self.clock(u.flatten()).reshape(u.shape) - self.clock(end)[:, None]))
        return (end - start) * (decay * self._diffusion(u) ** 2 * self._weights).sum(1)

    def noise_std(self, t: float | Tensor) -> Tensor:
        time = as_time(t)
        flat = time.reshape(-1)
        panel = (flat * self._panels).floor().to(torch.int64)
        edge = panel / torch.tensor(self._panels, dtype=torch.float64)
        kept = torch.exp(2 * (self.clock(edge) - self.clock(flat))) * self._edge_variances[panel]
        return torch.sqrt(kept + self._integral(edge, flat)).reshape(time.shape)

    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = self.clock.rate(t)
        return -theta, theta, self._diffusion(as_time(t))

    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        check_images(mu=mu)
        return mu.clone(), moved(self.noise_std(1.0), mu)


class VariancePreservingProcess(DiffusionProcess):
    """The score-based generative model: ``dx = -theta x dt + sqrt(2 theta) dW``, ``mu`` only conditions the network.

    ``a = e^{-Theta}``, ``b = 0``, ``c = sqrt(1 - a^2)``, prior ``N(0, 1)``.

    Args:
        schedule: name of the clock's shape.
        terminal_decay: ``a(1)``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    >>> a, b, c = VariancePreservingProcess().curves(0.3)
    >>> float(b), round(float(a**2 + c**2), 12)
    (0.0, 1.0)
    """

    def curves(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, c = super().curves(t)
        return a, torch.zeros_like(b), c

    def noise_std(self, t: float | Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-2 * self.clock(t)))

    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = self.clock.rate(t)
        return -theta, torch.zeros_like(theta), torch.sqrt(2 * theta)

    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        check_images(mu=mu)
        return torch.zeros_like(mu), mu.new_ones(())


class OrnsteinUhlenbeckBridge(DiffusionProcess):
    """The Ornstein-Uhlenbeck process of IR-SDE conditioned to end at ``mu`` (GOUB, by Doob's h-transform).

    With ``v_t = lambda^2 (1 - e^{-2 Theta_t})`` and ``v_{tT} = lambda^2 (1 - e^{-2 (Theta_T - Theta_t)})``:
    ``a = e^{-Theta_t} v_{tT} / v_T = sinh(Theta_T - Theta_t) / sinh(Theta_T)``, ``b = 1 - a``,
    ``c^2 = v_t v_{tT} / v_T``. At ``t = 1`` both ``a`` and ``c`` are 0 and the prior is ``mu`` itself. The forward
    equation is ``dx = theta coth(Theta_T - Theta_t) (mu - x) dt + sqrt(2 lambda^2 theta) dW``.

    Args:
        schedule: name of the clock's shape.
        stationary_std: lambda, in image units on [0, 1], above 0.
        terminal_decay: ``exp(-Theta(1))``, in (0, 1).

    Raises:
        ValueError: if an argument is out of range.

    >>> [float(curve) for curve in OrnsteinUhlenbeckBridge().curves(1.0)]
    [0.0, 1.0, 0.0]
    """

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "stationary_std", "terminal_decay")

    def __init__(
        self,
        schedule: str = "cosine",
        stationary_std: float = DEFAULT_STATIONARY_STD,
        terminal_decay: float = DEFAULT_TERMINAL_DECAY,
    ) -> None:
        super().__init__(schedule, terminal_decay)
        self.stationary_std = _positive("stationary_std", stationary_std)
        self._end = self.clock(1.0)

    def decay_exponent(self, t: float | Tensor) -> Tensor:
        theta = self.clock(t)
        return theta + torch.log(-torch.expm1(-2 * self._end)) - torch.log(-torch.expm1(-2 * (self._end - theta)))

    def noise_std(self, t: float | Tensor) -> Tensor:
        theta = self.clock(t)
        past, left = -torch.expm1(-2 * theta), -torch.expm1(-2 * (self._end - theta))
        return self.stationary_std * torch.sqrt(past * left / -torch.expm1(-2 * self._end))

    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = self.clock.rate(t)
        pull = theta / torch.tanh(self._end - self.clock(t))
        return -pull, pull, self.stationary_std * torch.sqrt(2 * theta)

    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        check_images(mu=mu)
        return mu.clone(), mu.new_zeros(())


PROCESSES: dict[str, type[DiffusionProcess]] = {
    process.__name__: process
    for process in (
        D3GMProcess,
        OrnsteinUhlenbeckProcess,
        CoefficientDecoupledProcess,
        VariancePreservingProcess,
        OrnsteinUhlenbeckBridge,
    )
}
"""The processes by name."""


def process_from_config(config: dict[str, Any]) -> DiffusionProcess:
    """The process that a :meth:`DiffusionProcess.config` describes.

    Args:
        config: ``name``, and any of that process's arguments.

    Raises:
        ValueError: if the name or an argument is unknown, or an argument is out of range.

    >>> process_from_config({"name": "D3GMProcess", "tau": 4.0}) == D3GMProcess(tau=4.0)
    True
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in PROCESSES:
        raise ValueError(f"the process's name must be one of {', '.join(PROCESSES)}, got {name!r}.")
    kind = PROCESSES[name]
    unknown = sorted(set(arguments) - set(kind._parameters))
    if unknown:
        raise ValueError(f"{name} takes {', '.join(kind._parameters)}, got {', '.join(unknown)}.")
    return kind(**arguments)


def _combine(like: Tensor, *terms: tuple[Tensor, Tensor], std: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of weight times image, and a standard deviation that broadcasts to it, in ``like``'s dtype and device."""
    dtype = computing_dtype(like.dtype)

    def spread(weight: Tensor) -> Tensor:
        if weight.ndim == 1 and weight.shape[0] != like.shape[0]:
            raise ValueError(
                f"the times must be one, or one per item of the batch of {like.shape[0]}, got {weight.shape[0]}."
            )
        return weight.to(dtype).to(like.device).reshape(weight.shape + (1,) * (like.ndim - 1) * weight.ndim)

    mean = torch.zeros((), dtype=dtype, device=like.device)
    for weight, image in terms:
        mean = mean + spread(weight) * image.to(dtype)
    return mean.to(like.dtype), spread(std).to(like.dtype)


def _gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], from the eigenvectors of the Jacobi matrix (Golub and Welsch 1969)."""
    k = torch.arange(1, points, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
