"""Handlers for MONAI's engines that MONAI and ignite lack."""

from __future__ import annotations

from monai_d3gm.handlers.checkpoint import KeepBest, TrainingCheckpoint
from monai_d3gm.handlers.metrics import RestorationFigures
from monai_d3gm.handlers.report import MetricsReport, provenance
from monai_d3gm.handlers.trust import CollectCalibration, TrustCheck
from monai_d3gm.handlers.writer import VolumeWriter

__all__ = [
    "CollectCalibration",
    "KeepBest",
    "MetricsReport",
    "RestorationFigures",
    "TrainingCheckpoint",
    "TrustCheck",
    "VolumeWriter",
    "provenance",
]
