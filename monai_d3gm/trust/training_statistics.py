"""Training statistics: a few numbers that describe the training volumes.

A network restores images like its training data. It restores other images too, and they look good. `volume_statistics`
are a few numbers of a volume that do not depend on its intensity unit: geometry, brightness inside and outside the
object, spectrum and noise. `TrainingStatistics` holds their quantiles over the training volumes.
`monai_d3gm.trust.warnings.range_warnings` names the statistics in which a volume lies outside the training range by
more than a stated slack. A volume inside the range can still be restored badly: the statistics know no anatomy and no
pathology.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.files import atomic_path, load_json
from monai_d3gm.metrics import foreground_mask, radial_power_spectrum

__all__ = [
    "STATISTICS",
    "TrainingStatisticsError",
    "Statistic",
    "TrainingStatistics",
    "volume_statistics",
]


@dataclass(frozen=True)
class Statistic:
    """A statistic's name in a warning, and how far beyond the training range a volume may lie.

    Attributes:
        label: the name in a warning.
        unit: with a space before it, or empty.
        factor: by which the range is widened at either end.
        slack: added at either end.
    """

    label: str
    unit: str = ""
    factor: float = 1.0
    slack: float = 0.0

    def widen(self, low: float, high: float) -> tuple[float, float]:
        """The range within which a volume is not far from the training volumes."""
        return low / self.factor - self.slack, high * self.factor + self.slack


STATISTICS: Mapping[str, Statistic] = {
    "voxel_fine": Statistic("finer voxel size in plane", " mm", factor=1.25),
    "voxel_coarse": Statistic("coarser voxel size in plane", " mm", factor=1.25),
    "slice_spacing": Statistic("slice spacing", " mm", factor=1.5),
    "matrix_short": Statistic("shorter side of the matrix", " pixels", factor=1.25),
    "matrix_long": Statistic("longer side of the matrix", " pixels", factor=1.25),
    "foreground_share": Statistic("share of the foreground", slack=0.15),
    "foreground_mean": Statistic("foreground's mean over its 99.5th percentile", slack=0.15),
    "foreground_variation": Statistic("foreground's coefficient of variation", slack=0.15),
    "background_level": Statistic("background's median over the foreground's 99.5th percentile", slack=0.1),
    "spectral_slope": Statistic("slope of the power spectrum", slack=1.0),
    "fine_detail": Statistic("power of fine detail over that of coarse detail", " dB", slack=6.0),
    "snr": Statistic("estimated signal-to-noise ratio", factor=2.0),
}
"""The statistics by name. With this slack, none of the reconstruction's 30 training volumes is far from the other 29. A
restored image is smoother than the training volumes (at 4-fold acceleration by 0.4 in slope and 2.4 dB in
fine detail), and their slack allows for it."""

LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)
_COARSE, _FINE = (0.05, 0.25), (0.25, 0.5)
_BANDS = 16
_MAD_OF_NORMAL = 0.6745
_POWER_FLOOR = 1e-12


class TrainingStatisticsError(ValueError):
    """Training statistics cannot be read or made."""


def volume_statistics(slices: NDArray[np.floating], spacing: Sequence[float]) -> dict[str, float]:
    """Describe a magnitude volume by numbers that do not change when it is multiplied by a constant.

    Args:
        slices: magnitude, (S, h, w), not zero everywhere.
        spacing: distance of neighbouring rows, columns and slices in mm.

    Returns:
        Those of `STATISTICS` that exist: without background there is no level of it, and slices below 32 pixels have
        no spectrum. Slope: of the logarithm of power over that of frequency, from 0.05 to 0.25 cycles per pixel; fine
        detail lies above 0.25. SNR: the foreground's mean over the robust deviation of diagonal differences of four
        pixels in it (Donoho's estimate on the Haar wavelet), so that fine texture counts as noise.

    Raises:
        ValueError: another shape, values that are not finite, no foreground, or a spacing that is not above 0.

    Example:
        >>> image = np.zeros((1, 64, 64))
        >>> image[0, 16:48, 16:48] = 3.0
        >>> statistics = volume_statistics(image, (1.0, 0.5, 3.0))
        >>> statistics["voxel_fine"], statistics["foreground_mean"], statistics["background_level"]
        (0.5, 1.0, 0.0)
    """
    if np.ndim(slices) != 3:
        raise ValueError(f"slices has the shape {np.shape(slices)}; accepted: (S, h, w).")
    if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise ValueError(f"spacing is {tuple(spacing)}; accepted: three numbers above 0.")
    mask = foreground_mask(slices)
    if not mask.any():
        raise ValueError("slices has no foreground; accepted: an image of an object.")
    inside, outside = slices[mask], slices[~mask]
    peak = float(np.percentile(inside, 99.5))
    statistics = {
        "voxel_fine": min(spacing[:2]),
        "voxel_coarse": max(spacing[:2]),
        "slice_spacing": spacing[2],
        "matrix_short": min(slices.shape[1:]),
        "matrix_long": max(slices.shape[1:]),
        "foreground_share": mask.mean(),
        "foreground_mean": inside.mean() / peak,
        "foreground_variation": inside.std() / inside.mean(),
    }
    if outside.size:
        statistics["background_level"] = np.median(outside) / peak
    if min(slices.shape[1:]) >= 2 * _BANDS:
        statistics |= _spectrum(slices)
    if (noise := _noise(slices, mask)) > 0:
        statistics["snr"] = inside.mean() / noise
    return {name: float(value) for name, value in statistics.items()}


def _spectrum(slices: NDArray[np.floating]) -> dict[str, float]:
    frequency, power = radial_power_spectrum(slices, _BANDS)
    power = power + _POWER_FLOOR * power.max()
    coarse, fine = ((low <= frequency) & (frequency < high) for low, high in (_COARSE, _FINE))
    slope = np.polyfit(np.log(frequency[coarse]), np.log(power[coarse]), 1)[0]
    return {"spectral_slope": slope, "fine_detail": 10 * np.log10(power[fine].mean() / power[coarse].mean())}


def _noise(slices: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """The standard deviation of white noise from diagonal Haar details of blocks of 2 x 2 inside the mask."""
    height, width = (size - size % 2 for size in slices.shape[1:])
    a, b, c, d = (slices[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    within = np.logical_and.reduce([mask[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)])
    detail = np.abs(a - b - c + d)[within] / 2
    return float(np.median(detail)) / _MAD_OF_NORMAL if detail.size else 0.0


@dataclass(frozen=True)
class TrainingStatistics:
    """Quantiles of `volume_statistics` over the training volumes.

    Attributes:
        quantiles: by name, the quantiles at 0, 5, 50, 95 and 100 %.
        volumes: names of the training volumes.

    Example:
        >>> TrainingStatistics.fit({"sub-01": {"snr": 10.0}, "sub-02": {"snr": 20.0}}).volumes
        ('sub-01', 'sub-02')
    """

    quantiles: Mapping[str, tuple[float, ...]]
    volumes: tuple[str, ...]

    @classmethod
    def fit(cls, statistics: Mapping[str, Mapping[str, float]]) -> TrainingStatistics:
        """Fit to volumes, given by name with their `volume_statistics`.

        Raises:
            TrainingStatisticsError: ``statistics`` is empty.

        Example:
            >>> TrainingStatistics.fit({"a": {"snr": 10.0}, "b": {"snr": 20.0}}).quantiles["snr"]
            (10.0, 10.5, 15.0, 19.5, 20.0)
        """
        if not statistics:
            raise TrainingStatisticsError("statistics is empty; accepted: at least one training volume.")
        quantiles = {}
        for name in STATISTICS:
            values = [one[name] for one in statistics.values() if name in one]
            if values:
                quantiles[name] = tuple(float(value) for value in np.quantile(values, LEVELS))
        return cls(quantiles, tuple(statistics))

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the statistics as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written, or is there and ``overwrite`` is False.
        """
        content = {
            "levels": LEVELS,
            "quantiles": {name: [float(f"{q:.6g}") for q in values] for name, values in self.quantiles.items()},
            "volumes": self.volumes,
        }
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> TrainingStatistics:
        """Read statistics that were saved.

        Raises:
            TrainingStatisticsError: the file cannot be read, or holds no such statistics.

        Example:
            >>> import tempfile
            >>> from pathlib import Path
            >>> path = Path(tempfile.mkdtemp()) / "training_statistics.json"
            >>> TrainingStatistics.fit({"a": {"snr": 10.0}}).save(path)
            >>> TrainingStatistics.load(path).volumes
            ('a',)
        """
        try:
            content: dict[str, Any] = load_json(path)
            quantiles = {name: tuple(float(q) for q in values) for name, values in content["quantiles"].items()}
            volumes = tuple(str(volume) for volume in content["volumes"])
        except OSError as error:
            raise TrainingStatisticsError(
                f"{path}: the training statistics cannot be read: {error.strerror or error}."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingStatisticsError(
                f"{path}: not training statistics: {' '.join(str(error).split())}."
            ) from error
        unknown = [
            name
            for name, values in quantiles.items()
            if name not in STATISTICS
            or len(values) != len(LEVELS)
            or not all(map(math.isfinite, values))
            or sorted(values) != list(values)
        ]
        if unknown:
            raise TrainingStatisticsError(
                f"{path}: not training statistics: its entry {unknown[0]} is none of the statistics, or not "
                f"{len(LEVELS)} rising numbers."
            )
        return cls(quantiles, volumes)
