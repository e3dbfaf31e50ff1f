"""Figures of merit, each under the name of its protocol: images, detail without trained weights, statistics."""

from __future__ import annotations

from monai_d3gm.metrics.detail import (
    SpectrumRatio,
    evaluate_detail,
    gmsd,
    hfen,
    radial_power_spectrum,
    spectrum_ratio_db,
)
from monai_d3gm.metrics.image import PROTOCOLS, evaluate_images, foreground_mask
from monai_d3gm.metrics.perceptual import LpipsWeightsError, lpips
from monai_d3gm.metrics.photograph import COLOUR_PROTOCOLS, evaluate_photograph, luma, photograph_detail, psnr
from monai_d3gm.metrics.statistics import Summary, format_table, paired_difference, summarise

__all__ = [
    "COLOUR_PROTOCOLS",
    "LpipsWeightsError",
    "PROTOCOLS",
    "SpectrumRatio",
    "Summary",
    "evaluate_detail",
    "evaluate_images",
    "evaluate_photograph",
    "foreground_mask",
    "format_table",
    "gmsd",
    "hfen",
    "lpips",
    "luma",
    "paired_difference",
    "photograph_detail",
    "psnr",
    "radial_power_spectrum",
    "spectrum_ratio_db",
    "summarise",
]
