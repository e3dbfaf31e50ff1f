"""The weights against what they stand for: an error of the score, and an error of the reverse step."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monai_d3gm.losses import maximum_likelihood_weight, score_matching_weight
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.networks.schedulers.d3gm import PREDICTION_TYPES
from monai_d3gm.sde import (
    CoefficientDecoupledProcess,
    D3GMProcess,
    DiffusionProcess,
    OrnsteinUhlenbeckBridge,
    VariancePreservingProcess,
)

Weight = Callable[[D3GMScheduler, Tensor], Tensor]
WEIGHTS = [score_matching_weight, maximum_likelihood_weight]
PROCESSES = [
    D3GMProcess(),
    D3GMProcess(schedule="quadratic", tau=4.0),
    CoefficientDecoupledProcess(),
    VariancePreservingProcess(),
    OrnsteinUhlenbeckBridge(),
]


def problem(process: DiffusionProcess, seed: int, k: int) -> tuple[D3GMScheduler, dict[str, Tensor]]:
    """Random images, noise and a prediction of any size, in float64, and what the scheduler makes of them."""
    scheduler = D3GMScheduler(process, sigma_data=0.13)
    generator = torch.Generator().manual_seed(seed)
    x0, mu, noise, prediction = (torch.randn(1, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    timesteps = torch.tensor([k])
    x_t = scheduler.add_noise(x0, noise, timesteps, mu)
    values = {"x0": x0, "mu": mu, "x_t": x_t, "timesteps": timesteps, "time": scheduler.time_of(timesteps)}
    values["error"] = prediction - scheduler.get_target(x0, noise, timesteps, mu)
    values["x0_hat"] = scheduler.to_x0(prediction, x_t, mu, values["time"])
    return scheduler, values


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@given(seed=st.integers(0, 1000), k=st.integers(0, 998))
def test_score_matching(process: DiffusionProcess, seed: int, k: int) -> None:
    """(w (F - v))^2 = c^2 |score(x0_hat) - score(x0)|^2, pixel by pixel; the scores are the process's."""
    scheduler, v = problem(process, seed, k)
    t = float(v["time"])
    error = process.score(v["x_t"], v["x0_hat"], v["mu"], t) - process.score(v["x_t"], v["x0"], v["mu"], t)
    c = process.curves(t)[2]
    loss = (score_matching_weight(scheduler, v["timesteps"]) * v["error"]) ** 2
    torch.testing.assert_close(loss, c**2 * error**2, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@given(seed=st.integers(0, 1000), k=st.integers(0, 998))
def test_maximum_likelihood(process: DiffusionProcess, seed: int, k: int) -> None:
    """|w (F - v)| is how far the reverse step to t - 1/N misses the mean of the posterior given the true image."""
    scheduler, v = problem(process, seed, k)
    t = float(v["time"])
    s = k / 1000
    reached, _ = process.posterior(v["x_t"], v["x0_hat"], v["mu"], t, s)
    wanted, _ = process.posterior(v["x_t"], v["x0"], v["mu"], t, s)
    loss = (maximum_likelihood_weight(scheduler, v["timesteps"]) * v["error"]).abs()
    torch.testing.assert_close(loss, (reached - wanted).abs(), rtol=1e-7, atol=1e-9)
    if k > 0:  # and that is the loss as the documentation has it
        a_s, _, c_s = process.curves(s)
        a_t, _, c_t = process.curves(t)
        h = torch.log(a_s / c_s) - torch.log(a_t / c_t)
        stated = a_s * (1 - torch.exp(-2 * h)) * (v["x0_hat"] - v["x0"]).abs()
        torch.testing.assert_close(loss, stated, rtol=1e-7, atol=1e-9)


def test_the_ends() -> None:
    process = D3GMProcess(stationary_std=10 / 255, tau=2.0, terminal_decay=0.005)
    scheduler = D3GMScheduler(process, sigma_data=0.1)
    first, last = torch.tensor([0]), torch.tensor([999])
    # t -> 0: the target is -eps, and the score's error is that of eps
    assert float(score_matching_weight(scheduler, first)) == pytest.approx(1, abs=1e-4)
    # t = 1: a sigma_d / sqrt(a^2 sigma_d^2 + c^2) with a = 0.005 and c = tau lambda sqrt(1 - a^2)
    a, c = 0.005, 20 / 255 * math.sqrt(1 - 0.005**2)
    wanted = a * 0.1 / math.hypot(a * 0.1, c)
    assert float(score_matching_weight(scheduler, last)) == pytest.approx(wanted, rel=1e-9)
    # the last step returns x0_hat, whose error is c_out times the prediction's
    a, c = (float(curve) for curve in process.curves(0.001)[::2])
    c_out = 0.1 * c / math.hypot(a * 0.1, c)
    assert float(maximum_likelihood_weight(scheduler, first)) == pytest.approx(c_out, rel=1e-12)
    # the first: a(0.999) (1 - (a / c)^2(1) / (a / c)^2(0.999)) times c_out(1)
    a, c = 0.005, 20 / 255 * math.sqrt(1 - 0.005**2)
    a_s, c_s = (float(curve) for curve in process.curves(0.999)[::2])
    wanted = a_s * (1 - (a / c * c_s / a_s) ** 2) * 0.1 * c / math.hypot(a * 0.1, c)
    assert float(maximum_likelihood_weight(scheduler, last)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_one_weight_for_each_time(weight: Weight) -> None:
    scheduler = D3GMScheduler()
    k = torch.tensor([0, 3, 500, 999])
    together = weight(scheduler, k)
    assert together.shape == (4,) and together.dtype == torch.float64 and bool((together > 0).all())
    assert torch.equal(together, torch.cat([weight(scheduler, k[i : i + 1]) for i in range(4)]))


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("prediction_type", [name for name in PREDICTION_TYPES if name != "v_prediction"])
def test_other_prediction_types_are_refused(weight: Weight, prediction_type: str) -> None:
    with pytest.raises(ValueError, match=f"prediction_type is '{prediction_type}'.*'v_prediction'"):
        weight(D3GMScheduler(prediction_type=prediction_type), torch.tensor([1]))
