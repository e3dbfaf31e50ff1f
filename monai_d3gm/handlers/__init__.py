"""Handlers for MONAI's engines, only what MONAI and ignite lack."""

from __future__ import annotations

from monai_d3gm.handlers.checkpoint import KeepBest, TrainingCheckpoint
from monai_d3gm.handlers.restoration import MetricsReport, RestorationFigures, VolumeWriter, provenance

__all__ = ["KeepBest", "MetricsReport", "RestorationFigures", "TrainingCheckpoint", "VolumeWriter", "provenance"]
