"""A value other than the default for every option of the sampler."""

from __future__ import annotations

from typing import Any

CHOSEN: dict[str, Any] = {
    "steps": 3,
    "solver": "euler_maruyama",
    "order": 1,
    "eta": [0.5, 1.5],
    "temperature": 0.5,
    "grid": "t",
    "t_first": 0.6,
    "t_min": 0.1,
    "grid_power": 0.8,
    "start": 0.9,
    "clip": [-2.0, 2.0],
    "noise_scaling": [0.1, 0.5],
    "last_prior_scales": [0.3],
}
