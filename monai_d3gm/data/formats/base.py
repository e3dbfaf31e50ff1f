"""What a file format is to the rest of the package, and what passes between a format and its users.

A format is one object. It recognises its files, says how large they are before they are read, finds what can be read
among them, reads it, names and writes the results, and says how a slice is drawn. `KspaceFormat`, `VolumeFormat` and
`ImageFormat` differ in what reading gives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import nibabel
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from monai_d3gm.data.formats.images import Photograph

__all__ = [
    "FORMATS",
    "Extent",
    "Format",
    "ImageFormat",
    "InputVolume",
    "KspaceFileError",
    "KspaceFormat",
    "KspaceReader",
    "MagnitudeVolume",
    "OutputFormat",
    "Problem",
    "Source",
    "View",
    "VolumeFormat",
    "claimed",
    "stem_of",
    "suffix_of",
]


@dataclass(frozen=True)
class Extent:
    """The size of an input.

    Attributes:
        shape: rows, columns and slices.
        coils: of k-space; 1 elsewhere.
        voxel_bytes: memory that a voxel takes when it is read, and again when its result is written.
    """

    shape: tuple[int, int, int]
    coils: int = 1
    voxel_bytes: int = 64

    @property
    def voxels(self) -> int:
        """Number of voxels.

        Example:
            >>> Extent((4, 3, 2)).voxels
            24
        """
        return math.prod(self.shape)


@dataclass(frozen=True)
class Source:
    """What is read in one go: a file, or some files of a series.

    Attributes:
        path: what it is called by: the file, the first of its files, or the folder of a series.
        files: the files.
        name: the first part of the names of its results.
        folder: the folder that it lies in.
        group: what is equal for the sources that are restored together, such as the echoes of a series.
        content: what the format's `find` has read already.
    """

    path: Path
    files: tuple[Path, ...]
    name: str
    folder: Path
    group: str
    content: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Problem:
    """A file that is in no source.

    Attributes:
        path: the file.
        reason: why.
        kind: name of the format that it has or, by its name, is meant to have; None for what is no input at all.
        failed: it is an input that was asked for, or it cannot be read and nobody knows; False for what is passed over.
    """

    path: Path
    reason: str
    kind: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class MagnitudeVolume:
    """A magnitude volume as it was read.

    Attributes:
        data: float32 (X, Y, Z), at least 0, not zero everywhere.
        affine: (4, 4), from voxels to world in mm.
        acquired: share of the band that was acquired along axes 0 and 1, as far as the file says.
        original: what the format needs to write a volume like it.
        warnings: what a reader of the result must know.
        attributes: of the scan, as plain values.
    """

    data: NDArray[np.float32] = field(repr=False)
    affine: NDArray[np.float64]
    acquired: tuple[float, float] = (1.0, 1.0)
    original: Any = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


class KspaceFileError(ValueError):
    """A k-space file cannot be used; the message is one line and names the file, and the slice where it is one."""


class KspaceReader(Protocol):
    """Checked k-space of one file, whose slices are read when asked for; `monai_d3gm.data.formats.fastmri.KspaceFile`
    says what each attribute means."""

    @property
    def path(self) -> Path: ...
    @property
    def num_slices(self) -> int: ...
    @property
    def coils(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def crop(self) -> tuple[int, int]: ...
    @property
    def mask(self) -> NDArray[np.bool_] | None: ...
    @property
    def padding(self) -> tuple[int, int]: ...
    @property
    def empty(self) -> tuple[int, ...]: ...
    @property
    def reconstruction(self) -> str | None: ...
    @property
    def affine(self) -> NDArray[np.float64]: ...
    @property
    def attributes(self) -> Mapping[str, Any]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def identity(self) -> Mapping[str, Any]: ...

    def read_kspace(self, index: int) -> torch.Tensor:
        """Slice ``index``: complex64 (H, W) or (coils, H, W)."""

    def read_reconstruction(self, index: int) -> torch.Tensor | None:
        """The reference magnitude of slice ``index``, float32 (h, w), or None."""

    def read_maps(self, index: int) -> torch.Tensor | None:
        """The coil sensitivity maps of a slice that lie beside its k-space, complex64 (coils, H, W), or None."""


@dataclass(frozen=True)
class View:
    """How a slice of an input is drawn.

    Attributes:
        turn: from the slice (rows, columns, ...) to the picture's rows and columns.
        aspect: height of the picture's pixels over their width.
        letters: of the patient's sides (R, L, A, P, S, I), by the picture's side; empty where they are not known.
        numbered: whether the title says the slice's number.
    """

    turn: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    aspect: float = 1.0
    letters: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = True


@dataclass(frozen=True)
class InputVolume:
    """One input, and what a writer of its restored volume needs. A photograph is a volume of one slice.

    Attributes:
        path: the file, or the folder of a series.
        stem: its name without suffixes; the first part of each slice's key.
        format: the input's format.
        shape: rows, columns and slices of the volume to write, in the orientation of the file.
        slices: numbers of the slices that are restored.
        skipped: numbers of the slices that are zero everywhere.
        affine: (4, 4), from voxels of the volume to write to world in mm; spacing only for fastMRI files.
        simulated: True where k-space, low resolution or weather is simulated.
        coils: number of coils; 0 where there is no k-space.
        has_truth: a reference image is known.
        kept_band: share of the band kept along rows and columns; below 1 where the input was interpolated.
        attributes: of the file, as plain values.
        slice_axis: axis of the volume to write along which its slices lie.
        origin: what the data are, for the report.
        warnings: what a reader of the result must know.
        original: what the format needs to write a volume like it, such as the NIfTI header.
    """

    path: Path
    stem: str
    format: Format
    shape: tuple[int, int, int]
    slices: tuple[int, ...]
    skipped: tuple[int, ...]
    affine: NDArray[np.float64]
    simulated: bool
    coils: int
    has_truth: bool
    kept_band: tuple[float, float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    slice_axis: int = 2
    origin: str = ""
    warnings: tuple[str, ...] = ()
    original: Any = field(default=None, repr=False)

    @property
    def measured_kspace(self) -> bool:
        """Whether k-space was measured, not simulated."""
        return self.coils > 0 and not self.simulated

    def as_volume(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put images (S, h, w) of the restored slices into a volume of `shape`, zero where a slice was not restored."""
        volume = np.zeros(self.shape, dtype=np.float32)
        np.moveaxis(volume, self.slice_axis, 0)[list(self.slices)] = slices
        return volume


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
        """What can be read among files of this format: each with those that belong to it, unless a format says
        otherwise."""
        together = dict.fromkeys(self.files_of(file) for file in files)
        return [Source(each[0], each, stem_of(each[0]), each[0].parent, str(each[0])) for each in together], []

    @abstractmethod
    def view(self, volume: InputVolume) -> View:
        """How a slice (rows, columns) of an input is drawn."""


class OutputFormat(Format):
    """A format in which results are written."""

    @abstractmethod
    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        """What can be written of a restored volume (``restored``, ``std``, ``interval``), and under which name."""

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
