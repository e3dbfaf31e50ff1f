"""Records between a format and its users: a source, its size, the volume read from it, and its view."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from monai_d3gm.data.formats.base import Format

__all__ = [
    "Extent",
    "InputVolume",
    "KspaceFileError",
    "KspaceReader",
    "MagnitudeVolume",
    "Problem",
    "Source",
    "View",
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
    """An input that is read in one go: a file, or some files of a series.

    Attributes:
        path: its name in messages: the file, the first of its files, or the folder of a series.
        files: the files.
        name: the first part of the names of its results.
        folder: the folder that it lies in.
        group: a key that sources restored together share, such as the echoes of a series.
        content: data that the format's `find` has read already.
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
        kind: name of the format that its content or its name shows; None for a file that is no input.
        failed: True for an input that was asked for or cannot be read; False for a file that is passed over.
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
        original: data that the format needs to write a volume like it.
        warnings: for the readers of the result.
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

    Example:
        >>> View(lambda image: image.T, aspect=2.0).turn(np.zeros((2, 3), np.float32)).shape
        (3, 2)
    """

    turn: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    aspect: float = 1.0
    letters: Mapping[str, str] = field(default_factory=dict)
    numbered: bool = True


@dataclass(frozen=True)
class InputVolume:
    """One input, as the writer of its restored volume needs it. A photograph is a volume of one slice.

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
        origin: kind of the data, for the report.
        warnings: for the readers of the result.
        original: data that the format needs to write a volume like it, such as the NIfTI header.

    Example:
        >>> from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path
        >>> (volume,) = KspaceSliceDataset(bundled_epi_path(), slices=1).volumes
        >>> volume.stem, volume.shape, len(volume.slices), volume.measured_kspace
        ('example4d', (128, 96, 24), 1, False)
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
