"""Transforms in MONAI's array and dictionary forms."""

from __future__ import annotations

from monai_d3gm.transforms.kspace import *  # noqa: F403
from monai_d3gm.transforms.kspace import __all__ as __all__
