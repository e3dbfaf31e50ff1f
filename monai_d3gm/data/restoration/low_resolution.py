"""Slices of low resolution to restore, from NIfTI and DICOM volumes or simulated from fine ones, one dict each.

The conventions are those of the theory's section on measurement consistency and of
`monai_d3gm.transforms.resolution.functional`; images and ``noise_std`` share one scale for a volume, in which the
99.5th percentile of its low-resolution image on the fine grid is 1.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.restoration import estimate_sigma
from torch.utils.data import Dataset

from monai_d3gm.data.formats.base import VolumeFormat
from monai_d3gm.data.formats.registry import names_of
from monai_d3gm.data.formats.volumes import InputVolume, MagnitudeVolume
from monai_d3gm.data.restoration.inputs import check_slices, find_sources, spread
from monai_d3gm.files import check_memory
from monai_d3gm.transforms.kspace.functional import (
    crop_to_acquired_band,
    foreground_mean,
    magnitude_scale,
    truncate_band,
)
from monai_d3gm.transforms.resolution import SimulateLowResolutiond, UpsampleLowResolutiond
from monai_d3gm.transforms.resolution.functional import DEGRADATIONS, high_resolution_affine

logger = logging.getLogger(__name__)

FACTORS = (2, 4)
"""The factors by which resolution is raised."""

PLANES = ("in", "through")
"""The planes: resolution is raised within the slices, or from slice to slice."""

_COPIES = 8
"""The number of float32 arrays of the fine volume's size: restored image, spread, both interpolations, and their
inputs."""

_SURVEYED = 32
"""The most slices that a volume's scale and noise are taken from, evenly spaced."""

_BEST_SNR = 200.0
"""An estimate of the noise is no lower than the foreground's mean over this: the highest SNR of the training."""


@dataclass(frozen=True)
class _Cropped:
    """A magnitude volume (X, Y, Z) on the band that was acquired.

    Attributes:
        volume: the volume.
        skipped: numbers of the slices that are zero everywhere.
        kept_band: share of the band kept along rows and columns.
    """

    volume: MagnitudeVolume
    skipped: tuple[int, ...]
    kept_band: tuple[float, float]


class LowResolutionSliceDataset(Dataset):
    """Slices of low resolution to restore, read on demand.

    With ``simulate`` the inputs are fine images, which lose resolution here and are the truth; the random numbers of a
    slice depend only on ``seed``, the file's name and the slice's number, and a volume has one blur. Without it, the
    inputs are measurements, and no truth is known. Either way volumes are first cropped to the band that was acquired,
    by the header of a DICOM series or else by the spectrum: a scanner's interpolation adds no resolution.

    A slice is a dict: ``low_resolution`` float32 (1, h, w), the measurement; ``mu`` float32 (1, H, W), the measurement
    on the fine grid: its ``sinc`` interpolation after truncation, its ``bicubic`` interpolation otherwise, which are
    both there under these names too; ``image`` float32 (1, H, W) and ``reference`` float32 (H, W), the noise-free
    truth, both absent where it is not known; ``kernel`` float32 (k, k), the blur before the mean over blocks, absent
    after truncation; ``factor``, (rows, columns); ``noise_std``; ``magnitude``, whether the noise is Rician; ``scale``,
    physical = normalised * scale; ``key`` "stem:slice"; ``source``; ``slice``; ``num_slices``; ``volume``, index into
    `volumes`; ``affine``, of the fine volume.

    Rows are axis 0 of the volume. Columns are axis 1, or with ``plane="through"`` axis 2: these slices lie along axis
    1, and resolution is raised along their columns alone. See
    `monai_d3gm.transforms.resolution.functional` for the centre of the first voxel.

    Args:
        inputs: files or folders: NIfTI volumes and DICOM series; the content decides.
        factor: 2 or 4 (through plane also 3).
        simulate: the inputs are fine images.
        degradation: how resolution is or was lost: ``truncation`` of k-space, ``blocks``, the mean over ``factor``
            pixels, or ``kernel``, a random blur before that (simulated only). None means truncation in plane and
            blocks, thick slices without gaps, through plane.
        plane: "in" or "through".
        seed: seed of noise and blur.
        snr: of simulated slices: mean of the foreground over the noise's standard deviation.
        magnitude: simulated noise is Rician; False adds real Gaussian noise.
        noise_std: of measured images: standard deviation in the file's units, above 0. None estimates it by the median
            absolute deviation of the finest diagonal wavelet coefficients (Donoho and Johnstone 1994; scikit-image),
            which anatomy fills sparsely and a background of exact zeros not at all. Images of brains with Rician noise
            of SNR 20 to 200 came out between 0.7 and 2 times the truth.
        estimate_noise: of simulated slices: estimate the noise in the same way, in place of knowing it.
        slices: "all", how many, evenly spaced, or such as "central:60".
        frame: which volume of NIfTI files of several; None refuses them.

    Raises:
        ValueError: an argument is out of range, or an input cannot be used; the message names it.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> dataset = LowResolutionSliceDataset(bundled_epi_path(), factor=2, simulate=True, slices=2, frame=0)
        >>> item = dataset[0]
        >>> len(dataset), item["key"], item["low_resolution"].shape, item["mu"].shape
        (2, 'example4d:6', torch.Size([1, 64, 48]), torch.Size([1, 128, 96]))
    """

    formats = VolumeFormat
    """The formats that are read: all of magnitude volumes."""

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        factor: int = 2,
        simulate: bool = False,
        degradation: str | None = None,
        plane: Literal["in", "through"] = "in",
        seed: int = 0,
        snr: float = 50.0,
        magnitude: bool = True,
        noise_std: float | None = None,
        estimate_noise: bool = False,
        slices: str | int = "all",
        frame: int | None = None,
    ) -> None:
        if plane not in PLANES:
            raise ValueError(f"plane is {plane!r}; accepted: {', '.join(PLANES)}.")
        accepted = FACTORS if plane == "in" else (2, 3, 4)
        if isinstance(factor, bool) or factor not in accepted:
            raise ValueError(f"factor is {factor!r}; accepted: {', '.join(map(str, accepted))}.")
        if degradation is None:
            degradation = "truncation" if plane == "in" else "blocks"
        known = DEGRADATIONS if simulate else tuple(d for d in DEGRADATIONS if d != "kernel")
        if degradation not in known:
            raise ValueError(f"degradation is {degradation!r}; accepted: {', '.join(known)}.")
        if noise_std is not None and not (np.isfinite(noise_std) and noise_std > 0):
            raise ValueError(f"noise_std is {noise_std}; accepted: a number above 0, or None.")
        check_slices(slices)
        self.simulate, self.degradation, self.noise_std = simulate, degradation, noise_std
        self._noise_is_known = simulate and not estimate_noise
        self._rician = magnitude or not simulate
        self.slice_axis = 2 if plane == "in" else 1
        self.factors = (factor, factor) if plane == "in" else (1, factor)
        self._wanted, self._frame = slices, frame
        blocks = degradation != "truncation"
        self._start = "bicubic" if blocks else "sinc"
        self._degrade = SimulateLowResolutiond("image", self.factors, degradation, snr, magnitude, seed=seed)
        self._upsample = [
            UpsampleLowResolutiond("low_resolution", self.factors, mode, blocks, output=mode)
            for mode in ("sinc", "bicubic")
        ]
        self._how = f"{factor} {plane} plane by {degradation}" + (f" at SNR {snr:g}" if simulate else "")
        self._loaded: tuple[int, NDArray[np.float32], float, float | None] | None = None
        self._sources = find_sources(inputs, names_of(self.formats))
        self.volumes: list[InputVolume] = [self._describe(number) for number in range(len(self._sources))]
        self._index = [(v, s) for v, volume in enumerate(self.volumes) for s in volume.slices]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, slice_number = self._index[index]
        volume = self.volumes[number]
        data, scale, noise_std = self._load(number)
        item = self._slice(f"{volume.stem}:{slice_number}", data, slice_number)
        if not self._noise_is_known:
            item["noise_std"] = noise_std
        for name in ("image", "low_resolution", "sinc", "bicubic", "noise_std"):
            if name in item:
                item[name] = item[name] / scale
        item["mu"] = item[self._start]
        if self.simulate:
            item["reference"] = item["image"][0]
        return item | {
            "factor": self.factors,
            "magnitude": self._rician,
            "scale": scale,
            "source": str(volume.path),
            "slice": slice_number,
            "num_slices": volume.shape[self.slice_axis],
            "volume": number,
            "affine": torch.from_numpy(volume.affine),
        }

    def _slice(self, key: str, data: NDArray[np.float32], number: int) -> dict[Any, Any]:
        """A slice's measurement and its interpolations, in the file's units."""
        plane = torch.from_numpy(np.ascontiguousarray(np.take(data, number, axis=self.slice_axis)))[None]
        item: dict[Any, Any] = {"key": key}
        if self.simulate:
            item = self._degrade(item | {"image": plane})
        else:
            item["low_resolution"] = plane
            if self.degradation == "blocks":
                item["kernel"] = torch.ones(1, 1)
        for upsample in self._upsample:
            item = upsample(item)
        return item

    def _load(self, number: int) -> tuple[NDArray[np.float32], float, float | None]:
        """The volume, its scale and, where measured, its noise in the file's units; the last one read is kept."""
        if self._loaded is None or self._loaded[0] != number:
            volume = self.volumes[number]
            data = self._read(number).volume.data
            used = sorted(set(range(data.shape[self.slice_axis])) - set(volume.skipped))
            surveyed = [used[i] for i in spread(len(used), _SURVEYED)]
            items = [self._slice(f"{volume.stem}:{i}", data, i) for i in surveyed]
            scale = magnitude_scale(torch.stack([item[self._start] for item in items]).abs())
            noise_std = self.noise_std
            if noise_std is None and not self._noise_is_known:
                noise_std = estimate_noise([item["low_resolution"][0].numpy() for item in items])
            self._loaded = (number, data, scale, noise_std)
        return self._loaded[1:]

    def _read(self, number: int) -> _Cropped:
        """Read an input and crop it to its acquired band."""
        format, source = self._sources[number]
        assert isinstance(format, VolumeFormat)
        volume = format.read(source, self._frame)
        axes = tuple(axis for axis in range(3) if axis != self.slice_axis)
        used = np.any(volume.data, axis=axes)
        data, shares = volume.data, dict.fromkeys(axes, 1.0)
        for axis, share in enumerate(volume.acquired):
            if share < 1 and axis in axes:
                size = data.shape[axis]
                data = truncate_band(data, axis, min(size, 2 * max(1, round(share * size / 2))))
                shares[axis] = data.shape[axis] / size
        by_spectrum = [axis for axis in axes if shares[axis] == 1]
        data, kept, _ = crop_to_acquired_band(data, by_spectrum)
        shares |= dict(zip(by_spectrum, kept, strict=True))
        affine = high_resolution_affine(volume.affine, [shares.get(axis, 1.0) for axis in range(3)])
        rows, columns = (shares[axis] for axis in axes)
        if min(rows, columns) < 1:
            logger.info(
                "%s: interpolated; kept %.2f of the band along rows, %.2f along columns.", source.path, rows, columns
            )
        skipped = tuple(np.flatnonzero(~used).tolist())
        return _Cropped(replace(volume, data=data, affine=affine), skipped, (rows, columns))

    def _describe(self, number: int) -> InputVolume:
        """The fine volume's properties for a writer."""
        format, source = self._sources[number]
        cropped = self._read(number)
        volume, skipped = cropped.volume, cropped.skipped
        factors = [self.factors[0], 1, 1]
        factors[3 - self.slice_axis] = self.factors[1]
        shape = list(volume.data.shape)
        affine, notes = volume.affine, volume.warnings
        if self.simulate:
            shape = [n // f * f for n, f in zip(shape, factors, strict=True)]
            if not all(shape):
                raise ValueError(
                    f"{source.path}: {volume.data.shape} voxels are too few for the factor {max(factors)}."
                )
            notes += ("low resolution was simulated from magnitude images; this is not the restoration of a scan",)
        else:
            shape = [n * f for n, f in zip(shape, factors, strict=True)]
            affine = high_resolution_affine(affine, factors, blocks=self.degradation != "truncation")
        what = f"a restored volume of {' x '.join(map(str, shape))} voxels"
        check_memory(source.path, what, _COPIES * 4 * math.prod(shape))
        used = [i for i in range(shape[self.slice_axis]) if i not in skipped]
        if skipped:
            logger.warning("%s: %d slices are zero everywhere; they are skipped.", source.path, len(skipped))
        return InputVolume(
            path=source.path,
            stem=source.name,
            format=format,
            shape=(shape[0], shape[1], shape[2]),
            slices=tuple(used[i] for i in spread(len(used), self._wanted)),
            skipped=skipped,
            affine=affine,
            simulated=self.simulate,
            coils=0,
            has_truth=self.simulate,
            kept_band=cropped.kept_band,
            slice_axis=self.slice_axis,
            attributes=volume.attributes,
            origin=f"{'simulated' if self.simulate else 'measured'} low resolution: {self._how}",
            warnings=notes,
            original=volume.original,
        )


def estimate_noise(slices: Sequence[NDArray[np.floating]]) -> float:
    """Estimate the standard deviation of the noise of magnitude images, which is never 0.

    It is the median over slices of scikit-image's wavelet estimate, and at least their foreground over an SNR of 200.

    Args:
        slices: images (h, w) with signal, in one unit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> round(estimate_noise([10 + rng.normal(size=(64, 64)) for _ in range(5)]), 1)
        1.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the empty median of an image without detail, and of few columns
        wavelet = np.nanmedian([estimate_sigma(image) for image in slices])
    return max(float(np.nan_to_num(wavelet)), float(np.median([foreground_mean(i) for i in slices])) / _BEST_SNR)
