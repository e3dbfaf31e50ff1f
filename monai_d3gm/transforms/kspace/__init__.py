"""Transforms of k-space: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.kspace.array import (
    CartesianMask,
    CropReadout,
    CropToAcquiredBand,
    NormalizeKspace,
    SimulateKspace,
    ZeroFilled,
)
from monai_d3gm.transforms.kspace.dictionary import (
    CartesianMaskd,
    CropReadoutd,
    CropToAcquiredBandd,
    NormalizeKspaced,
    SimulateKspaced,
    ZeroFilledd,
)

__all__ = [
    "CartesianMask",
    "CartesianMaskd",
    "CropReadout",
    "CropReadoutd",
    "CropToAcquiredBand",
    "CropToAcquiredBandd",
    "NormalizeKspace",
    "NormalizeKspaced",
    "SimulateKspace",
    "SimulateKspaced",
    "ZeroFilled",
    "ZeroFilledd",
]
