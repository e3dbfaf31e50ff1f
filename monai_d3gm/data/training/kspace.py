"""Training items: undersampled k-space simulated from magnitude volumes, each a pure function of (seed, index).

The forward model stands in the theory's section on measurement consistency, its steps in
`monai_d3gm.transforms.kspace.functional`. What is random besides phase, noise and mask: the volume, axis and slice,
orientation, contrast (gamma, or a random curve of the intensities), resolution (k-space truncation) and the object's
place in the field of view.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from monai_d3gm.baselines import l1_wavelet
from monai_d3gm.consistency.fourier import complex_to_channels
from monai_d3gm.data.training.base import TrainingDataset
from monai_d3gm.data.training.pictures import Pictures, object_mask, place, vary
from monai_d3gm.transforms.kspace.functional import (
    cartesian_mask,
    crop_readout,
    keyed_generator,
    magnitude_scale,
    simulate_kspace,
    zero_filled,
)
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight, phase_reference

_MARGIN = 24
"""Rows on both sides of a strip that its L1-wavelet estimate is made of too, so that it does not feel the edges."""


class SimulatedKspaceDataset(TrainingDataset):
    """Items of simulated, undersampled single-coil k-space from NIfTI magnitude volumes.

    Item i depends on ``seed`` and i alone, so that a resumed run sees the same items, whatever the
    workers. ``batch_size`` consecutive items share a width, which is drawn anew for each batch.

    Each item is a dict: ``image`` float32 (2, h, W), the noise-free complex truth; ``mu`` float32 (2, h, W), its
    L1-wavelet estimate; ``phase`` complex64 (h, W), the phase reference that both are divided by; ``kspace``
    complex64 (h, W), zero where not sampled; ``mask`` bool (1, W); ``noise_std``, the
    standard deviation per real and imaginary part; ``scale``; ``acceleration``; ``key``. All but ``scale`` are in units
    in which the 99.5th percentile of the zero-filled magnitude of the full field of view is 1. h is ``strip``:
    cropping along the readout is exact.

    Args:
        volumes: NIfTI files, or groups of them ``{"paths": [...], "weight": 1.0, "axes": [2]}``; a group is drawn with
            its weight, its slices are taken across one of its ``axes`` (2, the last, if not given).
        length: number of items.
        batch_size: number of consecutive items with one width (over all processes).
        seed: seed of all that is random.
        accelerations: drawn with equal probability.
        masks: names of fastMRI's masks, drawn with equal probability.
        widths: numbers of lines, drawn with equal probability per batch.
        height: rows of the field of view.
        strip: rows kept, around a random row of the object; None keeps all.
        snr: range of the signal-to-noise ratio, drawn uniformly in its logarithm.
        phase: largest amplitude of the smooth phase in radians.
        resolution: range of the share of the band that is kept along each axis.
        augment: False leaves orientation, contrast, resolution and place as they are.
        progress: show a progress bar while the volumes are read, where stderr is a terminal.

    Raises:
        ValueError: an argument is out of range, or a volume cannot be used.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> item = SimulatedKspaceDataset([bundled_epi_path()], 8, batch_size=4, widths=[64], height=48, strip=16)[0]
        >>> item["image"].shape, item["mask"].shape
        (torch.Size([2, 16, 64]), torch.Size([1, 64]))
    """

    def __init__(
        self,
        volumes: Sequence[str | PathLike[str]] | Sequence[Mapping[str, Any]],
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        accelerations: Sequence[float] = (4, 8, 16),
        masks: Sequence[str] = ("random", "equispaced_fraction", "magic"),
        widths: Sequence[int] = (192, 224, 256, 288, 320),
        height: int = 256,
        strip: int | None = 64,
        snr: tuple[float, float] = (15.0, 150.0),
        phase: float = np.pi,
        resolution: tuple[float, float] = (0.7, 1.0),
        augment: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(length, seed, batch_size=batch_size)
        if strip is not None and not 1 <= strip <= height:
            raise ValueError(f"strip is {strip}; accepted: 1 to height, {height}.")
        if not 0 < snr[0] <= snr[1]:
            raise ValueError(f"snr is {snr}; accepted: two increasing numbers above 0.")
        if not 0 < resolution[0] <= resolution[1] <= 1:
            raise ValueError(f"resolution is {resolution}; accepted: two increasing numbers in (0, 1].")
        for acceleration, mask, width in itertools.product(accelerations, masks, widths):
            try:
                cartesian_mask(width, acceleration, mask)
            except ValueError as error:
                raise ValueError(f"accelerations, masks or widths: {error}") from error
        self.batch_size = batch_size
        self.accelerations, self.masks = tuple(accelerations), tuple(masks)
        self.widths, self.height, self.strip = tuple(widths), height, strip
        self.snr, self.phase, self.resolution, self.augment = snr, phase, resolution, augment
        self.pictures = Pictures(volumes, progress=progress)

    def width(self, index: int) -> int:
        """Return the number of lines of item ``index``, which its whole batch shares."""
        generator = keyed_generator(self.seed, "width", index // self.batch_size)
        return int(self.widths[generator.integers(len(self.widths))])

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        width = self.width(index)
        shape = (self.height, width)
        name, picture = self.pictures.draw(rng)
        picture = vary(picture, shape, rng, self.resolution if self.augment else None)
        picture = place(picture, shape, rng, 0.1 if self.augment else 0.0)

        snr = float(np.exp(rng.uniform(*np.log(self.snr))))
        kspace, image, noise_std, _ = simulate_kspace(picture, rng, snr=snr, phase=self.phase)
        acceleration = self.accelerations[rng.integers(len(self.accelerations))]
        mask = cartesian_mask(
            width, acceleration, self.masks[rng.integers(len(self.masks))], seed=int(rng.integers(2**32))
        )
        height = self.strip or self.height
        rows = np.flatnonzero(object_mask(picture).any(axis=1))
        start = int(np.clip(rng.choice(rows) - height // 2, 0, self.height - height))
        item = undersampled_strip(kspace * mask, image, mask, start, height, noise_std=noise_std)
        return item | {
            "acceleration": torch.tensor(acceleration, dtype=torch.float32),
            "index": index,
            "key": f"{name}:{index}",
        }


def undersampled_strip(
    kspace: torch.Tensor,
    image: torch.Tensor,
    mask: torch.Tensor,
    start: int,
    height: int,
    *,
    noise_std: float,
    maps: torch.Tensor | None = None,
    weight: float | None = None,
) -> dict[str, Any]:
    """The part of a training item that measurement and image make, in units of the whole zero-filled magnitude.

    Args:
        kspace: measured k-space (H, W) or (coils, H, W), complex64, zero where not sampled.
        image: the fully sampled complex image (H, W).
        mask: (W,), True where sampled.
        start: first row kept.
        height: rows kept.
        noise_std: the noise's standard deviation per real and imaginary part, in k-space's units.
        maps: the maps that the reconstruction has, (coils, H, W), for several coils.
        weight: of the phase constraint in ``mu``; None for the one that the measurement tells.

    Returns:
        ``image``, ``mu``, ``kspace``, ``phase``, ``mask``, ``noise_std``, ``scale`` and, with maps,
        ``sensitivity_maps``, as in `SimulatedKspaceDataset` and `RandomScannerDataset`.
    """
    scale = magnitude_scale(zero_filled(kspace, maps).abs())
    phase = phase_reference(kspace, mask, maps)
    data, reference = (kspace[None], phase[None]) if maps is None else (kspace, maps * phase)
    if weight is None:
        weight = phase_constraint_weight(data, mask, reference, noise_std)
    rows, first = slice(start, start + height), max(start - _MARGIN, 0)
    around = slice(first, min(start + height + _MARGIN, len(image)))
    estimate = l1_wavelet(
        crop_readout(data, first, around.stop - first) / scale,
        reference[:, around],
        mask=mask,
        phase_weight=weight,
        scale=1.0,
    )[start - first :][:height]
    data = crop_readout(data, start, height) / scale
    image, phase = image[rows] / scale, phase[rows]
    item = {
        "image": complex_to_channels(image * phase.conj()),
        "mu": complex_to_channels(estimate),
        "kspace": data[0] if maps is None else data,
        "phase": phase,
        "mask": mask[None] if maps is None else mask[None, None],
        "noise_std": torch.tensor(noise_std / scale, dtype=torch.float32),
        "scale": torch.tensor(scale, dtype=torch.float32),
    }
    return item if maps is None else item | {"sensitivity_maps": maps[:, rows].contiguous()}
