"""Slices of k-space to restore, from fastMRI files or simulated from NIfTI magnitude volumes, one dict each.

The conventions are those of the theory's section on measurement consistency: the undersampled axis is the last,
k-space, images and ``noise_std`` share one scale, in which the 99.5th percentile of the zero-filled magnitude is 1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastmri
import numpy as np
import torch
from fastmri.data.transforms import center_crop
from numpy.typing import NDArray
from torch.utils.data import Dataset

from monai_d3gm.consistency.coils import COMPRESS_FROM, prepare_coils, virtual_coils
from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.consistency.noise import beside_field, estimate_noise_std, noise_covariance, outer_samples
from monai_d3gm.data.formats.base import KspaceFormat, VolumeFormat
from monai_d3gm.data.formats.maps import open_maps, read_mask
from monai_d3gm.data.formats.nifti import Nifti, VolumeFileError
from monai_d3gm.data.formats.registry import names_of
from monai_d3gm.data.formats.sampling import acceleration_of
from monai_d3gm.data.formats.volumes import InputVolume, KspaceFileError, KspaceReader, MagnitudeVolume
from monai_d3gm.data.restoration.inputs import check_slices, find_sources, spread
from monai_d3gm.files import one_line
from monai_d3gm.transforms.kspace import (
    CartesianMaskd,
    CompressedSensingd,
    CropReadoutd,
    NormalizeKspaced,
    SimulateKspaced,
    ZeroFilled,
)
from monai_d3gm.transforms.kspace.functional import (
    MASK_PER,
    MASK_TYPES,
    cartesian_mask,
    crop_to_acquired_band,
)

logger = logging.getLogger(__name__)

AXES = ("phase", "frequency")
"""The axis that is undersampled: the columns as they are stored (phase encoding), or the rows (readout)."""

_SIMULATED = "k-space was simulated from magnitude images; this is not the reconstruction of a scan"


def _lacks_rows(mask: NDArray[np.bool_] | None) -> bool:
    """Whether whole rows were not sampled, so that the readout lies along the columns."""
    return mask is not None and mask.ndim == 2 and mask.shape[1] == 1


def _leading(mask: NDArray[np.bool_], kspace: torch.Tensor, transposed: bool) -> torch.Tensor:
    """A mask (W,), (H, 1) or (H, W) as a factor of k-space whose rows and columns are exchanged or not."""
    plane = torch.from_numpy(np.atleast_2d(mask))
    plane = plane.mT if transposed else plane
    return plane.reshape((1,) * (kspace.ndim - 2) + plane.shape)


def _coil_word(coils: int) -> str:
    return "single-coil" if coils <= 1 else "multi-coil"


class KspaceSliceDataset(Dataset):
    """Undersampled slices to restore, read when asked for.

    Fully sampled k-space of fastMRI files, ISMRMRD raw data and arrays is undersampled here; undersampled k-space is
    taken as it is, whether it comes with a mask or with zeros where it was not sampled.
    NIfTI files are magnitude images: they are cropped to the band that was acquired and k-space is simulated from
    their last axis' slices. The random numbers of a slice depend only on ``seed``, the file's name and the
    slice's number.

    A slice is a dict: ``kspace`` complex64 (H, W) or (coils, H, W), zero where not sampled; ``mask`` bool (1, W) or
    (1, 1, W), (H, W) or (1, H, W) for a pattern along both axes; ``phase`` complex64 (H, W) of modulus 1, the phase
    reference that ``mu`` and ``image`` are divided by;
    ``mu`` float32 (2, H, W), the L1-wavelet estimate of the image; ``zero_filled`` float32 (2, H, W), not
    divided by the phase; ``image`` float32 (2, H, W), the fully sampled complex image (simulated: free of noise), and
    ``reference`` float32 (h, w), the magnitude to compare with, both absent where no truth is known;
    ``sensitivity_maps`` complex64 (coils, H, W) for several coils, without the phase; ``noise_std``;
    ``scale``, physical = normalised * scale; ``crop`` (h, w), the central part of the image that is written, or
    None for all; ``transposed``, True where ``axis`` is "frequency" or the file lacks rows: rows and columns of all of
    these are then exchanged; ``key`` "stem:slice"; ``source``; ``slice``; ``num_slices``; ``volume``, index into
    `volumes`; ``affine``.

    Measured k-space of several coils is whitened, from eight coils on compressed, and its maps are estimated and
    checked (`monai_d3gm.consistency.coils`): ``kspace`` and ``sensitivity_maps`` are those of the virtual coils.
    ``intensity`` float32 (H, W) is then a further factor, physical = normalised * scale * intensity, and ``coils`` says
    what was done.

    Args:
        inputs: files or folders of fastMRI .h5, ISMRMRD, NumPy, MATLAB, BART and NIfTI files; the content decides.
        acceleration: at least 1.
        mask: one of fastMRI's masks: random, equispaced, equispaced_fraction, magic, magic_fraction.
        axis: "phase" undersamples the columns, "frequency" the rows.
        center_fraction: share of the lines sampled around the centre; 0.32 / acceleration if None.
        mask_per: ``slice`` draws a mask for each slice, ``volume`` one for all slices of a file, as fastMRI does; with
            seed 0 it is the one that fastMRI draws for this file name.
        seed: seed of phase, noise, and mask.
        snr: of simulated k-space: mean of the foreground over the noise's standard deviation per part.
        coils: of simulated k-space.
        noise_std: of measured k-space: standard deviation per real and imaginary part in the file's units; None
            estimates it from the outermost samples. 0.0 trusts the measurement of one coil exactly, and is refused for
            several: their exact fit amplifies noise.
        estimate_noise: of simulated k-space: estimate the noise in the same way, in place of knowing it.
        maps: a file of coil sensitivity maps (`monai_d3gm.data.formats.maps`) for all inputs with several coils, in
            place of the file's own ``sensitivity_maps`` or of estimated ones.
        mask_file: a file with a mask (`monai_d3gm.data.formats.maps.read_mask`) for all inputs, in place of a random
            one; of k-space that is undersampled already, what lies in it is taken.
        axes: names of the axes of NumPy and MATLAB arrays (`monai_d3gm.data.formats.array_kspace`).
        slices: "all", how many, evenly spaced, or such as "central:60".
        measurement: name of the measurement to take of ISMRMRD files that hold several.

    Raises:
        ValueError: an argument is out of range, or an input cannot be used; the message names it.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> dataset = KspaceSliceDataset(bundled_epi_path(), acceleration=4, slices=2)
        >>> item = dataset[0]
        >>> len(dataset), item["key"], item["mu"].shape
        (2, 'example4d:6', torch.Size([2, 128, 96]))
    """

    formats = (KspaceFormat, Nifti)
    """The formats that k-space is read or simulated from."""

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        acceleration: float = 4,
        mask: str = "random",
        axis: str = "phase",
        center_fraction: float | None = None,
        mask_per: str = "slice",
        seed: int = 0,
        snr: float = 50.0,
        coils: int = 1,
        noise_std: float | None = None,
        estimate_noise: bool = False,
        maps: str | os.PathLike[str] | None = None,
        mask_file: str | os.PathLike[str] | None = None,
        axes: str | None = None,
        slices: str | int = "all",
        measurement: str | None = None,
    ) -> None:
        if mask not in MASK_TYPES:
            raise ValueError(f"mask is {mask!r}; accepted: {', '.join(MASK_TYPES)}.")
        if axis not in AXES:
            raise ValueError(f"axis is {axis!r}; accepted: {', '.join(AXES)}.")
        if mask_per not in MASK_PER:
            raise ValueError(f"mask_per is {mask_per!r}; accepted: {', '.join(MASK_PER)}.")
        check_slices(slices)
        if noise_std is not None and not (np.isfinite(noise_std) and noise_std >= 0):
            raise ValueError(f"noise_std is {noise_std}; accepted: 0 or more, or None.")
        if mask_file is not None and axis != "phase":
            raise ValueError(f"axis is {axis!r} with mask_file, which gives the undersampled axis; accepted: 'phase'.")
        self.transposed = axis == "frequency"
        self.noise_std, self._estimate_noise = noise_std, estimate_noise
        self._maps = None if maps is None else open_maps(maps)
        self._mask = None if mask_file is None else read_mask(mask_file)
        self._mask_file = mask_file
        self._wanted = slices
        self._simulate = SimulateKspaced("image", snr=snr, coils=coils, seed=seed)
        self._mask_arguments: dict[str, Any] = {
            "acceleration": acceleration,
            "mask": mask,
            "center_fraction": center_fraction,
            "per": mask_per,
            "seed": seed,
        }
        self._coils = coils
        self._loaded: tuple[int, NDArray[np.float32]] | None = None
        self._files: dict[int, KspaceReader] = {}
        self._sources = find_sources(inputs, names_of(self.formats))
        self._virtual: dict[int, int] = {}
        self.volumes: list[InputVolume] = []
        for number, (format, source) in enumerate(self._sources):
            if isinstance(format, KspaceFormat):
                self._files[number] = format.open(source, measurement=measurement, axes=axes)
                self.volumes.append(self._describe_kspace(number))
            else:
                self.volumes.append(self._describe_magnitude(number))
        self._index = [(v, s) for v, volume in enumerate(self.volumes) for s in volume.slices]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, slice_number = self._index[index]
        volume = self.volumes[number]
        item: dict[Any, Any] = {
            "key": f"{volume.stem}:{slice_number}",
            "source": str(volume.path),
            "slice": slice_number,
            "num_slices": volume.shape[2],
            "volume": number,
            "affine": torch.from_numpy(volume.affine),
            "transposed": self.transposed or _lacks_rows(self._mask),
        }
        try:
            if number in self._files:
                return self._measured(item, self._files[number])
            return self._simulated(item, self._magnitude(number))
        except (KspaceFileError, VolumeFileError):
            raise
        except ValueError as error:
            raise KspaceFileError(f"{volume.path}: slice {slice_number}: {one_line(error)}") from error

    def _given_mask(self, path: Path, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
        """The mask of the option, which has to fit an input's rows and columns; None where one is drawn."""
        mask = self._mask
        if mask is not None and mask.shape not in ((shape[1],), (shape[0], 1), shape):
            raise KspaceFileError(
                f"{path}: the mask {self._mask_file} has shape {mask.shape}; accepted: {(shape[1],)}, "
                f"{(shape[0], 1)} or {shape}, as the k-space has them."
            )
        return mask

    def _pattern(self, file: KspaceReader) -> NDArray[np.bool_] | None:
        """Where a file's k-space is taken: (W,), (H, 1) or (H, W); None where a mask is drawn."""
        mask = self._given_mask(file.path, file.shape)
        if mask is None:
            return file.mask
        if mask.shape[-1] > 1:  # samples that were not encoded are zero
            columns = np.arange(mask.shape[-1])
            mask = mask & (columns >= file.padding[0]) & (columns < file.padding[1])
        mask = mask if file.mask is None else mask & file.mask
        if not mask.any():
            raise KspaceFileError(f"{file.path}: kspace is zero on all of the mask {self._mask_file}.")
        return mask

    def _check_mask(self, path: Path, rows: int, columns: int) -> None:
        """Fail now, not at the first slice, where no such mask exists for this number of lines."""
        if self._given_mask(path, (rows, columns)) is not None:
            return
        arguments = self._mask_arguments
        try:
            cartesian_mask(
                rows if self.transposed else columns,
                arguments["acceleration"],
                arguments["mask"],
                center_fraction=arguments["center_fraction"],
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _describe_kspace(self, number: int) -> InputVolume:
        format, source = self._sources[number]
        file = self._files[number]
        if self.noise_std == 0 and file.coils:
            raise KspaceFileError(
                f"{file.path}: noise_std is 0 with {file.coils} coils, whose exact fit amplifies noise; accepted: "
                "above 0, or None to estimate it."
            )
        origin, attributes = "undersampled here", dict(file.attributes)
        attributes.pop("acceleration", None)  # only a mask tells it
        pattern = self._pattern(file)
        if pattern is None:
            self._check_mask(file.path, *file.shape)
        elif self.transposed and not _lacks_rows(pattern):
            raise KspaceFileError(
                f"{file.path}: the file has a mask along the phase axis; axis 'frequency' does not fit."
            )
        else:
            attributes["acceleration"] = round(acceleration_of(pattern), 3)
            how = "as acquired" if self._mask is None else f"by the mask {Path(self._mask_file or '').name}"
            origin = f"undersampled {how}, {attributes['acceleration']:.3g}-fold"
        used = [number for number in range(file.num_slices) if number not in file.empty]
        return InputVolume(
            path=file.path,
            stem=source.name,
            format=format,
            shape=(*file.crop, file.num_slices),
            slices=tuple(used[i] for i in spread(len(used), self._wanted)),
            skipped=file.empty,
            affine=file.affine,
            simulated=False,
            coils=max(1, file.coils),
            has_truth=file.mask is None or file.reconstruction is not None,
            kept_band=(1.0, 1.0),
            attributes=attributes,
            origin=f"measured {_coil_word(max(1, file.coils))} k-space, {origin}",
            warnings=file.warnings,
            original=file.identity,
        )

    def _read(self, number: int) -> MagnitudeVolume:
        """The volume as it is in the file; of several the first."""
        format, source = self._sources[number]
        assert isinstance(format, VolumeFormat)
        return format.read(source, frame=0)

    def _describe_magnitude(self, number: int) -> InputVolume:
        format, source = self._sources[number]
        volume, path = self._read(number), source.path
        data, kept, affine = crop_to_acquired_band(volume.data, (0, 1), volume.affine)
        if min(kept) < 1 or affine is None:
            logger.info("%s: interpolated; kept %.2f of the band along rows, %.2f along columns.", path, *kept)
        self._loaded = (number, data)
        used: NDArray[np.bool_] = np.any(volume.data, axis=(0, 1))
        skipped = tuple(np.flatnonzero(~used).tolist())
        if skipped:
            logger.warning("%s: %d of %d slices are zero everywhere; they are skipped.", path, len(skipped), len(used))
        self._check_mask(path, *data.shape[:2])
        attributes = dict(volume.attributes)
        if self._mask is not None:
            attributes["acceleration"] = round(acceleration_of(self._mask), 3)
        return InputVolume(
            path=path,
            stem=source.name,
            format=format,
            shape=(data.shape[0], data.shape[1], data.shape[2]),
            slices=tuple(np.flatnonzero(used)[spread(int(used.sum()), self._wanted)].tolist()),
            skipped=skipped,
            affine=volume.affine if affine is None else affine,
            simulated=True,
            coils=self._coils,
            has_truth=True,
            kept_band=(kept[0], kept[1]),
            attributes=attributes,
            origin=f"simulated {_coil_word(self._coils)} k-space from magnitude images",
            warnings=(*volume.warnings, _SIMULATED),
            original=volume.original,
        )

    def _magnitude(self, number: int) -> NDArray[np.float32]:
        """The volume on its acquired band; the last one read is kept."""
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = (number, crop_to_acquired_band(self._read(number).data, (0, 1))[0])
        return self._loaded[1]

    def _simulated(self, item: dict[Any, Any], volume: NDArray[np.float32]) -> dict[Any, Any]:
        magnitude = volume[:, :, item["slice"]]
        item["image"] = magnitude.T if item["transposed"] else magnitude
        item = self._simulate(item)
        item["reference"] = item["image"].norm(dim=0)
        item["crop"] = None
        if self._mask is None:
            item = CartesianMaskd("kspace", **self._mask_arguments)(item)
        else:
            item["mask"] = _leading(self._mask, item["kspace"], item["transposed"])
            item["kspace"] = item["kspace"] * item["mask"]
        if self._estimate_noise:
            item["noise_std"] = estimate_noise_std(item["kspace"])
        item["mu"] = ZeroFilled()(item["kspace"], item.get("sensitivity_maps"))
        return self._normalize(item)

    def _measured(self, item: dict[Any, Any], file: KspaceReader) -> dict[Any, Any]:
        full = file.read_kspace(item["slice"])
        reference = file.read_reconstruction(item["slice"])
        maps = self._given_maps(file, item["slice"])
        crop = file.crop
        pattern = self._pattern(file)
        item["transposed"] = self.transposed or _lacks_rows(pattern)
        if item["transposed"]:
            full = full.mT
            reference, maps = (None if x is None else x.mT for x in (reference, maps))
            crop = (crop[1], crop[0])
        item["kspace"] = full
        if pattern is None:
            # fastMRI leaves the columns outside the encoded ones out of the mask; they are columns only as stored.
            padding = None if self.transposed else file.padding
            item = CartesianMaskd("kspace", **self._mask_arguments, padding=padding)(item)
        else:
            item["mask"] = _leading(pattern, full, item["transposed"])
            item["kspace"] = full * item["mask"]
        separable = item["mask"].numel() == item["mask"].shape[-1]  # else the rows do not decouple
        # before the crop, which spreads the zeros of an interpolated readout
        noise = beside_field(item["kspace"], crop[0]) if separable else item["kspace"]
        if separable:
            item["full"] = full
            item = CropReadoutd(("kspace", "full"), crop[0])(item)
            full = item.pop("full")
            maps = None if maps is None else center_crop(maps, (crop[0], maps.shape[-1]))
        item["crop"] = None if crop == full.shape[-2:] else crop
        if file.coils:
            system = prepare_coils(
                item["kspace"],
                item["mask"],
                covariance=noise_covariance(outer_samples(noise)),
                noise_std=self.noise_std,
                maps=maps,
                virtual=self._virtual_coils(item["volume"], file),
            )
            item["kspace"], white = system.apply(item["kspace"]), system.apply(full)
            item["noise_std"], item["intensity"] = system.noise_std, system.intensity
            item["coils"] = system.describe()
            item["sensitivity_maps"] = system.sensitivity.maps
        else:
            white, item["noise_std"] = full, estimate_noise_std(noise) if self.noise_std is None else self.noise_std
        item["mu"] = ZeroFilled()(item["kspace"], item.get("sensitivity_maps"))
        if file.mask is None:
            item["image"] = ZeroFilled()(white, item.get("sensitivity_maps"))
            if reference is None:
                magnitudes = ifft2c(full).abs()
                reference = fastmri.rss(magnitudes) if file.coils else magnitudes
        if reference is not None:
            reference = center_crop(reference, crop)
            item["reference"] = reference / center_crop(item["intensity"], crop) if file.coils else reference
        return self._normalize(item)

    def _given_maps(self, file: KspaceReader, index: int) -> torch.Tensor | None:
        """The user's own maps of a slice: those of the option, else the file's, else None."""
        if not file.coils:
            return None
        if self._maps is not None:
            return self._maps.of_slice(index, file.coils, file.shape)
        return file.read_maps(index)

    def _virtual_coils(self, number: int, file: KspaceReader) -> int | None:
        """How many virtual coils a volume needs: its slices share the number. None leaves it to a single slice."""
        slices = self.volumes[number].slices
        if file.coils < COMPRESS_FROM or len(slices) == 1:
            return None
        if number not in self._virtual:
            looked_at = sorted({slices[len(slices) * part // 4] for part in (1, 2, 3)})
            self._virtual[number] = max(virtual_coils(file.read_kspace(index)) for index in looked_at)
        return self._virtual[number]

    def _normalize(self, item: dict[Any, Any]) -> dict[Any, Any]:
        keys = ("kspace", "mu", "image", "reference", "noise_std")
        item = NormalizeKspaced(keys, allow_missing_keys=True)(item)
        return CompressedSensingd("image", allow_missing_keys=True)(item)
