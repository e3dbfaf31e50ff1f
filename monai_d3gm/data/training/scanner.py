"""Training items of a random scanner: undersampled k-space of one or several coils, as real scanners measure it.

`monai_d3gm.transforms.kspace.scanner` draws phase, coils, noise and shapes; this module draws the picture, its
contrast and extent, the band that was acquired, the mask, and the maps that the reconstruction has. Each item is a pure
function of (seed, index).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_d3gm.consistency.fourier import fft2c, ifft2c
from monai_d3gm.data.training.base import TrainingDataset
from monai_d3gm.data.training.kspace import undersampled_strip
from monai_d3gm.data.training.pictures import Pictures, object_mask
from monai_d3gm.transforms.kspace.functional import (
    CENTER_LINES_PER_ACCELERATION,
    MASK_TYPES,
    cartesian_mask,
    keyed_generator,
    truncate_band,
)
from monai_d3gm.transforms.kspace.scanner import RandomScanner, estimated_maps

__all__ = ["RandomScannerDataset"]

_PHASE_WEIGHTS = (0.0, 0.02, 0.1, 0.5)
"""Of the phase constraint with one coil, drawn at random: a reconstruction chooses between 0 and 0.5 by the data."""


class RandomScannerDataset(TrainingDataset):
    """Items of simulated, undersampled k-space of one or several coils, by a random scanner, from magnitude images.

    Item i depends on ``seed`` and i alone, so that a resumed run sees the same items, whatever the
    workers. ``batch_size`` consecutive items share a width and a number of coils, which are drawn anew for each batch.

    Each item is a dict: ``image`` float32 (2, h, W), the noise-free complex truth as the estimated maps combine it;
    ``mu`` float32 (2, h, W), its L1-wavelet estimate; ``phase`` complex64 (h, W), the phase reference that both
    are divided by; ``kspace`` complex64 (h, W) or (coils, h, W), zero where not sampled; ``mask`` bool (1, W) or
    (1, 1, W); ``sensitivity_maps`` complex64 (coils, h, W), with the errors of estimated ones, for several coils;
    ``noise_std``, the standard deviation per real and imaginary part; ``scale``; ``acceleration``; ``key``. All but
    ``scale`` are in units in which the 99.5th percentile of the zero-filled magnitude of the full field of view is 1.
    h is ``strip``: cropping along the readout is exact.

    Args:
        volumes: NIfTI files or photographs, or groups of them ``{"paths": [...], "weight": 1.0, "axes": [2]}``; a group
            is drawn with its weight, its slices are taken across one of its ``axes`` (2, the last, if not given).
        length: number of items.
        batch_size: number of consecutive items with one width and number of coils (over all processes).
        seed: seed of all that is random.
        scanner: draws phase, coils, noise and shapes; ``RandomScanner()`` when left out.
        accelerations: range, drawn uniformly in its logarithm.
        masks: names of fastMRI's masks, drawn with equal probability.
        widths: numbers of lines, drawn with equal probability per batch.
        heights: rows of the field of view, drawn with equal probability.
        strip: rows kept, around a random row of the object.
        coils: numbers of coils, drawn with equal probability per batch.
        virtual_coils: the most coils kept: more are compressed to so many, by their principal components.
        partial: probability of partial Fourier sampling, and of a band that was zero-padded, each.
        progress: show a progress bar while the volumes are read, where stderr is a terminal.

    Raises:
        ValueError: an argument is out of range, or a volume cannot be used.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> sizes = {"widths": [48], "heights": [32], "strip": 16}
        >>> item = RandomScannerDataset([bundled_epi_path()], 8, batch_size=4, coils=[3], **sizes)[0]
        >>> item["image"].shape, item["kspace"].shape
        (torch.Size([2, 16, 48]), torch.Size([3, 16, 48]))
    """

    def __init__(
        self,
        volumes: Sequence[str | PathLike[str]] | Sequence[Mapping[str, Any]],
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        scanner: RandomScanner | None = None,
        accelerations: tuple[float, float] = (3.0, 16.0),
        masks: Sequence[str] = ("random", "equispaced_fraction", "magic"),
        widths: Sequence[int] = (96, 144, 192, 224, 256, 288, 320),
        heights: Sequence[int] = (96, 160, 224, 256, 320),
        strip: int = 64,
        coils: Sequence[int] = (1,),
        virtual_coils: int = 6,
        partial: float = 0.08,
        progress: bool = False,
    ) -> None:
        super().__init__(length, seed, batch_size=batch_size)
        if not masks or set(masks) - set(MASK_TYPES):
            raise ValueError(f"masks is {masks!r}; accepted: {', '.join(MASK_TYPES)}.")
        if not 1 < accelerations[0] <= accelerations[1]:
            raise ValueError(f"accelerations is {accelerations}; accepted: two increasing numbers above 1.")
        if not 1 <= strip <= min(heights):
            raise ValueError(f"strip is {strip}; accepted: 1 to the smallest of heights, {min(heights)}.")
        self.batch_size = batch_size
        self.scanner = RandomScanner() if scanner is None else scanner
        self.accelerations, self.masks = tuple(accelerations), tuple(masks)
        self.widths, self.heights, self.strip = tuple(widths), tuple(heights), strip
        self.coils, self.virtual_coils, self.partial = tuple(coils), virtual_coils, partial
        self.pictures = Pictures(volumes, progress=progress)

    def of_batch(self, index: int) -> tuple[int, int]:
        """Return the number of lines and of coils of item ``index``, which its whole batch shares."""
        generator = keyed_generator(self.seed, "width", index // self.batch_size)
        return int(generator.choice(self.widths)), int(generator.choice(self.coils))

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        width, coils = self.of_batch(index)
        shape = (int(rng.choice(self.heights)), width)
        name, picture = self.pictures.draw(rng)
        picture = zoom(picture, shape, rng)
        scan = self.scanner(picture, rng, coils)
        clean = scan.image[None] if scan.maps is None else scan.maps * scan.image
        kspace = scan.kspace.reshape(-1, *shape)
        band = self._band(shape, rng)
        if not bool(band.all()):
            clean, kspace = ifft2c(fft2c(clean) * band), kspace * band
        acceleration, mask = self._mask(width, rng)
        mask &= band.any(0)
        kspace = kspace * mask
        maps = None
        if scan.maps is not None:
            basis = compression(kspace, self.virtual_coils)
            kspace, clean, true = (torch.einsum("vc,chw->vhw", basis, x) for x in (kspace, clean, scan.maps))
            maps = estimated_maps(kspace, min(max(centre_lines(mask), 4), 24), rng)
            if rng.random() < 0.5:  # nearly as good as ESPIRiT's
                share = float(rng.uniform(0, 0.3))
                maps = (1 - share) * aligned(true, maps) + share * maps
                maps = maps / maps.abs().square().sum(0).sqrt().clamp(min=1e-6)
        image = clean[0] if maps is None else (maps.conj() * clean).sum(0)
        rows = np.flatnonzero(object_mask(picture).any(axis=1))
        row = int(rng.choice(rows)) if len(rows) else shape[0] // 2
        start = int(np.clip(row - self.strip // 2 + rng.integers(-16, 17), 0, shape[0] - self.strip))
        item = undersampled_strip(
            kspace[0] if maps is None else kspace,
            image,
            mask,
            start,
            self.strip,
            noise_std=scan.noise_std,
            maps=maps,
            weight=float(rng.choice(_PHASE_WEIGHTS)) if maps is None else 0.0,
        )
        return item | {
            "acceleration": torch.tensor(acceleration, dtype=torch.float32),
            "index": index,
            "key": f"{name}:{index}",
        }

    def _band(self, shape: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
        """Where k-space was acquired, bool (H, W): all, or a part along an axis where the scanner filled in zeros."""
        band = torch.ones(shape, dtype=torch.bool)
        for axis in (0, 1):
            if rng.random() < self.partial:
                keep = round(shape[axis] * rng.uniform(0.6, 0.95) / 2)
                inside = (torch.arange(shape[axis]) - shape[axis] // 2).abs() < keep
                band &= inside[:, None] if axis == 0 else inside[None]
        return band

    def _mask(self, width: int, rng: np.random.Generator) -> tuple[float, torch.Tensor]:
        """The acceleration and the mask (W,), of partial Fourier sampling in some cases."""
        low, high = np.log(self.accelerations)
        acceleration = min(float(np.exp(rng.uniform(low, high))), width / 12)
        kind = self.masks[rng.integers(len(self.masks))]
        if kind not in ("random", "equispaced_fraction"):
            acceleration = float(max(2, round(acceleration)))
        fraction = CENTER_LINES_PER_ACCELERATION / acceleration * float(np.exp(rng.uniform(-0.1, 0.4)))
        fraction = min(max(fraction, 6 / width), 0.8 / acceleration)
        mask = cartesian_mask(width, acceleration, kind, center_fraction=fraction, seed=int(rng.integers(2**32)))
        if rng.random() < self.partial:
            mask[: int(width * rng.uniform(0.1, 0.35))] = False
            if rng.random() < 0.5:
                mask = mask.flip(0)
        return acceleration, mask


def compression(kspace: torch.Tensor, most: int) -> torch.Tensor:
    """The first principal components of the coils, complex (min(most, coils), coils), with orthonormal rows."""
    flat = kspace.flatten(1)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    return vectors.flip(1)[:, :most].mH.contiguous()


def aligned(true: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """The true maps times the phase per pixel that brings them nearest to the estimated ones."""
    inner = (true.conj() * estimate).sum(0)
    return true * torch.polar(torch.ones_like(inner.real), inner.angle())


def centre_lines(mask: torch.Tensor) -> int:
    """Number of sampled lines in a row around the centre."""
    centre = len(mask) // 2
    gaps = (~mask).nonzero().flatten()
    left, right = gaps[gaps < centre], gaps[gaps >= centre]
    first = int(left[-1]) + 1 if len(left) else 0
    last = int(right[0]) if len(right) else len(mask)
    return last - first


def zoom(picture: NDArray[np.float32], shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """Turn a picture, change its contrast, and bring it to a field of view that it fills in part or leaves.

    Example:
        >>> zoom(np.ones((40, 30), np.float32), (64, 48), np.random.default_rng(0)).shape
        (64, 48)
    """
    picture = np.rot90(picture, int(rng.integers(4)))
    picture = picture.T if rng.random() < 0.5 else picture
    peak = max(float(np.percentile(picture, 99.5)), 1e-6)
    picture = np.clip(picture / peak, 0, 1.5)
    contrast = rng.random()
    if contrast < 0.35:
        picture = picture ** np.float32(np.exp(rng.uniform(-0.6, 0.6)))
    elif contrast < 0.65:  # a contrast that no volume has: background stays dark, tissues change places
        levels = np.append(0.0, rng.uniform(0.0, 1.0, size=6))
        picture = np.interp(picture, np.linspace(0, 1.5, 7), levels / levels.max()).astype(np.float32)
    extent = np.exp(rng.uniform(np.log(0.55), np.log(1.35))) * rng.uniform(0.85, 1.15, size=2)
    share = min(1.0, float(np.mean([e * s / p for e, s, p in zip(extent, shape, picture.shape, strict=True)])))
    for axis in (0, 1):
        old = picture.shape[axis]
        size = int(np.clip(round(old * share * float(rng.uniform(0.9, 1.1))), 16, old))
        picture = truncate_band(picture, axis, size)
    canvas = np.zeros(shape, np.float32)
    where, source = [], []
    for old, new in zip(picture.shape, shape, strict=True):
        middle = (new - old) / 2
        corner = round(middle + rng.uniform(-0.12, 0.12) * new)
        where.append(slice(max(corner, 0), min(corner + old, new)))
        source.append(slice(max(-corner, 0), min(new - corner, old)))
    canvas[tuple(where)] = picture[tuple(source)]
    top = float(np.percentile(canvas, 99.8))
    return np.ascontiguousarray(canvas / top if top > 1e-3 else canvas + 1e-3, dtype=np.float32)
