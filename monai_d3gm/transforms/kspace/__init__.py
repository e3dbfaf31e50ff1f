"""Transforms of k-space: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.kspace.array import (
    CartesianMask,
    CropReadout,
    CropToAcquiredBand,
    NormalizeKspace,
    PhaseConstrain,
    SimulateKspace,
    ZeroFilled,
)
from monai_d3gm.transforms.kspace.dictionary import (
    CartesianMaskd,
    CropReadoutd,
    CropToAcquiredBandd,
    NormalizeKspaced,
    PhaseConstraind,
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
    "PhaseConstrain",
    "PhaseConstraind",
    "SimulateKspace",
    "SimulateKspaced",
    "ZeroFilled",
    "ZeroFilledd",
]
