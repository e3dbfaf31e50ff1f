"""Sensitivity encoding of Cartesian k-space with Tikhonov regularisation.

Pruessmann, Weiger, Börnert and Boesiger, "Advances in sensitivity encoding with arbitrary k-space trajectories", MRM
46(4), 2001::

    x = argmin 1/2 ||A x - y||^2 + phase_weight / 2 ||Im x||^2 + regularisation / 2 ||x||^2

by conjugate gradients, with A of `monai_d3gm.baselines.operator`. For one coil without the phase constraint it is the
zero-filled image.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from monai_d3gm.baselines.operator import as_problem, penalty_weight
from monai_d3gm.consistency.conjugate_gradient import conjugate_residuals, norm

__all__ = ["cg_sense"]

MAX_ITER = 100


def cg_sense(
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
        regularisation: weight of the image's energy, above 0; None takes the tuned one for one coil or several.
        max_iter: the most iterations; they end at a residual of 1e-4 of ||A^H y||.

    Returns:
        The complex image, complex64 (H, W) on the CPU, in kspace's unit.

    Raises:
        ValueError: as `as_problem`, or a regularisation or max_iter out of range.

    Example:
        >>> kspace = torch.randn(8, 8, dtype=torch.complex64)
        >>> torch.allclose(cg_sense(kspace, regularisation=1.0), torch.fft.fftshift(torch.fft.ifft2(
        ...     torch.fft.ifftshift(kspace), norm="ortho")) / 2, atol=1e-4)
        True
    """
    weight = penalty_weight("cg_sense", kspace, regularisation, max_iter)
    problem = as_problem(kspace, sensitivity_maps, mask, phase_weight)
    start = problem.start[None]

    def operator(x: Tensor) -> Tensor:
        gradient = problem.normal(x[0])[None] + weight * x
        return gradient + 1j * phase_weight * x.imag if phase_weight else gradient

    with warnings.catch_warnings():  # max_iter asks for an early stop
        warnings.simplefilter("ignore", RuntimeWarning)
        solution = conjugate_residuals(operator, start, start, 1e-4 * norm(start), max_iterations=max_iter)
    return torch.view_as_complex(torch.view_as_real(solution[0]).contiguous()) * problem.scale
