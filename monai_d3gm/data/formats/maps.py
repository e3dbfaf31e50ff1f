"""Coil sensitivity maps and sampling masks that a user has, in the files of `monai_d3gm.data.formats.arrays`.

Maps are complex, (coils, H, W) for all slices alike or (slices, coils, H, W), on the grid of the k-space they belong to
before anything is cropped; of BART's the first set is taken. Masks are 0 where k-space was not sampled: (W,), (1, W),
(H, 1) or (H, W).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from monai_d3gm.data.formats.arrays import ArrayFile, bart_axes, open_array
from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import check_memory

__all__ = ["MAPS_NAME", "MapsFile", "open_maps", "read_mask"]

MAPS_NAME = "sensitivity_maps"
"""Name of the array with maps in files that can hold several."""

_LARGEST_MASK = 1 << 26


@dataclass(frozen=True)
class MapsFile:
    """Checked sensitivity maps; slices are read when asked for.

    Attributes:
        array: the file.
        shape: (slices, coils, H, W); one slice stands for all.
    """

    array: ArrayFile
    shape: tuple[int, int, int, int]

    def of_slice(self, index: int, coils: int, shape: tuple[int, int]) -> torch.Tensor:
        """Return the maps of a slice, complex64 (coils, H, W).

        Args:
            index: number of the slice.
            coils: number of coils that k-space has.
            shape: rows and columns that it has.

        Raises:
            KspaceFileError: they do not fit k-space, cannot be read, are not complex, or hold NaN or infinity.
        """
        slices, *rest = self.shape
        path = self.array.path
        if tuple(rest) != (coils, *shape):
            raise KspaceFileError(
                f"{path}: maps of shape {tuple(rest)}; accepted: {(coils, *shape)}, as the k-space has them."
            )
        if slices != 1 and index >= slices:
            raise KspaceFileError(f"{path}: {slices} slices of maps, none for slice {index}.")
        check_memory(path, f"maps of shape {tuple(rest)}", 4 * 8 * int(np.prod(rest, dtype=object)))
        index = 0 if slices == 1 else index
        if self.array.bart:
            data = _of_bart(self.array)[index]
        else:
            data = self.array.read(index if len(self.array.shape) == 4 else None)
        if data.dtype.kind != "c" or not np.isfinite(data).all():
            raise KspaceFileError(f"{path}: the maps are not complex, or hold NaN or infinity.")
        return torch.from_numpy(np.array(data, dtype=np.complex64, order="C"))


def open_maps(path: str | os.PathLike[str]) -> MapsFile:
    """Check a file of sensitivity maps and return a lazy reader of it.

    Args:
        path: ``.npy``, ``.mat``, ``.h5`` or ``.cfl``.

    Raises:
        KspaceFileError: it is missing, of another kind or damaged, or holds no array of that shape.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> target = Path(tempfile.mkdtemp()) / "maps.npy"
        >>> np.save(target, np.ones((2, 8, 6), np.complex64))
        >>> open_maps(target).shape, open_maps(target).of_slice(5, 2, (8, 6)).shape
        ((1, 2, 8, 6), torch.Size([2, 8, 6]))
    """
    array = open_array(path, [MAPS_NAME, "maps"])
    shape = _of_bart(array).shape if array.bart else array.shape
    if len(shape) not in (3, 4) or 0 in shape:
        raise KspaceFileError(
            f"{path}: an array of shape {shape}; accepted: complex maps (coils, H, W) or (slices, coils, H, W)."
        )
    slices, coils, height, width = shape if len(shape) == 4 else (1, *shape)
    return MapsFile(array, (slices, coils, height, width))


def read_mask(path: str | os.PathLike[str]) -> NDArray[np.bool_]:
    """Read a sampling mask.

    Args:
        path: ``.npy``, ``.mat``, ``.h5`` (the array ``mask``, or the only one) or ``.cfl`` (read, phase 1; or phase 1,
            phase 2).

    Returns:
        bool (W,) for columns, (H, 1) for rows, (H, W) for a pattern along both axes.

    Raises:
        KspaceFileError: it cannot be read, has other axes, or samples nothing.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> target = Path(tempfile.mkdtemp()) / "mask.npy"
        >>> np.save(target, np.array([[0, 1, 1, 0]]))
        >>> read_mask(target)
        array([False,  True,  True, False])
    """
    array = open_array(path, ["mask", "pattern"])
    if int(np.prod(array.shape, dtype=object)) > _LARGEST_MASK:
        raise KspaceFileError(f"{path}: an array of {array.shape}; accepted: a mask of up to {_LARGEST_MASK} values.")
    values = np.asarray(array.read()).squeeze() if array.bart else np.asarray(array.read())
    if values.ndim not in (1, 2) or values.dtype.kind not in "bfiuc" or not np.isfinite(values).all():
        raise KspaceFileError(
            f"{path}: {values.dtype} of shape {values.shape}; accepted: a mask (W,), (1, W), (H, 1) or (H, W)."
        )
    mask: NDArray[np.bool_] = values != 0
    if not mask.any():
        raise KspaceFileError(f"{path}: the mask has no sampled line.")
    return mask[0] if mask.ndim == 2 and len(mask) == 1 else mask


def _of_bart(array: ArrayFile) -> NDArray[np.complex64]:
    """BART's maps as (slices, coils, H, W): H and W are read and phase 1, or phase 1 and phase 2 of a volume."""
    read, phase, partition, coil, slices = range(5)
    data: NDArray[np.complex64] = bart_axes(array, sets=True)
    if data.shape[partition] == 1:
        return data.transpose(slices, coil, read, phase, partition)[..., 0]
    if data.shape[slices] > 1:
        raise KspaceFileError(f"{array.path}: {data.shape[slices]} slabs of maps; accepted: one.")
    return data.transpose(read, coil, phase, partition, slices)[..., 0]
