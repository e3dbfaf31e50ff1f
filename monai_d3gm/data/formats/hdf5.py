"""HDF5 of another's making: data that lie in the file itself, as large as they say, and no larger than allowed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py

from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import check_memory

__all__ = ["HDF5", "check_stored", "small_dataset", "stored_dataset"]

HDF5 = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file."""

_SMALL = 1 << 22
"""The most bytes of a header or a mask, and of other data whose stored size is not checked."""

_MOST_RATIO = 200
"""The most that measured data can be compressed: noise hardly is, and lines that were not sampled are few."""


def stored_dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself.

    A link or external storage would make the program read another file that the sender of this one has chosen.
    """
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise KspaceFileError(f"{path}: {name} is a link; accepted: data stored in the file itself.")
    data = file[name]
    if not isinstance(data, h5py.Dataset):
        raise KspaceFileError(f"{path}: {name} is a group; accepted: a dataset.")
    if data.external or data.is_virtual:
        raise KspaceFileError(f"{path}: {name} is stored in another file; accepted: data stored in the file itself.")
    return data


def check_stored(path: Path, data: h5py.Dataset, name: str) -> None:
    """Refuse a dataset that is described and not there, or that would inflate beyond measure.

    HDF5 gives a fill value for data that were never written, and inflates a chunk whole.
    """
    stored = data.id.get_storage_size()
    if data.dtype.hasobject:  # lists of varying length, which lie in the file themselves
        return
    if data.nbytes > _SMALL and data.nbytes > _MOST_RATIO * stored:
        raise KspaceFileError(f"{path}: {name} is described with {data.nbytes} bytes; the file has {stored} of it.")
    if data.chunks is not None:
        chunk = math.prod(data.chunks) * data.dtype.itemsize
        check_memory(path, f"a chunk of {name} of {data.chunks}", 2 * chunk)


def small_dataset(path: Path, data: h5py.Dataset, name: str) -> Any:
    """The value of a dataset that has to be small: a header or a mask."""
    if data.nbytes > _SMALL or data.size > _SMALL:
        raise KspaceFileError(f"{path}: {name} has {data.nbytes} bytes; accepted: up to {_SMALL}.")
    return data[()]
