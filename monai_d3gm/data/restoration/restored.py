"""The result of a restoration: the images of one input, in its units and orientation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.volumes import InputVolume

__all__ = ["METHOD", "RestoredVolume"]

METHOD = "D3GM"
"""The restoration's name among the images of a `RestoredVolume`."""


@dataclass(frozen=True)
class RestoredVolume:
    """Images of the restored slices of one input, float32 (S, h, w), or (S, h, w, 3) in colour, in the input's units
    and orientation.

    Attributes:
        source: the input.
        images: by method: the degraded input first, then, where asked for and a truth is known, the other baselines,
            and `METHOD` last.
        std: standard deviation over the samples; None for a single sample.
        reference: the truth; None if it is not known.
        predicted_error: half-widths that an error map predicted, before calibration, (S, h, w); None without one.
        residual: by slice, the root mean square of A x - y over the measurement's noise_std, for the restored image
            before it became a magnitude; None where there is no measurement or its noise is 0.
        coils: by slice, the processing of the coils of measured k-space (`CoilSystem.describe`); empty for one coil.

    Example:
        >>> from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path
        >>> (source,) = KspaceSliceDataset(bundled_epi_path(), slices=1).volumes
        >>> image = np.ones((1, 128, 96), np.float32)
        >>> RestoredVolume(source, {"zero-filled": image, METHOD: image}, std=None, reference=None).degraded
        'zero-filled'
    """

    source: InputVolume
    images: Mapping[str, NDArray[np.float32]]
    std: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None
    residual: NDArray[np.float32] | None = None
    predicted_error: NDArray[np.float32] | None = None
    coils: tuple[Mapping[str, Any], ...] = ()

    @property
    def degraded(self) -> str:
        """The name of the degraded input among ``images``."""
        return next(iter(self.images))
