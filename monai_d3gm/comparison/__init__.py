"""Comparisons of processes under one network and budget, and measures of a process on pairs of images.

An :class:`~monai_d3gm.comparison.experiment.Experiment` names networks to train, methods (a network under a process),
settings of the sampler and data; :func:`~monai_d3gm.comparison.run.compare` trains, chooses each method's own best
settings on one part of the data, takes the figures on the other, and writes one JSON and one page.
:mod:`~monai_d3gm.comparison.diagnosis` measures a process on pairs.
"""

from __future__ import annotations

from monai_d3gm.comparison.diagnosis import Diagnosis, diagnose_process, draw_trajectories
from monai_d3gm.comparison.experiment import Condition, Experiment, Method, Network
from monai_d3gm.comparison.run import compare
from monai_d3gm.comparison.settings import ExperimentError, Setting

__all__ = [
    "Condition",
    "Diagnosis",
    "Experiment",
    "ExperimentError",
    "Method",
    "Network",
    "Setting",
    "compare",
    "diagnose_process",
    "draw_trajectories",
]
