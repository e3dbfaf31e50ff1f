"""fastMRI's HDF5 files: a lazy reader that trusts nothing, and a writer.

The format is that of https://fastmri.med.nyu.edu and ``fastmri.data.mri_data.SliceDataset``: ``kspace`` complex
(slices, H, W) or (slices, coils, H, W), readout along H and phase encoding along W, the centred orthonormal Fourier
transform of the image; ``reconstruction_esc`` or ``reconstruction_rss`` (slices, h, w); ``mask`` (W,) in test files;
``ismrmrd_header``, XML; attributes such as ``max``, ``norm``, ``acquisition``, ``patient_id``, and in test files
``acceleration`` and ``num_low_frequency``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from fastmri.data.transforms import center_crop
from numpy.typing import ArrayLike, NDArray

from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.data.formats.base import KspaceFormat
from monai_d3gm.data.formats.encoding import EncodingHeader, encoding_header_xml, parse_encoding_header
from monai_d3gm.data.formats.hdf5 import HDF5, check_stored, small_dataset, stored_dataset
from monai_d3gm.data.formats.sampling import refine_mask, survey
from monai_d3gm.data.formats.volumes import Extent, KspaceFileError, Source
from monai_d3gm.files import TooLargeError, atomic_path, check_memory, one_line

RECONSTRUCTIONS = {1: "reconstruction_esc", 2: "reconstruction_rss"}
"""Name of the reference image for one coil and for several."""

_COPIES = 6
"""Arrays of a slice's k-space that lie in memory at once: as read, masked, as images, the coils' maps and so on."""

_SAME_IMAGE = 1e-2
"""A reference that differs by less, relative to its norm, from the image of the data beside it is that image."""


@dataclass(frozen=True)
class KspaceFile:
    """A checked fastMRI file; slices are read when asked for, and the file is closed in between.

    Attributes:
        path: the file.
        num_slices: number of slices.
        coils: number of coils; 0 where ``kspace`` has no coil axis, or one coil.
        shape: rows (readout) and columns (phase encoding) of k-space.
        header: encoding header; None where the file has none.
        mask: where k-space was sampled, None for a fully sampled file: bool (W,) for columns, (H, 1) for rows, and
            (H, W) for a pattern along both axes.
        reconstruction: name of the reference image's dataset; None where there is none, or where it is the image of
            undersampled data and so no truth.
        crop: rows and columns of the final image: the reference's, else the header's; as in fastMRI both are W where
            that is less than the columns asked for.
        padding: first column that was encoded and the one after the last.
        empty: numbers of the slices that are zero everywhere.
        has_maps: there are coil sensitivity maps in the file, the dataset ``sensitivity_maps``.
        attributes: the file's attributes as Python scalars and strings.
        warnings: for the readers of the result.
        identity: none: the file does not say where the slices lie.
    """

    path: Path
    num_slices: int
    coils: int
    shape: tuple[int, int]
    header: EncodingHeader | None
    mask: NDArray[np.bool_] | None
    reconstruction: str | None
    crop: tuple[int, int]
    padding: tuple[int, int]
    empty: tuple[int, ...] = ()
    has_maps: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4), from voxels of the final volume to mm: the spacing alone, since the file tells no position."""
        return np.diag([*((1.0, 1.0, 1.0) if self.header is None else self.header.spacing), 1.0])

    def read_kspace(self, index: int) -> torch.Tensor:
        """Return slice ``index`` of ``kspace``: complex64 (H, W), or (coils, H, W) for two coils and more.

        Raises:
            KspaceFileError: the slice cannot be read, holds NaN or infinity, or is zero everywhere.
        """
        data = self._read("kspace", index).astype(np.complex64)
        if not data.any():
            raise KspaceFileError(f"{self.path}: slice {index}: kspace is zero everywhere.")
        return torch.from_numpy(data if self.coils else data.reshape(self.shape))

    def read_reconstruction(self, index: int) -> torch.Tensor | None:
        """Return the reference magnitude of slice ``index``, float32 (h, w), or None where the file has none.

        Raises:
            KspaceFileError: the slice cannot be read, or holds NaN or infinity.
        """
        if self.reconstruction is None:
            return None
        return torch.from_numpy(self._read(self.reconstruction, index).astype(np.float32))

    def read_maps(self, index: int) -> torch.Tensor | None:
        """Return the coil sensitivity maps of slice ``index``, complex64 (coils, H, W), or None where there are none.

        Raises:
            KspaceFileError: they cannot be read, hold NaN or infinity, or do not fit ``kspace``.
        """
        if not self.has_maps:
            return None
        data = self._read("sensitivity_maps", index)
        if data.dtype.kind != "c" or data.shape != (self.coils, *self.shape):
            raise KspaceFileError(
                f"{self.path}: slice {index}: sensitivity_maps is {data.dtype} of shape {data.shape}; accepted: "
                f"complex, {(self.coils, *self.shape)}."
            )
        return torch.from_numpy(data.astype(np.complex64))

    def _read(self, name: str, index: int) -> NDArray[Any]:
        if not 0 <= index < self.num_slices:
            raise KspaceFileError(f"{self.path}: slice {index}: accepted: 0 to {self.num_slices - 1}.")
        try:
            with h5py.File(self.path, "r") as file:
                data: NDArray[Any] = stored_dataset(self.path, file, name)[index]
        except KspaceFileError:
            raise
        except Exception as error:  # as above
            raise KspaceFileError(f"{self.path}: slice {index}: {name} cannot be read: {one_line(error)}") from error
        if not np.isfinite(data).all():
            raise KspaceFileError(f"{self.path}: slice {index}: {name} holds NaN or infinity.")
        return data


def _is_of_these_data(kspace: NDArray[Any], reference: NDArray[Any]) -> bool:
    """Whether a reference image is, up to a factor, the inverse Fourier transform of the k-space beside it."""
    images = ifft2c(torch.from_numpy(kspace.astype(np.complex64))).abs()
    image = images.square().reshape(-1, *images.shape[-2:]).sum(0).sqrt()
    if reference.shape[0] > image.shape[0] or reference.shape[1] > image.shape[1]:
        return False
    found, stated = center_crop(image, reference.shape).double().numpy(), reference.astype(np.float64)
    factor = (found * stated).sum() / max((found**2).sum(), np.finfo(float).tiny)
    return bool(np.linalg.norm(stated - factor * found) < _SAME_IMAGE * np.linalg.norm(stated))


def _parse_mask(path: Path, data: NDArray[Any], width: int) -> NDArray[np.bool_]:
    if data.shape != (width,):
        raise KspaceFileError(f"{path}: mask has shape {data.shape}; accepted: ({width},), the columns of kspace.")
    if data.dtype.kind not in "bfiu" or not np.isin(data, (0, 1)).all():
        raise KspaceFileError(f"{path}: mask holds other values than 0 and 1.")
    if not data.any():
        raise KspaceFileError(f"{path}: mask has no sampled line.")
    return data.astype(bool)


def _plain(value: Any) -> Any:
    """An attribute as a Python scalar or string; arrays stay as lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def open_kspace(path: str | os.PathLike[str]) -> KspaceFile:
    """Check a fastMRI file and return a lazy reader of it.

    Args:
        path: HDF5 file.

    Raises:
        KspaceFileError: it is no HDF5 file, is truncated, or its kspace, mask, header or reference is missing where
            required, linked from elsewhere, or of the wrong type or shape.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "file.h5"
        >>> write_kspace(target, np.ones((2, 8, 6), np.complex64), recon_size=(4, 4))
        >>> file = open_kspace(target)
        >>> file.num_slices, file.coils, file.shape, file.crop
        (2, 0, (8, 6), (4, 4))
    """
    path = Path(path)
    if not path.is_file():
        raise KspaceFileError(f"{path}: no such file.")
    try:
        with h5py.File(path, "r") as file:
            return _check(path, file)
    except (KspaceFileError, TooLargeError):
        raise
    except Exception as error:  # h5py raises many kinds for a damaged file
        raise KspaceFileError(f"{path}: not an HDF5 file, or damaged: {one_line(error)}") from error


def _check(path: Path, file: h5py.File) -> KspaceFile:
    if file.get("kspace", getlink=True) is None:
        raise KspaceFileError(f"{path}: dataset kspace is missing.")
    kspace = stored_dataset(path, file, "kspace")
    if kspace.dtype.kind != "c":
        raise KspaceFileError(f"{path}: kspace has dtype {kspace.dtype}; accepted: complex64.")
    if kspace.ndim not in (3, 4) or 0 in kspace.shape:
        raise KspaceFileError(
            f"{path}: kspace has shape {kspace.shape}; accepted: (slices, H, W) or (slices, coils, H, W)."
        )
    rows, columns = kspace.shape[-2:]
    check_stored(path, kspace, "kspace")
    check_memory(path, f"a slice of k-space of {kspace.shape[1:]} samples", _COPIES * 8 * math.prod(kspace.shape[1:]))
    coils = kspace.shape[1] if kspace.ndim == 4 and kspace.shape[1] > 1 else 0

    def optional(name: str) -> h5py.Dataset | None:
        return stored_dataset(path, file, name) if file.get(name, getlink=True) is not None else None

    header_data, mask_data = optional("ismrmrd_header"), optional("mask")
    header = (
        None if header_data is None else parse_encoding_header(path, small_dataset(path, header_data, "ismrmrd_header"))
    )
    mask = None if mask_data is None else _parse_mask(path, small_dataset(path, mask_data, "mask"), columns)
    expected = RECONSTRUCTIONS[2 if coils or RECONSTRUCTIONS[1] not in file else 1]
    reference = optional(expected) if kspace.ndim == 4 or expected == RECONSTRUCTIONS[1] else None
    if reference is not None and (
        reference.dtype.kind not in "fiu" or reference.ndim != 3 or len(reference) != len(kspace)
    ):
        raise KspaceFileError(
            f"{path}: {expected} has shape {reference.shape} and dtype {reference.dtype}; accepted: real "
            f"({len(kspace)}, h, w)."
        )
    if reference is not None:
        check_stored(path, reference, expected)
        check_memory(path, f"a slice of {expected} of {reference.shape[1:]}", 8 * math.prod(reference.shape[1:]))
    crop = (rows, columns) if header is None else header.recon_size[:2]
    if reference is not None:
        crop = reference.shape[1:]
    if columns < crop[1]:
        crop = (columns, columns)
    if crop[0] > rows or 0 in crop:
        raise KspaceFileError(f"{path}: images of {crop[0]} rows do not fit into kspace of shape {kspace.shape}.")
    seen = survey(path, len(kspace), columns, lambda index: kspace[index])
    notes, padding = [], seen.extent
    if header is not None and header.padding is not None:
        padding = max(padding[0], header.padding[0]), min(padding[1], header.padding[1])
        if padding[0] >= padding[1]:
            raise KspaceFileError(f"{path}: ismrmrd_header gives the lines {header.padding}, where kspace is zero.")
    stated, mask = mask, refine_mask(path, mask, seen)
    if stated is None and mask is not None:
        notes.append("no mask: where k-space is exactly zero in all coils and slices it counts as not sampled")
    if mask is not None and reference is not None:
        index = seen.patterns[0][0] if seen.patterns else 0
        if _is_of_these_data(kspace[index], reference[index]):
            notes.append(f"{expected} is the image of the undersampled data; it is no truth")
            reference = None
    return KspaceFile(
        path=path,
        num_slices=len(kspace),
        coils=coils,
        shape=(rows, columns),
        header=header,
        mask=mask,
        reconstruction=None if reference is None else expected,
        crop=(int(crop[0]), int(crop[1])),
        padding=padding,
        empty=seen.empty,
        has_maps="sensitivity_maps" in file,
        warnings=tuple(notes),
        attributes={name: _plain(value) for name, value in file.attrs.items()},
    )


def write_kspace(
    path: str | os.PathLike[str],
    kspace: ArrayLike,
    *,
    recon_size: tuple[int, int],
    reconstruction: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    padding: tuple[int, int] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a fastMRI file whole or not at all.

    Args:
        path: the file, ending in .h5.
        kspace: complex (slices, H, W), or (slices, coils, H, W); stored as complex64.
        recon_size: rows and columns of the final image, for the header.
        reconstruction: reference magnitude (slices, h, w); ``max`` and ``norm`` are set from it.
        mask: (W,), for test files; k-space is zero outside it.
        padding: first encoded column and the one after the last.
        spacing: voxel size of the final image in mm: rows, columns, slices.
        attributes: further attributes, such as acquisition, patient_id, acceleration.
        overwrite: replace a file that is there.

    Raises:
        KspaceFileError: the arrays do not fit together, as `open_kspace` checks it.
        OutputError: the file cannot be written, or is there already.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "file.h5"
        >>> attributes = {"acquisition": "AXT2"}
        >>> write_kspace(target, np.ones((1, 2, 8, 8), np.complex64), recon_size=(8, 8), attributes=attributes)
        >>> open_kspace(target).attributes["acquisition"]
        'AXT2'
    """
    data = np.asarray(kspace)
    if data.ndim not in (3, 4):
        raise KspaceFileError(
            f"{path}: kspace has shape {data.shape}; accepted: (slices, H, W) or (slices, coils, H, W)."
        )
    values: dict[str, Any] = {"acquisition": "unknown", "patient_id": "unknown"}
    if data.dtype.kind == "c":
        data = data.astype(np.complex64)
    with atomic_path(path, overwrite=overwrite) as temporary:
        with h5py.File(temporary, "w") as file:
            file["kspace"] = data
            file["ismrmrd_header"] = encoding_header_xml(
                (data.shape[-2], data.shape[-1]), recon_size, padding=padding, spacing=spacing
            )
            if reconstruction is not None:
                truth = np.asarray(reconstruction, dtype=np.float32)
                file[RECONSTRUCTIONS[1 if data.ndim == 3 else 2]] = truth
                values |= {"max": float(truth.max()), "norm": float(np.linalg.norm(truth))}
            if mask is not None:
                file["mask"] = np.asarray(mask)
            file.attrs.update(values | dict(attributes or {}))
        try:
            open_kspace(temporary)
        except KspaceFileError as error:
            raise KspaceFileError(str(error).replace(str(temporary), str(path))) from None


def write_submission(path: str | os.PathLike[str], volume: ArrayLike, *, overwrite: bool = False) -> None:
    """Write reconstructions in fastMRI's submission format (``fastmri.save_reconstructions``), whole or not at all.

    Args:
        path: the file, named as the k-space file.
        volume: magnitude (slices, h, w), stored as float32 in the dataset ``reconstruction``.
        overwrite: replace a file that is there.

    Raises:
        ValueError: ``volume`` is not 3-D, or holds NaN or infinity.
        OutputError: the file cannot be written, or is there already.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "file.h5"
        >>> write_submission(target, np.zeros((2, 4, 4)))
        >>> with h5py.File(target) as file:
        ...     file["reconstruction"].shape
        (2, 4, 4)
    """
    data = np.asarray(volume, dtype=np.float32)
    if data.ndim != 3 or not np.isfinite(data).all():
        raise ValueError(f"volume has shape {data.shape}; accepted: (slices, h, w), finite.")
    with atomic_path(path, overwrite=overwrite) as temporary:
        with h5py.File(temporary, "w") as file:
            file["reconstruction"] = data


class FastMri(KspaceFormat):
    """fastMRI's HDF5 files: k-space in the dataset ``kspace``."""

    name = "fastmri"
    title = "fastMRI k-space"
    suffixes = (".h5", ".hdf5")

    def recognise(self, path: Path, start: bytes) -> bool:
        """HDF5 with ``kspace``, or HDF5 that cannot be opened: the reader names the fault."""
        if not start.startswith(HDF5):
            return False
        try:
            with h5py.File(path, "r") as file:
                return "kspace" in file
        except (OSError, RuntimeError, KeyError):
            return True

    def extent(self, path: Path) -> Extent:
        """The shape of ``kspace``."""
        with h5py.File(path, "r") as file:
            shape = stored_dataset(path, file, "kspace").shape
        return Extent((shape[-2], shape[-1], shape[0]), shape[1] if len(shape) == 4 else 1)

    def open(self, source: Source, *, measurement: str | None = None, axes: str | None = None) -> KspaceFile:
        """`open_kspace`; a file holds one measurement."""
        return open_kspace(source.path)
