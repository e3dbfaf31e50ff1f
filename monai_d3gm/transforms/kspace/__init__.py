"""Transforms of k-space: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.kspace.array import (
    CartesianMask,
    CompressedSensing,
    CropReadout,
    CropToAcquiredBand,
    NormalizeKspace,
    SimulateKspace,
    ZeroFilled,
)
from monai_d3gm.transforms.kspace.dictionary import (
    CartesianMaskd,
    CompressedSensingd,
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
    "CompressedSensing",
    "CompressedSensingd",
    "SimulateKspace",
    "SimulateKspaced",
    "ZeroFilled",
    "ZeroFilledd",
]
