"""The common entry of the metrics: pairs of magnitude images as float64 arrays of slices.

Every metric here takes a two-dimensional image (H, W) or a stack of slices (S, H, W), as a NumPy array or a tensor on
any device, and computes in float64.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

__all__ = ["as_slices", "image_pair"]


def as_slices(image: ArrayLike | torch.Tensor, name: str = "image") -> NDArray[np.float64]:
    """Give a magnitude image as a float64 stack of slices.

    Args:
        image: real, finite, (H, W) or (S, H, W).
        name: its name in error messages.

    Returns:
        The array, shape (S, H, W); S = 1 for a single slice.

    Raises:
        ValueError: for complex or non-finite values, for another number of dimensions, and for an empty array.

    Example:
        >>> as_slices([[0.0, 1.0], [2.0, 3.0]]).shape
        (1, 2, 2)
    """
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if np.iscomplexobj(array):
        raise ValueError(f"{name} is complex ({array.dtype}); accepted: real magnitude images.")
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; accepted: (H, W) or (S, H, W).")
    values = np.asarray(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} holds {int((~np.isfinite(values)).sum())} non-finite values; accepted: finite values."
        )
    return values if values.ndim == 3 else values[None]


def image_pair(
    prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give a prediction and its reference as two float64 stacks of slices of one shape.

    Args:
        prediction: real, finite, (H, W) or (S, H, W).
        reference: the same shape; at least one value above 0, because its maximum is the data range.

    Returns:
        Prediction and reference, each (S, H, W).

    Raises:
        ValueError: where :func:`as_slices` raises, for different shapes, and for a reference without a positive value.

    Example:
        >>> prediction, reference = image_pair([[0.0, 1.0]], [[0.5, 1.0]])
        >>> reference.shape
        (1, 1, 2)
    """
    predicted, truth = as_slices(prediction, "prediction"), as_slices(reference, "reference")
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape}; accepted: the shape of reference, {truth.shape}.")
    if truth.max() <= 0:
        raise ValueError(f"reference has the maximum {truth.max()}; accepted: an image with a positive value.")
    return predicted, truth
