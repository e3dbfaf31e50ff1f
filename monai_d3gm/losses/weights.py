r"""Weights of the training losses over time, as factors of the network's prediction and target.

With prediction type ``v_prediction`` and V = a^2 sigma_d^2 + c^2, an error of the prediction is an error of x0_hat
divided by c_out = sigma_d c / sqrt(V). A loss |w (F - v)|^p therefore weighs the error of x0_hat by (w / c_out)^p. The
unit weight needs no function. The others are given to `monai_d3gm.engines.D3GMPrepareBatch` and work with any
elementwise loss of torch or MONAI, which must be the one named here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_d3gm.networks.schedulers import D3GMScheduler

__all__ = ["maximum_likelihood_weight", "score_matching_weight"]


def _c_out(scheduler: D3GMScheduler, a: Tensor, c: Tensor) -> Tensor:
    if scheduler.prediction_type != "v_prediction":
        raise ValueError(f"prediction_type is {scheduler.prediction_type!r}; accepted: 'v_prediction'.")
    sd = scheduler.sigma_data
    return sd * c / torch.sqrt(a**2 * sd**2 + c**2)


def score_matching_weight(scheduler: D3GMScheduler, timesteps: Tensor) -> Tensor:
    """w = (a / c) c_out, for a squared loss: c(t)^2 |score error|^2 = |eps error|^2, the paper's Eq. 8.

    Args:
        scheduler: gives the process and sigma_d.
        timesteps: (B,) integers 0..N-1.

    Returns:
        (B,) float64.

    Raises:
        ValueError: the prediction type is not ``v_prediction``.

    Example:
        >>> scheduler = D3GMScheduler(sigma_data=0.1)
        >>> float(score_matching_weight(scheduler, torch.tensor([0]))[0])  # at t -> 0 the target is -eps
        1.0
    """
    a, _, c = scheduler.process.curves(scheduler.time_of(timesteps))
    return a * _c_out(scheduler, a, c) / c


def maximum_likelihood_weight(scheduler: D3GMScheduler, timesteps: Tensor) -> Tensor:
    """w = a_s (1 - e^{-2h}) c_out, for an absolute loss: the maximum-likelihood loss of Luo et al. (ICML 2023).

    The loss is the distance of the reverse step from t to s = t - 1/N to the optimal one, |a_s (1 - e^{-2h})
    (x0_hat - x0)|, with h = rho(s) - rho(t); at s = 0 the step returns x0_hat and the factor is 1.

    Args and errors are those of :func:`score_matching_weight`.

    Example:
        >>> scheduler = D3GMScheduler()
        >>> weight = maximum_likelihood_weight(scheduler, torch.tensor([0, 500, 999]))
        >>> bool((weight > 0).all())
        True
    """
    t = scheduler.time_of(timesteps)
    s = (t - 1 / scheduler.num_train_timesteps).clamp(min=0)
    process = scheduler.process
    a, _, c = process.curves(t)
    a_s = process.curves(s)[0]
    shrinkage = -torch.expm1(-2 * (process.rho(s) - process.rho(t)))
    return a_s * shrinkage * _c_out(scheduler, a, c)
