"""Calibrated intervals of a restored volume, and bounds on its figures.

A `Calibration` is a file of the bundle. It holds for one set of weights and for the parameters under which it was
fitted. `calibrated` applies it to a volume: with other weights or parameters there are no intervals, and a warning says
why.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.base import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.files import atomic_path, load_json
from monai_d3gm.metrics import foreground_mask
from monai_d3gm.sde import Sampler
from monai_d3gm.trust.bounds import MIN_BOUND_SUBJECTS, Bound, lower_bounds, predicted_figures
from monai_d3gm.trust.conformal import Interval, volume_scale

__all__ = [
    "CalibratedUncertainty",
    "Calibration",
    "CalibrationError",
    "CalibrationCondition",
    "ContrastCalibration",
    "calibrated",
    "contrast_of",
]

logger = logging.getLogger(__name__)

SUBJECT_PATTERN = r"^(sub-[0-9A-Za-z]+|patient[0-9]+)"
HARMLESS = ("seed", "device", "slices", "roi_size", "overlap", "batch_size", "compile", "noise_std")
"""Parameters of a run that may differ from those of the calibration."""

SAME_ACCELERATION = 0.15
"""A mask whose acceleration differs by at most this share from a calibrated one counts as that one: random masks of one
nominal acceleration differ by as much."""

CONSTANT_SPREAD = 0.03
"""The spread of a single sample without an error map, in units of the volume's scale; the calibration multiplies it."""

_UNIT = "99.5th percentile of the restored volume's foreground"
BOUNDED = {name: f"{name}/slice/foreground" for name in ("psnr", "ssim")}
# the first that is found counts: FLAIR is T2-weighted too, and T2* is not T2
CONTRASTS = {
    "FLAIR": r"flair|dark.?fluid",
    "T1W": r"t1w?(?:pre|post)?|mp2?rage",
    "T2W": r"t2w?(?!\*|.?star)",
    "PDW": r"pdw?",
}


class CalibrationError(ValueError):
    """A calibration cannot be read, or cannot be fitted."""


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


@dataclass(frozen=True)
class ContrastCalibration:
    """The fit on the calibration subjects of one contrast.

    Attributes:
        interval: q and s0 with the coverage.
        leave_one_out: by subject, the coverage of an interval fitted on the others; empty for one subject.
        bounds: ``psnr`` and ``ssim``; empty below nine subjects.
    """

    interval: Interval
    leave_one_out: Mapping[str, float]
    bounds: Mapping[str, Bound]


@dataclass(frozen=True)
class CalibrationCondition:
    """A calibration under one set of parameters, such as one acceleration.

    Attributes:
        parameters: those of the run that have to agree.
        contrasts: by contrast, as `contrast_of` names it or the user did.
        residual: the largest residual over noise of a slice; None where it was not taken.
    """

    parameters: Mapping[str, Any]
    contrasts: Mapping[str, ContrastCalibration]
    residual: float | None = None


@dataclass(frozen=True)
class Calibration:
    """The calibration of a bundle: ``models/calibration.json``.

    Attributes:
        weights: SHA-256 of the checkpoint for which it holds.
        conditions: one for each set of parameters.

    Example:
        >>> interval = Interval(q=2.0, s0=0.01, coverage=0.9, subjects=3, pixels=1000)
        >>> condition = CalibrationCondition({"acceleration": 4.0}, {"T1W": ContrastCalibration(interval, {}, {})})
        >>> found, reasons = Calibration("ab12", (condition,)).find("ab12", {"acceleration": 8.0})
        >>> found, reasons
        (None, ['no intervals: calibrated for acceleration 4.0, not 8.0'])
    """

    weights: str
    conditions: tuple[CalibrationCondition, ...]

    def find(self, weights: str, parameters: Mapping[str, Any]) -> tuple[CalibrationCondition | None, list[str]]:
        """The condition under which a run is calibrated, or None and the reason.

        Args:
            weights: SHA-256 of the run's checkpoint.
            parameters: of the run; those of the calibration have to be there and equal.
        """
        if weights != self.weights:
            return None, [f"no intervals: calibrated for other weights ({self.weights[:12]}, not {weights[:12]})"]
        given = _flat(comparable(parameters))
        fitted = [_flat(condition.parameters) for condition in self.conditions]
        differing = [
            [name for name, value in each.items() if name not in given or given[name] != value] for each in fitted
        ]
        fewest = min(differing, key=len)
        if not fewest:
            return self.conditions[differing.index(fewest)], []
        stated = []
        for name in fewest:
            nearest = [each for each, names in zip(fitted, differing, strict=True) if names == fewest]
            values = dict.fromkeys(str(each[name]) for each in nearest)
            stated.append(f"{name} {' or '.join(values)}, not {given.get(name, 'known')}")
        return None, [f"no intervals: calibrated for {'; '.join(stated)}"]

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the calibration as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written, or is there and ``overwrite`` is False.
        """
        content = {
            "weights": self.weights,
            "half_width": "q (spread + s0 scale); spread: the predicted error, the standard deviation over samples, "
            f"or a constant; scale: {_UNIT}",
            "bounds": ", ".join(BOUNDED.values()),
            "conditions": [asdict(condition) for condition in self.conditions],
        }
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Read a calibration that was saved.

        Raises:
            CalibrationError: the file cannot be read, or is no such calibration.
        """
        try:
            content = load_json(path)
            conditions = tuple(
                CalibrationCondition(
                    _with_every_option(condition["parameters"]),
                    {name: _contrast(entry) for name, entry in condition["contrasts"].items()},
                    None if condition["residual"] is None else _number("residual", condition["residual"]),
                )
                for condition in content["conditions"]
            )
            if not conditions or not all(condition.contrasts for condition in conditions):
                raise ValueError("it has no conditions or no contrasts")
            return cls(str(content["weights"]), conditions)
        except OSError as error:
            raise CalibrationError(f"{path}: the calibration cannot be read: {error.strerror or error}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CalibrationError(f"{path}: not a calibration: {' '.join(str(error).split())}.") from error


def _contrast(entry: Mapping[str, Any]) -> ContrastCalibration:
    bounds = {name: Bound(**bound) for name, bound in entry["bounds"].items()}
    if unknown := bounds.keys() - BOUNDED.keys():
        raise ValueError(f"bounds on {', '.join(sorted(unknown))}; accepted: {', '.join(BOUNDED)}")
    for bound in bounds.values():
        _number("margin", bound.margin, least=-math.inf)
        _fitted(bound, "subjects", "slices")
    interval = Interval(**entry["interval"])
    for name in ("q", "s0"):
        _number(name, getattr(interval, name))
    _fitted(interval, "subjects", "pixels")
    left_out = {str(name): _number("leave_one_out", value, most=1) for name, value in entry["leave_one_out"].items()}
    return ContrastCalibration(interval, left_out, bounds)


def _fitted(fit: Interval | Bound, *counts: str) -> None:
    """Check the coverage and the counts of a fit."""
    _number("coverage", fit.coverage, most=1)
    for name in counts:
        if _number(name, getattr(fit, name), least=1) % 1:
            raise ValueError(f"{name} is {getattr(fit, name)}; accepted: a whole number")


def _number(name: str, value: Any, least: float = 0.0, most: float = math.inf) -> float:
    """A finite number in a range, checked."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; accepted: a finite number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; accepted: {least:g} to {most:g}")
    return value


def _with_every_option(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a file; options that samplers had not when it was written have their default."""
    sampler = {"sampler": Sampler(**parameters["sampler"]).config()} if "sampler" in parameters else {}
    return {**parameters, **sampler}


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with one name for each value.

    Example:
        >>> _flat({"acceleration": 4, "sampler": {"steps": 5, "eta": 0.0}})
        {'acceleration': 4, 'sampler.steps': 5, 'sampler.eta': 0.0}
    """
    flat: dict[str, Any] = {}
    for name, value in parameters.items():
        flat |= {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have to agree, as they come back from JSON."""
    kept = {name: value for name, value in parameters.items() if name not in HARMLESS}
    return dict(json.loads(json.dumps(kept, default=str)))


@dataclass(frozen=True)
class CalibratedUncertainty:
    """Intervals and bounds of a restored volume.

    Attributes:
        half_width: (S, h, w), in the image's unit: the interval is image +- half_width; None where not calibrated.
        interval: what it was made with.
        contrast: of the calibration that was used.
        bound_coverage: share of slices of new subjects whose bounds hold; None where there are no bounds.
        psnr_bound: by slice, the lower bound of ``psnr/slice/foreground`` in dB, None for slices without foreground.
        ssim_bound: by slice, the same of ``ssim/slice/foreground``.
        warnings: why there is no interval or no bound, or why it may not hold.
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
