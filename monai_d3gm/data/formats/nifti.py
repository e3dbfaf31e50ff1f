"""Magnitude volumes in NIfTI files: read, check, write with the geometry kept.

The header is read and checked first. Then the voxels of one volume are read, and of a compressed file all that follows
them too, since its checksum is at the end.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling, array_from_file
from numpy.typing import NDArray

from monai_d3gm.data.formats.base import VolumeFormat
from monai_d3gm.data.formats.sidecar import read_sidecar, sidecar_acquired, sidecar_texts
from monai_d3gm.data.formats.volumes import Extent, InputVolume, MagnitudeVolume, Source
from monai_d3gm.files import TooLargeError, atomic_path, check_memory, one_line

_HEADER = 352
"""Bytes that tell a NIfTI file."""

logger = logging.getLogger(__name__)

_GZIP = b"\x1f\x8b"
_PAIR = b"ni1\0"
_BLOCK = 1 << 20
_COPIES = 3
"""The most arrays of float32 beside the stored voxels: the values, their mask, and the results."""

_PHASE = frozenset({"PHASE", "P", "REAL", "R", "IMAGINARY", "I"})
"""Values of a sidecar's ImageType that are not of a magnitude image."""

_LOOSE_QUATERNION = 1e-3
"""The sum of squares of a stored quaternion may exceed 1 by as much: it was rounded."""


class VolumeFileError(ValueError):
    """A NIfTI file cannot be used; the message names it."""


@dataclass(frozen=True)
class Volume:
    """A magnitude volume: float32 ``data`` (X, Y, Z), ``affine`` (4, 4) in mm, NIfTI ``header`` and ``warnings``."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: nibabel.Nifti1Header
    warnings: tuple[str, ...] = ()


def is_nifti(header: bytes) -> bool:
    """Whether a file that begins with these (inflated) bytes is NIfTI: a whole file, or the header of a pair.

    Example:
        >>> is_nifti(bytes(344) + b"n+1\\0"), is_nifti(b"text")
        (True, False)
    """
    return header[344:348] in (b"n+1\0", _PAIR) or header[4:12] in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")


def files_of(path: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The files of a NIfTI volume: itself; or header and voxels of a pair (.hdr and .img), of which either is given.

    Example:
        >>> files_of("a.nii.gz")
        (PosixPath('a.nii.gz'),)
    """
    path = Path(path)
    match = re.fullmatch(r"(.+)\.(hdr|img)(?:\.gz)?", path.name, re.IGNORECASE | re.DOTALL)
    if match is None:
        return (path,)
    is_header = match[2].lower() == "hdr"
    other = "img" if is_header else "hdr"
    places = [path.with_name(f"{match[1]}.{suffix}") for suffix in (other, other.upper(), f"{other}.gz")]
    partner = next((place for place in places if place.is_file()), None)
    files = (path, partner) if is_header else (partner, path)
    return files if partner is not None and _is_pair(files[0]) else (path,)  # type: ignore[return-value, arg-type]


def _is_pair(header: Path) -> bool:
    try:
        with _opened(header) as file:
            start = file.read(540)
    except (OSError, EOFError):
        return False
    return start[344:348] == _PAIR or start[4:8] == b"ni2\0"


def _opened(path: Path) -> Any:
    """A file for reading, inflated if its content is compressed, whatever its name."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    return gzip.open(path, "rb") if compressed else path.open("rb")


def read_magnitude(path: str | os.PathLike[str], volume_index: int = 0) -> Volume:
    """Read a magnitude volume.

    Where the sform is no affine, the qform is taken, and where neither is one, the voxel size alone, with a warning.

    Args:
        path: NIfTI file, or a file of a pair (.hdr and .img); 2-D, 3-D or 4-D, further axes of length 1.
        volume_index: which volume of a 4-D file.

    Returns:
        The volume; a 2-D image has one slice.

    Raises:
        VolumeFileError: the file is no NIfTI file, is damaged, complex, of another rank, holds NaN or infinity or
            negative values only, or is zero everywhere.
        TooLargeError: it would take more memory than is allowed.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> read_magnitude(bundled_epi_path()).data.shape
        (128, 96, 24)
    """
    path = Path(path)
    try:
        head, *voxels = files_of(path)
        header = _read_header(path, head)
        if not voxels and header["magic"].item() in (b"ni1", b"ni2"):
            raise VolumeFileError(f"{path}: the header of a NIfTI pair; accepted: with its voxels (.img) beside it.")
        affine, notes = _affine(path, header)
        data = _read_voxels(path, voxels[0] if voxels else head, header, volume_index)
    except (VolumeFileError, TooLargeError):
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds for a damaged file
        raise VolumeFileError(f"{path}: cannot be read as NIfTI: {one_line(error)}") from error
    for note in notes:
        logger.warning("%s: %s.", path, note)
    if not data.size or not data.any():
        raise VolumeFileError(f"{path}: the volume is empty or zero everywhere.")
    if not np.isfinite(data).all():
        raise VolumeFileError(f"{path}: the volume holds NaN or infinity.")
    if data.max() <= 0:
        raise VolumeFileError(f"{path}: the volume has no positive value; accepted: a magnitude image.")
    return Volume(np.maximum(data, 0, out=data), affine, header, tuple(notes))


def _read_header(path: Path, file: Path) -> nibabel.Nifti1Header:
    """The header without extensions."""
    with _opened(file) as opened:
        start = opened.read(540)
    if not is_nifti(start):
        raise VolumeFileError(f"{path}: not a NIfTI file.")
    kind = nibabel.Nifti1Header if start[344:348] in (b"n+1\0", _PAIR) else nibabel.Nifti2Header
    size = kind.template_dtype.itemsize
    if len(start) < size:
        raise VolumeFileError(f"{path}: {len(start)} bytes of a header of {size}.")
    header = kind.from_fileobj(io.BytesIO(start[:size] + bytes(4)), check=True)
    return header


def _read_voxels(path: Path, file: Path, header: nibabel.Nifti1Header, index: int) -> NDArray[np.float32]:
    """The voxels of one volume, scaled; a compressed file is read to its end."""
    kind, shape = header.get_data_dtype(), tuple(int(n) for n in header.get_data_shape())
    if kind.kind not in "fiu":
        raise VolumeFileError(f"{path}: voxels of type {kind}; accepted: real numbers.")
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise VolumeFileError(f"{path}: {len(shape)} dimensions of {shape} voxels; accepted: 2 to 4, each 1 or more.")
    count = shape[3] if len(shape) == 4 else 1
    if not 0 <= index < count:
        raise VolumeFileError(f"{path}: volume_index is {index}; the file has {count} volumes.")
    one = math.prod(shape[:3])
    check_memory(path, f"a volume of {' x '.join(map(str, shape[:3]))} voxels", one * (kind.itemsize + 4 * _COPIES))
    start, end = int(header.get_data_offset()), one * kind.itemsize * count
    with _opened(file) as opened:
        compressed = isinstance(opened, gzip.GzipFile)
        if start < 0 or (not compressed and start + end > file.stat().st_size):
            raise VolumeFileError(
                f"{path}: {end} bytes of voxels from byte {start} on are described; the file has {file.stat().st_size}."
            )
        stored = array_from_file(shape[:3], kind, opened, start + index * one * kind.itemsize, mmap=False)
        if compressed:
            _skip(opened, (count - 1 - index) * one * kind.itemsize)
            rest, most = 0, max(_BLOCK, start + end)
            while block := opened.read(_BLOCK):  # the checksum is behind the last byte
                rest += len(block)
                if rest > most:
                    raise VolumeFileError(f"{path}: more than {most} bytes follow the voxels.")
    if count > 1:
        logger.warning("%s: 4-D file; volume %d of %d is used.", path, index, count)
    if np.isinf(header["scl_slope"]):  # NaN and 0 stand for none
        raise VolumeFileError(f"{path}: scl_slope is {header['scl_slope']}; accepted: a finite number.")
    slope, intercept = header.get_slope_inter()
    data: NDArray[np.float32] = np.array(
        apply_read_scaling(stored, slope if slope is not None else 1.0, intercept or 0.0), dtype=np.float32
    )
    return data[..., None] if data.ndim == 2 else data


def _skip(file: Any, count: int) -> None:
    """Read over ``count`` bytes of a compressed file."""
    while count > 0:
        block = file.read(min(count, _BLOCK))
        if not block:
            raise EOFError(f"{count} bytes are missing at the end")
        count -= len(block)


def _affine(path: Path, header: nibabel.Nifti1Header) -> tuple[NDArray[np.float64], list[str]]:
    """The affine from voxels to mm, and warnings about it."""
    notes: list[str] = []
    if int(header["sform_code"]) > 0:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        if _is_affine(affine):
            return affine, notes
        notes.append("the sform is no affine")
    if int(header["qform_code"]) > 0:
        affine = _qform(header)
        if _is_affine(affine):
            return affine, [f"{note}; the qform is taken" for note in notes]
        notes.append("the qform is no affine")
    affine = np.asarray(header.get_base_affine(), dtype=np.float64)
    if _is_affine(affine):
        return affine, [
            "; ".join([*notes, "the voxel size is taken, and place and orientation are unknown"])
        ] if notes else []
    stated = "; ".join([*notes, f"the voxel size is {header['pixdim'][1:4].tolist()} mm"])
    raise VolumeFileError(
        f"{path}: {stated}; accepted: an sform or a qform that can be inverted, or a voxel size above 0."
    )


def _is_affine(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is finite, has axes that are not 0 and can be inverted."""
    if not np.isfinite(affine).all():
        return False
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(lengths.min() > 0 and abs(np.linalg.det(affine[:3, :3] / lengths)) > 1e-6)


def _qform(header: nibabel.Nifti1Header) -> NDArray[np.float64]:
    """The affine of the qform; a quaternion that was rounded to just above 1 is taken as 1 (its real part is 0)."""
    rounded, names = header.copy(), ("quatern_b", "quatern_c", "quatern_d")
    vector = np.array([float(header[name]) for name in names])
    if 1 < (square := float(vector @ vector)) <= 1 + _LOOSE_QUATERNION:
        for name, value in zip(names, vector / np.sqrt(square) * (1 - 1e-7), strict=True):
            rounded[name] = value
    try:
        return np.asarray(rounded.get_qform(), dtype=np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)


def write_volume(
    path: str | os.PathLike[str],
    data: NDArray[np.floating],
    affine: NDArray[np.floating],
    header: nibabel.Nifti1Header | None = None,
) -> None:
    """Write a float32 volume whole or not at all.

    Units, the codes of qform and sform and the description are taken from ``header``; without one the units are mm
    and the codes "scanner".

    Args:
        path: ends in .nii or .nii.gz.
        data: real volume.
        affine: 4x4 matrix from voxels to world in mm.
        header: header of the input volume.

    Raises:
        OutputError: the file cannot be written.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> volume = read_magnitude(bundled_epi_path())
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "copy.nii.gz"
        >>> write_volume(target, volume.data, volume.affine, volume.header)
        >>> bool(np.array_equal(read_magnitude(target).data, volume.data))
        True
    """
    image = nibabel.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
    if header is None:
        image.header.set_xyzt_units("mm")
        image.set_qform(affine, code="scanner")
        image.set_sform(affine, code="scanner")
    else:
        image.header.set_xyzt_units(*header.get_xyzt_units())
        image.header["descrip"] = header["descrip"]
        qform, sform = int(header["qform_code"]), int(header["sform_code"])
        image.set_qform(affine, code=qform or (0 if sform else 1))
        image.set_sform(affine, code=sform)
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


class Nifti(VolumeFormat):
    """NIfTI: ``.nii`` and ``.nii.gz``."""

    name = "nifti"
    title = "NIfTI"
    suffixes = (".nii.gz", ".nii")
    shared_suffixes = (".hdr.gz", ".hdr", ".img.gz", ".img")

    def recognise(self, path: Path, start: bytes) -> bool:
        """By the magic of NIfTI-1 or NIfTI-2, behind gzip or not; the voxels of a pair by their header."""
        return is_nifti(_inflate(start) if start.startswith(_GZIP) else start) or files_of(path)[0] != path

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """`files_of`: of a pair the header and the voxels."""
        return files_of(path)

    def extent(self, path: Path) -> Extent:
        """The first three axes; the others are volumes of which one is taken."""
        shape = _read_header(path, files_of(path)[0]).get_data_shape()
        rows, columns, slices = (*map(int, shape), 1, 1, 1)[:3]
        return Extent((rows, columns, slices))

    def read(self, source: Source, frame: int | None = None) -> MagnitudeVolume:
        """`read_magnitude`; a file of several volumes is refused unless one is chosen. A sidecar's values are used."""
        volume = read_magnitude(source.path, frame or 0)
        shape = volume.header.get_data_shape()
        frames = shape[3] if len(shape) == 4 else 1
        if frames > 1 and frame is None:
            raise VolumeFileError(
                f"{source.path}: 4-D file with {frames} volumes; choose one: frame, 0 to {frames - 1}."
            )
        header = volume.header.copy()
        header.set_data_shape(volume.data.shape)
        notes = volume.warnings
        if frames > 1:
            notes += (f"4-D file: volume {frame} of {frames} was taken, counted from 0",)
        fields = read_sidecar(source.path)
        if _PHASE.intersection(np.atleast_1d(fields.get("ImageType", "")).tolist()):
            raise VolumeFileError(
                f"{source.path}: the sidecar says {fields['ImageType']}; accepted: a magnitude image."
            )
        return MagnitudeVolume(
            volume.data,
            volume.affine,
            sidecar_acquired(fields, volume.data.shape),
            original=header,
            warnings=notes,
            attributes=sidecar_texts(fields),
        )

    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        """Volumes, all float32."""
        return {what: f"{volume.stem}_{what}.nii.gz" for what in ("restored", "std", "interval")}

    def write(
        self,
        path: Path,
        what: str,
        slices: NDArray[np.float32],
        volume: InputVolume,
        *,
        provenance: Mapping[str, str],
        overwrite: bool,
    ) -> None:
        """`write_volume` with the input's header where it is NIfTI too."""
        header = volume.original if isinstance(volume.original, nibabel.Nifti1Header) else None
        write_volume(path, volume.as_volume(slices), volume.affine, header)


def _inflate(start: bytes) -> bytes:
    """The first decompressed bytes of a gzip file, as far as it is sound."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _HEADER)
    except zlib.error:
        return b""
