"""The cost of a request, memory and evaluations of the network, from the headers of its input alone.

A request takes what a batch of slices takes in the network, and what the volume takes that is read and the one that is
written. The bytes per pixel and per voxel below are at least what was measured with the bundles' networks on the CPU
(tests/label/test_cost.py repeats it), so the estimate is above the truth; larger networks take more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from monai_d3gm.data.formats.base import FORMATS
from monai_d3gm.data.formats.volumes import Extent
from monai_d3gm.data.restoration.units import InputUnit

__all__ = ["estimate_bytes", "estimate_pixels", "physical_memory", "read_extents"]

_BASE = 128 << 20
"""Bytes of a network, its workflow and the allocator's slack."""
_PIXEL = 1024
"""Bytes of a batch for each pixel that goes through the network."""
_COIL = 512
"""Bytes of a batch for each pixel of each coil."""


def read_extents(unit: InputUnit) -> list[Extent]:
    """The sizes of the volumes of an input, from its headers.

    Raises:
        ValueError: a header cannot be read.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> from monai_d3gm.data.restoration.units import find_units
        >>> [extent.shape for extent in read_extents(find_units(bundled_epi_path())[0][0])]
        [(128, 96, 24)]
    """
    format = FORMATS[unit.kind]
    name = unit.relative.name if len(unit.files) > 1 else unit.files[0].name
    try:
        sources, problems = format.find(unit.files)
        extents = []
        for source in sources:
            together = format.files_of(source.files[0])  # the first one stands for all
            each = [format.extent(file) for file in source.files[:: len(together)]]
            extents.append(replace(each[0], shape=(*each[0].shape[:2], sum(one.shape[2] for one in each))))
    except Exception as error:  # the libraries raise many kinds for a damaged file
        reason = " ".join(str(error).split()).removeprefix(f"{unit.files[0]}: ")
        raise ValueError(f"{name}: the header cannot be read: {reason}") from error
    if not extents:
        raise ValueError(f"{name}: {problems[0].reason if problems else 'no volume'}.")
    return extents


def estimate_bytes(extent: Extent, settings: Mapping[str, Any]) -> int:
    """An upper estimate of the memory that a restoration takes, in bytes.

    Args:
        extent: of the input.
        settings: keys of the bundle's config: ``factor``, ``plane``, ``coils``, ``batch_size``, ``roi_size``, as far as
            it has them.

    Example:
        >>> estimate_bytes(Extent((256, 256, 100)), {"batch_size": 8}) < estimate_bytes(Extent((512, 512, 100)), {})
        True
    """
    image, count = _images(extent, settings)
    read, written = extent.voxels, image * count
    batch = min(int(settings.get("batch_size") or 8), count)
    roi = settings.get("roi_size")
    tile = image * batch if roi is None else int(np.prod(np.broadcast_to(roi, 2)))
    coils = max(extent.coils, int(settings.get("coils") or 1))
    volume = extent.voxel_bytes * (read + written)
    return _BASE + _PIXEL * min(tile, image * batch) + _COIL * coils * image * batch + volume


def estimate_pixels(extent: Extent, settings: Mapping[str, Any]) -> int:
    """How many pixels go through the network: those of all slices, times the evaluations of all samples.

    Args:
        extent: of the input.
        settings: keys of the bundle's config: ``factor``, ``plane``, ``slices``, ``num_inference_steps``,
            ``num_samples``, as far as it has them.

    Example:
        >>> estimate_pixels(Extent((64, 64, 10)), {"num_inference_steps": 5, "num_samples": 4})
        819200
    """
    image, count = _images(extent, settings)
    wanted = settings.get("slices")
    if isinstance(wanted, int):
        count = min(count, wanted)
    return image * count * int(settings.get("num_inference_steps") or 1) * int(settings.get("num_samples") or 1)


def _images(extent: Extent, settings: Mapping[str, Any]) -> tuple[int, int]:
    """The pixels of an image that goes through the network, and how many images there are."""
    rows, columns, slices = extent.shape
    factor = int(settings.get("factor") or 1)
    if settings.get("plane") == "through":
        return rows * slices * factor, columns
    return rows * columns * factor**2, slices


def physical_memory() -> int:
    """The machine's memory in bytes.

    Example:
        >>> physical_memory() > 0
        True
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
