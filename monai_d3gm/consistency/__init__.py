"""Consistency with a known measurement: operators with their adjoints, and the projections built on them."""

from __future__ import annotations

from monai_d3gm.consistency.base import DEFAULT_PRIOR_STD, MeasurementConsistency
from monai_d3gm.consistency.coils import CoilSystem, prepare_coils
from monai_d3gm.consistency.conjugate_gradient import conjugate_residuals
from monai_d3gm.consistency.downsampling import DownsamplingConsistency
from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft1c, fft2c, ifft1c, ifft2c
from monai_d3gm.consistency.kspace import KspaceConsistency
from monai_d3gm.consistency.maps import CoilMapError, CoilMaps, estimate_maps
from monai_d3gm.consistency.noise import estimate_noise_std

__all__ = [
    "DEFAULT_PRIOR_STD",
    "CoilMapError",
    "CoilMaps",
    "CoilSystem",
    "DownsamplingConsistency",
    "KspaceConsistency",
    "MeasurementConsistency",
    "channels_to_complex",
    "complex_to_channels",
    "conjugate_residuals",
    "estimate_maps",
    "estimate_noise_std",
    "fft1c",
    "fft2c",
    "ifft1c",
    "ifft2c",
    "prepare_coils",
]
