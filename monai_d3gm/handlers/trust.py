"""Handlers that calibrate a bundle, and that give the uncertainty of every restored volume.

`CollectCalibration` gathers the data for the fits of `monai_d3gm.trust`. `TrustCheck` applies the bundle's calibration
to every volume that an engine restores, and compares it with the training statistics and with its measurement.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.evaluator import RestorationEvents
from monai_d3gm.networks.checkpoint import weights_hash
from monai_d3gm.trust.bounds import MIN_BOUND_SUBJECTS, Bound, fit_bound, shortfalls
from monai_d3gm.trust.calibration import (
    BOUNDED,
    SUBJECT_PATTERN,
    Calibration,
    CalibrationCondition,
    CalibrationError,
    ContrastCalibration,
    comparable,
)
from monai_d3gm.trust.conformal import Pixels, fit_interval, leave_one_out, sample_pixels, volume_scale
from monai_d3gm.trust.intervals import (
    CONTRASTS,
    CalibratedUncertainty,
    calibrated,
    condition_of,
    contrast_of_input,
    parameters_of_input,
    spread_of,
)
from monai_d3gm.trust.training_statistics import TrainingStatistics, volume_statistics
from monai_d3gm.trust.warnings import range_warnings, residual_warnings

__all__ = ["CollectCalibration", "TrustCheck"]

logger = logging.getLogger(__name__)


class CollectCalibration:
    """Gathers errors, standard deviations and shortfalls of every volume with a truth, by contrast and subject.

    Memory is bounded: at most 16384 foreground pixels of a volume are kept, drawn with a fixed seed.

    Args:
        contrast: of all inputs; found in their names if None.
        subject_pattern: regular expression with one group that finds the subject in an input's stem; the stem where it
            does not match.

    Raises:
        CalibrationError: when the engine starts: an input has no truth or no contrast in its name.

    Example:
        >>> CollectCalibration().fit({"acceleration": 4})
        Traceback (most recent call last):
        ...
        monai_d3gm.trust.calibration.CalibrationError: no volume was restored; at least one is needed.
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
        """Refuse to start without data to calibrate on."""
        for source in engine.volumes:
            if not source.has_truth:
                raise CalibrationError(f"{source.path}: no truth is known; a calibration needs it.")
            if contrast_of_input(source, self.contrast) is None:
                raise CalibrationError(
                    f"{source.path}: its name says no contrast (accepted: {', '.join(CONTRASTS)}); give the contrast."
                )
        kinds = {(source.simulated, source.coils) for source in engine.volumes}
        if len(kinds) > 1:
            raise CalibrationError("the inputs are of several kinds (simulated, coils); calibrate on one kind.")
        self._sources += engine.volumes

    def take(self, engine: Any) -> None:
        """Take the completed volume."""
        volume: RestoredVolume = engine.state.volume
        stem, image, std, truth = volume.source.stem, volume.images[METHOD], spread_of(volume), volume.reference
        contrast = contrast_of_input(volume.source, self.contrast)
        assert contrast is not None and truth is not None
        match = re.search(self.subject_pattern, stem)
        subject = match[1] if match else stem
        pixels = sample_pixels(image, std, truth, volume_scale(image))
        self._pixels.setdefault(contrast, {}).setdefault(subject, []).append(pixels)
        found = (shortfalls(*slices) for slices in zip(image, std, truth, strict=True))
        self._shortfalls.setdefault(contrast, {}).setdefault(subject, []).extend(one for one in found if one)
        if volume.residual is not None:
            self._residual = max(self._residual or 0.0, float(volume.residual.max()))

    def fit(self, parameters: Mapping[str, Any], coverage: float = 0.9) -> CalibrationCondition:
        """Fit intervals and bounds for every contrast.

        Args:
            parameters: of the run, see `CalibrationCondition`.
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
        known = parameters_of_input(self._sources[0], parameters)
        return CalibrationCondition(comparable(known), contrasts, self._residual)

    def _bounds(self, contrast: str, coverage: float) -> dict[str, Bound]:
        """Both bounds; none if too few subjects have a slice with figures."""
        subjects = {name: slices for name, slices in self._shortfalls[contrast].items() if slices}
        if len(subjects) < MIN_BOUND_SUBJECTS:
            return {}
        return {
            figure: fit_bound({name: [one[figure] for one in slices] for name, slices in subjects.items()}, coverage)
            for figure in BOUNDED
        }


class TrustCheck:
    """Gives the uncertainty of every restored volume: intervals, bounds, and warnings in the log.

    At the end of a volume ``engine.state.uncertainty`` is its `CalibratedUncertainty`. ``reports`` and ``warnings``
    hold the entries of a report by the input's stem. Attach it before the handlers that use these.

    Args:
        weights: the checkpoint's file.
        parameters: of the run.
        calibration: the bundle's ``models/calibration.json``; where it is missing there are no intervals. None for
            a bundle that has none.
        training_statistics: the bundle's ``models/training_statistics.json``; where it is missing inputs are not
            compared with the training data. None for a bundle that has none.
        contrast: of all inputs; found in their names and attributes if None.

    Raises:
        CalibrationError: the calibration is there and damaged.
        TrainingStatisticsError: the training statistics are there and damaged.

    Example:
        >>> TrustCheck("model.pt", {"acceleration": 4}).warnings
        {}
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        parameters: Mapping[str, Any],
        calibration: str | PathLike[str] | None = None,
        training_statistics: str | PathLike[str] | None = None,
        contrast: str | None = None,
    ) -> None:
        self.weights = Path(weights)
        self.parameters = dict(parameters)
        self.contrast = contrast
        self.calibration = None if _missing(calibration) else Calibration.load(str(calibration))
        self.training_statistics = (
            None if _missing(training_statistics) else TrainingStatistics.load(str(training_statistics))
        )
        self._absent = [
            f"{words}: the bundle has no {Path(file).name}"
            for file, words in (
                (calibration, "no intervals"),
                (training_statistics, "not compared with the training data"),
            )
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
        """Compute the uncertainty of the completed volume."""
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

    def no_intervals(self, source: InputVolume) -> list[str]:
        """Why an input would get no intervals, asked before it is restored; empty where it would get them."""
        if self.calibration is None:
            return ["no intervals: the bundle is not calibrated"]
        condition, reasons = condition_of(source, self.calibration, weights_hash(self.weights), self.parameters)
        return reasons if condition is None else []

    def _far(self, volume: RestoredVolume) -> list[str]:
        """The reasons why the input is far from the training data or from its own measurement."""
        reasons = []
        if self.training_statistics is not None:
            try:
                reasons += range_warnings(
                    self.training_statistics, volume_statistics(volume.images[METHOD], _spacing(volume.source))
                )
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
