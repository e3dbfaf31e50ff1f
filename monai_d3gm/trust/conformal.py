"""Intervals that are calibrated on subjects with a known truth: conformal prediction for restored images.

With mean and standard deviation over samples, in units of the volume's scale (`volume_scale`), a pixel
has the score e = |truth - mean| / (std + s0), and the interval around the mean has the half-width q (std + s0)
(Angelopoulos et al., "Image-to-image regression with distribution-free uncertainty quantification", ICML 2022, arXiv
2202.05265, scale such a heuristic likewise). q is the quantile of the scores over the foreground pixels at the stated
coverage. Pixels and slices of one subject depend on each other; only subjects are exchangeable. So every subject
has the weight 1/n, spread over its pixels: q is the quantile of the mean of the subjects' distributions, the "CDF
pooling" of Dunn, Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA
2023, arXiv 1809.07441.

The guarantee: a foreground pixel, drawn at random from a new subject that is exchangeable with the n subjects (same
scanner, contrast, undersampling), lies in its interval with the stated probability as n grows, and for s0 fixed
beforehand never below n / (n + 1) times it (Lee, Barber and Willett, "Distribution-free inference with
hierarchical data", arXiv 2306.06342: their quantile, with a mass of 1 / (n + 1) at infinity, is this one's at the
level (n + 1) / n). Here s0 is chosen on the same subjects, among a few quantiles of std, so this bound is not
strict; `leave_one_out` repeats the choice and gives the coverage that was seen. There is no guarantee at each pixel,
inside a lesion, in each subject, or in the background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_d3gm.metrics.arrays import as_slices
from monai_d3gm.metrics.image import foreground_mask

__all__ = [
    "Interval",
    "Pixels",
    "check_coverage",
    "covered",
    "fit_interval",
    "leave_one_out",
    "sample_pixels",
    "volume_scale",
    "weighted_quantile",
]

SCALE_PERCENTILE = 99.5
S0_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
PIXELS_PER_VOLUME = 2**14
_ROUNDING = 1e-9  # of a cumulative weight, so that k of n equal weights reach the level k / n

Array = NDArray[np.float64]


def weighted_quantile(values: ArrayLike, weights: ArrayLike, level: float) -> float:
    """The smallest value up to which the weights sum to at least ``level`` of their total; infinite above level 1.

    Args:
        values: of any shape.
        weights: at least 0, not all 0, of the same shape.
        level: above 0.

    Raises:
        ValueError: no values, shapes or weights that do not fit, or a level that is not above 0.

    Example:
        >>> weighted_quantile([1.0, 2.0, 3.0, 4.0], [1, 1, 1, 1], 0.75)
        3.0
        >>> weighted_quantile([1.0, 2.0], [1, 1], 1.5)
        inf
    """
    flat, mass = (np.asarray(array, dtype=np.float64).ravel() for array in (values, weights))
    if flat.size == 0 or flat.shape != mass.shape:
        raise ValueError(f"values has {flat.size} entries, weights {mass.size}; accepted: the same number above 0.")
    if not (np.isfinite(mass).all() and mass.min() >= 0 and mass.sum() > 0):
        raise ValueError("weights has entries that are negative, not finite, or all 0; accepted: 0 and more.")
    if not level > 0:
        raise ValueError(f"level is {level}; accepted: above 0.")
    if level > 1 + _ROUNDING:
        return math.inf
    order = np.argsort(flat)
    cumulative = np.cumsum(mass[order])
    place = np.searchsorted(cumulative, (level - _ROUNDING) * cumulative[-1])
    return float(flat[order[min(int(place), flat.size - 1)]])


def volume_scale(restored: ArrayLike) -> float:
    """The 99.5th percentile of a restored magnitude image inside its foreground: the unit of errors, std and s0.

    It depends on the restored image alone and is proportional to it, so that a calibration does not depend on the
    scanner's units.

    Args:
        restored: magnitude, (S, h, w), all slices of a volume.

    Raises:
        ValueError: it is not such an image, or zero everywhere.

    Example:
        >>> image = np.zeros((1, 32, 32))
        >>> image[0, 8:24, 8:24] = 200.0
        >>> volume_scale(image)
        200.0
    """
    slices = as_slices(restored, "restored")
    mask = foreground_mask(slices)
    scale = float(np.percentile(slices[mask] if mask.any() else slices, SCALE_PERCENTILE))
    if scale <= 0:
        raise ValueError(f"restored has the scale {scale}; accepted: an image with positive values.")
    return scale


@dataclass(frozen=True)
class Pixels:
    """Pixels of a subject with a known truth, in units of its volumes' scale.

    Attributes:
        error: |truth - mean|, (N,).
        std: standard deviation over the samples, (N,).
        weight: number of foreground pixels that each stands for, (N,).
    """

    error: Array
    std: Array
    weight: Array

    @classmethod
    def join(cls, parts: Sequence[Pixels]) -> Pixels:
        """The pixels of several volumes of a subject as one set."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("error", "std", "weight")))


def sample_pixels(
    mean: ArrayLike,
    std: ArrayLike,
    truth: ArrayLike,
    scale: float,
    *,
    count: int = PIXELS_PER_VOLUME,
    seed: int = 0,
) -> Pixels:
    """Take pixels of a volume's foreground: all, or ``count`` drawn without replacement, so that memory is bounded.

    Args:
        mean: restored magnitude, (S, h, w).
        std: its standard deviation over the samples, of the same shape and unit.
        truth: the same; its `foreground_mask` says which pixels count.
        scale: `volume_scale` of the restored volume.
        count: the most pixels kept.
        seed: of the draw.

    Returns:
        The pixels in units of the scale; none where the truth has no foreground.

    Raises:
        ValueError: shapes that differ, values that are not finite, or a scale that is not above 0.

    Example:
        >>> truth = np.zeros((1, 32, 32))
        >>> truth[0, 8:24, 8:24] = 10.0
        >>> pixels = sample_pixels(truth + 1.0, truth + 0.5, truth, 10.0, count=100)
        >>> len(pixels.error), float(pixels.error[0]), round(float(pixels.weight.sum()))
        (100, 0.1, 244)
    """
    predicted, spread, reference = as_slices(mean, "mean"), as_slices(std, "std"), as_slices(truth, "truth")
    shapes = [predicted.shape, spread.shape, reference.shape]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"mean, std and truth have the shapes {', '.join(map(str, shapes))}; accepted: one shape for all."
        )
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale is {scale}; accepted: above 0.")
    inside = np.flatnonzero(foreground_mask(reference))
    kept = inside
    if len(inside) > count:
        kept = np.sort(np.random.default_rng(seed).choice(inside, count, replace=False, shuffle=False))
    error = np.abs(reference.ravel()[kept] - predicted.ravel()[kept]) / scale
    return Pixels(error, spread.ravel()[kept] / scale, np.full(len(kept), len(inside) / max(len(kept), 1)))


@dataclass(frozen=True)
class Interval:
    """Half-widths q (std + s0) that cover the stated share of foreground pixels.

    Attributes:
        q: the factor.
        s0: added to std, in units of the volume's scale.
        coverage: the stated share.
        subjects: number of calibration subjects.
        pixels: number of their foreground pixels.

    Example:
        >>> Interval(q=2.0, s0=0.5, coverage=0.9, subjects=9, pixels=1000).guaranteed
        0.81
    """

    q: float
    s0: float
    coverage: float
    subjects: int
    pixels: int

    @property
    def guaranteed(self) -> float:
        """Coverage below which a new exchangeable subject's expected one cannot fall, for s0 chosen beforehand."""
        return self.coverage * self.subjects / (self.subjects + 1)

    def half_width(self, std: NDArray[np.floating], scale: float) -> NDArray[np.float32]:
        """Half-widths of the intervals, in the unit of ``std`` and of its shape.

        Args:
            std: standard deviation over the samples.
            scale: `volume_scale` of the restored volume, in the same unit.

        Example:
            >>> Interval(q=2.0, s0=0.5, coverage=0.9, subjects=3, pixels=100).half_width(np.array([5.0]), 10.0)
            array([20.], dtype=float32)
        """
        return np.asarray(self.q * (std + self.s0 * scale), dtype=np.float32)


def covered(interval: Interval, pixels: Pixels) -> float:
    """The share of the pixels that lie in their intervals, NaN where there are none.

    Example:
        >>> pixels = Pixels(np.array([0.1, 0.3]), np.array([0.1, 0.1]), np.ones(2))
        >>> covered(Interval(1.0, 0.1, 0.5, 1, 2), pixels)
        0.5
    """
    total = pixels.weight.sum()
    inside = pixels.error <= interval.q * (pixels.std + interval.s0)
    return float((pixels.weight * inside).sum() / total) if total > 0 else math.nan


def fit_interval(subjects: Mapping[str, Pixels], coverage: float = 0.9) -> Interval:
    """Fit q and s0; every subject counts the same.

    For each of a few quantiles of std (1 to 99 %) as s0, q follows from the coverage. The one with the least mean
    interval score is taken, a proper score that rewards intervals which are wide where the error is large (Gneiting
    and Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 2007); for a half-width w it is
    2 w + 2 max(e - w, 0) / (1 - coverage), with e = |truth - mean|. Width alone would reward ignoring std.

    Args:
        subjects: the pixels of each calibration subject.
        coverage: share of pixels to cover, in (0, 1).

    Raises:
        ValueError: a coverage out of its range, no subject, a subject without pixels, or std 0 everywhere.

    Example:
        Errors that are uniform on (0, 2 std) are covered in nine of ten cases by 1.8 std:

        >>> std = np.full(1000, 0.1)
        >>> pixels = Pixels(np.linspace(0.0002, 0.2, 1000), std, np.ones(1000))
        >>> interval = fit_interval({"a": pixels, "b": pixels}, 0.9)
        >>> round(float(interval.half_width(np.array(0.1), 1.0)), 6)
        0.18
    """
    check_coverage(coverage)
    if not subjects:
        raise ValueError("subjects is empty; accepted: at least one calibration subject.")
    for name, pixels in subjects.items():
        if not pixels.weight.sum() > 0:
            raise ValueError(f"subjects[{name!r}] has no foreground pixels; accepted: at least one.")
    pooled = Pixels.join(list(subjects.values()))
    weight = np.concatenate([pixels.weight / pixels.weight.sum() for pixels in subjects.values()])
    candidates = {weighted_quantile(pooled.std, weight, level) for level in S0_LEVELS} - {0.0}
    if not candidates:
        raise ValueError("std is 0 at nearly all pixels; accepted: the standard deviation of two samples or more.")
    fits = [(weighted_quantile(pooled.error / (pooled.std + s0), weight, coverage), s0) for s0 in sorted(candidates)]
    q, s0 = min(fits, key=lambda fit: _interval_score(fit[0], fit[1], pooled, weight, coverage))
    return Interval(q, s0, coverage, len(subjects), round(sum(pixels.weight.sum() for pixels in subjects.values())))


def _interval_score(q: float, s0: float, pixels: Pixels, weight: Array, coverage: float) -> float:
    half_width = q * (pixels.std + s0)
    score = 2 * half_width + 2 * np.maximum(pixels.error - half_width, 0) / (1 - coverage)
    return float(np.average(score, weights=weight))


def leave_one_out(subjects: Mapping[str, Pixels], coverage: float = 0.9) -> dict[str, float]:
    """The share of each subject's pixels that an interval fitted on the others covers; empty for one subject.

    Example:
        >>> pixels = Pixels(np.array([0.1, 0.2]), np.array([0.1, 0.1]), np.ones(2))
        >>> leave_one_out({"a": pixels, "b": pixels}, 0.5)
        {'a': 0.5, 'b': 0.5}
    """
    if len(subjects) < 2:
        return {}
    others = {name: {other: subjects[other] for other in subjects if other != name} for name in subjects}
    return {name: covered(fit_interval(others[name], coverage), pixels) for name, pixels in subjects.items()}


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that is not between 0 and 1.

    Example:
        >>> check_coverage(0.9)
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage is {coverage}; accepted: between 0 and 1.")
