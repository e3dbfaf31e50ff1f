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
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from fastmri.data.mri_data import et_query
from fastmri.data.transforms import center_crop
from numpy.typing import ArrayLike, NDArray

from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.data.formats.base import Extent, KspaceFormat, Source
from monai_d3gm.files import TooLargeError, atomic_path, check_memory

HDF5 = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""

RECONSTRUCTIONS = {1: "reconstruction_esc", 2: "reconstruction_rss"}
"""Name of the reference image for one coil and for several."""

_NAMESPACE = "http://www.ismrm.org/ISMRMRD"

_BALANCE = 0.9
"""Lines are complete where one side of the centre has at least this share of the other's: less is partial Fourier."""

_STRAY = 0.01
"""The share of zero samples inside the sampled lines up to which they count as measured."""

_SMALL = 1 << 22
"""Bytes of a header or a mask at most, and of other data that are not compared with what the file stores."""

_MOST_RATIO = 200
"""The most that measured data can be compressed: noise hardly is, and lines that were not sampled are few."""

_COPIES = 6
"""Arrays of a slice's k-space that lie in memory at once: as read, masked, as images, the coils' maps and so on."""

_SAME_IMAGE = 1e-2
"""A reference that differs by less, relative to its norm, from the image of the data beside it is that image."""


class KspaceFileError(ValueError):
    """A k-space file cannot be used; the message is one line and names the file, and the slice where it is one."""


@dataclass(frozen=True)
class EncodingHeader:
    """What reconstruction needs of the ISMRMRD header.

    Sizes are (x, y, z) = (readout, phase encoding, partition). Lines ``padding[0]`` to ``padding[1]`` were encoded;
    those outside are zero in the file. It is None where the header states no limits.
    """

    encoded_size: tuple[int, int, int]
    recon_size: tuple[int, int, int]
    padding: tuple[int, int] | None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


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
        warnings: what a reader of the result must know.
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


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split())


def stored_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself.

    A link or external storage would make the program read another file that the sender of this one has chosen.
    """
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise KspaceFileError(f"{path}: {name} is a link; accepted: data stored in the file itself.")
    data = file[name]
    if not isinstance(data, h5py.Dataset):
        raise KspaceFileError(f"{path}: {name} is a group; accepted: a dataset.")
    if data.external or data.is_virtual:
        raise KspaceFileError(f"{path}: {name} is stored in another file; accepted: data stored in the file itself.")
    return data


def check_stored(path: Path, data: h5py.Dataset, name: str) -> None:
    """Refuse a dataset that is described and not there, or that would inflate beyond measure.

    HDF5 gives a fill value for what was never written, and inflates a chunk whole.
    """
    stored = data.id.get_storage_size()
    if data.dtype.hasobject:  # lists of varying length, which lie in the file themselves
        return
    if data.nbytes > _SMALL and data.nbytes > _MOST_RATIO * stored:
        raise KspaceFileError(f"{path}: {name} is described with {data.nbytes} bytes; the file has {stored} of it.")
    if data.chunks is not None:
        chunk = math.prod(data.chunks) * data.dtype.itemsize
        check_memory(path, f"a chunk of {name} of {data.chunks}", 2 * chunk)


def small_dataset(path: Path, data: h5py.Dataset, name: str) -> Any:
    """The value of a dataset that has to be small: a header or a mask."""
    if data.nbytes > _SMALL or data.size > _SMALL:
        raise KspaceFileError(f"{path}: {name} has {data.nbytes} bytes; accepted: up to {_SMALL}.")
    return data[()]


def is_complete(lines: NDArray[np.bool_]) -> bool:
    """Whether the lines along an axis have no gap, and nearly as many lie before the centre as after it.

    Zeros at both ends are interpolation. More of them at one end are partial Fourier, which is not complete.

    Args:
        lines: bool (n,), True where a line was sampled, at least one.

    >>> is_complete(np.array([0, 1, 1, 1, 1, 0], bool)), is_complete(np.array([0, 0, 1, 1, 1, 1], bool))
    (True, False)
    """
    used = np.flatnonzero(lines)
    before, after = len(lines) // 2 - used[0], used[-1] + 1 - len(lines) // 2
    return bool(len(used) == before + after and min(before, after) >= _BALANCE * max(before, after))


def sampling_pattern(sampled: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The mask that zeros in k-space tell of: what was not sampled is exactly zero.

    Args:
        sampled: bool (H, W), True where a sample of any coil is not zero, at least one.

    Returns:
        None where both axes are complete; bool (W,) where whole columns are missing, (H, 1) where whole rows are, and
        (H, W) for any other pattern, such as an ellipse or scattered points.

    >>> sampling_pattern(np.ones((4, 6), bool)) is None
    True
    >>> sampling_pattern(np.arange(12).reshape(2, 6) % 3 > 0).astype(int)
    array([0, 1, 1, 0, 1, 1])
    """
    rows: NDArray[np.bool_] = np.any(sampled, axis=1)
    columns: NDArray[np.bool_] = np.any(sampled, axis=0)
    if sampled[np.ix_(rows, columns)].mean() < 1 - _STRAY:
        return sampled
    if is_complete(rows):
        return None if is_complete(columns) else columns
    return rows[:, None] if is_complete(columns) else np.outer(rows, columns)


def acceleration_of(mask: NDArray[np.bool_]) -> float:
    """How many times fewer samples a mask has than the matrix that it covers.

    The matrix reaches as far to both sides of the centre as the outermost sample, so that interpolation does not count.

    Args:
        mask: bool (W,), (H, 1) or (H, W), at least one of them True.

    >>> acceleration_of(np.arange(12) % 4 == 0), acceleration_of(np.outer(np.arange(4) % 2, np.ones(4)) > 0)
    (4.0, 2.0)
    """
    pattern, cells = np.atleast_2d(mask), 1
    for axis, size in enumerate(pattern.shape):
        used = np.flatnonzero(pattern.any(axis=1 - axis))
        cells *= min(size, 2 * int(max(size // 2 - used[0], used[-1] + 1 - size // 2)))
    return cells / int(pattern.sum())


@dataclass(frozen=True)
class _Survey:
    """What the zeros of k-space tell.

    Attributes:
        patterns: the first slice of each pattern, and `sampling_pattern` there.
        extent: first column that holds samples and the one after the last.
        empty: the slices that are zero everywhere.
    """

    patterns: tuple[tuple[int, NDArray[np.bool_] | None], ...]
    extent: tuple[int, int]
    empty: tuple[int, ...]


def _survey(path: Path, kspace: h5py.Dataset) -> _Survey:
    """Look at every slice; one that cannot be read is passed over: it is an error when it is read."""
    patterns: list[tuple[int, NDArray[np.bool_] | None]] = []
    empty, used = [], np.zeros(kspace.shape[-1], dtype=bool)
    for index in range(len(kspace)):
        try:
            sampled = (kspace[index] != 0).reshape(-1, *kspace.shape[-2:]).any(axis=0)
        except (OSError, RuntimeError):
            continue
        if not sampled.any():
            empty.append(index)
            continue
        found = sampling_pattern(sampled)
        if not any(np.array_equal(found, known) for _, known in patterns):  # type: ignore[arg-type]  # None == None
            patterns.append((index, found))
        used |= sampled.any(axis=0)
    if len(empty) == len(kspace):
        raise KspaceFileError(f"{path}: kspace is zero everywhere.")
    columns = np.flatnonzero(used)
    extent = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, len(used))
    return _Survey(tuple(patterns), extent, tuple(empty))


def _refine(path: Path, mask: NDArray[np.bool_] | None, seen: _Survey) -> NDArray[np.bool_] | None:
    """The mask of a file: what its own mask, if any, and the zeros leave.

    Raises:
        KspaceFileError: nothing is left, or there is no mask and the slices have zeros in different places.
    """
    found = seen.patterns[0][1] if len(seen.patterns) == 1 else None
    if mask is None:
        if len(seen.patterns) > 1:
            first, other = (index for index, _ in seen.patterns[:2])
            raise KspaceFileError(
                f"{path}: slice {other} has zeros in other places than slice {first}; accepted: the same lines in all."
            )
        return found
    mask = mask.copy()
    mask[: seen.extent[0]] = mask[seen.extent[1] :] = False
    mask = mask if found is None else mask & found
    if not mask.any():
        raise KspaceFileError(f"{path}: kspace is zero on all lines of the mask.")
    return mask if mask.ndim == 1 else sampling_pattern(mask)


def _is_of_these_data(kspace: NDArray[Any], reference: NDArray[Any]) -> bool:
    """Whether a reference image is, up to a factor, the inverse Fourier transform of the k-space beside it."""
    images = ifft2c(torch.from_numpy(kspace.astype(np.complex64))).abs()
    image = images.square().reshape(-1, *images.shape[-2:]).sum(0).sqrt()
    if reference.shape[0] > image.shape[0] or reference.shape[1] > image.shape[1]:
        return False
    found, stated = center_crop(image, reference.shape).double().numpy(), reference.astype(np.float64)
    factor = (found * stated).sum() / max((found**2).sum(), np.finfo(float).tiny)
    return bool(np.linalg.norm(stated - factor * found) < _SAME_IMAGE * np.linalg.norm(stated))


def _parse_header(path: Path, xml: Any) -> EncodingHeader:
    """Read sizes and padding as ``fastmri.data.mri_data.SliceDataset`` does; limits are optional in the format."""
    if not isinstance(xml, bytes | str):
        raise KspaceFileError(f"{path}: ismrmrd_header is no text; accepted: ISMRMRD XML.")
    text = xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise KspaceFileError(f"{path}: ismrmrd_header declares entities; accepted: plain ISMRMRD XML.")

    def triple(space: str, group: str, kind: type) -> tuple[Any, Any, Any]:
        x, y, z = (kind(et_query(root, ["encoding", space, group, axis])) for axis in "xyz")
        return x, y, z

    try:
        root = ElementTree.fromstring(text)
        encoded = triple("encodedSpace", "matrixSize", int)
        recon = triple("reconSpace", "matrixSize", int)
        extent = triple("reconSpace", "fieldOfView_mm", float)
        limits = ["encoding", "encodingLimits", "kspace_encoding_step_1"]
        stated = root.find("/".join(f"{{{_NAMESPACE}}}{name}" for name in limits)) is not None
        center, last = (int(et_query(root, [*limits, name])) if stated else 0 for name in ("center", "maximum"))
    except (ElementTree.ParseError, RuntimeError, ValueError) as error:
        raise KspaceFileError(f"{path}: ismrmrd_header cannot be read: {one_line(error)}") from error
    if min(encoded + recon) < 1 or not all(np.isfinite(mm) and mm > 0 for mm in extent):
        raise KspaceFileError(f"{path}: ismrmrd_header gives sizes {encoded}, {recon}, {extent} mm; accepted: above 0.")
    x, y, z = (mm / size for mm, size in zip(extent, recon, strict=True))
    if not stated:
        return EncodingHeader(encoded, recon, None, (x, y, z))
    left = encoded[1] // 2 - center
    padding = max(left, 0), min(left + last + 1, encoded[1])
    if padding[0] >= padding[1]:
        raise KspaceFileError(
            f"{path}: ismrmrd_header gives lines 0 to {last} around {center} of {encoded[1]}; accepted: some of them."
        )
    return EncodingHeader(encoded, recon, padding, (x, y, z))


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
    header = None if header_data is None else _parse_header(path, small_dataset(path, header_data, "ismrmrd_header"))
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
    seen = _survey(path, kspace)
    notes, padding = [], seen.extent
    if header is not None and header.padding is not None:
        padding = max(padding[0], header.padding[0]), min(padding[1], header.padding[1])
        if padding[0] >= padding[1]:
            raise KspaceFileError(f"{path}: ismrmrd_header gives the lines {header.padding}, where kspace is zero.")
    stated, mask = mask, _refine(path, mask, seen)
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


def encoding_header_xml(
    shape: tuple[int, int],
    recon_size: tuple[int, int],
    *,
    padding: tuple[int, int] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """Return an ISMRMRD header for Cartesian data: the elements its schema requires and those fastMRI reads.

    Args:
        shape: rows (readout) and columns (phase encoding) of k-space.
        recon_size: rows and columns of the final image.
        padding: first encoded column and the one after the last; all if None.
        spacing: voxel size of the final image in mm: rows, columns, slices.

    >>> b"encodedSpace" in encoding_header_xml((8, 6), (4, 4))
    True
    """
    left, right = (0, shape[1]) if padding is None else padding
    if not 0 <= left < right <= shape[1]:
        raise ValueError(f"padding is {padding}; accepted: two increasing numbers from 0 to {shape[1]}.")
    ElementTree.register_namespace("", _NAMESPACE)
    root = ElementTree.Element(f"{{{_NAMESPACE}}}ismrmrdHeader")

    def add(parent: ElementTree.Element, name: str, text: object = None) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, f"{{{_NAMESPACE}}}{name}")
        element.text = None if text is None else str(text)
        return element

    add(add(root, "experimentalConditions"), "H1resonanceFrequency_Hz", 63870000)
    encoding = add(root, "encoding")
    for name, size in (("encodedSpace", (*shape, 1)), ("reconSpace", (*recon_size, 1))):
        space = add(encoding, name)
        matrix, extent = add(space, "matrixSize"), add(space, "fieldOfView_mm")
        for axis, count, mm in zip("xyz", size, spacing, strict=True):
            add(matrix, axis, count)
            add(extent, axis, count * mm)
    step = add(add(encoding, "encodingLimits"), "kspace_encoding_step_1")
    for name, value in (("minimum", 0), ("maximum", right - left - 1), ("center", shape[1] // 2 - left)):
        add(step, name, value)
    add(encoding, "trajectory", "cartesian")
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


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

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "file.h5"
    >>> write_kspace(target, np.ones((1, 2, 8, 8), np.complex64), recon_size=(8, 8), attributes={"acquisition": "AXT2"})
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
        """HDF5 with ``kspace``, or HDF5 that cannot be opened: the reader says what is wrong with it."""
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

    def open(self, source: Source, measurement: str | None = None) -> KspaceFile:
        """`open_kspace`; a file holds one measurement."""
        return open_kspace(source.path)
