"""The mathematics of the D3GM: clock, processes, solvers, sampler, keyed noise, discrepancy. Needs torch only."""

from __future__ import annotations

from monai_d3gm.sde.clock import SCHEDULES, Clock
from monai_d3gm.sde.discrepancy import (
    TemporalDiscrepancy,
    calibrate_tau,
    cocycle_defect,
    proposition2_bound,
    temporal_discrepancy,
)
from monai_d3gm.sde.noise import INITIAL_STEP, keyed_noise
from monai_d3gm.sde.process import DiffusionProcess
from monai_d3gm.sde.processes import (
    PROCESSES,
    CoefficientDecoupledProcess,
    D3GMProcess,
    OrnsteinUhlenbeckBridge,
    OrnsteinUhlenbeckProcess,
    VariancePreservingProcess,
    process_from_config,
)
from monai_d3gm.sde.sampler import GRIDS, Sampler
from monai_d3gm.sde.sampling import Step, sample
from monai_d3gm.sde.solvers import SOLVERS

__all__ = [
    "Clock",
    "CoefficientDecoupledProcess",
    "D3GMProcess",
    "DiffusionProcess",
    "GRIDS",
    "INITIAL_STEP",
    "OrnsteinUhlenbeckBridge",
    "OrnsteinUhlenbeckProcess",
    "PROCESSES",
    "SCHEDULES",
    "SOLVERS",
    "Sampler",
    "Step",
    "TemporalDiscrepancy",
    "VariancePreservingProcess",
    "calibrate_tau",
    "cocycle_defect",
    "keyed_noise",
    "process_from_config",
    "proposition2_bound",
    "sample",
    "temporal_discrepancy",
]
