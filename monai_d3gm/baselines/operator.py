"""The forward model that the classical reconstructions share: A = M F S for Cartesian k-space, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_d3gm.consistency.fourier import ifft2c

__all__ = ["WEIGHTS", "Problem", "as_problem", "penalty_weight"]

WEIGHTS = {"l1_wavelet": (0.004, 0.004), "total_variation": (0.004, 0.004), "cg_sense": (0.01, 0.01)}
"""Weights of the penalties for one coil and for several: of the grid of ``benchmarks/classical.py tune`` those with the
best mean foreground PSNR, so far over three simulated eight-coil scans of two calibration subjects. One coil has the
same weights until its own scans are run."""

PERCENTILE = 99.5


@dataclass(frozen=True)
class Problem:
    """min_x 1/2 ||A x - y||^2 + w/2 ||Im x||^2 + a penalty, in a scale where the zero-filled image is about 1.

    Attributes:
        start: A^H y, complex64 (H, W).
        normal: A^H A, of images (H, W).
        phase_weight: w.
        scale: factor of the result.
    """

    start: Tensor
    normal: Callable[[Tensor], Tensor]
    phase_weight: float
    scale: float

    def gradient(self, x: Tensor) -> Tensor:
        """A^H (A x - y) + w i Im x."""
        step = self.normal(x) - self.start
        return step + 1j * self.phase_weight * x.imag if self.phase_weight else step

    @property
    def lipschitz(self) -> float:
        """A bound of the gradient's Lipschitz constant, for maps of sum of squares at most 1."""
        return 1.0 + self.phase_weight


def as_problem(
    kspace: Tensor,
    sensitivity_maps: Tensor | None = None,
    mask: Tensor | None = None,
    phase_weight: float = 0.0,
    scale: float | None = None,
) -> Problem:
    """Check the measurement of one slice and bring it to a common scale.

    Args:
        kspace: complex, (H, W) for one coil or (coils, H, W); centred orthonormal convention.
        sensitivity_maps: complex, of kspace's shape, sum of squares at most 1 at every pixel; needed for several coils.
            A phase reference may be a factor of it: the image is then divided by it.
        mask: bool, True where k-space was sampled, broadcastable to kspace and the same for all coils; None: wherever
            some coil is not zero.
        phase_weight: w, at least 0.
        scale: divisor of the measurement, above 0; the 99.5th percentile of the zero-filled magnitude if None.

    Raises:
        ValueError: k-space is real, not finite or zero everywhere it was sampled; maps or mask do not fit; the sum of
            squares of the maps exceeds 1; the phase's weight or the scale is out of range.

    Example:
        >>> problem = as_problem(torch.ones(4, 4, dtype=torch.complex64))
        >>> float(problem.gradient(problem.start).abs().max()) < 1e-6
        True
    """
    if not 0 <= phase_weight < float("inf"):
        raise ValueError(f"phase_weight is {phase_weight}; accepted: at least 0.")
    if scale is not None and not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}; accepted: a number above 0, or None.")
    coils = _as_coils(kspace)
    maps = _as_maps(sensitivity_maps, coils)
    sampled = _as_sampled(mask, coils)
    data = coils * sampled
    zero_filled = (maps.conj() * ifft2c(data)).sum(0)
    if scale is None:
        scale = float(np.percentile(zero_filled.abs().numpy(), PERCENTILE))
    if scale == 0:
        raise ValueError("kspace is 0 wherever it was sampled; accepted: measured data.")
    along = [dim for dim in (-2, -1) if not bool((sampled == sampled.narrow(dim, 0, 1)).all())] or [-1]
    pattern = torch.fft.ifftshift(sampled, dim=along).to(torch.float32)
    conjugate = maps.conj()

    def normal(x: Tensor) -> Tensor:
        # centring commutes with the mask, and an axis on which the mask is constant needs no transform
        spectrum = torch.fft.fftn(maps * x, dim=along, norm="ortho") * pattern
        return (conjugate * torch.fft.ifftn(spectrum, dim=along, norm="ortho")).sum(0)

    return Problem(zero_filled / scale, normal, phase_weight, scale)


def penalty_weight(method: str, kspace: Tensor, regularisation: float | None, max_iter: int) -> float:
    """Check the two options that all methods have, and return the weight of the penalty.

    Args:
        method: one of `WEIGHTS`.
        kspace: (H, W) for one coil or (coils, H, W).
        regularisation: the weight, above 0; None takes the tuned one for one coil or several.
        max_iter: number of iterations, at least 1.

    Raises:
        ValueError: the weight or the number of iterations is out of range.

    Example:
        >>> penalty_weight("cg_sense", torch.ones(8, 4, 4), None, 1) == WEIGHTS["cg_sense"][1]
        True
    """
    if regularisation is None:
        regularisation = WEIGHTS[method][1 if kspace.ndim == 3 and len(kspace) > 1 else 0]
    if not regularisation > 0:
        raise ValueError(f"regularisation is {regularisation}; accepted: a number above 0.")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}; accepted: at least 1.")
    return regularisation


def _as_coils(kspace: Tensor) -> Tensor:
    """Give k-space as complex64 (coils, H, W)."""
    if not kspace.is_complex() or kspace.ndim not in (2, 3) or kspace.numel() == 0:
        raise ValueError(
            f"kspace is {kspace.dtype} of shape {tuple(kspace.shape)}; accepted: complex (H, W) or (coils, H, W)."
        )
    if not bool(torch.isfinite(kspace).all()):
        raise ValueError("kspace holds non-finite values; accepted: finite values.")
    coils = kspace.detach().as_subclass(Tensor).to("cpu", torch.complex64)
    return coils if coils.ndim == 3 else coils[None]


def _as_maps(maps: Tensor | None, coils: Tensor) -> Tensor:
    """Give the sensitivity maps as complex64 of the k-space's shape, ones for one coil without maps."""
    if maps is None:
        if len(coils) > 1:
            raise ValueError(
                f"sensitivity_maps is None; accepted for several coils: maps of shape {tuple(coils.shape)}."
            )
        return torch.ones_like(coils)
    fitted = maps.detach().as_subclass(Tensor).to("cpu", torch.complex64)
    fitted = fitted if fitted.ndim == 3 else fitted[None]
    if fitted.shape != coils.shape:
        raise ValueError(f"sensitivity_maps has shape {tuple(maps.shape)}; accepted: kspace's, {tuple(coils.shape)}.")
    largest = float(fitted.abs().square().sum(0).max())
    if not largest <= 1.001:
        raise ValueError(f"sensitivity_maps has a sum of squares of {largest:.4g}; accepted: at most 1.")
    return fitted


def _as_sampled(mask: Tensor | None, coils: Tensor) -> Tensor:
    """Give the mask as bool (H, W)."""
    if mask is None:
        return (coils != 0).any(0)
    fitted = mask.detach().as_subclass(Tensor).cpu()
    while fitted.ndim > 2 and len(fitted) == 1:
        fitted = fitted[0]
    try:
        if fitted.dtype != torch.bool:
            raise ValueError
        return fitted.broadcast_to(coils.shape[1:])
    except (ValueError, RuntimeError):
        raise ValueError(
            f"mask is {mask.dtype} of shape {tuple(mask.shape)}; accepted: bool broadcastable to "
            f"{tuple(coils.shape)}, the same for all coils."
        ) from None
