"""How far a restored volume may be trusted: calibrated intervals, bounds on its figures, and warnings before use.

`CollectCalibration` gathers what `monai_d3gm.metrics.conformal` fits on; a `Calibration` is the result, a file of the
bundle, and holds for one set of weights and for the parameters under which it was fitted. `calibrated` applies it to a
volume: with other weights or parameters there are no intervals, and a warning says why. `TrustCheck` does so for every
volume that an engine restores, and compares it with the training card and its measurement.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from monai_d3gm.data.card import TrainingCard, compare, residual_warnings, volume_statistics
from monai_d3gm.data.datasets import InputVolume
from monai_d3gm.data.files import atomic_path
from monai_d3gm.engines.restoration import METHOD, RestorationEvents, RestoredVolume
from monai_d3gm.metrics import foreground_mask
from monai_d3gm.metrics.conformal import (
    MIN_BOUND_SUBJECTS,
    Bound,
    Interval,
    Pixels,
    fit_bound,
    fit_interval,
    leave_one_out,
    lower_bounds,
    predicted_figures,
    sample_pixels,
    shortfalls,
    volume_scale,
)
from monai_d3gm.networks.checkpoint import weights_hash

__all__ = [
    "CalibratedUncertainty",
    "Calibration",
    "CalibrationError",
    "CollectCalibration",
    "Condition",
    "ContrastCalibration",
    "TrustCheck",
    "calibrated",
    "contrast_of",
]

logger = logging.getLogger(__name__)

SUBJECT_PATTERN = r"^(sub-[0-9A-Za-z]+|patient[0-9]+)"
HARMLESS = ("seed", "device", "slices", "roi_size", "batch_size", "noise_std")
"""Parameters of a run that may differ from those of the calibration."""

SAME_ACCELERATION = 0.15
"""A measured mask whose acceleration differs by at most this share from a calibrated one counts as that one: random
masks of one nominal acceleration differ by as much."""

_UNIT = "99.5th percentile of the restored volume's foreground"
_BOUNDED = {name: f"{name}/slice/foreground" for name in ("psnr", "ssim")}
# the first that is found counts: FLAIR is T2-weighted too, and T2* is not T2
_CONTRASTS = {
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
    for name, pattern in _CONTRASTS.items():
        whole = rf"(?i)(?<![a-z0-9])(?:ax|cor|sag|tra)?(?:{pattern})(?![a-z0-9*])"
        if any(re.search(whole, text.replace("_", " ")) for text in texts):
            return name
    return None


@dataclass(frozen=True)
class ContrastCalibration:
    """What was fitted on the calibration subjects of one contrast.

    Attributes:
        interval: q and s0 with the coverage.
        leave_one_out: by subject, the coverage of an interval fitted on the others; empty for one subject.
        bounds: ``psnr`` and ``ssim``; empty below nine subjects.
    """

    interval: Interval
    leave_one_out: Mapping[str, float]
    bounds: Mapping[str, Bound]


@dataclass(frozen=True)
class Condition:
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
        >>> condition = Condition({"acceleration": 4.0}, {"T1W": ContrastCalibration(interval, {}, {})})
        >>> found, reasons = Calibration("ab12", (condition,)).find("ab12", {"acceleration": 8.0})
        >>> found, reasons
        (None, ['no intervals: calibrated for acceleration 4.0, not 8.0'])
    """

    weights: str
    conditions: tuple[Condition, ...]

    def find(self, weights: str, parameters: Mapping[str, Any]) -> tuple[Condition | None, list[str]]:
        """The condition under which a run is calibrated, or None and the reason.

        Args:
            weights: SHA-256 of the run's checkpoint.
            parameters: of the run; those of the calibration have to be there and equal.
        """
        if weights != self.weights:
            return None, [f"no intervals: calibrated for other weights ({self.weights[:12]}, not {weights[:12]})"]
        given = _comparable(parameters)
        differing = [
            [name for name, value in condition.parameters.items() if name not in given or given[name] != value]
            for condition in self.conditions
        ]
        fewest = min(differing, key=len)
        if not fewest:
            return self.conditions[differing.index(fewest)], []
        stated = []
        for name in fewest:
            nearest = [c for c, names in zip(self.conditions, differing, strict=True) if names == fewest]
            values = dict.fromkeys(str(condition.parameters[name]) for condition in nearest)
            stated.append(f"{name} {' or '.join(values)}, not {given.get(name, 'known')}")
        return None, [f"no intervals: calibrated for {'; '.join(stated)}"]

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the calibration as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written, or is there and ``overwrite`` is False.
        """
        content = {
            "weights": self.weights,
            "half_width": f"q (std + s0 scale); scale: {_UNIT}",
            "bounds": ", ".join(_BOUNDED.values()),
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
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            conditions = tuple(
                Condition(
                    dict(condition["parameters"]),
                    {name: _contrast(entry) for name, entry in condition["contrasts"].items()},
                    condition["residual"],
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
    return ContrastCalibration(Interval(**entry["interval"]), dict(entry["leave_one_out"]), bounds)


def _comparable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that have to agree, as they come back from JSON."""
    kept = {name: value for name, value in parameters.items() if name not in HARMLESS}
    return dict(json.loads(json.dumps(kept, default=str)))


class CollectCalibration:
    """Gathers errors, standard deviations and shortfalls of every volume with a truth, by contrast and subject.

    Memory is bounded: of a volume at most 16384 foreground pixels are kept, drawn with a fixed seed.

    Args:
        contrast: of all inputs; found in their names if None.
        subject_pattern: regular expression with one group that finds the subject in an input's stem; the stem where it
            does not match.

    Raises:
        CalibrationError: when the engine starts: an input has no truth or no contrast in its name, or less than two
            samples are drawn.

    Example:
        >>> CollectCalibration().fit({"acceleration": 4})
        Traceback (most recent call last):
        ...
        monai_d3gm.handlers.calibration.CalibrationError: no volume was restored; at least one is needed.
    """

    def __init__(self, contrast: str | None = None, subject_pattern: str = SUBJECT_PATTERN) -> None:
        self.contrast = contrast
        self.subject_pattern = subject_pattern
        self._pixels: dict[str, dict[str, list[Pixels]]] = {}
        self._shortfalls: dict[str, dict[str, list[dict[str, float]]]] = {}
        self._residual: float | None = None
        self._sources: list[InputVolume] = []

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.take)

    def check(self, engine: Any) -> None:
        """Refuse to start where there is nothing to calibrate on."""
        if engine.restore.num_samples < 2:
            raise CalibrationError("num_samples is 1; a standard deviation needs at least 2.")
        for source in engine.volumes:
            if not source.has_truth:
                raise CalibrationError(f"{source.path}: no truth is known; a calibration needs it.")
            if _contrast_of_input(source, self.contrast) is None:
                raise CalibrationError(
                    f"{source.path}: its name says no contrast (accepted: {', '.join(_CONTRASTS)}); give the contrast."
                )
        kinds = {(source.simulated, source.coils) for source in engine.volumes}
        if len(kinds) > 1:
            raise CalibrationError("the inputs are of several kinds (simulated, coils); calibrate on one kind.")
        self._sources += engine.volumes

    def take(self, engine: Any) -> None:
        """Take the volume that is complete."""
        volume: RestoredVolume = engine.state.volume
        stem, image, std, truth = volume.source.stem, volume.images[METHOD], volume.std, volume.reference
        contrast = _contrast_of_input(volume.source, self.contrast)
        assert contrast is not None and std is not None and truth is not None
        match = re.search(self.subject_pattern, stem)
        subject = match[1] if match else stem
        pixels = sample_pixels(image, std, truth, volume_scale(image))
        self._pixels.setdefault(contrast, {}).setdefault(subject, []).append(pixels)
        found = (shortfalls(*slices) for slices in zip(image, std, truth, strict=True))
        self._shortfalls.setdefault(contrast, {}).setdefault(subject, []).extend(one for one in found if one)
        if volume.residual is not None:
            self._residual = max(self._residual or 0.0, float(volume.residual.max()))

    def fit(self, parameters: Mapping[str, Any], coverage: float = 0.9) -> Condition:
        """Fit intervals and bounds for every contrast that was seen.

        Args:
            parameters: of the run, see `Condition`.
            coverage: share of pixels and of slices.

        Raises:
            CalibrationError: no volume was seen, or the contrast's subjects cannot be used.
        """
        if not self._pixels:
            raise CalibrationError("no volume was restored; at least one is needed.")
        contrasts = {}
        for contrast, parts in sorted(self._pixels.items()):
            subjects = {name: Pixels.join(volumes) for name, volumes in parts.items()}
            try:
                interval, left_out = fit_interval(subjects, coverage), leave_one_out(subjects, coverage)
            except ValueError as error:
                raise CalibrationError(f"{contrast}: {error}") from error
            contrasts[contrast] = ContrastCalibration(interval, left_out, self._bounds(contrast, coverage))
        known = _parameters_of_input(self._sources[0], parameters)
        return Condition(_comparable(known), contrasts, self._residual)

    def _bounds(self, contrast: str, coverage: float) -> dict[str, Bound]:
        """Both bounds; none where too few subjects have a slice with figures."""
        subjects = {name: slices for name, slices in self._shortfalls[contrast].items() if slices}
        if len(subjects) < MIN_BOUND_SUBJECTS:
            return {}
        return {
            figure: fit_bound({name: [one[figure] for one in slices] for name, slices in subjects.items()}, coverage)
            for figure in _BOUNDED
        }


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
            bounds = dict(zip(_BOUNDED.values(), (self.psnr_bound, self.ssim_bound), strict=True))
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
        volume: with std.
        calibration: of the bundle.
        weights: SHA-256 of the checkpoint that restored it.
        parameters: of the run that restored it.
        contrast: a contrast of the calibration; found in the input's name and attributes if None. For one that is not
            known or was not calibrated, the widest intervals of all contrasts are taken, with a warning, and no bounds.

    Returns:
        Intervals and bounds, or none and the reason among its warnings.
    """
    image, std = volume.images[METHOD], volume.std
    if std is None:
        return CalibratedUncertainty(warnings=("no intervals: a single sample has no standard deviation",))
    condition, reasons = _condition_of(volume.source, calibration, weights, parameters)
    if condition is None:
        return CalibratedUncertainty(warnings=tuple(reasons))
    scale = volume_scale(image)
    found = _contrast_of_input(volume.source, contrast)
    if found is not None and found in condition.contrasts:
        name = found
        bounds = condition.contrasts[name].bounds
        if not bounds:
            reasons.append(_too_few(name, condition.contrasts[name].interval.subjects))
    else:
        name = max(condition.contrasts, key=lambda each: _mean_width(condition.contrasts[each].interval, std, scale))
        bounds = {}
        reasons.append(
            f"contrast {found or 'unknown'} was not calibrated ({', '.join(condition.contrasts)} were): the widest "
            f"intervals, those of {name}, are given, and no bounds on PSNR and SSIM; their coverage is not known"
        )
    interval = condition.contrasts[name].interval
    half_width = interval.half_width(std, scale)
    if not bounds:
        return CalibratedUncertainty(half_width, interval, name, warnings=tuple(reasons))
    psnr, ssim = _lower_bounds(image, std, {figure: bound.margin for figure, bound in bounds.items()})
    return CalibratedUncertainty(half_width, interval, name, bounds["psnr"].coverage, psnr, ssim, tuple(reasons))


def _condition_of(
    source: InputVolume, calibration: Calibration, weights: str, parameters: Mapping[str, Any]
) -> tuple[Condition | None, list[str]]:
    """The condition that holds for an input, and what to warn of; measured data may be held to simulated ones."""
    known = _parameters_of_input(source, parameters)
    if source.kind == "kspace" and isinstance(measured := source.attributes.get("acceleration"), float):
        stated = [float(c.parameters["acceleration"]) for c in calibration.conditions if "acceleration" in c.parameters]
        nearest = min(stated, key=lambda value: abs(value - measured), default=measured)
        known["acceleration"] = nearest if abs(measured / nearest - 1) <= SAME_ACCELERATION else measured
    condition, reasons = calibration.find(weights, known)
    if condition is None and not source.simulated:
        condition, reasons = calibration.find(weights, known | {"simulated": True})
        if condition is not None:
            reasons = ["the intervals were calibrated on simulated data; their coverage on measured data is not known"]
    return condition, reasons


def _parameters_of_input(source: InputVolume, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run as they hold for an input: k-space that was undersampled has its own acceleration."""
    known = {**parameters, "simulated": source.simulated}
    if "coils" in parameters:
        known["coils"] = max(1, source.coils)
    if source.kind == "kspace" and (not source.has_truth or "acceleration" in source.attributes):
        known["acceleration"] = source.attributes.get("acceleration", "unknown")
    return known


def _contrast_of_input(source: InputVolume, contrast: str | None) -> str | None:
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
    """The bounds of every slice, for each figure of `_BOUNDED`."""
    predictions = [predicted_figures(*slices) for slices in zip(image, std, strict=True)]
    lower = [None if predicted is None else lower_bounds(predicted, margins) for predicted in predictions]
    return tuple(tuple(None if one is None else one[figure] for one in lower) for figure in _BOUNDED)


class TrustCheck:
    """Says of every restored volume how far to trust it: intervals, bounds, and warnings in the log.

    At the end of a volume ``engine.state.uncertainty`` is its `CalibratedUncertainty`. ``reports`` and ``warnings``
    hold by the input's stem what belongs into a report. Attach it before the handlers that use these.

    Args:
        weights: the checkpoint's file.
        parameters: of the run.
        calibration: the bundle's ``models/calibration.json``; where it is missing there are no intervals. None for
            a bundle that has none.
        card: the bundle's ``models/card.json``; where it is missing inputs are not compared with the training data.
            None for a bundle that has none.
        contrast: of all inputs; found in their names and attributes if None.

    Raises:
        CalibrationError: the calibration is there and damaged.
        CardError: the card is there and damaged.

    Example:
        >>> TrustCheck("model.pt", {"acceleration": 4}).warnings
        {}
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        parameters: Mapping[str, Any],
        calibration: str | PathLike[str] | None = None,
        card: str | PathLike[str] | None = None,
        contrast: str | None = None,
    ) -> None:
        self.weights = Path(weights)
        self.parameters = dict(parameters)
        self.contrast = contrast
        self.calibration = None if _missing(calibration) else Calibration.load(str(calibration))
        self.card = None if _missing(card) else TrainingCard.load(str(card))
        self._absent = [
            f"{words}: the bundle has no {Path(file).name}"
            for file, words in ((calibration, "no intervals"), (card, "not compared with the training data"))
            if file is not None and _missing(file)
        ]
        self.reports: dict[str, dict[str, Any]] = {}
        self.warnings: dict[str, list[str]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.judge)

    def clear(self, engine: Any) -> None:
        """Forget an earlier run."""
        self.reports, self.warnings = {}, {}
        engine.state.uncertainty = CalibratedUncertainty()
        self._hash = weights_hash(self.weights)

    def judge(self, engine: Any) -> None:
        """Judge the volume that is complete."""
        volume: RestoredVolume = engine.state.volume
        source = volume.source
        uncertainty = CalibratedUncertainty()
        if self.calibration is not None:
            uncertainty = calibrated(volume, self.calibration, self._hash, self.parameters, self.contrast)
        engine.state.uncertainty = uncertainty
        self.reports[source.stem] = uncertainty.report(volume)
        self.warnings[source.stem] = [*self._absent, *uncertainty.warnings, *self._far(volume)]
        for warning in self.warnings[source.stem]:
            logger.warning("%s: %s", source.path.name, warning)

    def _far(self, volume: RestoredVolume) -> list[str]:
        """Why the input is far from the training data or from its own measurement."""
        reasons = []
        if self.card is not None:
            try:
                reasons += compare(self.card, volume_statistics(volume.images[METHOD], _spacing(volume.source)))
            except ValueError as error:
                reasons.append(f"far from the training data: {error}")
        if volume.residual is not None:
            usual = [] if self.calibration is None else [each.residual or 0.0 for each in self.calibration.conditions]
            reasons += residual_warnings(volume.residual.tolist(), max(usual, default=0.0))
        return reasons


def _missing(file: str | PathLike[str] | None) -> bool:
    return file is None or not Path(file).exists()


def _spacing(source: InputVolume) -> Sequence[float]:
    """Distance of rows, of columns and of slices in mm."""
    steps = np.linalg.norm(source.affine[:3, :3], axis=0).tolist()
    return [*(step for axis, step in enumerate(steps) if axis != source.slice_axis), steps[source.slice_axis]]
