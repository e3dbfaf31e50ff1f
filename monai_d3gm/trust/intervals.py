"""Intervals of a restored volume, and bounds on its figures, from a calibration.

With other weights or parameters than those of the calibration there are no intervals, and a warning says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.metrics import foreground_mask
from monai_d3gm.trust.bounds import MIN_BOUND_SUBJECTS, lower_bounds, predicted_figures
from monai_d3gm.trust.calibration import BOUNDED, Calibration, CalibrationCondition
from monai_d3gm.trust.conformal import Interval, volume_scale

__all__ = [
    "CalibratedUncertainty",
    "calibrated",
    "condition_of",
    "contrast_of",
    "contrast_of_input",
    "parameters_of_input",
    "spread_of",
]


SAME_ACCELERATION = 0.15
"""A mask whose acceleration differs by at most this share from a calibrated one counts as that one: random masks of one
nominal acceleration differ by as much."""


CONSTANT_SPREAD = 0.03
"""The spread of a single sample without an error map, in units of the volume's scale; the calibration multiplies it."""


# the first that is found counts: FLAIR is T2-weighted too, and T2* is not T2
CONTRASTS = {
    "FLAIR": r"flair|dark.?fluid",
    "T1W": r"t1w?(?:pre|post)?|mp2?rage",
    "T2W": r"t2w?(?!\*|.?star)",
    "PDW": r"pdw?",
}


@dataclass(frozen=True)
class CalibratedUncertainty:
    """Intervals and bounds of a restored volume.

    Attributes:
        half_width: (S, h, w), in the image's unit: the interval is image +- half_width; None where not calibrated.
        interval: the fit that made it.
        contrast: of the calibration that was used.
        bound_coverage: share of slices of new subjects whose bounds hold; None where there are no bounds.
        psnr_bound: by slice, the lower bound of ``psnr/slice/foreground`` in dB, None for slices without foreground.
        ssim_bound: by slice, the same of ``ssim/slice/foreground``.
        warnings: why there is no interval or no bound, or why it may not hold.

    Example:
        >>> CalibratedUncertainty(warnings=("no intervals: calibrated for other weights",)).half_width is None
        True
    """

    half_width: NDArray[np.float32] | None = None
    interval: Interval | None = None
    contrast: str | None = None
    bound_coverage: float | None = None
    psnr_bound: tuple[float | None, ...] = ()
    ssim_bound: tuple[float | None, ...] = ()
    warnings: tuple[str, ...] = ()

    def report(self, volume: RestoredVolume) -> dict[str, Any]:
        """The volume's entry of a report: plain values; ``covered`` is the share of the truth's foreground that lies in
        the intervals, where a truth is known. Empty where not calibrated."""
        if self.interval is None or self.half_width is None:
            return {}
        entry: dict[str, Any] = {"contrast": self.contrast, **asdict(self.interval)}
        entry["guaranteed"] = self.interval.guaranteed
        if volume.reference is not None and (mask := foreground_mask(volume.reference)).any():
            inside = np.abs(volume.reference - volume.images[METHOD])[mask] <= self.half_width[mask]
            entry["covered"] = float(inside.mean())
        if self.bound_coverage is not None:
            bounds = dict(zip(BOUNDED.values(), (self.psnr_bound, self.ssim_bound), strict=True))
            entry["lower_bounds"] = {"coverage": self.bound_coverage, **{k: list(v) for k, v in bounds.items()}}
        return entry


def calibrated(
    volume: RestoredVolume,
    calibration: Calibration,
    weights: str,
    parameters: Mapping[str, Any],
    contrast: str | None = None,
) -> CalibratedUncertainty:
    """Apply a calibration to a restored volume.

    Args:
        volume: restored.
        calibration: of the bundle.
        weights: SHA-256 of the checkpoint that restored it.
        parameters: of the run that restored it.
        contrast: a contrast of the calibration; found in the input's name and attributes if None. For one that is not
            known or was not calibrated, the widest intervals of all contrasts are taken, with a warning, and no bounds.

    Returns:
        Intervals and bounds, or none and the reason among its warnings.

    Example:
        >>> from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path
        >>> (source,) = KspaceSliceDataset(bundled_epi_path(), slices=1).volumes
        >>> image = np.ones((1, 128, 96), np.float32)
        >>> volume = RestoredVolume(source, {METHOD: image}, std=0.1 * image, reference=None)
        >>> from monai_d3gm.trust.calibration import ContrastCalibration
        >>> fit = ContrastCalibration(Interval(q=2.0, s0=0.01, coverage=0.9, subjects=3, pixels=1000), {}, {})
        >>> calibration = Calibration("ab12", (CalibrationCondition({"acceleration": 4.0}, {"T1W": fit}),))
        >>> found = calibrated(volume, calibration, "ab12", {"acceleration": 4.0}, contrast="T1w")
        >>> found.contrast, round(float(found.half_width[0, 0, 0]), 2)
        ('T1W', 0.22)
        >>> calibrated(volume, calibration, "ab12", {"acceleration": 8.0}, contrast="T1w").warnings
        ('no intervals: calibrated for acceleration 4.0, not 8.0',)
    """
    image, spread = volume.images[METHOD], spread_of(volume)
    condition, reasons = condition_of(volume.source, calibration, weights, parameters)
    if condition is None:
        return CalibratedUncertainty(warnings=tuple(reasons))
    scale = volume_scale(image)
    found = contrast_of_input(volume.source, contrast)
    if found is not None and found in condition.contrasts:
        name = found
        bounds = condition.contrasts[name].bounds
        if not bounds:
            reasons.append(_too_few(name, condition.contrasts[name].interval.subjects))
    else:
        name = max(condition.contrasts, key=lambda each: _mean_width(condition.contrasts[each].interval, spread, scale))
        bounds = {}
        reasons.append(
            f"contrast {found or 'unknown'} was not calibrated ({', '.join(condition.contrasts)} were): the widest "
            f"intervals, those of {name}, are given, and no bounds on PSNR and SSIM; their coverage is not known"
        )
    interval = condition.contrasts[name].interval
    half_width = interval.half_width(spread, scale)
    if not bounds:
        return CalibratedUncertainty(half_width, interval, name, warnings=tuple(reasons))
    psnr, ssim = _lower_bounds(image, spread, {figure: bound.margin for figure, bound in bounds.items()})
    return CalibratedUncertainty(half_width, interval, name, bounds["psnr"].coverage, psnr, ssim, tuple(reasons))


def condition_of(
    source: InputVolume, calibration: Calibration, weights: str, parameters: Mapping[str, Any]
) -> tuple[CalibrationCondition | None, list[str]]:
    """The condition for an input, restored or not. Measured data can use a condition of simulated data.

    Args:
        source: the input.
        calibration: of the bundle.
        weights: SHA-256 of the checkpoint.
        parameters: of the run.

    Returns:
        The condition and warnings; or None and the reasons why there are no intervals.
    """
    known = parameters_of_input(source, parameters)
    wider: list[str] = []
    if (coils := known.get("coils", 1)) != 1:
        known["coils"], wider = _calibrated_coils(coils, calibration)
    if isinstance(acceleration := known.get("acceleration"), int | float):
        known["acceleration"], above = _calibrated_acceleration(float(acceleration), calibration)
        wider = [*wider, *above]
    condition, reasons = calibration.find(weights, known)
    if condition is None and not source.simulated:
        condition, reasons = calibration.find(weights, known | {"simulated": True})
        if condition is not None:
            reasons = ["the intervals were calibrated on simulated data; their coverage on measured data is not known"]
    return condition, [*reasons, *wider] if condition is not None else reasons


def _calibrated_acceleration(acceleration: float, calibration: Calibration) -> tuple[float, list[str]]:
    """The calibrated acceleration whose intervals an input takes: its own or, between two, the next higher one.

    Intervals grow with the acceleration, so those of a higher one cover at least as much.
    """
    stated = sorted(
        {float(c.parameters["acceleration"]) for c in calibration.conditions if "acceleration" in c.parameters}
    )
    for value in stated:
        if abs(acceleration / value - 1) <= SAME_ACCELERATION:
            return value, []
    if not stated or not stated[0] < acceleration < stated[-1]:
        return acceleration, []
    above = next(value for value in stated if value > acceleration)
    return above, [f"the intervals are those of acceleration {above:g}, wider than {acceleration:.3g} needs"]


def _calibrated_coils(coils: int, calibration: Calibration) -> tuple[int, list[str]]:
    """The calibrated number of coils, above one, that is nearest to the input's, or else the input's own."""
    stated = {int(c.parameters.get("coils", 1)) for c in calibration.conditions} - {1}
    nearest = min(stated, key=lambda value: abs(value - coils), default=coils)
    return nearest, [] if nearest == coils else [f"the intervals were calibrated with {nearest} coils, not {coils}"]


def spread_of(volume: RestoredVolume) -> NDArray[np.float32]:
    """The spread that sets the width of intervals, of the images' shape and unit.

    It is the predicted error; or else the standard deviation over the samples; or else, for a single sample without an
    error map, a constant of `CONSTANT_SPREAD` times the volume's scale, with which all intervals have one width.
    """
    if volume.predicted_error is not None:
        return volume.predicted_error
    if volume.std is not None:
        return volume.std
    image = volume.images[METHOD]
    return np.full_like(image, CONSTANT_SPREAD * volume_scale(image))


def parameters_of_input(source: InputVolume, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run as they hold for an input: k-space that was undersampled has its own acceleration."""
    known = {**parameters, "simulated": source.simulated}
    if "coils" in parameters:
        known["coils"] = max(1, source.coils)
    if "acceleration" in source.attributes or (source.measured_kspace and not source.has_truth):
        known["acceleration"] = source.attributes.get("acceleration", "unknown")
    return known


def contrast_of(*texts: str) -> str | None:
    """The contrast that a file's name or a series' description says: FLAIR, T1W, T2W or PDW; None for none of these.

    Example:
        >>> contrast_of("sub-01_T1w"), contrast_of("tmp", "AXFLAIR"), contrast_of("ax_t2star_epi")
        ('T1W', 'FLAIR', None)
    """
    for name, pattern in CONTRASTS.items():
        whole = rf"(?i)(?<![a-z0-9])(?:ax|cor|sag|tra)?(?:{pattern})(?![a-z0-9*])"
        if any(re.search(whole, text.replace("_", " ")) for text in texts):
            return name
    return None


def contrast_of_input(source: InputVolume, contrast: str | None) -> str | None:
    """The contrast that the user says, or the input's name and text attributes."""
    if contrast is not None:
        return contrast_of(contrast) or contrast.upper()
    texts = [value for value in source.attributes.values() if isinstance(value, str)]
    return contrast_of(source.stem, *texts)


def _mean_width(interval: Interval, std: NDArray[np.float32], scale: float) -> float:
    return float(interval.half_width(std, scale).mean())


def _too_few(contrast: str, subjects: int) -> str:
    return (
        f"no bounds on PSNR and SSIM: {subjects} calibration subject{'s' * (subjects != 1)} of contrast {contrast}, "
        f"at least {MIN_BOUND_SUBJECTS} are needed"
    )


def _lower_bounds(
    image: NDArray[np.float32], std: NDArray[np.float32], margins: Mapping[str, float]
) -> tuple[tuple[float | None, ...], ...]:
    """The bounds of every slice, for each figure of `BOUNDED`."""
    predictions = [predicted_figures(*slices) for slices in zip(image, std, strict=True)]
    lower = [None if predicted is None else lower_bounds(predicted, margins) for predicted in predictions]
    return tuple(tuple(None if one is None else one[figure] for one in lower) for figure in BOUNDED)
