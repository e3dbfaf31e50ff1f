"""Arrays in the files of other programs: NumPy, MATLAB, BART and HDF5.

A MATLAB file is that of version 5 to 7 or, from 7.3 on, HDF5 with the axes in reverse. BART's ``.cfl`` holds complex64
in Fortran order and has its sizes in a ``.hdr`` beside it, for the axes read, phase 1, phase 2, coil, maps, ..., slice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from numpy.typing import NDArray

from monai_d3gm.data.formats.hdf5 import check_stored, stored_dataset
from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import TooLargeError, check_memory, one_line

__all__ = ["BART_AXES", "MAT", "NPY", "ArrayFile", "bart_axes", "bart_files", "open_array"]

NPY = b"\x93NUMPY"
"""The first bytes of a NumPy file."""

MAT = (b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")
"""The first bytes of MATLAB's files."""

BART_AXES = {0: "read", 1: "phase", 2: "partition", 3: "coil", 13: "slice"}
"""The names of BART's axes by number, as far as they are used here."""

_BART_DIMENSIONS = 16
_BART_MAPS = 4


@dataclass(frozen=True)
class ArrayFile:
    """An array in a file, which is read when asked for.

    Attributes:
        path: the file.
        shape: of the array; BART's sizes, all 16, where ``bart``.
        name: of the array, where a file can hold several; else empty.
        bart: it has BART's axes.
    """

    path: Path
    shape: tuple[int, ...]
    name: str = ""
    bart: bool = False

    def read(self, first: int | None = None) -> NDArray[Any]:
        """Return the array, or what lies at an index of its first axis.

        Raises:
            KspaceFileError: it cannot be read.
            TooLargeError: it would take more memory than is allowed.
        """
        try:
            if h5py.is_hdf5(self.path):
                return self._from_hdf5(first)
            return self._whole if first is None else self._whole[first]
        except (KspaceFileError, TooLargeError):
            raise
        except Exception as error:  # the libraries raise many kinds for a damaged file
            raise KspaceFileError(f"{self.path}: the array cannot be read: {one_line(error)}") from error

    @cached_property
    def _whole(self) -> NDArray[Any]:
        """The array: mapped where the file allows it, else read once."""
        if self.bart:
            return np.memmap(self.path, np.complex64, "r").reshape(self.shape, order="F")
        if self.name:
            check_memory(self.path, f"an array of {self.shape}", 2 * 16 * math.prod(self.shape))
            stored: NDArray[Any] = scipy.io.loadmat(self.path, variable_names=[self.name])[self.name]
            return stored
        mapped: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return mapped

    def _from_hdf5(self, first: int | None) -> NDArray[Any]:
        with h5py.File(self.path, "r") as file:
            dataset = stored_dataset(self.path, file, self.name)
            check_stored(self.path, dataset, self.name)
            reverse = _is_matlab(self.path)
            parts = 1 if first is None or reverse else len(dataset)
            check_memory(self.path, f"an array of {self.shape}", 2 * dataset.nbytes // parts)
            values: NDArray[Any] = dataset[()] if first is None or reverse else dataset[first]
        if values.dtype.names == ("real", "imag"):  # MATLAB's complex numbers
            values = values["real"] + 1j * values["imag"]
        values = values.T if reverse else values
        return values[first] if reverse and first is not None else values


def open_array(path: str | os.PathLike[str], names: Sequence[str]) -> ArrayFile:
    """Check a file with an array and return it, unread.

    Args:
        path: ``.npy``, ``.mat``, ``.h5``, or BART's ``.cfl``; all but BART's are told by their content.
        names: of the array in files that can hold several, the preferred one first; else the only one is taken.

    Raises:
        KspaceFileError: it is missing, of another kind, or damaged, or does not say which of several arrays is meant.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.mat"
        >>> scipy.io.savemat(target, {"note": "text", "kspace": np.ones((4, 3), np.complex64)})
        >>> open_array(target, ["kspace"]).shape, open_array(target, ["kspace"]).read(0).dtype
        ((4, 3), dtype('complex64'))
    """
    path = Path(path)
    if not path.is_file():
        raise KspaceFileError(f"{path}: no such file.")
    try:
        with path.open("rb") as file:
            start = file.read(len(MAT[0]))
        if h5py.is_hdf5(path):
            return _in_hdf5(path, names)
        if start == MAT[0]:
            found = {name: shape for name, shape, kind in scipy.io.whosmat(path) if kind in ("double", "single")}
            name = _choose(path, found, names)
            return ArrayFile(path, found[name], name)
        if start.startswith(NPY):
            return ArrayFile(path, np.load(path, mmap_mode="r", allow_pickle=False).shape)
        if path.suffix == ".cfl":
            return ArrayFile(path, _bart_sizes(path), bart=True)
    except (KspaceFileError, TooLargeError):
        raise
    except Exception as error:  # as above
        raise KspaceFileError(f"{path}: the array cannot be read: {one_line(error)}") from error
    raise KspaceFileError(f"{path}: no array; accepted: .npy, .mat, .h5 and BART's .cfl.")


def bart_files(path: Path) -> tuple[Path, ...]:
    """BART's ``.cfl`` and ``.hdr``, of which either is given; the file alone where it is no such pair.

    Example:
        >>> bart_files(Path("a.npy"))
        (PosixPath('a.npy'),)
    """
    pair = path.with_suffix(".cfl"), path.with_suffix(".hdr")
    if path.suffix not in (".cfl", ".hdr") or not all(file.is_file() for file in pair):
        return (path,)
    with pair[1].open("rb") as file:
        return pair if file.read(12) == b"# Dimensions" else (path,)


def _is_matlab(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAT[1])) == MAT[1]


def _in_hdf5(path: Path, names: Sequence[str]) -> ArrayFile:
    with h5py.File(path, "r") as file:
        found = {
            name: file[name].shape
            for name in file
            if isinstance(file.get(name, getlink=True), h5py.HardLink)
            and isinstance(file[name], h5py.Dataset)
            and file[name].ndim
        }
        name = _choose(path, found, names)
        shape = stored_dataset(path, file, name).shape
    return ArrayFile(path, tuple(reversed(shape)) if _is_matlab(path) else tuple(shape), name)


def _choose(path: Path, found: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> str:
    """Which of the arrays of a file is meant."""
    preferred = [name for name in names if name in found]
    if preferred or len(found) == 1:
        return (preferred or list(found))[0]
    raise KspaceFileError(
        f"{path}: the arrays are {', '.join(found) or 'none'}; accepted: one array, or one named {' or '.join(names)}."
    )


def _bart_sizes(path: Path) -> tuple[int, ...]:
    """The sizes of BART's axes, held against the size of the file."""
    header = path.with_suffix(".hdr")
    with header.open(encoding="ascii", errors="replace") as file:
        lines = file.read(4096).splitlines()
    words = next((line.split() for line in lines if line.strip() and not line.startswith("#")), [])
    if not all(word.isdecimal() and int(word) > 0 for word in words) or not 0 < len(words) <= _BART_DIMENSIONS:
        raise KspaceFileError(f"{header}: dimensions {' '.join(words)[:80]!r}; accepted: 1 to 16 numbers above 0.")
    sizes = tuple(int(word) for word in words) + (1,) * (_BART_DIMENSIONS - len(words))
    if path.stat().st_size != 8 * math.prod(sizes):
        raise KspaceFileError(f"{path}: {path.stat().st_size} bytes; accepted: 8 for each of {words}.")
    return sizes


def bart_axes(array: ArrayFile, sets: bool = False) -> NDArray[Any]:
    """BART's array with the axes of `BART_AXES`, in that order; of several sets of maps the first.

    Raises:
        KspaceFileError: another axis is longer than 1.
    """
    used = (*BART_AXES, *((_BART_MAPS,) if sets else ()))
    others = {axis: size for axis, size in enumerate(array.shape) if size > 1 and axis not in used}
    if others:
        raise KspaceFileError(
            f"{array.path}: axis {min(others)} has {others[min(others)]} values; accepted: "
            f"{', '.join(BART_AXES.values())} alone."
        )
    return array.read()[tuple(slice(None) if axis in BART_AXES else 0 for axis in range(_BART_DIMENSIONS))]
