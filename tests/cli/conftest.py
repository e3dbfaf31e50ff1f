"""The fixtures of the tests that run bundles."""

from __future__ import annotations

from small_bundle import bundle, h5, monai_bundle, nifti

__all__ = ["bundle", "h5", "monai_bundle", "nifti"]
