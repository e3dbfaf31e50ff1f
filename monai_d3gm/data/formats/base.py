"""File formats, as the rest of the package uses them.

A format is one object. It recognises its files, says how large they are before they are read, finds what can be read
among them, reads it, names and writes the results, and says how a slice is drawn. `KspaceFormat`, `VolumeFormat` and
`ImageFormat` differ in what reading gives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import nibabel
import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.volumes import Extent, InputVolume, KspaceReader, MagnitudeVolume, Problem, Source, View

if TYPE_CHECKING:
    from monai_d3gm.data.formats.images import Photograph

__all__ = [
    "FORMATS",
    "Format",
    "ImageFormat",
    "KspaceFormat",
    "OutputFormat",
    "VolumeFormat",
    "claimed",
    "stem_of",
    "suffix_of",
]


class Format(ABC):
    """A file format, see the module's description. It has no state.

    Attributes:
        name: by which settings and reports know it.
        title: how messages call it.
        suffixes: of its files' names, in lower case.
        shared_suffixes: of names that other formats have too, so that they do not tell the format.
        conversions: names of other formats in which its results can be written.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    shared_suffixes: ClassVar[tuple[str, ...]] = ()
    conversions: ClassVar[tuple[str, ...]] = ()

    @property
    def written_as(self) -> str:
        """Name of the format in which results are written unless another is asked for."""
        return self.name

    @abstractmethod
    def recognise(self, path: Path, start: bytes) -> bool:
        """Whether a file has this format, by its content alone.

        Args:
            path: the file.
            start: its first 65536 bytes, or all where it has fewer.
        """

    @abstractmethod
    def extent(self, path: Path) -> Extent:
        """The size of an input, from the file's header; the data are not read.

        Raises:
            Exception: of any kind, where the header cannot be read.
        """

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """The files that belong together with a file; the first one stands for all."""
        return (path,)

    def find(self, files: Sequence[Path]) -> tuple[list[Source], list[Problem]]:
        """The inputs among files of this format: by default each file together with those that belong to it."""
        together = dict.fromkeys(self.files_of(file) for file in files)
        return [Source(each[0], each, stem_of(each[0]), each[0].parent, str(each[0])) for each in together], []

    @abstractmethod
    def view(self, volume: InputVolume) -> View:
        """How a slice (rows, columns) of an input is drawn."""


class OutputFormat(Format):
    """A format in which results are written."""

    @abstractmethod
    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        """The names of the files of a restored volume, by their content: ``restored``, ``std``, ``interval``."""

    def check(self, volume: InputVolume) -> None:
        """Refuse, before anything is computed, an input whose results could not be written.

        Raises:
            ValueError: naming the input.
        """

    @abstractmethod
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
        """Write one result whole or not at all.

        Args:
            path: a name of `outputs` in a folder.
            what: ``restored``, ``std`` or ``interval``.
            slices: images (S, h, w), in colour (S, h, w, 3), of the volume's restored slices.
            volume: the input.
            provenance: what made the result, name -> text, for formats that record it.
            overwrite: replace a file that is there.

        Raises:
            OutputError: it cannot be written.
        """


class KspaceFormat(Format):
    """A format of k-space. Results are written as NIfTI or, where the header says enough, as DICOM; slices are drawn as
    they are stored."""

    conversions = ("nifti", "dicom")

    @property
    def written_as(self) -> str:
        """NIfTI."""
        return "nifti"

    @abstractmethod
    def open(self, source: Source, *, measurement: str | None = None, axes: str | None = None) -> KspaceReader:
        """Check a file and return a reader of its slices.

        Args:
            source: as `find` found it.
            measurement: name of one of several in a file; None for the only one. Formats that hold one ignore it.
            axes: names of the axes of an array, for formats that do not tell them. Others ignore it.

        Raises:
            ValueError: it cannot be used; the message names it.
        """

    def view(self, volume: InputVolume) -> View:
        """As it is stored: k-space has a spacing and no orientation."""
        rows, columns = _spacing(volume)
        return View(lambda image: image, rows / columns)


class VolumeFormat(OutputFormat):
    """A format of magnitude volumes with a place in the world. Slices are drawn in radiological orientation."""

    conversions = ("nifti", "dicom")

    @abstractmethod
    def read(self, source: Source, frame: int | None = None) -> MagnitudeVolume:
        """Read a volume.

        Args:
            source: as `find` found it.
            frame: which volume of a source that holds several; None refuses it.

        Raises:
            ValueError: it cannot be used; the message names it.
        """

    def view(self, volume: InputVolume) -> View:
        """In radiological orientation, with the letters of the sides."""
        axes = [axis for axis in range(3) if axis != volume.slice_axis]
        world, signs = nibabel.io_orientation(volume.affine)[axes].T
        # horizontally x (or y where x is through the plane), the patient's right or front at the left; vertically the
        # other one upwards
        swap = world[0] < world[1]

        def turn(image: NDArray[np.float32]) -> NDArray[np.float32]:
            image = image.T if swap else image
            vertical, horizontal = (signs[1], signs[0]) if swap else (signs[0], signs[1])
            image = image[::-1] if vertical > 0 else image
            return image[:, ::-1] if horizontal > 0 else image

        across, up = sorted(int(axis) for axis in world)
        rows, columns = _spacing(volume)
        height, width = (columns, rows) if swap else (rows, columns)
        letters = {"left": "RAS"[across], "right": "LPI"[across], "top": "RAS"[up], "bottom": "LPI"[up]}
        return View(turn, height / width, letters)


class ImageFormat(OutputFormat):
    """A format of photographs. Large ones are drawn with every n-th pixel."""

    @abstractmethod
    def read(self, path: Path) -> Photograph:
        """Read a photograph.

        Raises:
            ValueError: it cannot be used; the message names it.
        """

    def view(self, volume: InputVolume) -> View:
        """Every n-th pixel, so that at most 1024 are drawn along a side."""
        every = -(-max(volume.shape) // 1024)
        return View(lambda image: image[::every, ::every], numbered=False)


def _spacing(volume: InputVolume) -> tuple[float, float]:
    """Length of the steps from row to row and from column to column, in mm."""
    steps = np.linalg.norm(volume.affine[:3, :3], axis=0)
    rows, columns = np.delete(steps, volume.slice_axis)
    return float(rows), float(columns)


FORMATS: dict[str, Format] = {}
"""The formats by their names, which `monai_d3gm.data.formats.registry` enters; a file has the first one that recognises
it."""


def claimed(path: str | PathLike[str]) -> Format | None:
    """The format that a file's name claims; None where it claims none.

    Example:
        >>> claimed("scan.PNG").name, claimed("notes.txt")
        ('image', None)
    """
    suffix = suffix_of(path).lower()
    return next((format for format in FORMATS.values() if suffix in format.suffixes), None)


def suffix_of(path: str | PathLike[str]) -> str:
    """The suffix of an input's name, as it is written there; empty where there is none.

    Example:
        >>> suffix_of("A.NII.GZ"), suffix_of("notes.txt")
        ('.NII.GZ', '')
    """
    name = Path(path).name
    known = [suffix for format in FORMATS.values() for suffix in (*format.suffixes, *format.shared_suffixes)]
    return name[len(name) - max((len(suffix) for suffix in known if name.lower().endswith(suffix)), default=0) :]


def stem_of(path: str | PathLike[str]) -> str:
    """The name of a file without the suffix of an input, whatever the content.

    Example:
        >>> stem_of("scans/sub-01.T1w.nii.gz"), stem_of("notes.txt"), stem_of(".nii")
        ('sub-01.T1w', 'notes.txt', '.nii')
    """
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))] or name
