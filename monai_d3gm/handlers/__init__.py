"""Handlers for MONAI's engines, only what MONAI and ignite lack."""

from __future__ import annotations

from monai_d3gm.handlers.checkpoint import TrainingCheckpoint

__all__ = ["TrainingCheckpoint"]
