"""Slices of low resolution: simulated from magnitude volumes for training, each a pure function of (seed, index).

The degradations stand in `monai_d3gm.transforms.resolution.functional`. Volumes are cropped to their acquired band
first: from images that the scanner interpolated, the interpolation would be learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from monai_d3gm.data.training.base import TrainingDataset
from monai_d3gm.data.training.pictures import Pictures, object_mask, place, vary
from monai_d3gm.transforms.kspace.functional import keyed_generator, magnitude_scale
from monai_d3gm.transforms.resolution.functional import (
    DEGRADATIONS,
    add_noise,
    degradation_kernel,
    degrade,
    pair,
    upsample,
)

_SPREAD = 0.4
"""The field of view is up to this share larger than the picture along each axis."""


class SimulatedLowResolutionDataset(TrainingDataset):
    """Patches of fine images and of their low-resolution images on the fine grid, from NIfTI magnitude volumes.

    Item i depends on ``seed`` and i alone, so that a resumed run sees the same items, whatever the
    workers. A whole slice is degraded and upsampled, and a patch around its object cut from both.

    Each item is a dict: ``image`` float32 (1, patch, patch), the noise-free truth; ``mu``, like it, the noisy
    low-resolution image on the fine grid, by sinc interpolation after truncation and by bicubic interpolation after
    the others; ``noise_std``, the noise's standard deviation in the low-resolution image; all three in units in which
    the 99.5th percentile of mu over the full field of view is 1; ``scale``, that percentile; ``factor`` int64 (2,),
    along rows and columns; ``degradation``; ``index``; ``key``. The patch begins on a low-resolution pixel.

    With ``field`` an item is a whole slice with its measurement, so that training can use the measurement operator:
    ``low_resolution`` float32 (1, h, w) and ``magnitude``, whether its noise is Rician, are added. Degradation and
    factors are then those of the batch.

    Args:
        volumes: NIfTI files, or groups of them ``{"paths": [...], "weight": 1.0, "axes": [2]}``; a group is drawn with
            its weight, its slices are taken across one of its ``axes`` (2, the last, if not given).
        length: number of items.
        batch_size: number of consecutive items that make a batch (over all processes).
        seed: seed of all that is random.
        factors: along both axes, for ``truncation`` and ``kernel``; drawn with equal probability.
        thickness: factors along the columns alone, for ``blocks``: thick slices seen from the side.
        degradations: the share of each of ``truncation``, ``blocks`` and ``kernel``.
        patch: rows and columns of an item.
        field: rows and columns of the field of view of a whole slice, a multiple of every factor; None cuts patches.
        snr: range of the signal-to-noise ratio of the low-resolution image, drawn uniformly in its logarithm.
        magnitude: the noise is Rician; False adds real Gaussian noise.
        resolution: range of the share of the band that is kept of the fine image along each axis.
        augment: False leaves orientation, contrast, resolution and field of view as they are.
        progress: show a progress bar while the volumes are read, where stderr is a terminal.

    Raises:
        ValueError: an argument is out of range, or a volume cannot be used.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> item = SimulatedLowResolutionDataset([bundled_epi_path()], 8, batch_size=4, patch=64)[0]
        >>> item["image"].shape, item["mu"].shape, item["factor"].tolist() in ([2, 2], [4, 4])
        (torch.Size([1, 64, 64]), torch.Size([1, 64, 64]), True)
    """

    def __init__(
        self,
        volumes: Sequence[str | PathLike[str]] | Sequence[Mapping[str, Any]],
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        factors: Sequence[int] = (2, 4),
        thickness: Sequence[int] = (2, 3, 4),
        degradations: Mapping[str, float] | None = None,
        patch: int = 128,
        field: int | None = None,
        snr: tuple[float, float] = (20.0, 200.0),
        magnitude: bool = True,
        resolution: tuple[float, float] = (0.7, 1.0),
        augment: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__(length, seed, batch_size=batch_size, patch=patch)
        for name, numbers in (("factors", factors), ("thickness", thickness)):
            if not numbers or any(not isinstance(f, int) or f < 1 for f in numbers):
                raise ValueError(f"{name} is {numbers}; accepted: integers of at least 1.")
        shares = {"truncation": 1.0} if degradations is None else dict(degradations)
        if not set(shares) <= set(DEGRADATIONS):
            raise ValueError(f"degradations is {shares}; accepted: shares of {', '.join(DEGRADATIONS)}.")
        weights = np.array(list(shares.values()), dtype=np.float64)
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError(f"degradations is {shares}; accepted: shares of at least 0, not all 0.")
        if not 0 < snr[0] <= snr[1]:
            raise ValueError(f"snr is {snr}; accepted: two increasing numbers above 0.")
        if not 0 < resolution[0] <= resolution[1] <= 1:
            raise ValueError(f"resolution is {resolution}; accepted: two increasing numbers in (0, 1].")
        if field is not None and (field < 1 or any(field % f for f in (*factors, *thickness))):
            raise ValueError(f"field is {field}; accepted: a multiple of each factor in {factors} and {thickness}.")
        self.field, self.batch_size = field, batch_size
        self.factors, self.thickness = tuple(factors), tuple(thickness)
        self.degradations, self.shares = list(shares), weights / weights.sum()
        self.patch, self.snr, self.magnitude = patch, snr, magnitude
        self.resolution, self.augment = resolution, augment
        self.pictures = Pictures(volumes, progress=progress)

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        name, picture = self.pictures.draw(rng)
        limit = max(picture.shape) if self.field is None else self.field
        picture = vary(picture, (limit, limit), rng, self.resolution if self.augment else None)
        shared = rng if self.field is None else keyed_generator(self.seed, "batch", index // self.batch_size)
        degradation = self.degradations[shared.choice(len(self.degradations), p=self.shares)]
        if degradation == "blocks":
            factors = (1, int(shared.choice(self.thickness)))
        else:
            factors = pair(int(shared.choice(self.factors)))
        field = self._extent(picture.shape, factors, rng) if self.field is None else (self.field, self.field)
        picture = place(picture, field, rng, 0.1 if self.augment else 0.0)

        image = torch.from_numpy(picture)[None]
        low = degrade(image, factors, degradation_kernel(degradation, rng))
        snr = float(np.exp(rng.uniform(*np.log(self.snr))))
        low, noise_std = add_noise(low, rng, snr, magnitude=self.magnitude)
        truncated = degradation == "truncation"
        mu = upsample(low, factors, "sinc" if truncated else "bicubic", blocks=not truncated)
        scale = magnitude_scale(mu.abs())
        measured = {"low_resolution": low / scale, "magnitude": self.magnitude}
        if self.field is None:
            measured = {}
            middle = rng.choice(np.argwhere(object_mask(picture)))
            for axis, factor in enumerate(factors):
                start = min(max(0, int(middle[axis]) - self.patch // 2), picture.shape[axis] - self.patch)
                image, mu = (x.narrow(axis + 1, start // factor * factor, self.patch) for x in (image, mu))
        return {
            "image": image / scale,
            "mu": mu / scale,
            "noise_std": torch.tensor(noise_std / scale, dtype=torch.float32),
            "scale": torch.tensor(scale, dtype=torch.float32),
            "factor": torch.tensor(factors),
            "degradation": degradation,
            "index": index,
            "key": f"{name}:{index}",
        } | measured

    def _extent(self, shape: Sequence[int], factors: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """A field of view that holds the picture and a patch, in whole low-resolution pixels."""
        growth = 1 + rng.uniform(0, _SPREAD if self.augment else 0.0, size=2)
        sizes = (math.ceil(max(n * g, self.patch) / f) * f for n, g, f in zip(shape, growth, factors, strict=True))
        return next(sizes), next(sizes)
