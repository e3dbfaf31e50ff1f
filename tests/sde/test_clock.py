"""The clock against its defining integral and against arbitrary-precision values."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_d3gm.sde import SCHEDULES, Clock

RATES = {  # theta(t) up to scale, typed from the design's table
    "constant": lambda t: 1.0,
    "linear": lambda t: t,
    "quadratic": lambda t: t**2,
    "cosine": lambda t: 1 - math.cos(math.pi * t),
    "logistic": lambda t: 1 / (1 + math.exp(-10 * t)),
    "cosine_nichol": lambda t: (
        1 - (math.cos(math.pi / 2 * (t + 0.008) / 1.008) / math.cos(math.pi / 2 * 0.008 / 1.008)) ** 2
    ),
}


def test_every_schedule_of_the_table_is_there() -> None:
    assert set(SCHEDULES) == set(RATES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ends(schedule: str) -> None:
    clock = Clock(schedule, 0.005)
    assert float(clock(0.0)) == 0
    assert math.exp(-float(clock(1.0))) == pytest.approx(0.005, rel=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_has_the_shape_of_the_table(schedule: str) -> None:
    rate = Clock(schedule, 0.005).rate
    for t in (0.05, 0.3, 0.7, 1.0):
        assert float(rate(t) / rate(0.5)) == pytest.approx(RATES[schedule](t) / RATES[schedule](0.5), rel=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_clock_is_the_integral_of_the_rate(schedule: str) -> None:
    clock = Clock(schedule, 0.01)
    edges = torch.linspace(0, 1, 2001, dtype=torch.float64)
    ends, middle = clock.rate(edges), clock.rate((edges[1:] + edges[:-1]) / 2)
    simpson = ((ends[1:] + ends[:-1] + 4 * middle) / 6 * (edges[1:] - edges[:-1])).cumsum(0)
    assert torch.allclose(clock(edges[1:]), simpson, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("t", [1e-9, 1e-5, 1e-3, 0.1, 0.3, 0.3183, 0.3184, 0.6])
def test_cosine_keeps_its_digits_near_zero(t: float) -> None:
    # t - sin(pi t) / pi by its Taylor series in exact rationals (pi to 40 digits): at t = 1e-5 the difference cancels
    pi = Fraction(31415926535897932384626433832795028841971, 10**40)
    x = pi * Fraction(t)
    expected = sum((-1) ** (k + 1) * x ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(1, 16)) / pi
    shape = float(SCHEDULES["cosine"](torch.tensor(t, dtype=torch.float64))[0])
    assert shape == pytest.approx(float(expected), rel=1e-14)


def test_nichol_table_of_ir_sde() -> None:
    # IR-SDE's table of 100 steps: theta_i = 1 - abar_i, summed from the second on, scaled to the terminal decay. Its
    # limit of many steps is this schedule; the design states that the table itself is up to 0.019 away in a.
    u = torch.linspace(0, 1, 103, dtype=torch.float64)
    abar = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    theta = (1 - abar / abar[0])[1:-1]
    total = theta.cumsum(0) - theta[0]
    table = torch.exp(math.log(0.005) * total / total[-1])
    ours = torch.exp(-Clock("cosine_nichol", 0.005)(torch.linspace(0, 1, 101, dtype=torch.float64)))
    assert float((table - ours).abs().max()) == pytest.approx(0.019, abs=5e-4)


@given(st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1), st.floats(0, 1))
def test_clock_rises(schedule: str, first: float, second: float) -> None:
    clock = Clock(schedule, 0.005)
    early, late = sorted((first, second))
    assert float(clock(early)) <= float(clock(late))


def test_shapes_and_precision() -> None:
    clock = Clock("cosine", 0.005)
    for t in (0.3, torch.tensor(0.3), torch.rand(4)):
        assert clock(t).dtype == torch.float64
        assert clock(t).shape == torch.as_tensor(t).shape
    assert float(clock(0.3)) != float(clock(torch.tensor(0.3)))  # a float keeps its 53 bits


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan, math.inf, torch.zeros(2, 2)])
def test_times_out_of_range(t: float | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="^t .*; accepted: .*number"):
        Clock("cosine", 0.005)(t)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, math.nan])
def test_terminal_decay_out_of_range(decay: float) -> None:
    with pytest.raises(ValueError, match="terminal_decay"):
        Clock("cosine", decay)


def test_unknown_schedule() -> None:
    with pytest.raises(ValueError, match="schedule is 'sine'; accepted: one of constant"):
        Clock("sine", 0.005)
