"""The calibration of a bundle, as a file. It holds for one set of weights and for the parameters of its fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from monai_d3gm.files import atomic_path, load_json
from monai_d3gm.sde import Sampler
from monai_d3gm.trust.bounds import Bound
from monai_d3gm.trust.conformal import Interval

__all__ = [
    "Calibration",
    "CalibrationCondition",
    "CalibrationError",
    "ContrastCalibration",
    "comparable",
]

SUBJECT_PATTERN = r"^(sub-[0-9A-Za-z]+|patient[0-9]+)"
HARMLESS = ("seed", "device", "slices", "roi_size", "overlap", "batch_size", "compile", "noise_std", "mask_per")
"""Parameters of a run that may differ from those of the calibration."""

_UNIT = "99.5th percentile of the restored volume's foreground"
BOUNDED = {name: f"{name}/slice/foreground" for name in ("psnr", "ssim")}


class CalibrationError(ValueError):
    """A calibration cannot be read, or cannot be fitted."""


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
