"""L1-wavelet compressed sensing of Cartesian k-space, with cycle spinning and, where the image is nearly real, a phase
constraint.

Lustig, Donoho and Pauly, "Sparse MRI: the application of compressed sensing for rapid MR imaging", MRM 58(6), 2007::

    x = argmin 1/2 ||A x - y||^2 + phase_weight / 2 ||Im x||^2 + regularisation ||W x||_1

with A of `monai_d3gm.baselines.operator` and W an orthogonal wavelet transform, by accelerated proximal gradients
(Beck and Teboulle, SIAM J. Imaging Sci. 2, 2009). In each iteration the image is shifted at random before the wavelet
transform, and back after it: the blocks of a fixed transform do not show (Coifman and Donoho 1995; Figueiredo and
Nowak, IEEE TIP 12, 2003).
"""

from __future__ import annotations

import numpy as np
import pywt
import torch
from torch import Tensor

from monai_d3gm.baselines.operator import as_problem, penalty_weight

__all__ = ["l1_wavelet"]

MAX_ITER = 60


def l1_wavelet(
    kspace: Tensor,
    sensitivity_maps: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    regularisation: float | None = None,
    phase_weight: float = 0.0,
    max_iter: int = MAX_ITER,
    wavelet: str = "db4",
    seed: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Reconstruct one slice of undersampled k-space.

    Args:
        kspace: complex, (H, W) for one coil or (coils, H, W); centred orthonormal convention.
        sensitivity_maps: complex, of kspace's shape, sum of squares at most 1; needed for several coils. With a phase
            reference as a factor of it the image is divided by it.
        mask: bool, True where k-space was sampled, broadcastable to kspace and the same for all coils; None: wherever
            some coil is not zero.
        regularisation: weight of the sum of the wavelet coefficients' moduli, above 0, of an image divided by
            ``scale``; None takes the tuned one for one coil or several.
        phase_weight: of the imaginary part, at least 0; 0 for an image of any phase.
        max_iter: number of iterations, at least 1.
        wavelet: PyWavelets' name of an orthogonal wavelet.
        seed: of the shifts.
        scale: above 0; the 99.5th percentile of the zero-filled magnitude if None.

    Returns:
        The complex image, complex64 (H, W) on the CPU, in kspace's unit.

    Raises:
        ValueError: as `as_problem`, or a regularisation or max_iter out of range, or an unknown wavelet.

    Example:
        >>> image = torch.zeros(32, 32, dtype=torch.complex64)
        >>> image[8:24, 8:24] = 1
        >>> kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(image), norm="ortho"))
        >>> result = l1_wavelet(kspace, regularisation=1e-5)
        >>> bool((result - image).abs().max() < 0.01)
        True
    """
    weight = penalty_weight("l1_wavelet", kspace, regularisation, max_iter)
    filters = pywt.Wavelet(wavelet)
    problem = as_problem(kspace, sensitivity_maps, mask, phase_weight, scale)
    step = 1 / problem.lipschitz
    shifts = np.random.default_rng(seed)
    x = momentum = problem.start
    t = 1.0
    for _ in range(max_iter):
        previous = x
        x = _shrunk(momentum - step * problem.gradient(momentum), step * weight, filters, shifts)
        t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        momentum = x + (last - 1) / t * (x - previous)
    return x * problem.scale


def _shrunk(x: Tensor, threshold: float, wavelet: pywt.Wavelet, rng: np.random.Generator) -> Tensor:
    """Soft thresholding of the detail coefficients of the image, shifted at random."""
    shift = tuple(int(n) for n in rng.integers(0, 32, size=2))
    moved = torch.roll(x, shift, (0, 1)).numpy()
    parts = pywt.wavedec2(moved, wavelet, mode="periodization")
    kept = [parts[0], *(tuple(_soft(band, threshold) for band in level) for level in parts[1:])]
    back = pywt.waverec2(kept, wavelet, mode="periodization")[: x.shape[0], : x.shape[1]]
    return torch.roll(torch.from_numpy(np.ascontiguousarray(back, dtype=np.complex64)), (-shift[0], -shift[1]), (0, 1))


def _soft(band: np.ndarray, threshold: float) -> np.ndarray:
    """Moduli less a threshold, phases kept."""
    size = np.abs(band)
    return band * (np.maximum(size - threshold, 0) / np.maximum(size, 1e-12))
