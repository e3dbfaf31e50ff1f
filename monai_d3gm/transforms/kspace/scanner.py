"""A random scanner: phase, coils, noise and shapes that magnitude images do not show, drawn for training.

The measurement is y_c = F (S_c x) + n_c for coils c, with x = m e^{i phi} and white n. All of S, m, phi and the noise
level are drawn; the coils' noise is correlated and then whitened, as a reconstruction does before anything else, so
that the maps S below are those of the whitened coils with sum of squares 1, and the shading of their root sum of
squares is part of m. What is random:

- `random_structures` pastes shapes of random size, contrast and sharpness, and rings such as scalp and fat;
- `random_phase` adds a smooth part, a rough part, a part that follows the intensity (fat against water, inversion
  recovery), a ramp (an echo off the centre) and a noise of its own;
- `random_shading` multiplies by a smooth field;
- `random_coils` draws loops on an ellipse around the object;
- `estimated_maps` gives the maps that a reconstruction would have: those of the measured centre of k-space, with the
  errors of its few lines and its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from monai_d3gm.consistency.fourier import fft2c, ifft2c

__all__ = [
    "Acquisition",
    "RandomScanner",
    "estimated_maps",
    "random_coils",
    "random_phase",
    "random_shading",
    "random_structures",
]

_COARSE = 4
"""Smooth fields are drawn on a grid this many times coarser."""


def _smooth_field(shape: Sequence[int], rng: np.random.Generator, length: float) -> NDArray[np.float32]:
    """A random field (H, W) of unit standard deviation and correlation length ``length`` in pixels."""
    step = max(1, int(length / 3))
    size = [max(4, int(np.ceil(n / step)) + 2) for n in shape]
    field = gaussian_filter(rng.standard_normal(size).astype(np.float32), max(length / step, 0.3), mode="wrap")
    field = field / max(float(field.std()), 1e-6)
    if step == 1:
        return field[: shape[0], : shape[1]]
    rows, columns = (np.arange(n, dtype=np.float32) / step for n in shape)
    i, j = rows.astype(int), columns.astype(int)
    u, v = (rows - i)[:, None], (columns - j)[None]
    top = field[i][:, j] * (1 - v) + field[i][:, j + 1] * v
    bottom = field[i + 1][:, j] * (1 - v) + field[i + 1][:, j + 1] * v
    return np.asarray(top * (1 - u) + bottom * u, dtype=np.float32)


def _grid(shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Row and column of each pixel from -1 to 1 across the image."""
    rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    return rows[:, None], columns[None]


def random_structures(
    magnitude: NDArray[np.float32], rng: np.random.Generator, count: int = 4, ring: float = 0.0
) -> NDArray[np.float32]:
    """Paste random ellipses, bars and blobs into an image, and with probability ``ring`` a shell around its object.

    Args:
        magnitude: (H, W), about 1 where it is bright.
        rng: source of randomness.
        count: the most shapes, drawn from 0 to this.
        ring: probability of a shell, like scalp and skull around a brain without them.

    Example:
        >>> random_structures(np.ones((32, 32), np.float32), np.random.default_rng(0)).shape
        (32, 32)
    """
    image = np.array(magnitude, dtype=np.float32)
    inside = image > 0.05
    if not inside.any():
        return image
    used_rows, used_columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if rng.random() < ring:
        image = _add_shell(image, inside, rng)
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    size = min(used_rows[-1] - used_rows[0], used_columns[-1] - used_columns[0]) + 1
    for _ in range(int(rng.integers(count + 1))):
        # small ones are as frequent as large ones: radius uniform in its logarithm
        radius = float(np.exp(rng.uniform(np.log(1.2), np.log(max(0.2 * size, 2.0)))))
        ratio, angle = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
        row = rng.uniform(used_rows[0], used_rows[-1])
        column = rng.uniform(used_columns[0], used_columns[-1])
        along = (y - row) * np.cos(angle) + (x - column) * np.sin(angle)
        across = -(y - row) * np.sin(angle) + (x - column) * np.cos(angle)
        if rng.random() < 0.7:
            distance = np.sqrt((along / radius) ** 2 + (across / (ratio * radius)) ** 2)
        else:
            distance = np.maximum(np.abs(along) / radius, np.abs(across) / (ratio * radius))
        edge = rng.uniform(0.5, 2.0) / radius
        weight = np.clip((1 - distance) / edge + 0.5, 0, 1).astype(np.float32)
        if rng.random() < 0.6:
            image = image * (1 + weight * np.float32(rng.uniform(-0.8, 0.8)))
        else:
            image = image * (1 - weight) + weight * np.float32(rng.uniform(0, 1.2))
    return image


def _add_shell(image: NDArray[np.float32], inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """A bright rim (fat) and a dark one (bone) around the object, of random width and texture."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    filled = binary_fill_holes(inside)
    distance = distance_transform_edt(~filled).astype(np.float32)
    distance *= 1 + 0.15 * _smooth_field(image.shape, rng, 20.0)
    gap, width = rng.uniform(1.0, 6.0), rng.uniform(2.0, 9.0)
    rim = np.clip(distance - gap + 0.5, 0, 1) * np.clip(gap + width - distance + 0.5, 0, 1)
    level = rng.uniform(0.3, 1.6) * (1 + 0.25 * _smooth_field(image.shape, rng, rng.uniform(2, 15)))
    csf = np.float32(rng.uniform(0, 0.4)) * ((distance > 0) & (distance < gap))
    return np.where(filled, image, np.maximum(image, np.maximum(rim * level, csf))).astype(np.float32)


def random_phase(
    magnitude: NDArray[np.float32], rng: np.random.Generator, smooth: float = np.pi, rough: float = 0.6
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a phase: the smooth field of a receiver and a shim, and parts that the centre of k-space does not show.

    Args:
        magnitude: (H, W), about 1 where it is bright.
        rng: source of randomness.
        smooth: the largest amplitude of the smooth part in radians.
        rough: the largest standard deviation of the rest in radians, over the bright pixels.

    Returns:
        The phase in radians, float32 (H, W), and a sign of +1 or -1, float32 (H, W), by which the image is multiplied.

    Example:
        >>> phase, sign = random_phase(np.ones((32, 48), np.float32), np.random.default_rng(0))
        >>> phase.shape, set(np.unique(sign)) <= {-1.0, 1.0}
        ((32, 48), True)
    """
    shape = magnitude.shape
    rows, columns = _grid(shape)
    size = min(shape)
    phase = np.full(shape, rng.uniform(-np.pi, np.pi), np.float32)
    phase += _smooth_field(shape, rng, size / rng.uniform(2, 5)) * np.float32(rng.uniform(0, smooth) / 2)
    if rng.random() < 0.5:  # the echo is up to 3 samples off the centre
        phase += np.float32(np.pi) * np.float32(rng.uniform(-3, 3)) * rows
        phase += np.float32(np.pi) * np.float32(rng.uniform(-1.5, 1.5)) * columns
    rest = np.zeros(shape, np.float32)
    if rng.random() < 0.7:
        rest += _smooth_field(shape, rng, float(np.exp(rng.uniform(np.log(2), np.log(size / 6))))) * rng.uniform(0, 1)
    if rng.random() < 0.6:  # follows the tissue
        levels = rng.standard_normal(6)
        curve = np.interp(np.clip(magnitude, 0, 1.2), np.linspace(0, 1.2, 6), levels).astype(np.float32)
        rest += curve * np.float32(rng.uniform(0, 1))
    if rng.random() < 0.3:
        spots = _smooth_field(shape, rng, rng.uniform(2, 8))
        rest += np.clip(spots - 2, 0, None) * np.float32(rng.uniform(-2, 2))
    bright = magnitude > 0.1 * max(float(np.percentile(magnitude, 99.5)), 1e-6)
    spread = float(rest[bright].std()) if bright.any() else 0.0
    if spread > 0:
        # a third of the images is nearly real, as spin echo is
        wanted = 0.0 if rng.random() < 0.2 else rough * rng.random() ** 1.5
        rest *= np.float32(wanted / spread)
    sign = np.ones(shape, np.float32)
    if rng.random() < 0.08:  # inversion recovery: dark tissue is negative
        sign = np.where(magnitude < rng.uniform(0.2, 0.5), -1, 1).astype(np.float32)
    return phase + rest, sign


def random_shading(shape: Sequence[int], rng: np.random.Generator, amplitude: float = 0.5) -> NDArray[np.float32]:
    """Draw a smooth positive field whose logarithm has a standard deviation of at most ``amplitude``.

    Example:
        >>> bool((random_shading((16, 16), np.random.default_rng(0)) > 0).all())
        True
    """
    length = min(shape) / rng.uniform(1.5, 4)
    return np.exp(_smooth_field(shape, rng, length) * np.float32(amplitude * rng.random()))


def random_coils(shape: Sequence[int], coils: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the maps of an array: loops on an ellipse around the object, with correlated noise that is then whitened.

    A loop's sensitivity falls as (1 + (d / s)^2)^{-p} with the distance d; its phase grows with the distance and turns
    around it. Some loops are far from the slice, so that they hold noise alone.

    Args:
        shape: (H, W).
        coils: how many, at least 1.
        rng: source of randomness.

    Returns:
        maps with sum of squares 1, complex64 (coils, H, W), and their root sum of squares before that, float32 (H, W),
        with a mean of 1: the shading of the array.

    Example:
        >>> maps, shading = random_coils((16, 24), 4, np.random.default_rng(0))
        >>> maps.shape, bool(torch.allclose(maps.abs().square().sum(0), torch.ones(16, 24), atol=1e-4))
        (torch.Size([4, 16, 24]), True)
    """
    rows, columns = _grid([max(n // _COARSE, 8) for n in shape])
    turn, gap = rng.uniform(0, 2 * np.pi), 2 * np.pi / coils
    height, width = rng.uniform(0.9, 1.6, size=2)
    extent, power = rng.uniform(0.5, 1.2), rng.uniform(0.8, 1.6)
    fields = []
    for number in range(coils):
        angle = turn + gap * (number + rng.uniform(-0.3, 0.3))
        away = 1 + (rng.uniform(1, 3) if rng.random() < 0.08 else 0)
        row, column = height * away * np.sin(angle), width * away * np.cos(angle)
        dy, dx = rows - row, columns - column
        squared = (dy**2 + dx**2) / extent**2
        strength = rng.uniform(0.6, 1.4) * (1 + squared) ** -power
        turns = rng.uniform(-1, 1) * np.arctan2(dy, dx) + rng.uniform(-1.5, 1.5) * np.sqrt(squared)
        fields.append(strength * np.exp(1j * (turns + rng.uniform(-np.pi, np.pi))))
    coarse = np.stack(fields)
    if coils > 1:  # whitening mixes the coils
        mixing = np.eye(coils) + rng.uniform(0, 0.15) * (
            rng.standard_normal((coils, coils)) + 1j * rng.standard_normal((coils, coils))
        )
        covariance = mixing @ mixing.conj().T
        scale = np.sqrt(np.real(np.diag(covariance)))
        covariance = covariance / np.outer(scale, scale)
        coarse = np.linalg.solve(np.linalg.cholesky(covariance), coarse.reshape(coils, -1)).reshape(coarse.shape)
    both = torch.from_numpy(np.concatenate([coarse.real, coarse.imag]).astype(np.float32))[None]
    fine = torch.nn.functional.interpolate(both, tuple(shape), mode="bilinear", align_corners=True)[0]
    maps = torch.complex(fine[:coils], fine[coils:])
    total = maps.abs().square().sum(0).sqrt().clamp(min=1e-6)
    return maps / total, total / total.mean()


def estimated_maps(kspace: torch.Tensor, centre: int, rng: np.random.Generator) -> torch.Tensor:
    """The maps of the measured centre of k-space: low-resolution coil images over their root sum of squares.

    Args:
        kspace: complex (coils, H, W), measured at least at the centre.
        centre: number of central lines that are measured.
        rng: chooses the shape of the window.

    Returns:
        complex (coils, H, W), sum of squares 1.

    Example:
        >>> kspace = fft2c(torch.ones(2, 16, 16, dtype=torch.complex64))
        >>> maps = estimated_maps(kspace, 8, np.random.default_rng(0))
        >>> bool(torch.allclose(maps.abs().square().sum(0), torch.ones(16, 16), atol=1e-4))
        True
    """
    height, width = kspace.shape[-2:]

    def window(size: int, half: float) -> torch.Tensor:
        position = (torch.arange(size) - size // 2).abs() / half
        return torch.cos(np.pi / 2 * position.clamp(max=1)) ** 2

    half = max(centre / 2, 2.0)
    reach = min(half * rng.uniform(1.0, 2.0), 16.0)
    low = ifft2c(kspace * window(height, reach * height / width)[:, None] * window(width, half))
    total = low.abs().square().sum(0).sqrt()
    return low / total.clamp(min=1e-6 * float(total.max()) + 1e-12)


@dataclass(frozen=True)
class Acquisition:
    """A scanner's measurement, and the truth.

    Attributes:
        kspace: complex64 (H, W), or (coils, H, W).
        image: the noise-free complex image (H, W) that the true maps combine.
        maps: the true maps (coils, H, W), or None for one coil.
        noise_std: of the noise, per real and imaginary part.
    """

    kspace: torch.Tensor
    image: torch.Tensor
    maps: torch.Tensor | None
    noise_std: float


@dataclass(frozen=True)
class RandomScanner:
    """Draws the measurement of a magnitude image, fully sampled, by a scanner that is drawn too.

    Args:
        smooth_phase: the largest amplitude of the smooth phase, in radians.
        rough_phase: the largest standard deviation of the phase that the centre of k-space does not show.
        shading: the largest standard deviation of the logarithm of the shading.
        structures: the most shapes that are pasted.
        ring: probability of a shell around the object.
        snr: range of the mean foreground over the noise, drawn uniformly in its logarithm.

    Example:
        >>> scanner = RandomScanner()
        >>> scan = scanner(np.ones((32, 32), np.float32), np.random.default_rng(0), coils=4)
        >>> scan.kspace.shape
        torch.Size([4, 32, 32])
    """

    smooth_phase: float = float(np.pi)
    rough_phase: float = 0.6
    shading: float = 0.5
    structures: int = 6
    ring: float = 0.35
    snr: tuple[float, float] = (8.0, 150.0)

    def __call__(self, magnitude: NDArray[np.float32], rng: np.random.Generator, coils: int = 1) -> Acquisition:
        """The acquisition of ``magnitude`` (H, W), about 1 where it is bright, with so many coils."""
        image = random_structures(magnitude, rng, self.structures, self.ring)
        image = image * random_shading(image.shape, rng, self.shading)
        phase, sign = random_phase(image, rng, self.smooth_phase, self.rough_phase)
        x = torch.polar(torch.from_numpy(image), torch.from_numpy(phase)) * torch.from_numpy(sign)
        maps = None
        if coils > 1:
            maps, shading = random_coils(image.shape, coils, rng)
            x = x * shading.to(x.real.dtype) ** float(rng.uniform(0, 1))
        kspace = fft2c(x if maps is None else maps * x)
        size = x.abs()
        bright = size[size > 0.1 * torch.quantile(size.flatten()[:: max(1, size.numel() // 50000)], 0.995)]
        level = float(bright.mean()) if bright.numel() else 1.0
        noise_std = level / float(np.exp(rng.uniform(*np.log(self.snr))))
        noise = torch.from_numpy(rng.standard_normal((*kspace.shape, 2), dtype=np.float32))
        return Acquisition(kspace + noise_std * torch.view_as_complex(noise), x, maps, noise_std)
