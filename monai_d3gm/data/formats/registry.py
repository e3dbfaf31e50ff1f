"""Enters the formats of inputs, and tells files apart by their content."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from monai_d3gm.data.formats.array_kspace import ArrayKspace
from monai_d3gm.data.formats.base import FORMATS, Format, OutputFormat, claimed
from monai_d3gm.data.formats.dicom.format import Dicom
from monai_d3gm.data.formats.fastmri import FastMri
from monai_d3gm.data.formats.images import Images
from monai_d3gm.data.formats.ismrmrd import Ismrmrd
from monai_d3gm.data.formats.nifti import Nifti
from monai_d3gm.data.formats.volumes import Extent
from monai_d3gm.files import one_line

__all__ = ["format_of", "names_of", "output_format", "read_extent", "recognise", "titles"]

FORMATS.update({format.name: format for format in (Nifti(), FastMri(), Ismrmrd(), ArrayKspace(), Dicom(), Images())})

_START = 1 << 16


def recognise(path: str | os.PathLike[str]) -> Format | None:
    """The format of a file by its content, whatever its name; None for all that is no input.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> recognise(bundled_epi_path()).name
        'nifti'
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(_START)
    return next((format for format in FORMATS.values() if format.recognise(path, start)), None)


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """The format of a file by its content, or else the one that its name claims; that reader names the fault.

    Example:
        >>> format_of("/no/such/volume.nii.gz").name
        'nifti'
    """
    try:
        return recognise(path) or claimed(path)
    except OSError:
        return claimed(path)


def names_of(classes: type[Format] | tuple[type[Format], ...]) -> tuple[str, ...]:
    """The names of the formats that are of some classes.

    Example:
        >>> from monai_d3gm.data.formats.base import KspaceFormat
        >>> names_of(KspaceFormat)
        ('fastmri', 'ismrmrd', 'array')
    """
    return tuple(name for name, format in FORMATS.items() if isinstance(format, classes))


def titles(names: Iterable[str]) -> str:
    """How a message calls some formats.

    Example:
        >>> titles(("nifti", "dicom"))
        'NIfTI, DICOM'
    """
    return ", ".join(FORMATS[name].title for name in names)


def output_format(format: Format, choice: str) -> OutputFormat:
    """The format in which the results of an input are written.

    Args:
        format: of the input.
        choice: "same", or the name of another format; it is taken where the input's format can be converted to it.

    Example:
        >>> output_format(FORMATS["dicom"], "nifti").name, output_format(FORMATS["image"], "nifti").name
        ('nifti', 'image')
    """
    output = FORMATS[choice if choice in format.conversions else format.written_as]
    assert isinstance(output, OutputFormat)
    return output


def read_extent(path: str | os.PathLike[str]) -> Extent:
    """The size of an input, from its header.

    Raises:
        ValueError: it is no input, or its header cannot be read.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> read_extent(bundled_epi_path()).shape
        (128, 96, 24)
    """
    format = format_of(path)
    if format is None:
        raise ValueError(f"{path}: not an input.")
    try:
        return format.extent(Path(path))
    except Exception as error:  # the libraries raise many kinds for a damaged file
        reason = one_line(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: the header cannot be read: {reason}") from error
