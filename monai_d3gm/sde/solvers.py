"""Solvers: one step of the reverse process, as pure functions of one signature.

With the data prediction ``x0_hat = D(x_t, mu, t)``, ``rho = ln(a / c)`` and ``eta >= 0``, the reverse equations that
share the marginals of the process are, in ``rho`` (which rises as ``t`` falls) and for ``y = (x - b mu) / c``,

    dy = (1 + eta^2) e^rho x0_hat drho - eta^2 y drho + sqrt(2) eta dW:

``eta = 0`` is the probability-flow equation, ``eta = 1`` the reverse equation of the paper. :func:`exponential`
integrates its linear part exactly; at order 1 it is the ancestral step for ``eta = 1`` and DDIM for ``eta = 0``.
:func:`euler_maruyama` is the paper's solver, the Euler-Maruyama step in ``t``. Each gives the Gaussian law of the next
state; :func:`~monai_d3gm.sde.sample` draws from it. The formulas are in the section "Solvers" of ``docs/theory.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from monai_d3gm.sde.process import DiffusionProcess


class Solver(Protocol):
    """One step of a solver, as a pure function: the Gaussian law of the state at ``s``, given that at ``t > s > 0``."""

    def __call__(
        self,
        process: DiffusionProcess,
        x: Tensor,
        mu: Tensor,
        t: float,
        s: float,
        predictions: Sequence[tuple[float, Tensor]],
        *,
        order: int,
        eta: float,
    ) -> tuple[Tensor, float]: ...


def exponential(
    process: DiffusionProcess,
    x: Tensor,
    mu: Tensor,
    t: float,
    s: float,
    predictions: Sequence[tuple[float, Tensor]],
    *,
    order: int,
    eta: float,
) -> tuple[Tensor, float]:
    """Exponential multistep integrator in ``rho`` with the data prediction.

    ``x_s = b_s mu + (c_s / c_t) e^{-eta^2 h} (x_t - b_t mu) + a_s int_0^h k e^{-k (h - v)} p(v) dv
    + c_s sqrt(1 - e^{-2 eta^2 h}) z`` with ``h = rho_s - rho_t``, ``k = 1 + eta^2`` and ``p`` the polynomial in
    ``rho - rho_t`` through the last ``order`` predictions, integrated exactly.

    Args:
        process: gives the curves; a and c must be above 0 at ``t`` and ``s``.
        x: state at ``t`` (B, ...).
        mu: degraded images, of the same shape.
        t: the time of ``x``.
        s: the time to go to, ``0 < s < t``.
        predictions: (time, x0_hat), the latest first, the first one at ``t``.
        order: predictions to use at most, 1 to 3; at most 2 where ``eta > 0``.
        eta: share of noise: 0 deterministic, 1 the reverse equation's own.

    Returns:
        Mean and standard deviation of the state at ``s``.

    Example:
        >>> import torch
        >>> from monai_d3gm.sde import D3GMProcess
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> mean, std = exponential(D3GMProcess(), x, x, 0.5, 0.25, [(0.5, x)], order=1, eta=0.0)
        >>> std
        0.0
    """
    (_, b_t, c_t), (a_s, b_s, c_s) = _floats(process, t), _floats(process, s)
    rho_t = float(process.rho(t))
    h = float(process.rho(s)) - rho_t
    used = predictions[:order]
    nodes = [float(process.rho(time)) - rho_t for time, _ in used]
    keep = c_s / c_t * math.exp(-(eta**2) * h)
    mean = keep * x
    mean += (b_s - keep * b_t) * mu  # in place: of a large photograph, each sum takes as much memory as it does
    for weight, (_, x0_hat) in zip(_multistep_weights(nodes, h, 1 + eta**2), used, strict=True):
        mean += (a_s * weight) * x0_hat
    return mean, c_s * math.sqrt(-math.expm1(-2 * eta**2 * h))


def euler_maruyama(
    process: DiffusionProcess,
    x: Tensor,
    mu: Tensor,
    t: float,
    s: float,
    predictions: Sequence[tuple[float, Tensor]],
    *,
    order: int,
    eta: float,
) -> tuple[Tensor, float]:
    """The paper's solver (Appendix D.1): one Euler-Maruyama step of the reverse equation in ``t``; no ``order``.

    With the forward equation ``dx = (f x + h mu) dt + g dW`` and the score that ``x0_hat`` stands for,
    ``x_s = x_t - (t - s) [f x_t + h mu - (1 + eta^2) / 2 g^2 score] + eta g sqrt(t - s) z``; ``eta = 1`` is the
    paper's. Explicit, so it needs many steps, with ``t - s`` small against ``c^2 / g^2``.

    Args:
        process: gives curves and forward equation; a and c must be above 0 at ``t``.
        x: state at ``t`` (B, ...).
        mu: degraded images, of the same shape.
        t: the time of ``x``.
        s: the time to go to, ``0 < s < t``.
        predictions: (time, x0_hat), the latest first, the first one at ``t``.
        order: not used: the method is of one order.
        eta: share of noise: 0 the Euler step of the probability-flow equation, 1 the reverse equation's own.

    Returns:
        Mean and standard deviation of the state at ``s``.

    Example:
        >>> import torch
        >>> from monai_d3gm.sde import D3GMProcess
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> mean, std = euler_maruyama(D3GMProcess(), x, x, 0.5, 0.49, [(0.5, x)], order=1, eta=1.0)
        >>> std > 0
        True
    """
    a, b, c = _floats(process, t)
    f, h, g = (float(coefficient) for coefficient in process.forward_sde(t))
    step = t - s
    pull = step * (1 + eta**2) / 2 * (g / c) ** 2
    x0_hat = predictions[0][1]
    mean = (1 - step * f - pull) * x + (pull * b - step * h) * mu + (pull * a) * x0_hat
    return mean, eta * g * math.sqrt(step)


def marginal_step(process: DiffusionProcess, x0_hat: Tensor, mu: Tensor, s: float) -> tuple[Tensor, float]:
    """The step from a state that says nothing of ``x0`` ("The bridge's first step"): the marginal at ``s``.

    Args:
        process: gives the curves.
        x0_hat: the prediction.
        mu: degraded images, of the same shape.
        s: the time to go to.

    Returns:
        Mean ``a_s x0_hat + b_s mu`` and standard deviation ``c_s`` of the state at ``s``.

    Example:
        >>> import torch
        >>> from monai_d3gm.sde import OrnsteinUhlenbeckBridge
        >>> mean, std = marginal_step(OrnsteinUhlenbeckBridge(), torch.ones(1, 2), torch.ones(1, 2), 0.5)
        >>> bool(torch.allclose(mean, torch.ones(1, 2))), std > 0
        (True, True)
    """
    a, b, c = _floats(process, s)
    return a * x0_hat + b * mu, c


SOLVERS: dict[str, Solver] = {"exponential": exponential, "euler_maruyama": euler_maruyama}
"""The solvers by name."""


def _floats(process: DiffusionProcess, t: float) -> tuple[float, float, float]:
    a, b, c = process.curves(t)
    return float(a), float(b), float(c)


def _multistep_weights(nodes: Sequence[float], h: float, k: float) -> list[float]:
    """Weights on the values at ``nodes`` of ``int_0^h k e^{-k (h - v)} p(v) dv``, ``p`` their interpolant
    ("Orders 2 and 3" in the theory)."""
    # Powers of v against the exponential: int_0^h k e^{-k (h - v)} v^n dv = k h^{n+1} n! phi_{n+1}(-k h).
    moments = [k * h ** (n + 1) * math.factorial(n) * _phi(n + 1, -k * h) for n in range(len(nodes))]
    weights = []
    for i, node in enumerate(nodes):
        coefficients, scale = [1.0], 1.0  # of prod (v - other), the lowest power first
        for other in (*nodes[:i], *nodes[i + 1 :]):
            coefficients = [
                up - other * same for up, same in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)
            ]
            scale *= node - other
        weights.append(sum(c * m for c, m in zip(coefficients, moments, strict=True)) / scale)
    return weights


def _phi(n: int, z: float) -> float:
    """``phi_n(z) = sum_j z^j / (n + j)!``: the series near 0, elsewhere ``phi_n = (phi_{n-1} - 1/(n-1)!) / z``."""
    if abs(z) < 1:
        return sum(z**j / math.factorial(n + j) for j in range(18))
    value = math.exp(z)
    for m in range(n):
        value = (value - 1 / math.factorial(m)) / z
    return value
