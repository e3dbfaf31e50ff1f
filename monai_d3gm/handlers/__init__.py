"""Handlers for MONAI's engines, only what MONAI and ignite lack."""

from __future__ import annotations

from monai_d3gm.handlers.calibration import (
    CalibratedUncertainty,
    Calibration,
    CalibrationError,
    CollectCalibration,
    TrustCheck,
    calibrated,
)
from monai_d3gm.handlers.checkpoint import KeepBest, TrainingCheckpoint
from monai_d3gm.handlers.restoration import MetricsReport, RestorationFigures, VolumeWriter, provenance

__all__ = [
    "CalibratedUncertainty",
    "Calibration",
    "CalibrationError",
    "CollectCalibration",
    "KeepBest",
    "MetricsReport",
    "RestorationFigures",
    "TrainingCheckpoint",
    "TrustCheck",
    "VolumeWriter",
    "calibrated",
    "provenance",
]
