"""The mathematics of the D3GM: clock, processes, solvers, keyed noise and discrepancy measures. Needs torch only."""

from __future__ import annotations

from .clock import SCHEDULES, Clock
from .processes import (
    PROCESSES,
    CoefficientDecoupledProcess,
    D3GMProcess,
    DiffusionProcess,
    OrnsteinUhlenbeckBridge,
    OrnsteinUhlenbeckProcess,
    VariancePreservingProcess,
    process_from_config,
)

__all__ = [
    "PROCESSES",
    "SCHEDULES",
    "Clock",
    "CoefficientDecoupledProcess",
    "D3GMProcess",
    "DiffusionProcess",
    "OrnsteinUhlenbeckBridge",
    "OrnsteinUhlenbeckProcess",
    "VariancePreservingProcess",
    "process_from_config",
]
