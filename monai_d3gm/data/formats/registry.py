"""The formats of inputs: files told apart by their content."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import h5py

from monai_d3gm.data.formats.dicom import is_dicom
from monai_d3gm.data.formats.ismrmrd import is_ismrmrd
from monai_d3gm.data.formats.nifti import is_nifti

__all__ = ["KINDS", "Kind", "claimed", "kind_of", "recognise", "stem_of", "suffix_of"]

Kind = Literal["nifti", "fastmri", "ismrmrd", "dicom", "image"]

KINDS: Mapping[Kind, str] = {
    "nifti": "NIfTI",
    "fastmri": "fastMRI k-space",
    "ismrmrd": "ISMRMRD raw data",
    "dicom": "DICOM",
    "image": "PNG, JPEG or TIFF",
}
"""The kinds of input, and how they are called."""

_SUFFIXES: Mapping[str, Kind] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".h5": "fastmri",
    ".hdf5": "fastmri",
    ".mrd": "ismrmrd",
    ".dcm": "dicom",
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".tif": "image",
    ".tiff": "image",
}
_HALVES = (".hdr.gz", ".hdr", ".img.gz", ".img")
"""Names of the two files of a NIfTI pair; other formats have files of these names too, so that they claim nothing."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEADER = 352
"""Bytes that tell a NIfTI file."""


def recognise(path: str | os.PathLike[str]) -> Kind | None:
    """The kind of a file by its content, whatever its name; None for all that is no input.

    What begins like an HDF5 file and cannot be opened is "fastmri", whose reader says what is wrong with it.

    Raises:
        OSError: the file cannot be read.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> recognise(bundled_epi_path())
    'nifti'
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if start.startswith(_HDF5):
        return _recognise_hdf5(path)
    if is_nifti(_inflate(start) if start.startswith(b"\x1f\x8b") else start):
        return "nifti"
    if is_dicom(path):
        return "dicom"
    return "image" if start.startswith(_IMAGES) else None


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """The kind of a file by its content, or else the kind that its name claims, whose reader says what is wrong.

    >>> kind_of("/no/such/volume.nii.gz")
    'nifti'
    """
    try:
        return recognise(path) or claimed(Path(path))
    except OSError:
        return claimed(Path(path))


def stem_of(path: str | os.PathLike[str]) -> str:
    """The name of a file without the suffixes of inputs.

    >>> stem_of("scans/sub-01.T1w.nii.gz"), stem_of("notes.txt")
    ('sub-01.T1w', 'notes.txt')
    """
    name = Path(path).name
    return name[: len(name) - len(suffix_of(name))] or name


def _recognise_hdf5(path: Path) -> Kind | None:
    try:
        with h5py.File(path, "r") as file:
            if "kspace" in file:
                return "fastmri"
    except (OSError, RuntimeError, KeyError):
        return "fastmri"
    return "ismrmrd" if is_ismrmrd(path) else None


def _inflate(start: bytes) -> bytes:
    """The first bytes of what a gzip file holds, as far as it goes."""
    try:
        return zlib.decompressobj(wbits=31).decompress(start, _HEADER)
    except zlib.error:
        return b""


def suffix_of(name: str) -> str:
    """The suffix of an input, as it is written in the name; empty where there is none."""
    suffix = next((suffix for suffix in (*_SUFFIXES, *_HALVES) if name.lower().endswith(suffix)), "")
    return name[len(name) - len(suffix) :]


def claimed(path: Path) -> Kind | None:
    return _SUFFIXES.get(suffix_of(path.name).lower())
