"""Classical reconstructions to compare restorations with."""

from __future__ import annotations

from monai_d3gm.baselines.l1_wavelet import l1_wavelet
from monai_d3gm.baselines.sense import cg_sense
from monai_d3gm.baselines.total_variation import total_variation

__all__ = ["cg_sense", "l1_wavelet", "total_variation"]
