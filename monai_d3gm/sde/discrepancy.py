"""Measures of the gap between a process and its assumptions, on pairs of clean and degraded images.

Sampling starts from a law that does not depend on ``x0``. The rest of ``x0 - mu`` at ``t = 1`` is the temporal
discrepancy of arXiv 2406.13652. It is Gaussian against Gaussian, so its divergences have closed forms: the section
"Discrepancy" of ``docs/theory.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from monai_d3gm.sde.process import DEFAULT_STATIONARY_STD, DEFAULT_TERMINAL_DECAY, DiffusionProcess, check_images
from monai_d3gm.sde.processes import D3GMProcess

_TIMES = 256


class TemporalDiscrepancy(NamedTuple):
    """Divergences between ``x_1 | x0`` and the law sampling starts from, each (B,) in float64 on the CPU.

    Attributes:
        kl_per_pixel: Kullback-Leibler divergence over the number of values, in nats; nan where both are point masses.
        kl_total: the same of the whole image.
        w2_per_pixel: root mean square over values of the optimal transport, in image units.
        w2_total: Wasserstein-2 distance of the whole image, ``sqrt(n)`` times that.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> temporal_discrepancy(images, images, D3GMProcess()).w2_total.shape
        torch.Size([2])
    """

    kl_per_pixel: Tensor
    kl_total: Tensor
    w2_per_pixel: Tensor
    w2_total: Tensor


def temporal_discrepancy(x0: Tensor, mu: Tensor, process: DiffusionProcess) -> TemporalDiscrepancy:
    """Distance between ``x_1 | x0 ~ N(m, c^2)`` and the prior ``N(p, q^2)`` that sampling starts from.

    Per value, ``KL = 1/2 [(m - p)^2 / q^2 + c^2 / q^2 - 1 - ln(c^2 / q^2)]`` and ``W2^2 = (m - p)^2 + (c - q)^2``.

    Args:
        x0: clean images (B, ...).
        mu: degraded images, of the same shape.
        process: the process.

    Returns:
        Four tensors (B,). The bridge's law and prior are the point mass at ``mu``: its W2 is 0, its KL nan.

    Raises:
        ValueError: if shapes do not fit or a value is not finite.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> x0, mu = torch.full((1, 1, 8, 8), 0.6), torch.full((1, 1, 8, 8), 0.5)
        >>> kl, *_ = temporal_discrepancy(x0, mu, D3GMProcess(tau=2.0))
        >>> print(f"{float(kl):.2e}")
        2.03e-05
    """
    x0, mu = _double(x0, mu)
    a, b, c = process.curves(1.0)
    mean, std = process.prior(mu)
    shift = (a * x0 + b * mu - mean).flatten(1).square().mean(1)
    excess = (c / std) ** 2 - 1
    kl = (shift / std**2 + excess - torch.log1p(excess)) / 2
    w2 = torch.sqrt(shift + (c - std) ** 2)
    values = x0[0].numel()
    return TemporalDiscrepancy(kl, kl * values, w2, w2 * math.sqrt(values))


def proposition2_bound(
    x0: Tensor, mu: Tensor, process: DiffusionProcess, *, score_bound: float, delta: float = 0.05
) -> Tensor:
    """The right side of the paper's Eq. 5, as printed: a diagnostic, not a bound that is proved.

    ``| (|x0 - mu|^2 - v) e^{-2 Theta(1)} + v - s^2 (C s^2 + n + 2 sqrt(-n ln delta) - 2 ln delta) |``, where
    ``v = sigma_T^2 / (2 theta_T)`` is the stationary variance, ``sigma_t`` the diffusion coefficient (with tau in it),
    ``s`` the largest of them and ``n`` the number of values of an image.

    The paper reads it as a lower bound on ``|x0 - x0_hat|^2`` with probability at least ``1 - delta``. Its appendix E
    arrives at ``2 v`` where Eq. 5 prints ``v``, and the derivation supports neither: it subtracts squared norms as if
    ``|u - w|^2 >= | |u|^2 - |w|^2 |``, takes the variance of one value for that of all ``n``, and an upper tail of the
    noise for the noise. Compare its values between processes, never with an error. Where the process does not revert
    to ``mu``, the mean of the prior stands for it; for the bridge, ``theta`` and ``sigma`` are those of the process
    that it conditions.

    Args:
        x0: clean images (B, ...).
        mu: degraded images, of the same shape.
        process: the process.
        score_bound: C, the bound on the score's squared norm; at least 0.
        delta: probability left out, in (0, 1).

    Returns:
        One value per image, (B,) in float64 on the CPU, in squared image units.

    Raises:
        ValueError: if shapes do not fit, a value is not finite, or an argument is out of range.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> x0, mu = torch.full((2, 1, 8, 8), 0.6), torch.full((2, 1, 8, 8), 0.5)
        >>> tuple(proposition2_bound(x0, mu, D3GMProcess(), score_bound=1.0).shape)
        (2,)
    """
    x0, mu = _double(x0, mu)
    if not (math.isfinite(score_bound) and score_bound >= 0):
        raise ValueError(f"score_bound is {score_bound!r}; accepted: a finite number, at least 0.")
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta!r}; accepted: a number in (0, 1).")
    times = torch.linspace(0, 1, _TIMES + 1, dtype=torch.float64)
    sigma = process.forward_sde(times)[2]
    stationary = sigma[-1] ** 2 / (2 * process.clock.rate(1.0))
    largest = sigma.max() ** 2
    n, tail = x0[0].numel(), -math.log(delta)
    residual = (x0 - process.prior(mu)[0]).flatten(1).square().sum(1)
    disturbance = (residual - stationary) * process.terminal_decay**2 + stationary
    return (disturbance - largest * (score_bound * largest + n + 2 * math.sqrt(n * tail) + 2 * tail)).abs()


def cocycle_defect(process: DiffusionProcess) -> float:
    """How far the process is from measure-preserving: ``max g / min g - 1`` with ``g = c^2 / (1 - a^2)``.

    In the clock ``-ln a`` the transition depends on the difference of times alone (the cocycle property of the paper's
    Proposition 1) if and only if ``g``, the variance of the invariant law, is constant. Taken over 256 times in (0, 1).

    Args:
        process: the process.

    Returns:
        0 (to rounding) for D3GM, Ornstein-Uhlenbeck and variance preserving; positive for the others.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess, OrnsteinUhlenbeckBridge
        >>> cocycle_defect(D3GMProcess()) < 1e-12, cocycle_defect(OrnsteinUhlenbeckBridge()) > 1
        (True, True)
    """
    times = torch.arange(1, _TIMES + 1, dtype=torch.float64) / (_TIMES + 1)
    g = process.noise_std(times) ** 2 / -torch.expm1(-2 * process.decay_exponent(times))
    return float(g.max() / g.min() - 1)


def calibrate_tau(
    pairs: Iterable[tuple[Tensor, Tensor]],
    tolerance: float = 2e-5,
    *,
    stationary_std: float = DEFAULT_STATIONARY_STD,
    terminal_decay: float = DEFAULT_TERMINAL_DECAY,
) -> float:
    """The smallest ``tau >= 1`` at which the temporal discrepancy of D3GM stays under a tolerance.

    With ``d = x0 - mu``, ``a`` the terminal decay and ``lambda`` the stationary standard deviation, the divergence per
    pixel is ``1/2 [a^2 E d^2 / (tau lambda)^2 - a^2 - ln(1 - a^2)]``, so
    ``tau = a sqrt(E d^2) / (lambda sqrt(2 tolerance + a^2 + ln(1 - a^2)))``. The pairs are read once, one at a time.

    Args:
        pairs: (x0, mu), floating tensors of one shape; pixels count alike over all pairs.
        tolerance: Kullback-Leibler divergence per pixel, in nats.
        stationary_std: lambda, above 0.
        terminal_decay: ``a(1)``, in (0, 1).

    Raises:
        ValueError: if there are no pairs, shapes do not fit, a value is not finite, an argument is out of range, or the
            tolerance is below what any tau can reach.

    Example:
        >>> x0, mu = torch.full((1, 1, 8, 8), 0.7), torch.full((1, 1, 8, 8), 0.5)
        >>> print(f"{calibrate_tau([(x0, mu)]):.2f}")
        4.03
    """
    D3GMProcess(stationary_std=stationary_std, terminal_decay=terminal_decay)  # checks both
    a2 = terminal_decay**2
    room = 2 * tolerance + a2 + math.log1p(-a2)
    if not (math.isfinite(room) and room > 0):
        floor = -(a2 + math.log1p(-a2)) / 2
        raise ValueError(f"tolerance is {tolerance!r}; accepted: a finite number above {floor:.3g}.")
    total, count = 0.0, 0
    for x0, mu in pairs:
        x0, mu = _double(x0, mu)
        total += float((x0 - mu).square().sum())
        count += x0.numel()
    if count == 0:
        raise ValueError("pairs is empty; accepted: at least one pair of images.")
    return max(1.0, terminal_decay * math.sqrt(total / count / room) / stationary_std)


def _double(x0: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
    """Both images in float64 on the CPU, checked."""
    check_images(x0=x0, mu=mu)
    for name, image in (("x0", x0), ("mu", mu)):
        if not bool(torch.isfinite(image).all()):
            raise ValueError(f"{name} holds NaN or infinity; accepted: finite values.")
    return x0.detach().to("cpu", torch.float64), mu.detach().to("cpu", torch.float64)
