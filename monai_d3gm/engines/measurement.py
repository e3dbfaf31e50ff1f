"""The measurement of a batch: the consistency that training and restoration hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from monai_d3gm.consistency import DownsamplingConsistency, KspaceConsistency
from monai_d3gm.transforms.resolution.functional import remove_rician_bias

__all__ = ["downsampling_consistency", "kspace_consistency"]


def kspace_consistency(batch: Mapping[str, Any], device: torch.device | str | None = None) -> KspaceConsistency:
    """The measurement of a batch with ``kspace``, ``mask`` and, where present, ``sensitivity_maps``, ``phase``,
    ``noise_std``. The phase reference multiplies the maps: the images are those divided by it.

    Example:
        >>> batch = {"kspace": torch.ones(1, 4, 4, dtype=torch.complex64), "mask": torch.ones(1, 1, 4).bool()}
        >>> kspace_consistency(batch).batch_size
        1
    """
    maps, phase, kspace, mask = (batch.get(name) for name in ("sensitivity_maps", "phase", "kspace", "mask"))
    assert kspace is not None and mask is not None
    if phase is not None:
        maps = phase[:, None] if maps is None else maps * phase[:, None]
        kspace, mask = (kspace[:, None], mask[:, None]) if kspace.ndim == 3 else (kspace, mask)
    return KspaceConsistency(
        kspace.to(device),
        mask.to(device),
        None if maps is None else maps.to(device),
        noise_std=batch.get("noise_std", 0.0),
    )


def downsampling_consistency(
    batch: Mapping[str, Any], device: torch.device | str | None = None
) -> DownsamplingConsistency:
    """The measurement of a batch with ``low_resolution``, ``factor`` and, where present, ``kernel``, ``noise_std`` and
    ``magnitude``, whether the noise is Rician; its bias is then removed (`remove_rician_bias`).

    The slices of a batch share their factor and their kernel, as those of one volume do. gamma is estimated from the
    residual of each: the network has seen the measurement, and mostly errs by less than its noise.

    Example:
        >>> batch = {"low_resolution": torch.ones(2, 1, 4, 4), "factor": [(1, 2), (1, 2)]}
        >>> downsampling_consistency(batch).image_shape
        (1, 4, 8)
    """
    rows, columns = batch["factor"][0]
    kernel, noise_std = batch.get("kernel"), torch.as_tensor(batch.get("noise_std", 0.0))
    low_resolution = batch["low_resolution"]
    if any(batch.get("magnitude", ())):
        low_resolution = remove_rician_bias(low_resolution, noise_std)
    return DownsamplingConsistency(
        low_resolution.to(device),
        (int(rows), int(columns)),
        kernel=None if kernel is None else kernel[0].to(device),
        noise_std=noise_std,
        prior_std="residual",
    )
