"""K-space in NumPy, MATLAB and BART files (`monai_d3gm.data.formats.arrays`), whose axes have to be stated.

The names of the axes are slice, coil, read, phase and partition; BART's files have them by their place. The centre of
k-space is at n // 2 along each encoded axis. A 3-D acquisition (read, phase and partition) is transformed along the
readout, so that its slices are those across the readout, each with a pattern along phase and partition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_d3gm.consistency.fourier import ifft1c
from monai_d3gm.data.formats.arrays import BART_AXES, MAT, NPY, ArrayFile, bart_axes, bart_files, open_array
from monai_d3gm.data.formats.base import KspaceFormat
from monai_d3gm.data.formats.sampling import refine_mask, survey
from monai_d3gm.data.formats.volumes import Extent, KspaceFileError, Source
from monai_d3gm.files import check_memory

__all__ = ["AXES", "ArrayKspace", "ArrayKspaceFile", "open_kspace_array"]

AXES = ("slice", "coil", "read", "phase", "partition")
"""The names of axes."""

_COPIES = 6
"""Arrays of a slice's k-space that lie in memory at once."""

_EMPTY = 5e-7
"""Slices below this share of the largest are rounding errors of zeros that went through a Fourier transform."""

_NEAR_CORNER = 1 / 8


@dataclass(frozen=True)
class ArrayKspaceFile:
    """Checked k-space of an array with the interface of a fastMRI `KspaceFile`; slices are read when asked for.

    Attributes:
        path: the file.
        num_slices: number of slices.
        coils: number of coils; 0 for a single one.
        shape: rows and columns of a slice's k-space.
        mask: as of a `KspaceFile`.
        padding: first column that holds samples and the one after the last.
        empty: numbers of the slices that are zero everywhere.
        warnings: for the readers of the result.
        attributes, identity: none.
        reconstruction: None: there is no reference image.
    """

    path: Path
    num_slices: int
    coils: int
    shape: tuple[int, int]
    mask: NDArray[np.bool_] | None
    padding: tuple[int, int]
    empty: tuple[int, ...]
    warnings: tuple[str, ...]
    _stack: _Stack = field(repr=False)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    reconstruction: None = None

    @property
    def crop(self) -> tuple[int, int]:
        """The whole image."""
        return self.shape

    @property
    def affine(self) -> NDArray[np.float64]:
        """(4, 4): voxels of 1 mm, as an array tells nothing."""
        return np.eye(4)

    def read_kspace(self, index: int) -> torch.Tensor:
        """Return slice ``index``: complex64 (H, W), or (coils, H, W) for two coils and more.

        Raises:
            KspaceFileError: the slice cannot be read, holds NaN or infinity, or is zero everywhere.
        """
        if not 0 <= index < self.num_slices:
            raise KspaceFileError(f"{self.path}: slice {index}: accepted: 0 to {self.num_slices - 1}.")
        data = np.array(self._stack.of_slice(index), dtype=np.complex64, order="C")
        if not np.isfinite(data).all() or not data.any():
            raise KspaceFileError(f"{self.path}: slice {index}: kspace is zero everywhere, or holds NaN or infinity.")
        return torch.from_numpy(data if self.coils else data[0])

    def read_reconstruction(self, index: int) -> None:
        """Return None: there is no reference image."""

    def read_maps(self, index: int) -> None:
        """Return None: there are no coil sensitivity maps."""


@dataclass(frozen=True)
class _Stack:
    """An array seen as slices (slices, coils, H, W).

    Attributes:
        array: the file.
        axes: the names of its axes, or of those of `bart_axes`.
        sizes: by name, 1 for an axis that it has not.
    """

    array: ArrayFile
    axes: tuple[str, ...]
    sizes: Mapping[str, int]

    @property
    def order(self) -> tuple[str, str, str, str]:
        """The axes along slices, coils, H and W."""
        if self.sizes["partition"] == 1:
            return "slice", "coil", "read", "phase"
        return ("read" if self.sizes["read"] > 1 else "slice"), "coil", "phase", "partition"

    @property
    def is_volume(self) -> bool:
        """A 3-D acquisition, which is cut across its readout."""
        return self.order[0] == "read"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        slices, coils, height, width = (self.sizes[name] for name in self.order)
        return slices, coils, height, width

    @cached_property
    def measured(self) -> NDArray[Any]:
        """The array as (slices or readout, coils, H, W), as it was measured."""
        stored = bart_axes(self.array) if self.array.bart else self.array.read()
        missing = tuple(name for name in AXES if name not in self.axes)
        left_over = tuple(name for name in AXES if name not in self.order)
        names = (*self.axes, *missing)
        data = stored.reshape(*stored.shape, *(1 for _ in missing))
        data = data.transpose([names.index(name) for name in (*self.order, *left_over)])
        return data.reshape(data.shape[:4])

    @cached_property
    def _slices(self) -> NDArray[Any]:
        if not self.is_volume:
            return self.measured
        check_memory(self.array.path, f"k-space of {self.shape} samples", 3 * 8 * math.prod(self.shape))
        hybrid = ifft1c(torch.from_numpy(np.array(self.measured, np.complex64, order="C")), dim=0).numpy()
        largest = np.abs(hybrid).max(axis=(1, 2, 3))
        hybrid[largest < _EMPTY * largest.max()] = 0  # rounding errors of a slice without signal
        slices: NDArray[Any] = hybrid
        return slices

    def of_slice(self, index: int) -> NDArray[Any]:
        """K-space of a slice, complex (coils, H, W)."""
        data: NDArray[Any] = self._slices[index]
        return data


def open_kspace_array(path: str | Path, axes: str | None = None) -> ArrayKspaceFile:
    """Check an array of k-space and return a lazy reader of it.

    Args:
        path: ``.npy``, ``.mat`` (the array ``kspace``, or the only one) or BART's ``.cfl``.
        axes: a name of `AXES` for each axis of the array, such as "coil read phase"; BART's files need none.

    Raises:
        KspaceFileError: the axes are not stated or do not fit, the array is not complex, not centred or cannot be read,
            or its slices have zeros in different places.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.npy"
        >>> kspace = np.full((6, 8, 2), 0.1 + 0j); kspace[3, 4] = 9
        >>> np.save(target, kspace)
        >>> file = open_kspace_array(target, "phase read coil")
        >>> file.num_slices, file.coils, file.shape, file.mask
        (1, 2, (8, 6), None)
    """
    path = Path(path)
    array = open_array(path, ["kspace"])
    stack = _stack(array, axes)
    slices, coils, *plane = stack.shape
    height, width = plane
    check_memory(path, f"a slice of k-space of {stack.shape[1:]} samples", _COPIES * 8 * math.prod(stack.shape[1:]))
    middle = stack.measured[slices // 2]
    if middle.dtype.kind != "c":
        raise KspaceFileError(f"{path}: an array of {middle.dtype}; accepted: complex k-space.")
    _check_centred(path, middle)
    seen = survey(path, slices, width, stack.of_slice)
    if stack.is_volume:  # one pattern for all slices, from before the transform
        whole = survey(path, 1, width, lambda _: stack.measured)
        seen = replace(seen, patterns=whole.patterns, extent=whole.extent)
    mask = refine_mask(path, None, seen)
    notes = ["the file gives no voxel size: 1 mm is taken"]
    if mask is not None:
        notes.append("no mask: where k-space is exactly zero in all coils and slices it counts as not sampled")
    return ArrayKspaceFile(
        path=path,
        num_slices=slices,
        coils=coils if coils > 1 else 0,
        shape=(height, width),
        mask=mask,
        padding=seen.extent,
        empty=seen.empty,
        warnings=tuple(notes),
        _stack=stack,
    )


def _stack(array: ArrayFile, axes: str | None) -> _Stack:
    path, accepted = array.path, f"a name for each axis, of {', '.join(AXES)}, such as 'coil read phase'"
    if array.bart:
        names, shape = tuple(BART_AXES.values()), bart_axes(array).shape
    elif axes is None:
        raise KspaceFileError(
            f"{path}: the axes of an array of shape {array.shape} are not stated: axes; accepted: {accepted}."
        )
    else:
        names, shape = tuple(word for word in re.split(r"[\s,]+", axes) if word), array.shape
    if len(names) != len(shape) or len(set(names)) != len(names) or not set(names) <= set(AXES) or 0 in shape:
        raise KspaceFileError(f"{path}: axes are {axes!r} for an array of shape {shape}; accepted: {accepted}.")
    sizes = dict.fromkeys(AXES, 1) | dict(zip(names, shape, strict=True))
    stack = _Stack(array, names, sizes)
    if min(stack.shape[2:]) < 2:
        raise KspaceFileError(f"{path}: axes are {axes!r}; accepted: two of read, phase and partition, above 1.")
    if stack.is_volume and sizes["slice"] > 1:
        raise KspaceFileError(f"{path}: {sizes['slice']} slabs of a 3-D acquisition; accepted: one.")
    return stack


def _check_centred(path: Path, kspace: NDArray[Any]) -> None:
    """Refuse k-space whose largest sample lies in a corner: its centre was not moved to the middle."""
    energy = np.abs(kspace).max(axis=0)
    place = np.unravel_index(int(np.argmax(energy)), energy.shape)
    if all(min(int(i), n - int(i)) < n * _NEAR_CORNER for i, n in zip(place, energy.shape, strict=True)):
        raise KspaceFileError(
            f"{path}: the largest sample lies at {tuple(map(int, place))}; accepted: the centre of k-space in the "
            "middle."
        )


class ArrayKspace(KspaceFormat):
    """K-space in arrays. Their names do not tell it: a NumPy or MATLAB file may hold anything."""

    name = "array"
    title = "k-space in NumPy, MATLAB or BART files"
    suffixes = (".cfl",)
    shared_suffixes = (".npy", ".mat")

    def recognise(self, path: Path, start: bytes) -> bool:
        """By the first bytes; of NumPy's files those with complex numbers; of BART's by the header beside them."""
        if start.startswith(NPY):
            return b"'<c" in start[:256] or b"'>c" in start[:256]
        return start.startswith(MAT) or len(bart_files(path)) == 2

    def files_of(self, path: Path) -> tuple[Path, ...]:
        """`bart_files`."""
        return bart_files(path)

    def extent(self, path: Path) -> Extent:
        """As if the image had the last two axes: this bounds the memory."""
        array = open_array(bart_files(path)[0], ["kspace"])
        shape = tuple(size for size in array.shape if size > 1) or (1,)
        height, width = (*shape, 1)[:2] if array.bart else (1, *shape)[-2:]
        return Extent((height, width, 1), math.prod(array.shape) // (height * width))

    def open(self, source: Source, *, measurement: str | None = None, axes: str | None = None) -> ArrayKspaceFile:
        """`open_kspace_array`; a file holds one measurement."""
        return open_kspace_array(source.path, axes)
