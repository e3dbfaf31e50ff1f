"""Magnitude volumes in NIfTI files: read, check, write with the geometry kept."""

from __future__ import annotations

import gzip
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from monai_d3gm.data.formats.registry import recognise
from monai_d3gm.files import atomic_path

logger = logging.getLogger(__name__)


class VolumeFileError(ValueError):
    """A NIfTI file cannot be used; the message names it."""


@dataclass(frozen=True)
class Volume:
    """A magnitude volume: float32 ``data`` (X, Y, Z), ``affine`` (4, 4) in mm and the NIfTI ``header``."""

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: nibabel.Nifti1Header


def read_magnitude(path: str | os.PathLike[str], volume_index: int = 0) -> Volume:
    """Read a magnitude volume.

    Args:
        path: NIfTI file, 2-D, 3-D or 4-D.
        volume_index: which volume of a 4-D file.

    Returns:
        The volume; a 2-D image has one slice.

    Raises:
        VolumeFileError: the file is no NIfTI file, is damaged, complex, of another rank, holds NaN or infinity or
            negative values only, or is zero everywhere.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> read_magnitude(bundled_epi_path()).data.shape
    (128, 96, 24)
    """
    path = Path(path)
    try:
        image = _load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise VolumeFileError(f"{path}: not a NIfTI file.")
        if image.get_data_dtype().kind not in "fiu":
            raise VolumeFileError(f"{path}: voxels of type {image.get_data_dtype()}; accepted: real numbers.")
        if image.ndim == 4:
            if not 0 <= volume_index < image.shape[3]:
                raise VolumeFileError(f"{path}: volume_index is {volume_index}; the file has {image.shape[3]} volumes.")
            if image.shape[3] > 1:
                logger.warning("%s: 4-D file; volume %d of %d is used.", path, volume_index, image.shape[3])
            data = np.asarray(image.dataobj[..., volume_index], dtype=np.float32)
        elif image.ndim in (2, 3):
            data = np.asarray(image.dataobj, dtype=np.float32)
            data = data[..., None] if data.ndim == 2 else data
        else:
            raise VolumeFileError(f"{path}: {image.ndim} dimensions; accepted: 2 to 4.")
    except VolumeFileError:
        raise
    except Exception as error:  # nibabel, zlib and numpy raise many kinds for a damaged file
        raise VolumeFileError(f"{path}: cannot be read as NIfTI: {' '.join(str(error).split())}") from error
    if not data.size or not data.any():
        raise VolumeFileError(f"{path}: the volume is empty or zero everywhere.")
    if not np.isfinite(data).all():
        raise VolumeFileError(f"{path}: the volume holds NaN or infinity.")
    if data.max() <= 0:
        raise VolumeFileError(f"{path}: the volume has no positive value; accepted: a magnitude image.")
    return Volume(np.maximum(data, 0), np.asarray(image.affine, dtype=np.float64), image.header)


def _load(path: Path) -> nibabel.filebasedimages.FileBasedImage:
    """The image of a file; one whose name says other than its content is read by the content."""
    try:
        return nibabel.load(path)
    except ImageFileError:
        if recognise(path) != "nifti":
            raise
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    kind = nibabel.Nifti2Image if content[4:7] == b"n+2" else nibabel.Nifti1Image
    return kind.from_bytes(content)


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
