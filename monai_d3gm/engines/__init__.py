"""Additions to MONAI's engines for D3GM."""

from __future__ import annotations

from monai_d3gm.engines.evaluator import (
    ALL_KSPACE_BASELINES,
    KSPACE_BASELINES,
    ResidualError,
    RestorationEvaluator,
    RestorationEvents,
    batch_image,
    magnitude,
    nonnegative,
)
from monai_d3gm.engines.measurement import downsampling_consistency, kspace_consistency
from monai_d3gm.engines.prepare import (
    D3GMPrepareBatch,
    ErrorMapPrepareBatch,
    MeanPathPrepareBatch,
    ProcessMixturePrepareBatch,
    RegressionPrepareBatch,
)

__all__ = [
    "ALL_KSPACE_BASELINES",
    "KSPACE_BASELINES",
    "D3GMPrepareBatch",
    "ErrorMapPrepareBatch",
    "MeanPathPrepareBatch",
    "ProcessMixturePrepareBatch",
    "RegressionPrepareBatch",
    "ResidualError",
    "RestorationEvaluator",
    "RestorationEvents",
    "batch_image",
    "downsampling_consistency",
    "kspace_consistency",
    "magnitude",
    "nonnegative",
]
