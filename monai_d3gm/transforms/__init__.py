"""Transforms in MONAI's array and dictionary forms."""

from __future__ import annotations

from monai_d3gm.transforms import kspace, resolution, weather
from monai_d3gm.transforms.kspace import *  # noqa: F403
from monai_d3gm.transforms.resolution import *  # noqa: F403
from monai_d3gm.transforms.weather import *  # noqa: F403

__all__ = [*kspace.__all__, *resolution.__all__, *weather.__all__]
