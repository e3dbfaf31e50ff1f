"""The five diffusion processes between a clean image ``x0`` and its degraded version ``mu``.

Each is a subclass of :class:`~monai_d3gm.sde.process.DiffusionProcess` with its curves and its prior.

``Theta`` below is the :class:`~monai_d3gm.sde.clock.Clock`. Processes are of arXiv 2406.13652 (D3GM and the list it
compares with), arXiv 2301.11699 (IR-SDE), arXiv 2011.13456 (variance preserving) and arXiv 2312.10299 (GOUB).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_d3gm.sde.clock import as_time
from monai_d3gm.sde.device import moved
from monai_d3gm.sde.process import (
    DEFAULT_STATIONARY_STD,
    DEFAULT_TERMINAL_DECAY,
    DiffusionProcess,
    check_images,
    positive,
)


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

    Example:
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
        self.stationary_std = positive("stationary_std", stationary_std)
        if not (math.isfinite(tau) and tau >= 1):
            raise ValueError(f"tau is {tau!r}; accepted: a finite number, at least 1.")
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

    Example:
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

    Example:
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
        self.sigma_min = positive("sigma_min", sigma_min)
        self.sigma_max = positive("sigma_max", sigma_max)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max is {sigma_max!r}; accepted: a number above sigma_min = {self.sigma_min}.")
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

    Example:
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

    Example:
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
        self.stationary_std = positive("stationary_std", stationary_std)
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

    Example:
        >>> process_from_config({"name": "D3GMProcess", "tau": 4.0}) == D3GMProcess(tau=4.0)
        True
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name not in PROCESSES:
        raise ValueError(f"the process's name is {name!r}; accepted: {', '.join(PROCESSES)}.")
    kind = PROCESSES[name]
    unknown = sorted(set(arguments) - set(kind._parameters))
    if unknown:
        raise ValueError(f"{name} has no {', '.join(unknown)}; accepted: {', '.join(kind._parameters)}.")
    return kind(**arguments)


def _gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], from the eigenvectors of the Jacobi matrix (Golub and Welsch 1969)."""
    k = torch.arange(1, points, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return (nodes + 1) / 2, vectors[0] ** 2
