"""What MONAI's engines need for D3GM."""

from __future__ import annotations

from monai_d3gm.engines.prepare import D3GMPrepareBatch, RegressionPrepareBatch, kspace_consistency

__all__ = ["D3GMPrepareBatch", "RegressionPrepareBatch", "kspace_consistency"]
