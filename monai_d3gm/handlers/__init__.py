"""Handlers for MONAI's engines, only what MONAI and ignite lack."""

from __future__ import annotations

from monai_d3gm.handlers.checkpoint import TrainingCheckpoint
from monai_d3gm.handlers.restoration import MetricsReport, RestorationFigures, VolumeWriter

__all__ = ["MetricsReport", "RestorationFigures", "TrainingCheckpoint", "VolumeWriter"]
