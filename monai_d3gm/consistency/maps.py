"""Coil sensitivity maps estimated from the fully sampled centre of k-space.

Two estimators, both the dominant eigenvectors of a matrix of coils at each pixel:

- ESPIRiT (Uecker et al., MRM 71, 2014): of the matrix G(r) that projects on what windows of k-space can hold. Where one
  set of maps explains the data its eigenvalue is 1.
- adaptive combination (Walsh et al., MRM 43, 2000): of the local covariance of the coils' low-resolution images. It
  needs less data, is blurred where the centre is small, and is defined wherever there is signal.

`estimate_maps` takes ESPIRiT's map where its eigenvalue is near 1 and the other elsewhere: no pixel of the object is
left without. In the air around it the maps fall smoothly to 0, which tells the reconstruction that nothing is there;
what counts as air is decided by the signal, not by the eigenvalue alone. Then the maps are held against the data: the
part of the centre's images that they do not explain, ||c||^2 - |s^H c|^2, is an error of the maps.

The eigenvectors are found on a grid of 96 x 96 at most and interpolated: maps are smooth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from monai_d3gm.consistency.base import check_finite
from monai_d3gm.consistency.fourier import ifft2c

__all__ = [
    "CoilMapError",
    "CoilMaps",
    "adaptive_maps",
    "calibration_region",
    "espirit_maps",
    "estimate_maps",
    "given_maps",
]

_GRID = 96
_AREA = 768
_SIDE = 32

_SUBSPACE = 0.01
"""Singular values of the windows below this share of the largest do not belong to the signal."""

_MIN_LINES = 4
"""ESPIRiT's smallest centre, in lines."""

_SURE = (0.85, 0.97)
"""ESPIRiT's map counts for nothing up to the first eigenvalue, and alone from the second."""

_OBJECT, _FAINT = 0.15, 0.05
"""The object is where the centre's image exceeds the first share of its 99.5th percentile; where it exceeds the second,
too, if ESPIRiT's eigenvalue is above 0.95."""

_TRUSTED = 0.95
"""ESPIRiT's eigenvalue decides on faint pixels if it exceeds 0.95 on this share of the object."""

_MARGIN = 5
"""Pixels in which the maps fall to 0 around the object."""

_SPREADS = ((1.0, 1.0), (4.0, 1e-3), (16.0, 1e-6))
"""Widths of the local covariance in pixels of the centre's image, and their weights: far from any signal the wide ones
are what is left."""

_DOUBTFUL, _HOPELESS = 0.05, 0.25
"""Above the first share of unexplained energy another estimator is tried, above the second there are no maps."""


class CoilMapError(ValueError):
    """The measurement does not tell the coil sensitivities."""


@dataclass(frozen=True)
class CoilMaps:
    """Coil sensitivity maps and how well they explain the data.

    Attributes:
        maps: complex64 (coils, H, W), sum of squares over the coils 1 on the object, falling to 0 around it.
        estimator: ``ESPIRiT``, ``adaptive`` or ``given``.
        unexplained: share of the energy in the centre's images that is not a map times one image, inside the object.
        centre: rows and columns of the fully sampled centre that was used.

    Example:
        >>> maps = torch.ones(1, 4, 4, dtype=torch.complex64)
        >>> CoilMaps(maps, "given", unexplained=0.0, centre=(0, 0)).estimator
        'given'
    """

    maps: Tensor
    estimator: str
    unexplained: float
    centre: tuple[int, int]


def calibration_region(sampled: Tensor) -> tuple[int, int]:
    """Rows and columns of the fully sampled rectangle at the centre of k-space that is best to calibrate on.

    It is the largest rectangle around (H // 2, W // 2) whose sides are at most 32. Then its longer side grows as far as
    there are samples and the area stays below 768. Whole lines are long: 8 lines give 96 x 8.

    Args:
        sampled: bool (H, W), True where k-space was measured.

    Returns:
        (rows, columns) of the rectangle from (H // 2 - rows // 2, W // 2 - columns // 2) on; (0, 0) for none.

    Example:
        >>> calibration_region(torch.arange(64).expand(128, 64) % 64 // 8 == 3)
        (0, 0)
        >>> calibration_region((torch.arange(64) - 32).abs().expand(128, 64) < 4)
        (109, 7)
    """
    height, width = sampled.shape
    best, area = (0, 0), 0
    rows = height
    for columns in range(1, width + 1):
        left = width // 2 - columns // 2
        full = sampled[:, left : left + columns].all(1)
        while rows and not bool(full[height // 2 - rows // 2 : height // 2 - rows // 2 + rows].all()):
            rows -= 1
        if not rows:
            break
        if min(rows, _SIDE) * min(columns, _SIDE) > area:
            best, area = (rows, columns), min(rows, _SIDE) * min(columns, _SIDE)
    rows, columns = best
    if not area:
        return 0, 0
    return min(rows, max(_SIDE, _AREA // min(columns, _SIDE))), min(columns, max(_SIDE, _AREA // min(rows, _SIDE)))


def espirit_maps(centre: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """ESPIRiT's maps and their eigenvalue.

    Args:
        centre: complex (coils, h, w), a fully sampled rectangle around the centre of k-space.
        shape: (H, W) of the maps.

    Returns:
        maps, complex (coils, H, W), sum of squares 1; the eigenvalue, real (H, W), from 0 to 1.

    Raises:
        CoilMapError: a side of the rectangle is below 4.

    Example:
        >>> maps, eigenvalue = espirit_maps(torch.ones(2, 16, 16, dtype=torch.complex64), (32, 32))
        >>> maps.shape, eigenvalue.shape
        (torch.Size([2, 32, 32]), torch.Size([32, 32]))
    """
    coils, *sides = centre.shape
    if min(sides) < _MIN_LINES:
        raise CoilMapError(f"the centre of k-space is {sides[0]} x {sides[1]}; accepted by ESPIRiT: 4 x 4 and more.")
    kernel = [min(6, max(2, side // 2 if side < 12 else 6)) for side in sides]
    windows = centre.unfold(1, kernel[0], 1).unfold(2, kernel[1], 1)
    columns = windows.permute(0, 3, 4, 1, 2).reshape(coils * kernel[0] * kernel[1], -1)
    energies, vectors = torch.linalg.eigh(columns @ columns.mH)
    signal = vectors[:, energies > _SUBSPACE**2 * energies[-1]]
    projector = (signal @ signal.mH).reshape(coils, *kernel, coils, *kernel)
    # P[(i, m), (j, m')] summed over m - m' = d: the Fourier series of G
    series = torch.stack(
        [
            torch.stack(
                [
                    projector.diagonal(-dy, 1, 4).diagonal(-dx, 1, 3).sum((-1, -2))
                    for dx in range(1 - kernel[1], kernel[1])
                ],
                -1,
            )
            for dy in range(1 - kernel[0], kernel[0])
        ],
        -2,
    ) / (kernel[0] * kernel[1])
    grid = tuple(min(_GRID, side) for side in shape)
    waves = [
        torch.exp(2j * torch.pi * torch.outer(torch.arange(g) - g // 2, torch.arange(1 - k, k)) / g).to(centre)
        for g, k in zip(grid, kernel, strict=True)
    ]
    matrices = torch.einsum("yd,ijde,xe->yxij", waves[0], series, waves[1])
    values, vectors = torch.linalg.eigh(matrices)
    maps, value = vectors[..., -1].movedim(-1, 0), values[..., -1]
    return _interpolate(maps, shape), _interpolate(value[None].to(centre), shape, align=False)[0].real


def adaptive_maps(centre: Tensor, shape: tuple[int, int]) -> Tensor:
    """Maps by adaptive combination: the dominant eigenvectors of the local covariance of the coils' images.

    Args:
        centre: complex (coils, h, w), a fully sampled rectangle around the centre of k-space.
        shape: (H, W) of the maps.

    Returns:
        complex (coils, H, W), sum of squares 1.

    Example:
        >>> adaptive_maps(torch.ones(2, 16, 16, dtype=torch.complex64), (32, 32)).abs().square().sum(0).std() < 1e-6
        tensor(True)
    """
    grid = (min(_GRID, shape[0]), min(_GRID, shape[1]))
    images = _low_resolution(centre, grid)
    covariance = torch.einsum("iyx,jyx->ijyx", images, images.conj())
    smooth = torch.zeros_like(covariance)
    spectrum = torch.fft.fft2(covariance)
    for width, weight in _SPREADS:
        attenuation = [
            torch.exp(-2 * (torch.pi * torch.fft.fftfreq(g) * width * g / side).square())
            for g, side in zip(grid, centre.shape[1:], strict=True)
        ]
        smooth += weight * torch.fft.ifft2(spectrum * torch.outer(*attenuation))
    _, vectors = torch.linalg.eigh(smooth.permute(2, 3, 0, 1))
    return _interpolate(vectors[..., -1].movedim(-1, 0), shape)


def estimate_maps(kspace: Tensor, mask: Tensor | None = None) -> CoilMaps:
    """Estimate coil sensitivity maps that are defined at every pixel, and check that they explain the data.

    Args:
        kspace: complex (coils, H, W) of one slice, at least two coils, centred; best with white noise
            (`monai_d3gm.consistency.noise`).
        mask: where k-space was measured, boolean, broadcastable to kspace; by default where any coil is not zero.

    Returns:
        the maps, on kspace's device; the phase of the strongest virtual coil is 0.

    Raises:
        CoilMapError: the centre of k-space is not sampled, or no estimator explains the data there.
        ValueError: kspace is not complex (coils, H, W) or not finite, or the mask is not boolean or does not fit.

    Example:
        >>> estimate_maps(torch.ones(2, 32, 32, dtype=torch.complex64), torch.arange(32) % 2 == 1)
        Traceback (most recent call last):
        monai_d3gm.consistency.maps.CoilMapError: ...
    """
    kspace = kspace.detach().as_subclass(Tensor)
    sampled = _sampled(kspace, mask)
    shape = (kspace.shape[-2], kspace.shape[-1])
    region = calibration_region(sampled)
    if min(region) < 2:
        raise CoilMapError(
            f"coil sensitivity maps cannot be estimated: the fully sampled centre of k-space is {region[0]} x "
            f"{region[1]}; accepted: 2 lines and more around the centre, or sensitivity maps of your own"
        )
    centre = _centre(kspace, region)
    images = _low_resolution(centre, (min(2 * region[0], shape[0]), min(2 * region[1], shape[1])))
    reference = torch.linalg.eigh(torch.einsum("iyx,jyx->ij", images, images.conj()))[1][:, -1]

    adaptive = adaptive_maps(centre, shape)
    adaptive = adaptive * _phase((reference.conj()[:, None, None] * adaptive).sum(0)).conj()
    size = _interpolate(images.abs().square().sum(0)[None].to(images), shape, align=False)[0].abs().sqrt()
    size = size / size.flatten().quantile(0.995)
    found = None
    if min(region) >= _MIN_LINES:
        maps, eigenvalue = espirit_maps(centre, shape)
        sure = ((eigenvalue - _SURE[0]) / (_SURE[1] - _SURE[0])).clamp(0, 1)
        maps = maps * _phase((maps.conj() * adaptive).sum(0))
        maps = _unit(sure * maps + (1 - sure) * adaptive)
        inside, clear = size > _FAINT, eigenvalue > 0.95
        if float(clear[size > _OBJECT].float().mean()) > _TRUSTED:
            inside &= clear | (size > _OBJECT)
        found = CoilMaps(maps * _support(inside), "ESPIRiT", _unexplained(maps, images), region)
    if found is None or found.unexplained > _DOUBTFUL:
        other = CoilMaps(adaptive * _support(size > _FAINT), "adaptive", _unexplained(adaptive, images), region)
        found = other if found is None or other.unexplained < found.unexplained else found
    return _accepted(found, kspace.device)


def given_maps(maps: Tensor, kspace: Tensor, mask: Tensor | None = None) -> CoilMaps:
    """Sensitivity maps from elsewhere, brought to a sum of squares of 1 and checked like estimated ones.

    Args:
        maps: complex (coils, H, W); 0 in all coils where there is no object.
        kspace: complex (coils, H, W) of one slice, centred.
        mask: where k-space was measured, as for `estimate_maps`.

    Returns:
        the maps, on kspace's device. ``unexplained`` is 0 where no centre was sampled to check them on.

    Raises:
        CoilMapError: they do not explain the data.
        ValueError: the maps are not complex, finite and of kspace's shape.

    Example:
        >>> maps = given_maps(torch.full((2, 32, 32), 3j), torch.ones(2, 32, 32, dtype=torch.complex64))
        >>> maps.estimator, bool(torch.allclose(maps.maps.abs().square().sum(0), torch.ones(32, 32)))
        ('given', True)
    """
    kspace = kspace.detach().as_subclass(Tensor)
    sampled = _sampled(kspace, mask)
    if not maps.is_complex() or maps.shape != kspace.shape:
        raise ValueError(
            f"sensitivity maps are {maps.dtype} of shape {tuple(maps.shape)}; accepted: complex, {tuple(kspace.shape)}"
        )
    check_finite("sensitivity maps", maps)
    found = _unit(maps.to("cpu", torch.complex64))
    region = calibration_region(sampled)
    if min(region) < 2:
        return CoilMaps(found.to(kspace.device), "given", 0.0, region)
    images = _low_resolution(
        _centre(kspace, region), (min(2 * region[0], found.shape[1]), min(2 * region[1], found.shape[2]))
    )
    return _accepted(CoilMaps(found, "given", _unexplained(found, images), region), kspace.device)


def _accepted(found: CoilMaps, device: torch.device) -> CoilMaps:
    """The maps on a device, if they explain the data."""
    if found.unexplained > _HOPELESS:
        raise CoilMapError(
            f"the coil sensitivity maps ({found.estimator}) leave {found.unexplained:.0%} of the signal at the centre "
            f"of k-space unexplained; accepted: up to {_HOPELESS:.0%}. The centre, of {found.centre[0]} x "
            f"{found.centre[1]} samples, may be too small or damaged, or the maps of another scan."
        )
    return replace(found, maps=found.maps.to(device))


def _centre(kspace: Tensor, region: tuple[int, int]) -> Tensor:
    """The rectangle of this size at the centre of k-space, its largest value 1, on the CPU."""
    top, left = (side // 2 - size // 2 for side, size in zip(kspace.shape[-2:], region, strict=True))
    centre = kspace[:, top : top + region[0], left : left + region[1]]
    check_finite("kspace", centre)
    largest = float(centre.abs().max())
    if not largest > 0:
        raise CoilMapError("coil sensitivity maps cannot be estimated: the centre of k-space is zero.")
    return (centre / largest).to("cpu", torch.complex64)


def _support(inside: Tensor) -> Tensor:
    """1 on the object, whose holes are filled, and 0 in the air around it, with a smooth margin between."""
    filled = ndimage.binary_closing(np.pad(inside.numpy(), _MARGIN), iterations=_MARGIN - 2)
    filled = ndimage.binary_fill_holes(filled)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    distance = ndimage.distance_transform_edt(~filled)
    taper: Tensor = torch.from_numpy(np.cos(np.pi / 2 * np.clip((distance - 1) / _MARGIN, 0, 1)) ** 2).float()
    return taper


def _sampled(kspace: Tensor, mask: Tensor | None) -> Tensor:
    """Where all coils were measured, (H, W), checked."""
    if not kspace.is_complex() or kspace.ndim != 3 or len(kspace) < 2:
        raise ValueError(
            f"kspace is {kspace.dtype} {tuple(kspace.shape)}; accepted: complex (coils, H, W) with at least two coils."
        )
    if mask is None:
        return (kspace != 0).any(0)
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; accepted: boolean.")
    try:
        return mask.as_subclass(Tensor).broadcast_to(kspace.shape).all(0)
    except RuntimeError as error:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; accepted: broadcastable to kspace, {tuple(kspace.shape)}."
        ) from error


def _low_resolution(centre: Tensor, grid: tuple[int, int]) -> Tensor:
    """The coils' images of the centre of k-space on a grid, under a Hann window."""
    windows = [torch.hann_window(side + 2, periodic=False)[1:-1] for side in centre.shape[1:]]
    padded = centre.new_zeros(len(centre), *(max(g, side) for g, side in zip(grid, centre.shape[1:], strict=True)))
    top, left = (g // 2 - side // 2 for g, side in zip(padded.shape[1:], centre.shape[1:], strict=True))
    padded[:, top : top + centre.shape[1], left : left + centre.shape[2]] = centre * torch.outer(*windows)
    top, left = (p // 2 - g // 2 for p, g in zip(padded.shape[1:], grid, strict=True))
    return ifft2c(padded[:, top : top + grid[0], left : left + grid[1]].contiguous())


def _unexplained(maps: Tensor, images: Tensor) -> float:
    """The share of the images' energy inside the object that is not along the maps."""
    along = _interpolate(maps, (images.shape[1], images.shape[2]))
    energy = images.abs().square().sum(0)
    rest = energy - (along.conj() * images).sum(0).abs().square()
    inside = energy > _OBJECT**2 * energy.flatten().quantile(0.995)
    return float(rest[inside].sum().clamp_min(0) / energy[inside].sum())


def _interpolate(maps: Tensor, shape: tuple[int, int], align: bool = True) -> Tensor:
    """Linear interpolation on the periodic field of view; neighbours are brought to one phase before, if ``align``.

    An eigenvector has no phase of its own: without this the mean of two neighbours could vanish.
    """
    for axis, size in enumerate(shape):
        dim, count = axis + 1, maps.shape[axis + 1]
        if size == count:
            continue
        position = (torch.arange(size) - size // 2) * count / size + count // 2
        lower = position.floor().long()
        share = (position - lower).to(maps.real.dtype).reshape(-1, *(1,) * (1 - axis))
        one, two = maps.index_select(dim, lower % count), maps.index_select(dim, (lower + 1) % count)
        if align:
            two = two * _phase((two.conj() * one).sum(0))
        maps = (1 - share) * one + share * two
    return _unit(maps) if align else maps


def _phase(x: Tensor) -> Tensor:
    """x / |x|, and 1 where x is 0."""
    return torch.polar(torch.ones_like(x.real), x.angle())


def _unit(maps: Tensor) -> Tensor:
    """The maps with a sum of squares of 1 over the coils."""
    return maps / maps.abs().square().sum(0).sqrt().clamp_min(1e-12)
