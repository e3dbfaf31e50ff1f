"""Transforms of resolution: functions, array transforms and dictionary transforms (names ending in d)."""

from __future__ import annotations

from monai_d3gm.transforms.resolution.array import LowerResolution, SimulateLowResolution, UpsampleLowResolution
from monai_d3gm.transforms.resolution.dictionary import (
    LowerResolutiond,
    SimulateLowResolutiond,
    UpsampleLowResolutiond,
)

__all__ = [
    "LowerResolution",
    "LowerResolutiond",
    "SimulateLowResolution",
    "SimulateLowResolutiond",
    "UpsampleLowResolution",
    "UpsampleLowResolutiond",
]
