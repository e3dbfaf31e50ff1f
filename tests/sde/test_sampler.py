"""The sampler's options: one form, one check, and the times that they make."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from gaussian_problem import BRIDGE, every_process
from sampler_options import CHOSEN

from monai_d3gm.sde import DiffusionProcess, Sampler


@every_process
def test_rho_grid(process: DiffusionProcess) -> None:
    times = Sampler(steps=9).times(process)
    assert times.dtype == torch.float64 and times.shape == (10,)
    assert times[0] == 1 and times[-1] == 0 and float(times[-2]) == pytest.approx(Sampler.t_min, rel=1e-12)
    first = 1 if process == BRIDGE else 0
    assert float(times[first]) == pytest.approx(1 - Sampler.t_min if first else 1, rel=1e-12)
    steps = process.rho(times[first:-1]).diff()
    assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-9)
    assert Sampler(steps=1).times(process).tolist() == [1, 0]
    assert Sampler(steps=2).times(process).tolist() == pytest.approx([1, Sampler.t_min, 0])
    assert Sampler(steps=3, start=0.5).times(process)[0] == 0.5
    leap = Sampler(steps=4, t_first=0.6, t_min=0.1).times(process)
    assert leap.tolist() == pytest.approx([1, 0.6, float(process.time_of_rho(process.rho(leap[1:4:2]).mean())), 0.1, 0])
    assert Sampler(steps=2, t_first=0.6, t_min=0.1).times(process).tolist() == pytest.approx([1, 0.1, 0])
    assert Sampler(steps=1, t_first=0.6).times(process).tolist() == [1, 0]


@every_process
@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_power_of_the_rho_grid(process: DiffusionProcess, power: float) -> None:
    """In shares of the way from the first rho to the last, the times lie at (k / n)^power."""
    times = Sampler(steps=6, t_first=0.6, t_min=0.1, grid_power=power).times(process)
    rho = process.rho(times[1:6])
    shares = (rho - rho[0]) / (rho[-1] - rho[0])
    assert shares.tolist() == pytest.approx([(k / 4) ** power for k in range(5)], abs=1e-9)
    assert times[0] == 1 and times[-1] == 0 and float(times[-2]) == pytest.approx(0.1)


@every_process
@pytest.mark.parametrize("t_first", [None, 0.6])
@pytest.mark.parametrize("fidelity", [0.1, 0.5, 0.9])
def test_fidelity_shortens_the_way_in_rho(process: DiffusionProcess, t_first: float | None, fidelity: float) -> None:
    """The dial's definition: the last evaluation at rho_first + (1 - fidelity) (rho_last - rho_first)."""
    sampler = Sampler(steps=4, t_first=t_first, t_min=0.1)
    whole, times = sampler.times(process), sampler.times(process, fidelity)
    first = int(t_first is not None or process == BRIDGE)
    assert torch.equal(times[: first + 1], whole[: first + 1]) or first == 1
    rho_first, rho_last = (float(process.rho(whole[k])) for k in (first, -2))
    assert float(process.rho(times[first])) == pytest.approx(rho_first, rel=1e-9)
    assert float(process.rho(times[-2])) == pytest.approx(rho_first + (1 - fidelity) * (rho_last - rho_first), rel=1e-9)
    assert len(times) == 5 and bool((times.diff() < 0).all()) and times[-1] == 0


@every_process
def test_ends_of_the_fidelity_dial(process: DiffusionProcess) -> None:
    sampler = Sampler(steps=4, start=0.8)
    assert torch.equal(sampler.times(process, 0.0), sampler.times(process))
    assert sampler.times(process, 1.0).tolist() == [0.8, 0.0]
    assert Sampler(grid="t").times(process, 1.0).tolist() == [1.0, 0.0]


def test_a_sampler_is_its_config() -> None:
    """Every field, set to something else than its default, survives JSON; equal samplers have equal configurations."""
    assert set(CHOSEN) == {field.name for field in fields(Sampler)}
    sampler = Sampler(**CHOSEN)
    assert all(getattr(sampler, name) != getattr(Sampler(), name) for name in CHOSEN)
    config = json.loads(json.dumps(sampler.config()))
    assert config == sampler.config() == CHOSEN
    assert Sampler(**config) == sampler and hash(Sampler(**config)) == hash(sampler)


def test_one_form_of_an_option() -> None:
    assert Sampler(eta=(1, 1)) == Sampler(eta=1) and Sampler(eta=[0.5]).config()["eta"] == 0.5
    assert Sampler(clip=[0, 1]).clip == (0.0, 1.0)
    assert Sampler(eta=0.5).eta_ends == (0.5, 0.5) and Sampler(eta=[0.5, 2]).eta_ends == (0.5, 2.0)
    with pytest.raises(FrozenInstanceError):
        Sampler().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; accepted: an integer, at least 1"),
        ({"steps": 10**12}, "steps is 1000000000000; accepted: up to 10000"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"solver": "heun"}, "solver is 'heun'; accepted: one of exponential, euler_maruyama"),
        ({"solver": ["exponential"]}, "solver is .*; accepted: one of"),
        ({"grid": "log"}, "grid is .*; accepted: one of rho, t"),
        ({"order": 0}, "order is .*; accepted: 1, 2 or 3"),
        ({"order": 4}, "order is .*; accepted: 1, 2 or 3"),
        ({"order": True}, "order is .*; accepted: 1, 2 or 3"),
        ({"order": 3, "eta": 0.5}, "order is 3 with eta .*; accepted where eta > 0: at most 2"),
        ({"order": 3, "eta": (0.0, 1.0)}, "order is 3 with eta .*; accepted where eta > 0: at most 2"),
        ({"eta": -0.1}, "eta is "),
        ({"eta": math.nan}, "eta is "),
        ({"eta": "1"}, "eta is '1'; accepted: finite numbers"),
        ({"eta": []}, "eta is .*; accepted: a number"),
        ({"eta": (0.0, -1.0)}, "eta is "),
        ({"eta": (0.0, 0.5, 1.0)}, "eta is .*; accepted: a number, or those of the first and of the last step"),
        ({"temperature": -1.0}, "temperature is "),
        ({"temperature": "warm"}, "temperature is 'warm'; accepted: finite numbers"),
        ({"clip": (1.0, 0.0)}, "clip is "),
        ({"clip": 1.0}, "clip is 1.0; accepted: a list of numbers"),
        ({"last_prior_scales": 0.1}, "last_prior_scales is 0.1; accepted: a list of numbers"),
        ({"start": 0.0}, "start is .*; accepted: a number in"),
        ({"start": 1.5}, "start is .*; accepted: a number in"),
        ({"t_min": 0.0}, "t_min is .*; accepted: a number in"),
        ({"t_min": 0.5, "start": 0.5}, "t_min is .*; accepted: a number in"),
        ({"t_min": math.nan}, "t_min is "),
        ({"t_first": 0.1, "t_min": 0.1}, "t_first is .*; accepted: a number in"),
        ({"t_first": 1.0}, "t_first is .*; accepted: a number in"),
        ({"grid_power": 0.0}, "grid_power is .*; accepted: above 0"),
        ({"grid_power": math.inf}, "grid_power is .*; accepted: finite numbers"),
        (
            {"noise_scaling": [0.0, 1.0]},
            "noise_scaling is .0.0, 1.0.; accepted: a reference above 0 and an exponent, at least 0",
        ),
        ({"noise_scaling": [0.1, -1.0]}, "noise_scaling is "),
        ({"noise_scaling": [0.1]}, "noise_scaling is "),
        ({"last_prior_scales": [0.5, -1.0]}, "last_prior_scales is .0.5, -1.0.; accepted: at least 0 each"),
        ({"last_prior_scales": [math.inf]}, "last_prior_scales is .*; accepted: finite numbers"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(**options)


@pytest.mark.parametrize(
    ("sampler", "fidelity", "message"),
    [
        (Sampler(), 1.5, "fidelity is .*; accepted: a number in"),
        (Sampler(grid="t"), 0.5, "grid is 't' with fidelity 0.5"),
        (Sampler(t_min=0.9), 0.0, "t_min is 0.9; accepted where rho.start. is infinite: below 0.5"),
    ],
)
def test_what_does_not_fit_the_process(sampler: Sampler, fidelity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler.times(BRIDGE, fidelity)
