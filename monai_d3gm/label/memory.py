"""How much memory a request will take, from the headers of its input alone.

A request takes what a batch of slices takes in the network, and what the volume takes that is read and the one that is
written. The bytes per pixel and per voxel below are at least what was measured with the bundles' networks on the CPU
(tests/label/test_memory.py repeats it), so the estimate is above the truth; larger networks take more.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image

from monai_d3gm.data.formats.fastmri import open_kspace
from monai_d3gm.data.formats.ismrmrd import open_ismrmrd
from monai_d3gm.data.formats.registry import kind_of

__all__ = ["Extent", "estimate_bytes", "physical_memory", "read_extent"]

_BASE = 128 << 20
"""Bytes of a network, its workflow and the allocator's slack."""
_PIXEL = 1024
"""Bytes of a batch for each pixel that goes through the network."""
_COIL = 512
"""Bytes of a batch for each pixel of each coil."""
_VOXEL = 64
"""Bytes for each voxel that is read, and for each that is written."""
_PHOTOGRAPH = 160
"""Bytes for each pixel of a photograph."""


@dataclass(frozen=True)
class Extent:
    """The size of an input.

    Attributes:
        shape: rows, columns and slices.
        coils: of k-space.
        photograph: whether it is one.
    """

    shape: tuple[int, int, int]
    coils: int = 1
    photograph: bool = False


def read_extent(path: str | os.PathLike[str]) -> Extent:
    """The size of an input, from its header.

    Raises:
        ValueError: it is no input, or its header cannot be read.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> read_extent(bundled_epi_path()).shape
    (128, 96, 24)
    """
    path = Path(path)
    kind = kind_of(path)
    if kind in ("fastmri", "ismrmrd"):
        file = open_kspace(path) if kind == "fastmri" else open_ismrmrd(path)
        return Extent((*file.shape, file.num_slices), max(1, file.coils))
    try:
        if kind == "nifti":
            volume: Any = nibabel.load(path)
            shape = (*volume.shape, 1, 1, 1)
            return Extent((shape[0], shape[1], shape[2]))
        if kind == "dicom":
            header = pydicom.dcmread(path, stop_before_pixels=True)
            return Extent((int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames", 1))))
        if kind == "image":
            with Image.open(path) as image:
                return Extent((image.height, image.width, 1), photograph=True)
    except Exception as error:  # the libraries raise many kinds for a damaged file
        raise ValueError(f"{path}: the header cannot be read: {' '.join(str(error).split())}") from error
    raise ValueError(f"{path}: not an input.")


def estimate_bytes(extent: Extent, settings: Mapping[str, Any]) -> int:
    """An upper estimate of the memory that a restoration takes, in bytes.

    Args:
        extent: of the input.
        settings: keys of the bundle's config: ``factor``, ``plane``, ``coils``, ``batch_size``, ``roi_size``, as far as
            it has them.

    >>> estimate_bytes(Extent((256, 256, 100)), {"batch_size": 8}) < estimate_bytes(Extent((512, 512, 100)), {})
    True
    """
    rows, columns, slices = extent.shape
    factor = int(settings.get("factor") or 1)
    read = math.prod(extent.shape)
    if settings.get("plane") == "through":
        image, count, written = rows * slices * factor, columns, read * factor
    else:
        image, count, written = rows * columns * factor**2, slices, read * factor**2
    batch = min(int(settings.get("batch_size") or 8), count)
    roi = settings.get("roi_size")
    tile = image * batch if roi is None else int(np.prod(np.broadcast_to(roi, 2)))
    coils = max(extent.coils, int(settings.get("coils") or 1))
    volume = _PHOTOGRAPH * image if extent.photograph else _VOXEL * (read + written)
    return _BASE + _PIXEL * min(tile, image * batch) + _COIL * coils * image * batch + volume


def physical_memory() -> int:
    """The machine's memory in bytes.

    >>> physical_memory() > 0
    True
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
