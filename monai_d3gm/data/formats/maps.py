"""Coil sensitivity maps that a user has: NumPy, HDF5 and BART files, read slice by slice.

Maps are complex, (coils, H, W) for all slices alike or (slices, coils, H, W), on the grid of the k-space they belong to
before anything is cropped. In HDF5 they are the data set ``sensitivity_maps``, or the only one. BART's ``.cfl`` has its
header ``.hdr`` beside it: the dimensions read, phase 1, phase 2, coil, maps, ..., slice, of which the first set of maps
is taken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from monai_d3gm.data.formats.fastmri import KspaceFileError, one_line, stored_dataset

__all__ = ["MAPS_NAME", "MapsFile", "open_maps"]

MAPS_NAME = "sensitivity_maps"
"""Name of the data set with maps in HDF5 files."""

_BART_COIL, _BART_MAPS, _BART_SLICE = 3, 4, 13


@dataclass(frozen=True)
class MapsFile:
    """Checked sensitivity maps; slices are read when asked for.

    Attributes:
        path: the file.
        shape: (slices, coils, H, W); one slice stands for all.
        name: of the data set in HDF5 files, else empty.
    """

    path: Path
    shape: tuple[int, int, int, int]
    name: str = ""

    def of_slice(self, index: int, coils: int, shape: tuple[int, int]) -> torch.Tensor:
        """Return the maps of a slice, complex64 (coils, H, W).

        Args:
            index: number of the slice.
            coils: number of coils that k-space has.
            shape: rows and columns that it has.

        Raises:
            KspaceFileError: they do not fit k-space, cannot be read, or hold NaN or infinity.
        """
        slices, *rest = self.shape
        if tuple(rest) != (coils, *shape):
            raise KspaceFileError(
                f"{self.path}: maps of shape {tuple(rest)}; accepted: {(coils, *shape)}, as the k-space has them."
            )
        if slices != 1 and index >= slices:
            raise KspaceFileError(f"{self.path}: {slices} slices of maps, none for slice {index}.")
        try:
            data = self._read(0 if slices == 1 else index)
        except (OSError, RuntimeError, ValueError) as error:
            raise KspaceFileError(f"{self.path}: the maps cannot be read: {one_line(error)}") from error
        if not np.isfinite(data).all():
            raise KspaceFileError(f"{self.path}: the maps hold NaN or infinity.")
        return torch.from_numpy(np.array(data, dtype=np.complex64, order="C"))

    def _read(self, index: int) -> NDArray[Any]:
        """Slice ``index``, (coils, H, W)."""
        if self.name:
            with h5py.File(self.path, "r") as file:
                dataset = stored_dataset(self.path, file, self.name)
                stored: NDArray[Any] = dataset[index] if dataset.ndim == 4 else dataset[()]
                return stored
        array = _bart(self.path) if self.path.suffix == ".cfl" else np.load(self.path, mmap_mode="r")
        data: NDArray[Any] = array[index] if array.ndim == 4 else array
        return data


def open_maps(path: str | os.PathLike[str]) -> MapsFile:
    """Check a file of sensitivity maps and return a lazy reader of it.

    Args:
        path: ``.npy``, ``.h5`` or ``.cfl``.

    Raises:
        KspaceFileError: it is missing, of another kind or damaged, or holds no complex maps.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "maps.npy"
        >>> np.save(target, np.ones((2, 8, 6), np.complex64))
        >>> open_maps(target).shape, open_maps(target).of_slice(5, 2, (8, 6)).shape
        ((1, 2, 8, 6), torch.Size([2, 8, 6]))
    """
    path = Path(path)
    if not path.is_file():
        raise KspaceFileError(f"{path}: no such file.")
    name = ""
    try:
        if path.suffix == ".cfl":
            array: Any = _bart(path)
        elif path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        elif h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                name = MAPS_NAME if MAPS_NAME in file or len(file) != 1 else next(iter(file))
                dataset = stored_dataset(path, file, name)
                return MapsFile(path, _shape(path, dataset.shape, dataset.dtype), name)
        else:
            raise KspaceFileError(f"{path}: not maps; accepted: .npy, .h5 and BART's .cfl.")
    except KspaceFileError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise KspaceFileError(f"{path}: the maps cannot be read: {one_line(error)}") from error
    return MapsFile(path, _shape(path, array.shape, array.dtype), name)


def _shape(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int, int]:
    """The shape as (slices, coils, H, W), checked."""
    if dtype.kind != "c" or len(shape) not in (3, 4) or 0 in shape:
        raise KspaceFileError(
            f"{path}: {dtype} of shape {shape}; accepted: complex maps (coils, H, W) or (slices, coils, H, W)."
        )
    slices, coils, height, width = shape if len(shape) == 4 else (1, *shape)
    return slices, coils, height, width


def _bart(path: Path) -> NDArray[np.complex64]:
    """BART's maps as (slices, coils, read, phase 1), mapped from the file."""
    lines = path.with_suffix(".hdr").read_text(encoding="ascii", errors="replace")[:4096].splitlines()
    sizes = [int(word) for word in next(line for line in lines if line and not line.startswith("#")).split()]
    sizes += [1] * (16 - len(sizes))
    others = [n for axis, n in enumerate(sizes) if axis not in (0, 1, _BART_COIL, _BART_MAPS, _BART_SLICE)]
    if len(sizes) != 16 or min(sizes) < 1 or max(others) > 1:
        raise KspaceFileError(f"{path}: dimensions {sizes}; accepted: read, phase 1, coil, maps and slice.")
    if path.stat().st_size != 8 * int(np.prod(sizes, dtype=object)):
        raise KspaceFileError(f"{path}: {path.stat().st_size} bytes; accepted: 8 for each of {sizes}.")
    data = np.memmap(path, np.complex64, "r").reshape(sizes, order="F")
    picked = [0] * 16
    index = tuple(slice(None) if axis in (0, 1, _BART_COIL, _BART_SLICE) else picked[axis] for axis in range(16))
    return data[index].transpose(3, 2, 0, 1)
