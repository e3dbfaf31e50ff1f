"""The steps between a fine image and its noisy image of lower resolution, as functions, and the geometry of both.

The operators are those of `monai_d3gm.consistency.DownsamplingConsistency`, by a factor f >= 1 along each axis:

- ``truncation`` of k-space. Coarse pixel i lies on fine pixel f i: the first pixel's centre stays in place.
- ``blocks``: the mean over f pixels, such as a thick slice. Coarse pixel i lies on f i + (f - 1) / 2.
- ``kernel``: blur, then blocks.

The last two are called ``blocks=True`` below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_d3gm.consistency import DownsamplingConsistency
from monai_d3gm.transforms.kspace.functional import foreground_mean

DEGRADATIONS = ("truncation", "kernel", "blocks")
"""Names of the degradations."""

UPSAMPLINGS = ("sinc", "bicubic")
"""Names of the interpolations."""

KERNEL_SIGMA = (0.8, 2.0)
"""Range of a random kernel's standard deviations, in fine pixels: a full width at half maximum of 1.9 to 4.7."""


def pair(factor: int | Sequence[int]) -> tuple[int, int]:
    """Return the factors along rows and columns.

    Raises:
        ValueError: ``factor`` is neither an integer >= 1 nor two of them.

    Example:
        >>> pair(2), pair((1, 3))
        ((2, 2), (1, 3))
    """
    factors = tuple(factor) if isinstance(factor, Sequence) else (factor, factor)
    if len(factors) != 2 or any(isinstance(f, bool) or not isinstance(f, int) or f < 1 for f in factors):
        raise ValueError(f"factor is {factor}; accepted: an integer of at least 1, or two of them.")
    return factors[0], factors[1]


def crop_to_multiple(image: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Crop the last rows and columns of (..., H, W) that do not fill a low-resolution pixel; pixel 0 stays.

    Raises:
        ValueError: the image has fewer than ``factor`` pixels along an axis.

    Example:
        >>> crop_to_multiple(torch.ones(1, 9, 8), 4).shape
        torch.Size([1, 8, 8])
    """
    factors = pair(factor)
    height, width = (n // f * f for n, f in zip(image.shape[-2:], factors, strict=True))
    if not (height and width):
        raise ValueError(f"image has {tuple(image.shape[-2:])} pixels; accepted: at least the factor {factors}.")
    return image[..., :height, :width]


def degrade(image: Tensor, factor: int | Sequence[int], kernel: Tensor | None = None) -> Tensor:
    """Return A x, the noise-free measurement of the image; intensities are kept.

    Args:
        image: x, real (..., H, W), multiples of the factor.
        factor: f, or one for each axis.
        kernel: None truncates k-space; one of a single pixel takes the mean over blocks; others blur first.

    Returns:
        (..., H / f, W / f).

    Raises:
        ValueError: the size is no multiple of the factor, or the factor or the kernel is not accepted.

    Example:
        >>> degrade(torch.full((1, 4, 6), 3.0), 2).round(decimals=5).tolist()
        [[[3.0, 3.0, 3.0], [3.0, 3.0, 3.0]]]
    """
    factors = pair(factor)
    height, width = image.shape[-2:]
    if height % factors[0] or width % factors[1]:
        raise ValueError(f"image has {(height, width)} pixels; accepted: multiples of the factor {factors}.")
    low = image.new_zeros(1, 1, height // factors[0], width // factors[1])
    operator = DownsamplingConsistency(low, factors, kernel=kernel)
    return operator.forward(image.reshape(-1, 1, height, width)).reshape(*image.shape[:-2], *low.shape[-2:])


def upsample(
    low_resolution: Tensor, factor: int | Sequence[int], mode: str = "sinc", *, blocks: bool = False
) -> Tensor:
    """Interpolate an image of lower resolution on the fine grid; ``blocks`` says where its pixels lie, as in the
    module's text.

    ``sinc`` is trigonometric: zeros around the k-space, which is the adjoint of the truncation times the factors. The
    image is periodic to it. ``bicubic`` is cubic convolution with a = -1/2 (Keys, IEEE TASSP 29, 1981), which keeps
    linear functions, as torch's a = -3/4 does not; beyond the border the last value.

    Args:
        low_resolution: real (..., h, w).
        factor: f, or one for each axis.
        mode: ``sinc`` or ``bicubic``.
        blocks: the place of the coarse pixels in the fine grid.

    Returns:
        (..., f h, f w).

    Raises:
        ValueError: ``mode`` or ``factor`` is not accepted.

    Example:
        >>> upsample(torch.tensor([[0.0, 2.0, 4.0, 6.0]]), (1, 2), "bicubic")[0, 2:5].tolist()
        [2.0, 3.0, 4.0]
    """
    factors = pair(factor)
    if mode not in UPSAMPLINGS:
        raise ValueError(f"mode is {mode!r}; accepted: {', '.join(UPSAMPLINGS)}.")
    low = low_resolution.reshape(-1, 1, *low_resolution.shape[-2:])
    fine = [n * f for n, f in zip(low.shape[-2:], factors, strict=True)]
    if mode == "sinc":
        image = DownsamplingConsistency(low, factors).adjoint() * math.prod(factors)
        if blocks:
            for dim, f in zip((-2, -1), factors, strict=True):
                image = _shift(image, dim, (f - 1) / 2)
    else:
        rows, columns = (_cubic_matrix(n, f, blocks).to(low) for n, f in zip(low.shape[-2:], factors, strict=True))
        image = rows @ low @ columns.mT
    return image.reshape(*low_resolution.shape[:-2], *fine)


def _shift(image: Tensor, dim: int, pixels: float) -> Tensor:
    """The periodic image moved towards higher indices."""
    size = image.shape[dim]
    turn = -2 * math.pi * pixels / size * torch.arange(size // 2 + 1, device=image.device, dtype=image.dtype)
    phase = torch.polar(torch.ones_like(turn), turn).reshape([-1 if d == dim else 1 for d in range(-image.ndim, 0)])
    return torch.fft.irfft(torch.fft.rfft(image, dim=dim) * phase, n=size, dim=dim)


def _cubic_matrix(n: int, factor: int, blocks: bool) -> Tensor:
    """Cubic convolution from n pixels to f n, with a = -1/2: 1 - 5/2 d^2 + 3/2 d^3 up to d = 1, then the second piece
    up to 2."""
    place = (torch.arange(n * factor, dtype=torch.float64) - ((factor - 1) / 2 if blocks else 0)) / factor
    pixel = place.floor()[:, None] + torch.arange(-1, 3)
    d = (place[:, None] - pixel).abs()
    weight = torch.where(d <= 1, 1 - 2.5 * d**2 + 1.5 * d**3, 2 - 4 * d + 2.5 * d**2 - 0.5 * d**3)
    return torch.zeros(n * factor, n, dtype=torch.float64).scatter_add(1, pixel.long().clamp(0, n - 1), weight)


def low_resolution_affine(
    affine: NDArray[np.floating], factors: Sequence[float], *, blocks: bool = False
) -> NDArray[np.float64]:
    """Return the affine (4, 4), voxels to mm, of the low-resolution volume whose fine volume has ``affine``.

    Args:
        affine: of the fine volume.
        factors: along the three axes.
        blocks: the place of the coarse voxels in the fine grid.

    Example:
        >>> low_resolution_affine(np.eye(4), (1, 1, 3), blocks=True)[:, 3].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """
    return np.asarray(affine, dtype=np.float64) @ _coarse_to_fine(factors, blocks)


def high_resolution_affine(
    affine: NDArray[np.floating], factors: Sequence[float], *, blocks: bool = False
) -> NDArray[np.float64]:
    """Return the affine (4, 4) of the fine volume: the inverse of `low_resolution_affine`.

    Example:
        >>> high_resolution_affine(np.eye(4), (2, 2, 1)).diagonal().tolist()
        [0.5, 0.5, 1.0, 1.0]
    """
    return np.asarray(affine, dtype=np.float64) @ np.linalg.inv(_coarse_to_fine(factors, blocks))


def _coarse_to_fine(factors: Sequence[float], blocks: bool) -> NDArray[np.float64]:
    """The matrix from coarse voxel indices to fine ones."""
    matrix = np.diag([*map(float, factors), 1.0])
    if blocks:
        matrix[:3, 3] = (np.asarray(factors) - 1) / 2
    return matrix


def gaussian_kernel(sigma: tuple[float, float], angle: float = 0.0) -> Tensor:
    """Return an anisotropic Gaussian blur, reaching to 3 standard deviations, of sum 1.

    Args:
        sigma: standard deviations along the two axes in pixels, above 0; the first is along the rows' index at angle 0.
        angle: by which the axes are turned, in radians.

    Returns:
        float32 (k, k), k odd.

    Raises:
        ValueError: a standard deviation is not above 0.

    Example:
        >>> kernel = gaussian_kernel((1.0, 0.5))
        >>> kernel.shape, round(float(kernel.sum()), 6)
        (torch.Size([7, 7]), 1.0)
    """
    if not all(math.isfinite(s) and s > 0 for s in sigma):
        raise ValueError(f"sigma is {sigma}; accepted: two numbers above 0.")
    reach = math.ceil(3 * max(sigma))
    place = torch.arange(-reach, reach + 1, dtype=torch.float64)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    along = (rows * math.cos(angle) + columns * math.sin(angle)) / sigma[0]
    across = (columns * math.cos(angle) - rows * math.sin(angle)) / sigma[1]
    kernel = torch.exp(-(along**2 + across**2) / 2)
    return (kernel / kernel.sum()).float()


def random_kernel(generator: np.random.Generator, sigma: tuple[float, float] = KERNEL_SIGMA) -> Tensor:
    """Draw a `gaussian_kernel`: both standard deviations uniform in the range ``sigma``, the angle in [0, pi).

    Example:
        >>> bool(random_kernel(np.random.default_rng(0)).sum() > 0.999)
        True
    """
    first, second = generator.uniform(*sigma, size=2)
    return gaussian_kernel((float(first), float(second)), float(generator.uniform(0, math.pi)))


def degradation_kernel(
    degradation: str, generator: np.random.Generator, sigma: tuple[float, float] = KERNEL_SIGMA
) -> Tensor | None:
    """Return the ``kernel`` argument of `degrade` for one of `DEGRADATIONS`; only ``kernel`` draws.

    Raises:
        ValueError: ``degradation`` is unknown.

    Example:
        >>> degradation_kernel("truncation", np.random.default_rng(0)), degradation_kernel("blocks", None).shape
        (None, torch.Size([1, 1]))
    """
    if degradation not in DEGRADATIONS:
        raise ValueError(f"degradation is {degradation!r}; accepted: {', '.join(DEGRADATIONS)}.")
    if degradation == "truncation":
        return None
    return torch.ones(1, 1) if degradation == "blocks" else random_kernel(generator, sigma)


def remove_rician_bias(image: Tensor, noise_std: float | Tensor) -> Tensor:
    """Remove the bias of Rician noise from a magnitude image: sqrt(max(y^2 - 2 s^2, 0)).

    Noise of standard deviation s per real and imaginary part raises the mean of y^2 by 2 s^2 (McGibney and Smith, Med.
    Phys. 20, 1993): by s^2 / x on signal x well above it, and from 0 to s sqrt(pi / 2) where there is no signal.

    Args:
        image: y, real, at least 0 (B, ...).
        noise_std: s, a number or (B,).

    Example:
        >>> remove_rician_bias(torch.tensor([[5.0, 1.0]]), 2.0).pow(2)
        tensor([[17.,  0.]])
    """
    noise = torch.as_tensor(noise_std, dtype=image.dtype, device=image.device)
    noise = noise.reshape(-1, *(1,) * (image.ndim - 1)) if noise.ndim else noise
    return (image.square() - 2 * noise.square()).clamp(min=0).sqrt()


def add_noise(
    image: Tensor, generator: np.random.Generator, snr: float, *, magnitude: bool = True
) -> tuple[Tensor, float]:
    """Add white Gaussian noise of a stated signal-to-noise ratio to a magnitude image.

    Args:
        image: y, real (..., h, w).
        generator: source of randomness.
        snr: mean of the foreground over the noise's standard deviation s per real and imaginary part; infinity for
            none.
        magnitude: True gives |y + n| with complex n, as scanners do (Rician); False gives y + n with real n.

    Returns:
        The noisy image and s.

    Raises:
        ValueError: ``snr`` is not above 0, or the image is zero everywhere.

    Example:
        >>> noisy, std = add_noise(torch.full((1, 8, 8), 2.0), np.random.default_rng(0), snr=20.0)
        >>> noisy.shape, std
        (torch.Size([1, 8, 8]), 0.1)
    """
    if not snr > 0:
        raise ValueError(f"snr is {snr}; accepted: a number above 0, infinity for no noise.")
    level = foreground_mean(image.numpy())
    if not level > 0:
        raise ValueError("the image is zero everywhere; accepted: an image with signal.")
    noise_std = level / snr

    def noise() -> Tensor:
        return noise_std * torch.from_numpy(generator.standard_normal(image.shape, dtype=np.float32))

    return (torch.hypot(image + noise(), noise()) if magnitude else image + noise()), noise_std
