"""Total variation of Cartesian k-space.

Block, Uecker and Frahm, "Undersampled radial MRI with multiple coils: iterative image reconstruction using a total
variation constraint", MRM 57(6), 2007::

    x = argmin 1/2 ||A x - y||^2 + phase_weight / 2 ||Im x||^2 + regularisation sum sqrt(|dx/drow|^2 + |dx/dcolumn|^2)

by the primal-dual method of Condat (J. Optim. Theory Appl. 158, 2013) and Vu, with A of
`monai_d3gm.baselines.operator`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_d3gm.baselines.operator import as_problem, penalty_weight

__all__ = ["total_variation"]

MAX_ITER = 120


def total_variation(
    kspace: Tensor,
    sensitivity_maps: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    regularisation: float | None = None,
    phase_weight: float = 0.0,
    max_iter: int = MAX_ITER,
) -> Tensor:
    """Reconstruct one slice of undersampled k-space.

    Args:
        kspace, sensitivity_maps, mask, phase_weight: as for `l1_wavelet`.
        regularisation: weight of the total variation, above 0, in a scale where the 99.5th percentile of the
            zero-filled image is 1; None takes the tuned one for one coil or several.
        max_iter: number of iterations, at least 1.

    Returns:
        The complex image, complex64 (H, W) on the CPU, in kspace's unit.

    Raises:
        ValueError: as `as_problem`, or a regularisation or max_iter out of range.

    Example:
        >>> image = torch.zeros(32, 32, dtype=torch.complex64)
        >>> image[8:24, 8:24] = 1
        >>> kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image), norm="ortho"))
        >>> result = total_variation(kspace, regularisation=1e-4)
        >>> bool((result - image).abs().max() < 0.01)
        True
    """
    weight = penalty_weight("total_variation", kspace, regularisation, max_iter)
    problem = as_problem(kspace, sensitivity_maps, mask, phase_weight)
    dual_step = 1 / 16
    step = 1 / (problem.lipschitz / 2 + 8 * dual_step)  # 1 / step - dual_step ||D||^2 >= L / 2, ||D||^2 <= 8
    x, dual = problem.start, torch.zeros(2, *problem.start.shape, dtype=problem.start.dtype)
    for _ in range(max_iter):
        moved = x - step * (problem.gradient(x) - _divergence(dual))
        ahead = 2 * moved - x
        dual = dual + dual_step * torch.stack([ahead.roll(-1, axis) - ahead for axis in (0, 1)])
        size = dual.abs().square().sum(0).sqrt()
        dual = dual / (size / weight).clamp_min(1)
        x = moved
    return x * problem.scale


def _divergence(field: Tensor) -> Tensor:
    """Minus the adjoint of the forward differences of a periodic image."""
    return (field[0] - field[0].roll(1, 0)) + (field[1] - field[1].roll(1, 1))
