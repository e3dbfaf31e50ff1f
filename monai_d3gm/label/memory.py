"""How much memory a request will take, from the headers of its input alone.

A request takes what a batch of slices takes in the network, and what the volume takes that is read and the one that is
written. The bytes per pixel and per voxel below are at least what was measured with the bundles' networks on the CPU
(tests/label/test_memory.py repeats it), so the estimate is above the truth; larger networks take more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_d3gm.data.formats.base import Extent

__all__ = ["estimate_bytes", "physical_memory"]

_BASE = 128 << 20
"""Bytes of a network, its workflow and the allocator's slack."""
_PIXEL = 1024
"""Bytes of a batch for each pixel that goes through the network."""
_COIL = 512
"""Bytes of a batch for each pixel of each coil."""


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
    read = extent.voxels
    if settings.get("plane") == "through":
        image, count, written = rows * slices * factor, columns, read * factor
    else:
        image, count, written = rows * columns * factor**2, slices, read * factor**2
    batch = min(int(settings.get("batch_size") or 8), count)
    roi = settings.get("roi_size")
    tile = image * batch if roi is None else int(np.prod(np.broadcast_to(roi, 2)))
    coils = max(extent.coils, int(settings.get("coils") or 1))
    volume = extent.voxel_bytes * (read + written)
    return _BASE + _PIXEL * min(tile, image * batch) + _COIL * coils * image * batch + volume


def physical_memory() -> int:
    """The machine's memory in bytes.

    >>> physical_memory() > 0
    True
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
