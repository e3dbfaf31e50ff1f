"""The noise of the receive coils, from a noise scan or from the ends of k-space, and the matrix that whitens it.

Thermal noise is complex Gaussian and white along k-space; between coils it has a covariance C = E[n n^H] (Pruessmann
et al., MRM 46, 2001). With the Cholesky factor of C / 2 = L L^H, the coils L^{-1} y have uncorrelated noise of standard
deviation 1 per real and imaginary part.

The outermost samples of k-space hold the least signal. Unmeasured samples (interpolation, partial echoes, lines left
out) are zero and do not count. If the readout was oversampled, the image has room beside the field of view, which holds
still less.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import gamma
from torch import Tensor

from monai_d3gm.consistency.fourier import ifft1c

__all__ = ["beside_field", "estimate_noise_std", "noise_covariance", "outer_samples", "whitening_matrix"]

_EMPTY = 5e-7
"""Samples below this share of the largest are rounding errors of zeros that went through a Fourier transform."""

_OUTERMOST = 0.1
"""The share of the samples that is taken for noise."""

_SAMPLES_PER_COIL = 40
"""At least so many samples for each coil: the covariance is then known to about a sixth."""

_AT_MOST = 0.4
"""However few samples there are, no more than this share is taken: the rest is signal."""

_ROLL_OFF = 0.1
"""The share of the room beside the field of view, at the ends of the readout's band, that receivers' filters dampen."""

_NARROW = 8
"""Rows beside the field of view that are too few to tell the noise."""

_SMALLEST = 1e-4
"""Eigenvalues of the covariance are raised to this share of the largest: a coil that is off has no noise of its own."""


def outer_samples(kspace: Tensor) -> Tensor:
    """Return the samples of k-space that lie furthest from its centre, of those that were measured.

    The distance is that of an ellipse through the outermost rows and columns that hold samples: the corners, where both
    readout and phase encoding are far out, come first. A tenth is taken, or 40 samples for each coil if that is more.

    Args:
        kspace: complex (H, W) or (coils, H, W), 0 where not sampled; the centre at (H // 2, W // 2).

    Returns:
        complex (coils, n), n at least 1.

    Raises:
        ValueError: k-space is zero everywhere.

    Example:
        >>> kspace = torch.zeros(2, 32, 16, dtype=torch.complex64)
        >>> kspace[:, 8:24] = 1  # the readout was interpolated
        >>> outer_samples(kspace).shape, bool((outer_samples(kspace) == 1).all())
        (torch.Size([2, 87]), True)
    """
    stack = kspace if kspace.ndim == 3 else kspace[None]
    size = stack.abs().amax(0)
    sampled = size > _EMPTY * size.max()
    if not bool(sampled.any()):
        raise ValueError("kspace is zero everywhere; accepted: measured k-space.")
    distance = torch.zeros(sampled.shape, device=kspace.device)
    for axis, length in enumerate(sampled.shape):
        position = (torch.arange(length, device=kspace.device) - length // 2).abs().float()
        reach = position[sampled.any(1 - axis)].max().clamp_min(1)
        distance += (position / reach).square().unflatten(0, (-1, 1) if axis == 0 else (1, -1))
    total = int(sampled.sum())
    wanted = max(round(_OUTERMOST * total), min(_SAMPLES_PER_COIL * len(stack), round(_AT_MOST * total)), 1)
    threshold = distance[sampled].sort(descending=True).values[wanted - 1]
    return stack[:, sampled & (distance >= threshold)]


def beside_field(kspace: Tensor, rows: int) -> Tensor:
    """K-space without the signal of the field of view, where the readout was oversampled; else k-space itself.

    An inverse Fourier transform along the readout gives an image along it, of which the rows beside the field of view
    are kept. The transform is unitary: white noise keeps its covariance. The outermost tenth of these rows, which the
    receivers' filters dampen, is left out.

    Args:
        kspace: complex (H, W) or (coils, H, W), readout along H, 0 where not sampled.
        rows: of the image that lie in the field of view, the central ones of H.

    Returns:
        complex (n, W) or (coils, n, W): n rows on both sides of the field of view, or k-space where there are fewer
        than 8 or they are empty.

    Example:
        >>> noise = torch.complex(*torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(0)))
        >>> noise[31:33] += 200 * noise[31:33].real.abs()  # an object, low frequencies alone
        >>> beside_field(noise, 32).shape, beside_field(noise, 64).shape
        (torch.Size([28, 48]), torch.Size([64, 48]))
    """
    size = kspace.abs() if kspace.ndim == 2 else kspace.abs().amax(0)
    used = torch.nonzero((size > _EMPTY * size.max()).any(1)).ravel()
    if not len(used):
        return kspace
    # an interpolated readout has the field of view of its samples; their noise would be correlated after padding
    image = ifft1c(kspace[..., int(used[0]) : int(used[-1]) + 1, :], dim=-2)
    count, field = image.shape[-2], rows / kspace.shape[-2]
    away = (torch.arange(count, device=kspace.device) - count // 2).abs() / (count / 2)
    beside = image[..., (away > field) & (away < 1 - _ROLL_OFF * (1 - field)), :]
    if beside.shape[-2] < _NARROW or float(beside.abs().max()) <= _EMPTY * float(size.max()):
        return kspace
    return beside


def estimate_noise_std(kspace: Tensor) -> float:
    """Estimate the noise's standard deviation per real and imaginary part from the outermost samples of k-space.

    The magnitude of pure noise has the median s sqrt(2 ln 2). See `outer_samples`.

    Args:
        kspace: complex (H, W) or (coils, H, W), 0 where not sampled.

    Returns:
        s in k-space's units, above 0: the coils' common one. It is too large where signal reaches the outer
        frequencies.

    Raises:
        ValueError: k-space is zero everywhere.

    Example:
        >>> noise = torch.complex(*torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0)))
        >>> noise[:24] = noise[-24:] = 0  # the readout was interpolated
        >>> abs(estimate_noise_std(3 * noise) - 3) < 0.3
        True
    """
    size = outer_samples(kspace).abs()
    return float(size[size > 0].median() / np.sqrt(2 * np.log(2)))


def noise_covariance(samples: Tensor) -> Tensor:
    """Return the covariance C = E[n n^H] of the coils' noise.

    Signal among the samples is left out: the covariance is that of the half with the least energy, found in five steps,
    and then of all samples with no more energy than 97.5 % of noise has (the reweighted minimum covariance determinant,
    Rousseeuw and Van Driessen, Technometrics 41, 1999). Whitened noise has an energy of a gamma distribution, which
    gives the factor by which a truncated covariance is too small.

    Args:
        samples: complex (coils, n), noise with some signal, such as `outer_samples` or a noise scan.

    Returns:
        complex128 (coils, coils), Hermitian and positive definite.

    Raises:
        ValueError: there are no more than three samples for each coil, or all are 0.

    Example:
        >>> noise = torch.complex(*torch.randn(2, 1, 4000, generator=torch.Generator().manual_seed(0)))
        >>> noise_covariance(torch.cat([noise, -2 * noise + 0.1 * noise.roll(1)])).real.round().int().tolist()
        [[2, -4], [-4, 8]]
    """
    coils, count = samples.shape
    if count <= 3 * coils:
        raise ValueError(f"samples has {count} samples of {coils} coils; accepted: more than three for each coil.")
    used = samples.to(torch.complex128)
    covariance = _floored(used @ used.mH / count)
    for share in (*[0.5] * 5, 0.975):
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), used, upper=False)
        energy = whitened.abs().square().sum(0)
        limit = float(gamma.ppf(share, coils))
        kept = used[:, energy <= (energy.median() if share == 0.5 else limit)]
        covariance = _floored(kept @ kept.mH / kept.shape[1] * (share / float(gamma.cdf(limit, coils + 1))))
    return covariance


def whitening_matrix(covariance: Tensor) -> Tensor:
    """Return L^{-1} with C / 2 = L L^H: its product with the coils has noise of standard deviation 1 per part.

    Args:
        covariance: C, complex (coils, coils), Hermitian and positive definite.

    Returns:
        complex128 (coils, coils), lower triangular.

    Example:
        >>> whitening_matrix(torch.diag(torch.tensor([2.0, 8.0])).to(torch.complex128)).real.tolist()
        [[1.0, 0.0], [0.0, 0.5]]
    """
    factor = torch.linalg.cholesky(covariance.to(torch.complex128) / 2)
    return torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=factor.dtype), upper=False)


def _floored(covariance: Tensor) -> Tensor:
    """The covariance with its small eigenvalues raised."""
    values, vectors = torch.linalg.eigh((covariance + covariance.mH) / 2)
    if not float(values[-1]) > 0:
        raise ValueError("samples are all 0; accepted: samples of noise.")
    values = values.clamp_min(_SMALLEST * values[-1])
    return (vectors * values) @ vectors.mH
