"""Lower bounds on a restored slice's figures, calibrated on subjects with a known truth.

A slice's PSNR and SSIM are predicted from its image and std alone (`predicted_figures`). The shortfall of
the true figure has the quantile of Lee, Barber and Willett over subjects, infinity included. For a slice drawn at
random from a new exchangeable subject the bound holds with at least the stated probability, whatever n: nothing else is
fitted. At 90 % this quantile is finite for nine subjects or more; with fewer there is no bound. There is no guarantee
for all slices of a subject at once, or for an input unlike the calibration subjects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from monai_d3gm.metrics.arrays import as_slices
from monai_d3gm.metrics.image import SSIM_WINDOW, evaluate_images, foreground_mask
from monai_d3gm.trust.conformal import check_coverage, weighted_quantile

__all__ = [
    "MIN_BOUND_SUBJECTS",
    "Bound",
    "fit_bound",
    "lower_bounds",
    "predicted_figures",
    "shortfalls",
]

MIN_BOUND_SUBJECTS = 9
"""Subjects from which a bound that holds for 90 % is finite: 1 / (n + 1) <= 0.1."""

_SMALLEST_DISSIMILARITY = 1e-12


def predicted_figures(image: ArrayLike, std: ArrayLike) -> dict[str, float] | None:
    """Predict a restored slice's PSNR and SSIM inside its foreground from its own image and std.

    With the foreground M of the restored slice x, its maximum R, and errors that are independent with the variance
    std^2 (in PSNR's definition and in Wang et al.'s, with their constant C2 = (0.03 R)^2)::

        PSNR = 10 log10(R^2 / mean_M(std^2))
        SSIM = mean_M((2 v + C2) / (2 v + mean_7x7(std^2) + C2))      v = variance of x in 7 x 7 pixels

    The errors are neither independent nor have they this variance: `shortfalls` measures by how much.

    Args:
        image: restored magnitude, (h, w), each side at least 7 pixels.
        std: standard deviation over the samples, of the same shape and unit.

    Returns:
        ``psnr`` in dB and ``ssim``; None where there is no foreground or std is 0 in it.

    Example:
        >>> image = np.zeros((32, 32))
        >>> image[8:24, 8:24] = 1.0
        >>> predicted_figures(image, np.full((32, 32), 0.1))["psnr"]
        20.0
    """
    x, spread = as_slices(image)[0], as_slices(std, "std")[0]
    mask = foreground_mask(x)
    power = float(np.mean(spread[mask] ** 2)) if mask.any() else 0.0
    if power <= 0 or min(x.shape) < SSIM_WINDOW:
        return None
    mean, square, error = (ndimage.uniform_filter(y, SSIM_WINDOW) for y in (x, x**2, spread**2))
    variance = np.maximum(square - mean**2, 0) * SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    constant = (0.03 * x.max()) ** 2
    similarity = (2 * variance + constant) / (2 * variance + error + constant)
    return {"psnr": float(10 * np.log10(x.max() ** 2 / power)), "ssim": float(similarity[mask].mean())}


def shortfalls(image: ArrayLike, std: ArrayLike, truth: ArrayLike) -> dict[str, float] | None:
    """By how much a restored slice falls short of its `predicted_figures`.

    The true figures are ``psnr/slice/foreground`` and ``ssim/slice/foreground`` of `evaluate_images`.

    Args:
        image: restored magnitude, (h, w).
        std: standard deviation over the samples, of the same shape and unit.
        truth: the same.

    Returns:
        ``psnr``: predicted less true, in dB; ``ssim``: ln((1 - true) / (1 - predicted)). None where nothing is
        predicted or the truth has no foreground.

    Example:
        >>> truth = np.zeros((32, 32))
        >>> truth[8:24, 8:24] = 1.0
        >>> figures = shortfalls(truth + 0.1, np.full((32, 32), 0.11), truth)
        >>> round(figures["psnr"], 6)
        0.0
    """
    predicted = predicted_figures(image, std)
    if predicted is None or as_slices(truth).max() <= 0:
        return None
    figures = evaluate_images(image, truth, "slice")
    if "psnr/slice/foreground" not in figures:
        return None
    true, expected = (
        max(1 - value, _SMALLEST_DISSIMILARITY) for value in (figures["ssim/slice/foreground"], predicted["ssim"])
    )
    return {"psnr": predicted["psnr"] - figures["psnr/slice/foreground"], "ssim": math.log(true / expected)}


@dataclass(frozen=True)
class Bound:
    """How far a slice's figure may fall short of its prediction.

    Attributes:
        margin: the quantile of the shortfalls.
        coverage: share of slices of new subjects for which the bound holds.
        subjects: number of calibration subjects.
        slices: number of their slices.

    Example:
        >>> fit_bound({f"sub-{number}": [0.5, 1.5] for number in range(9)}).subjects
        9
    """

    margin: float
    coverage: float
    subjects: int
    slices: int


def fit_bound(subjects: Mapping[str, Sequence[float]], coverage: float = 0.9) -> Bound:
    """The conformal quantile of shortfalls over slices; every subject counts the same, and a new one is infinite.

    Args:
        subjects: the shortfalls of each subject's slices, see `shortfalls`.
        coverage: share of slices for which the bound is to hold, in (0, 1); where the subjects are too few for it, the
            bound is for n / (n + 1), and says so.

    Raises:
        ValueError: a coverage out of its range, fewer than nine subjects, or one without slices.

    Example:
        >>> fit_bound({str(i): [float(i)] for i in range(1, 20)}, 0.9).margin  # the 18th of 19: 0.9 (19 + 1) = 18
        18.0
    """
    check_coverage(coverage)
    n = len(subjects)
    if n < MIN_BOUND_SUBJECTS:
        raise ValueError(f"subjects has {n} entries; accepted: {MIN_BOUND_SUBJECTS} or more.")
    for name, values in subjects.items():
        if not len(values):
            raise ValueError(f"subjects[{name!r}] has no slices; accepted: at least one.")
    reached = min(coverage, n / (n + 1))
    flat = np.concatenate([np.asarray(values, dtype=np.float64) for values in subjects.values()])
    weight = np.concatenate([np.full(len(values), 1 / len(values)) for values in subjects.values()])
    return Bound(weighted_quantile(flat, weight, reached * (n + 1) / n), reached, n, len(flat))


def lower_bounds(predicted: Mapping[str, float], margins: Mapping[str, float]) -> dict[str, float]:
    """The lower bounds of a slice's figures: the inverse of `shortfalls`.

    Args:
        predicted: `predicted_figures` of the slice.
        margins: the margins of the bounds, ``psnr`` and ``ssim``.

    Returns:
        ``psnr`` in dB; ``ssim``, at least -1.

    Example:
        >>> lower_bounds({"psnr": 30.0, "ssim": 0.9}, {"psnr": 2.0, "ssim": math.log(3)})
        {'psnr': 28.0, 'ssim': 0.7}
    """
    ssim = 1 - (1 - predicted["ssim"]) * math.exp(margins["ssim"])
    return {"psnr": predicted["psnr"] - margins["psnr"], "ssim": max(ssim, -1.0)}
