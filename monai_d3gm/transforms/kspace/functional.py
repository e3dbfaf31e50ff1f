"""The steps from a magnitude image to undersampled, normalised k-space, as functions.

Conventions, as in the theory's section on measurement consistency: the Fourier transform is centred and orthonormal
(``fastmri.fft2c``), so white noise of standard deviation s per real and imaginary part has the same s in the image and
in k-space; the undersampled axis is the last; the SNR is the mean magnitude of the foreground over s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from fastmri.data.subsample import create_mask_for_mask_type
from numpy.typing import NDArray

from monai_d3gm.consistency.fourier import fft1c, fft2c, ifft1c, ifft2c

MASK_TYPES = ("random", "equispaced", "equispaced_fraction", "magic", "magic_fraction")
"""Names of fastMRI's masks (``fastmri.data.subsample``)."""

MASK_PER = ("slice", "volume")
"""What shares a drawn mask: nothing but the slice, or all slices of a file, as in fastMRI."""

CENTER_LINES_PER_ACCELERATION = 0.32
"""Share of the sampled lines that lie in the fully sampled centre: fastMRI's 0.08 at 4x, 0.04 at 8x."""

FOREGROUND_LEVEL = 0.1
"""A pixel is foreground where its magnitude exceeds this share of the 99.5th percentile."""

_EDGE_RATIO = 2.5
_EDGE_HALF_WIDTH = 0.025
_EDGE_FROM = 0.35
_EDGE_MIN_SIZE = 64


def keyed_generator(seed: int, *key: str | int) -> np.random.Generator:
    """Return the random generator that belongs to ``(seed, *key)``, whatever was drawn elsewhere.

    Args:
        seed: seed of the run.
        key: strings or integers that name the item, such as file name and slice.

    Returns:
        A PCG64 generator seeded by the BLAKE2b hash of the arguments.

    Example:
        >>> a, b = keyed_generator(0, "file", 3), keyed_generator(0, "file", 3)
        >>> int(a.integers(100)) - int(b.integers(100))
        0
    """
    digest = hashlib.blake2b(repr((int(seed), *key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def acquired_fraction(volume: NDArray[np.floating], axis: int) -> float:
    """Estimate which share of the band along ``axis`` was acquired and not filled in by interpolation.

    Scanners interpolate by filling k-space with zeros, so that the energy falls steeply where the acquired band ends.
    Taking the magnitude spreads some energy beyond. The edge is where the logarithm of the mean power along ``axis``
    falls fastest, if it falls there by a factor of 2.5 within 0.05 of the Nyquist frequency (anatomy falls by less than
    1.6) and lies outside the lowest 0.35 of the band, where every image falls steeply.

    Args:
        volume: magnitude image of any rank.
        axis: axis to examine.

    Returns:
        The edge as a share of the Nyquist frequency, in (0.35, 1]; 1.0 where no edge is found or where the axis
        has fewer than 64 voxels.

    Example:
        >>> white = np.random.default_rng(0).normal(size=(256, 128))
        >>> acquired_fraction(white, 1)
        1.0
    """
    size = volume.shape[axis]
    lines = np.moveaxis(volume, axis, -1).reshape(-1, size)
    lines = lines[lines.any(axis=1)]
    if size < _EDGE_MIN_SIZE or not len(lines):
        return 1.0
    lines = lines[:: max(1, len(lines) // 4096)].astype(np.float32)
    power = (np.abs(np.fft.rfft(lines, axis=1)) ** 2).mean(axis=0)[:-1]
    log_power = np.log(np.maximum(power, 1e-12 * power.max()))
    half = max(1, round(_EDGE_HALF_WIDTH * size / 2))
    margin = max(1, half // 2)
    kernel = np.full(2 * margin + 1, 1 / (2 * margin + 1))
    smooth = np.convolve(np.pad(log_power, margin, mode="edge"), kernel, mode="valid")
    bins = np.arange(int(_EDGE_FROM * size / 2) + 1, len(smooth) - half - margin)
    fall = smooth[bins - half] - smooth[bins + half]
    edge = int(fall.argmax())
    return float(bins[edge] / (size / 2)) if fall[edge] >= np.log(_EDGE_RATIO) else 1.0


def truncate_band(volume: NDArray[np.floating], axis: int, size: int) -> NDArray[np.float32]:
    """Keep the central ``size`` frequencies along ``axis`` and return the magnitude on ``size`` voxels.

    Intensities are kept, and so is the place of voxel 0: the voxel spacing grows by ``shape[axis] / size``.

    Args:
        volume: real image of any rank.
        axis: axis to truncate.
        size: number of voxels to keep, from 1 to ``shape[axis]``.

    Returns:
        float32 array with ``size`` voxels along ``axis``.

    Raises:
        ValueError: ``size`` is out of range.

    Example:
        >>> truncate_band(np.full((4, 8), 3.0), 1, 6).round(5).tolist()[0]
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    """
    old = volume.shape[axis]
    if not 1 <= size <= old:
        raise ValueError(f"size is {size}; accepted: 1 to {old}, the voxels along axis {axis}.")
    if size == old:
        return np.abs(volume).astype(np.float32)
    spectrum = torch.fft.rfft(torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32)), dim=axis)
    kept = spectrum.narrow(axis, 0, size // 2 + 1)
    return (torch.fft.irfft(kept, n=size, dim=axis).abs() * (size / old)).numpy()


def crop_to_acquired_band(
    volume: NDArray[np.floating], axes: Sequence[int], affine: NDArray[np.floating] | None = None
) -> tuple[NDArray[np.float32], tuple[float, ...], NDArray[np.float64] | None]:
    """Undo the scanner's interpolation along ``axes``: truncate k-space to the acquired band.

    Simulating k-space from interpolated images makes the true acceleration lower than the stated one (implicit data
    crimes, Shimron et al. 2022).

    Args:
        volume: magnitude volume.
        axes: axes along which interpolation is looked for.
        affine: 4x4 voxel-to-world matrix; its first three columns belong to the first three axes.

    Returns:
        The volume (float32), the share kept along each of ``axes`` and the affine times diag(1 / share), with which
        voxel 0 stays in place (None without ``affine``).

    Example:
        >>> volume, kept, affine = crop_to_acquired_band(np.ones((8, 8, 3)), (0, 1), np.eye(4))
        >>> volume.shape, kept
        ((8, 8, 3), (1.0, 1.0))
    """
    result = np.asarray(volume, dtype=np.float32)
    kept = []
    for axis in axes:
        size = result.shape[axis]
        new = min(size, 2 * max(1, round(acquired_fraction(result, axis) * size / 2)))
        new = size if new >= size - 1 else new
        result = truncate_band(result, axis, new) if new < size else result
        kept.append(new / size)
    if affine is None:
        return result, tuple(kept), None
    scale = np.ones(4)
    for axis, share in zip(axes, kept, strict=True):
        scale[axis] = 1 / share
    return result, tuple(kept), np.asarray(affine, dtype=np.float64) @ np.diag(scale)


def smooth_phase(shape: Sequence[int], generator: np.random.Generator, amplitude: float) -> NDArray[np.float32]:
    """Draw a smooth phase map: a constant plus cosines of up to three half periods per axis.

    Args:
        shape: height and width.
        generator: source of randomness.
        amplitude: largest deviation from the constant, in radians. The constant is uniform in [-pi, pi).

    Returns:
        float32 array of ``shape``, in radians.

    Example:
        >>> phase = smooth_phase((16, 24), np.random.default_rng(0), 0.5)
        >>> phase.shape, bool(np.ptp(phase) <= 1.0)
        ((16, 24), True)
    """
    order = np.arange(4)
    rows, columns = (np.cos(np.pi * np.outer((np.arange(n) + 0.5) / n, order)) for n in shape)
    coefficients = generator.standard_normal((4, 4)) / (1 + np.add.outer(order**2, order**2))
    coefficients[0, 0] = 0
    field = (rows @ coefficients @ columns.T).astype(np.float32)
    return field * np.float32(amplitude / np.abs(field).max()) + np.float32(generator.uniform(-np.pi, np.pi))


def foreground_mean(magnitude: NDArray[np.floating]) -> float:
    """Return the mean of the pixels above `FOREGROUND_LEVEL` of the 99.5th percentile; 0.0 for an empty image.

    Example:
        >>> foreground_mean(np.array([0.0, 0.01, 2.0, 2.0]))
        2.0
    """
    foreground = magnitude[magnitude > FOREGROUND_LEVEL * np.percentile(magnitude, 99.5)]
    return float(foreground.mean()) if foreground.size else 0.0


def check_simulation(snr: float, coils: int) -> None:
    """Raise ValueError unless ``snr`` is above 0 (infinity: no noise) and ``coils`` at least 1.

    Example:
        >>> check_simulation(float("inf"), 1)
    """
    if not snr > 0:
        raise ValueError(f"snr is {snr}; accepted: a number above 0, infinity for no noise.")
    if coils < 1:
        raise ValueError(f"coils is {coils}; accepted: 1 or more.")


def simulate_kspace(
    magnitude: NDArray[np.floating],
    generator: np.random.Generator,
    *,
    snr: float,
    phase: float = np.pi,
    coils: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, float, torch.Tensor | None]:
    """Simulate fully sampled k-space: y = F (S x) + n with x = magnitude * exp(i phase) and white Gaussian n.

    Args:
        magnitude: image (H, W), not negative and not all zero.
        generator: source of randomness.
        snr: mean of the foreground over the noise's standard deviation per real and imaginary part; infinity for none.
        phase: amplitude of the smooth phase in radians is uniform in [0, ``phase``].
        coils: 1, or more for sigpy's birdcage coil maps (sum of squares 1).

    Returns:
        k-space, complex64 (H, W) or (coils, H, W); the noise-free image, complex64 (H, W); the noise's standard
        deviation; the coil maps, complex64 (coils, H, W), or None for one coil.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> image = np.pad(np.ones((8, 8)), 4)
        >>> kspace, truth, noise_std, maps = simulate_kspace(image, np.random.default_rng(0), snr=50.0, coils=4)
        >>> kspace.shape, noise_std
        (torch.Size([4, 16, 16]), 0.02)
    """
    check_simulation(snr, coils)
    level = foreground_mean(magnitude)
    if not level > 0:
        raise ValueError("magnitude is zero everywhere; accepted: an image with signal.")
    field = smooth_phase(magnitude.shape, generator, generator.uniform(0, phase))
    image = torch.polar(torch.from_numpy(np.ascontiguousarray(magnitude, dtype=np.float32)), torch.from_numpy(field))
    maps = None
    if coils > 1:
        from sigpy.mri import birdcage_maps  # takes most of a second to import, and one coil does not need it

        maps = torch.from_numpy(birdcage_maps((coils, *magnitude.shape)).astype(np.complex64))
    kspace = fft2c(image if maps is None else maps * image)
    noise_std = level / snr
    if noise_std > 0:
        noise = torch.from_numpy(generator.standard_normal((*kspace.shape, 2), dtype=np.float32))
        kspace = kspace + noise_std * torch.view_as_complex(noise)
    return kspace, image, noise_std, maps


def cartesian_mask(
    width: int,
    acceleration: float,
    kind: str = "random",
    *,
    center_fraction: float | None = None,
    seed: int | tuple[int, ...] = 0,
) -> torch.Tensor:
    """Return one of fastMRI's Cartesian masks as it comes from ``fastmri.data.subsample`` for this seed.

    Args:
        width: number of lines.
        acceleration: at least 1; an integer except for ``random`` and ``equispaced_fraction``.
        kind: one of `MASK_TYPES`.
        center_fraction: share of the lines that are sampled around the centre; 0.32 / acceleration if None.
        seed: seed of fastMRI's generator.

    Returns:
        bool tensor (width,), True where a line is sampled.

    Raises:
        ValueError: an argument is out of range or the mask would hold no line.

    Example:
        >>> mask = cartesian_mask(320, 4, "equispaced_fraction")
        >>> int(mask.sum()), bool(mask[150:170].all())
        (80, True)
    """
    if kind not in MASK_TYPES:
        raise ValueError(f"mask is {kind!r}; accepted: {', '.join(MASK_TYPES)}.")
    if not 1 <= acceleration <= width:
        raise ValueError(f"acceleration is {acceleration}; accepted: 1 to the number of lines, {width}.")
    if kind not in ("random", "equispaced_fraction"):
        if acceleration != int(acceleration):
            raise ValueError(f"acceleration is {acceleration}; the mask {kind!r} accepts integers.")
        acceleration = int(acceleration)
    fraction = CENTER_LINES_PER_ACCELERATION / acceleration if center_fraction is None else center_fraction
    if not 0 <= fraction * acceleration < 1:
        raise ValueError(f"center_fraction is {fraction}; accepted: 0 to less than 1 / acceleration.")
    if kind.endswith("fraction") and round(width * fraction) >= round(width / acceleration):
        raise ValueError(f"acceleration is {acceleration}; with {width} lines, all that are sampled lie in the centre.")
    function = create_mask_for_mask_type(kind, [fraction], [acceleration])
    mask: torch.Tensor = function((1, width, 1), seed=seed)[0].reshape(width) > 0
    if not mask.any():
        raise ValueError(f"the mask {kind!r} at acceleration {acceleration} samples none of {width} lines.")
    return mask


def zero_filled(kspace: torch.Tensor, sensitivity_maps: torch.Tensor | None = None) -> torch.Tensor:
    """Return the complex image A^H y of masked k-space: sum over coils of conj(S) F^H y.

    Args:
        kspace: complex (H, W), or (coils, H, W) with ``sensitivity_maps``.
        sensitivity_maps: complex (coils, H, W), sum of squares 1.

    Example:
        >>> zero_filled(torch.ones(4, 4, dtype=torch.complex64)).shape
        torch.Size([4, 4])
    """
    images = ifft2c(kspace)
    return images if sensitivity_maps is None else (sensitivity_maps.conj() * images).sum(dim=-3)


def magnitude_scale(magnitude: torch.Tensor, percentile: float = 99.5) -> float:
    """Return the percentile of a magnitude image that normalisation divides by.

    Raises:
        ValueError: it is not a positive number.

    Example:
        >>> magnitude_scale(torch.arange(1000.0))
        994.0
    """
    values = magnitude.detach().flatten()
    index = min(values.numel() - 1, int(percentile / 100 * (values.numel() - 1)))
    scale = float(values.kthvalue(index + 1).values)
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(
            f"the {percentile}th percentile of the zero-filled magnitude is {scale}; it has to be above 0."
        )
    return scale


def crop_readout(kspace: torch.Tensor, start: int, height: int) -> torch.Tensor:
    """Crop the image to rows ``start`` to ``start + height`` and return its k-space.

    The readout axis (-2) is fully sampled, so it decouples after an inverse Fourier transform along it: masking the
    last axis commutes with this crop, and the cropped data obey the same forward model with the same mask.

    Raises:
        ValueError: the rows do not lie in the image.

    Example:
        >>> crop_readout(torch.ones(8, 4, dtype=torch.complex64), 2, 4).shape
        torch.Size([4, 4])
    """
    rows = kspace.shape[-2]
    if not (0 <= start and 1 <= height and start + height <= rows):
        raise ValueError(f"rows {start} to {start + height} do not lie in the {rows} rows of k-space.")
    if height == rows:
        return kspace
    return fft1c(ifft1c(kspace, dim=-2).narrow(-2, start, height), dim=-2)
