"""What MONAI's engines need for D3GM."""

from __future__ import annotations

from monai_d3gm.engines.prepare import D3GMPrepareBatch, RegressionPrepareBatch, kspace_consistency
from monai_d3gm.engines.restoration import RestorationEvaluator, RestorationEvents, RestoredVolume

__all__ = [
    "D3GMPrepareBatch",
    "RegressionPrepareBatch",
    "RestorationEvaluator",
    "RestorationEvents",
    "RestoredVolume",
    "kspace_consistency",
]
