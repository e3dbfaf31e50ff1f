"""Classical reconstructions that restorations are compared with."""

from __future__ import annotations

from monai_d3gm.baselines.l1_wavelet import l1_wavelet, tune_l1_wavelet

__all__ = ["l1_wavelet", "tune_l1_wavelet"]
