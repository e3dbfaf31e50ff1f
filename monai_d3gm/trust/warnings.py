"""Warnings before use.

`range_warnings` compares a volume with the training volumes. `residual_warnings` checks the residual ||A x - y|| after
consistency.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from monai_d3gm.trust.training_statistics import STATISTICS, TrainingStatistics

__all__ = ["RESIDUAL_FACTOR", "range_warnings", "residual_warnings"]

RESIDUAL_FACTOR = 2.0


def range_warnings(training: TrainingStatistics, statistics: Mapping[str, float]) -> list[str]:
    """The reasons why a volume is far from the training volumes, if any.

    Args:
        training: of the training volumes.
        statistics: `volume_statistics` of the volume; what those lack is not compared.

    Example:
        >>> training = TrainingStatistics.fit({"a": {"voxel_fine": 0.43}, "b": {"voxel_fine": 1.2}})
        >>> range_warnings(training, {"voxel_fine": 2.0})
        ['far from the training data: finer voxel size in plane 2 mm is outside the training range, 0.43 to 1.2 mm']
    """
    reasons = []
    for name, value in statistics.items():
        if name not in training.quantiles:
            continue
        statistic, low, high = STATISTICS[name], training.quantiles[name][0], training.quantiles[name][-1]
        least, most = statistic.widen(low, high)
        if not least <= value <= most:
            reasons.append(
                f"far from the training data: {statistic.label} {value:.3g}{statistic.unit} is outside the training "
                f"range, {low:.3g} to {high:.3g}{statistic.unit}"
            )
    return reasons


def residual_warnings(ratios: Sequence[float], usual: float = 1.0) -> list[str]:
    """Warn if a restored volume does not explain its measurement.

    A slice's ratio is the root mean square of A x - y over the (real and imaginary parts of the) measured points,
    divided by the standard deviation of their noise. For the true image it is 1 on average; a fit has less. Far above
    means that the noise is stated too low, that the model of the measurement is wrong (motion, phase, coil maps), or
    that the network and the measurement contradict each other.

    Args:
        ratios: one for each slice.
        usual: the largest on the calibration subjects; 1 if it is unknown or less.

    Returns:
        One warning where the largest ratio exceeds twice the usual one, or is not finite; else none.

    Example:
        >>> residual_warnings([1.1, 1.5])
        []
        >>> residual_warnings([1.1, 30.0])[0]
        'the restored image does not explain the measurement: residual of 30 times the noise, usual is 1'
    """
    largest = max((abs(float(ratio)) if math.isfinite(ratio) else math.inf for ratio in ratios), default=0.0)
    usual = max(usual, 1.0)
    if largest <= RESIDUAL_FACTOR * usual:
        return []
    return [
        f"the restored image does not explain the measurement: residual of {largest:.3g} times the noise, "
        f"usual is {usual:.3g}"
    ]
