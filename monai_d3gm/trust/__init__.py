"""How far to trust a restored volume: intervals, calibration, training statistics, and warnings before use."""

from __future__ import annotations

from monai_d3gm.trust.bounds import Bound, fit_bound
from monai_d3gm.trust.calibration import Calibration, CalibrationError
from monai_d3gm.trust.conformal import Interval, fit_interval
from monai_d3gm.trust.error_map import ErrorMap, ErrorMapFileError
from monai_d3gm.trust.intervals import CalibratedUncertainty, calibrated
from monai_d3gm.trust.training_statistics import TrainingStatistics, TrainingStatisticsError, volume_statistics
from monai_d3gm.trust.warnings import range_warnings, residual_warnings

__all__ = [
    "Bound",
    "CalibratedUncertainty",
    "Calibration",
    "CalibrationError",
    "ErrorMap",
    "ErrorMapFileError",
    "Interval",
    "TrainingStatistics",
    "TrainingStatisticsError",
    "calibrated",
    "fit_bound",
    "fit_interval",
    "range_warnings",
    "residual_warnings",
    "volume_statistics",
]
