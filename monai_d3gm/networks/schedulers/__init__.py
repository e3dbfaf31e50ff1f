"""Schedulers with MONAI's interface."""

from __future__ import annotations

from monai_d3gm.networks.schedulers.d3gm import D3GMScheduler, crop_to, pad_to_multiple, size_multiple

__all__ = ["D3GMScheduler", "crop_to", "pad_to_multiple", "size_multiple"]
