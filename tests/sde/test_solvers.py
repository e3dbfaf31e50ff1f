"""Sampling against problems with known answers.

For ``x0 ~ N(m, s^2)`` given ``mu`` the denoiser ``E[x0 | x_t]`` is linear, the probability-flow equation keeps
``(x_t - a m - b mu) / sqrt(a^2 s^2 + c^2)``, and every quantity of a trajectory is known in closed form.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_d3gm.sde import (
    INITIAL_STEP,
    PROCESSES,
    SOLVERS,
    T_MIN,
    D3GMProcess,
    DiffusionProcess,
    OrnsteinUhlenbeckBridge,
    Step,
    keyed_noise,
    sample,
    time_grid,
)
from monai_d3gm.sde.solvers import euler_maruyama, exponential

BRIDGE = OrnsteinUhlenbeckBridge()
ALL = [kind() for kind in PROCESSES.values()]
OPEN = [process for process in ALL if process != BRIDGE]  # those that start with noise


def by_name(process: DiffusionProcess) -> str:
    return type(process).__name__


every_process = pytest.mark.parametrize("process", ALL, ids=by_name)
open_process = pytest.mark.parametrize("process", OPEN, ids=by_name)


class GaussianProblem:
    """``x0 ~ N(mu + shift, spread^2)`` per value."""

    def __init__(self, process: DiffusionProcess, shift: float = 0.3, spread: float = 0.1) -> None:
        self.process, self.shift, self.spread = process, shift, spread

    def law(self, mu: torch.Tensor, t: float) -> tuple[torch.Tensor, float]:
        a, b, c = (float(curve) for curve in self.process.curves(t))
        return a * (mu + self.shift) + b * mu, math.hypot(a * self.spread, c)

    def denoiser(self, x: torch.Tensor, mu: torch.Tensor, t: float) -> torch.Tensor:
        a = float(self.process.curves(t)[0])
        mean, std = self.law(mu, t)
        gain = a * self.spread**2 / std**2 if std > 0 else 0.0
        return mu + self.shift + gain * (x - mean)

    def flow(self, x: torch.Tensor, mu: torch.Tensor, t: float, s: float) -> torch.Tensor:
        (mean, std), (end_mean, end_std) = self.law(mu, t), self.law(mu, s)
        return end_mean + end_std / std * (x - mean)


def images(batch: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(batch, 1, 4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def rho_times(process: DiffusionProcess, first: float, last: float, steps: int) -> list[float]:
    rho = torch.linspace(float(process.rho(first)), float(process.rho(last)), steps + 1, dtype=torch.float64)
    return [first, *process.time_of_rho(rho[1:]).tolist()]


# --- convergence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "slope"), [(1, 0.97), (2, 2.0), (3, 4.0)])
def test_slopes_of_the_exponential_solver(order: int, slope: float) -> None:
    # The design's figures: rho grid from t = 1 to 0.02, 32 against 64 steps
    process = D3GMProcess()
    problem, mu = GaussianProblem(process), images()
    start = process.prior(mu)[0] + process.prior(mu)[1] * torch.randn(
        mu.shape, generator=torch.Generator().manual_seed(0)
    )
    errors = []
    for steps in (32, 64):
        times = rho_times(process, 1.0, T_MIN, steps)
        x = sample(problem.denoiser, mu, process, times=times, state=start, order=order)
        errors.append(float((x - problem.flow(start, mu, 1.0, times[-1])).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(slope, abs=0.06)


@every_process
@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_order_on_every_process(process: DiffusionProcess, order: int) -> None:
    problem, mu = GaussianProblem(process), images()
    mean, std = problem.law(mu, 0.95)
    start = mean + std * torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (32, 64):
        times = rho_times(process, 0.95, T_MIN, steps)
        x = sample(problem.denoiser, mu, process, times=times, state=start, order=order)
        errors.append(float((x - problem.flow(start, mu, 0.95, times[-1])).abs().max()))
    assert math.log2(errors[0] / errors[1]) > order - 0.1


@open_process
def test_euler_maruyama_converges_with_slope_one(process: DiffusionProcess) -> None:
    problem, mu = GaussianProblem(process), images()
    start = problem.law(mu, 0.8)[0] + 0.05
    errors = []
    for steps in (100, 200):
        times = torch.linspace(0.8, 0.3, steps + 1, dtype=torch.float64)
        x = sample(problem.denoiser, mu, process, times=times, state=start, solver="euler_maruyama")
        errors.append(float((x - problem.flow(start, mu, 0.8, 0.3)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.1)


@every_process
@pytest.mark.parametrize(
    ("solver", "order", "eta"),
    [("exponential", 1, 0.0), ("exponential", 3, 0.0), ("exponential", 1, 1.0), ("exponential", 2, 1.0),
     ("exponential", 2, 0.5), ("exponential", 2, (0.0, 1.5)), ("euler_maruyama", 1, 1.0)],
)  # fmt: skip
def test_samples_have_the_mean_and_variance_of_the_data(
    process: DiffusionProcess, solver: str, order: int, eta: float | tuple[float, float]
) -> None:
    problem = GaussianProblem(process)
    mu = torch.full((1, 40_000), 0.5, dtype=torch.float64)
    # From the exact law at 0.98, so that the bridge is one of them. The first order needs the most steps.
    times = rho_times(process, 0.98, T_MIN, 200 if order == 1 else 60)
    mean, std = problem.law(mu, times[0])
    start = mean + std * torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
    x = sample(problem.denoiser, mu, process, times=times, state=start, solver=solver, order=order, eta=eta)
    mean, std = problem.law(mu, times[-1])
    assert float(x.mean()) == pytest.approx(float(mean.mean()), abs=0.004)
    assert float(x.std()) == pytest.approx(std, rel=0.04)


@every_process
def test_sampling_from_the_prior_reproduces_the_data(process: DiffusionProcess) -> None:
    problem = GaussianProblem(process)
    mu = torch.full((1, 20_000), 0.5, dtype=torch.float64)
    x = sample(problem.denoiser, mu, process, steps=100, eta=1.0, order=1)
    assert float(x.mean()) == pytest.approx(0.8, abs=0.003)
    assert float(x.std()) == pytest.approx(0.1, rel=0.06)


@open_process
def test_two_numbers_of_eta_are_those_of_the_first_and_of_the_last_step(process: DiffusionProcess) -> None:
    mu, denoiser = images(), GaussianProblem(process).denoiser
    times = [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]
    state, predictions = mu, []
    for index, (t, s) in enumerate(zip(times[:-2], times[1:-1], strict=True)):
        predictions = [(t, denoiser(state, mu, t)), *predictions[:1]]
        state, std = exponential(process, state, mu, t, s, predictions, order=2, eta=[0.3, 0.7, 1.1, 1.5][index])
        assert std > 0
    by_hand = denoiser(state, mu, 0.1)
    denoised = sample(denoiser, mu, process, times=times, state=mu, start=0.9, eta=(0.3, 1.5))
    quiet = sample(denoiser, mu, process, times=times, state=mu, start=0.9, eta=(0.3, 1.5), temperature=0.0)
    assert torch.allclose(quiet, by_hand, rtol=1e-12)
    assert not torch.allclose(denoised, by_hand, rtol=1e-3)
    for eta in (0.0, 0.5):
        same = [sample(denoiser, mu, process, steps=4, eta=value) for value in (eta, (eta, eta))]
        assert torch.equal(*same)
    single = [
        sample(denoiser, mu, process, times=[0.9, 0.4], state=mu, start=0.9, eta=eta) for eta in (0.5, [0.5, 2.0])
    ]
    assert torch.equal(*single)


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.1])
def test_five_evaluations_keep_the_spread_where_the_first_step_leaps(spread: float) -> None:
    """At t = 0.51 the noise c / a is 0.2. By the recursion of the linear updates, with the exact denoiser, five
    evaluations of order 2 have 0.79 to 1.05 of the spread (the image returned at 0.1 lacks what x_t does not tell);
    of order 1 on the plain grid 0.41 to 0.53."""
    process = D3GMProcess()
    problem = GaussianProblem(process, spread=spread)
    mu = torch.full((1, 20_000), 0.5, dtype=torch.float64)
    times = time_grid(process, 5, t_first=0.51, t_min=0.1)
    leap = sample(problem.denoiser, mu, process, times=times, eta=1.0, order=2)
    plain = sample(problem.denoiser, mu, process, steps=5, eta=1.0, order=1)
    assert 0.75 < float(leap.std()) / spread < 1.1
    assert float(plain.std()) / spread < 0.6


# --- the step ---------------------------------------------------------------------------------------------------------


@every_process
@settings(max_examples=40)
@given(times=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=2, unique=True))
def test_eta_one_order_one_is_the_posterior(process: DiffusionProcess, times: list[float]) -> None:
    s, t = sorted(times)
    x, mu = images(), images().flip(0)
    x0_hat = images().flip(2)
    mean, std = exponential(process, x, mu, t, s, [(t, x0_hat)], order=1, eta=1.0)
    expected, spread = process.posterior(x, x0_hat, mu, t, s)
    assert torch.allclose(mean, expected, rtol=1e-12, atol=1e-12)
    assert std == pytest.approx(float(spread), rel=1e-12, abs=1e-12)


@open_process
def test_order_one_is_the_designs_formula(process: DiffusionProcess) -> None:
    x, mu, x0_hat = images(), images().flip(0), images().flip(2)
    t, s, eta = 0.7, 0.4, 0.6
    (_, b_t, c_t), (a_s, b_s, c_s) = ([float(curve) for curve in process.curves(time)] for time in (t, s))
    h = float(process.rho(s) - process.rho(t))
    expected = (
        b_s * mu
        + (c_s / c_t) * math.exp(-(eta**2) * h) * (x - b_t * mu)
        + a_s * (1 - math.exp(-(1 + eta**2) * h)) * x0_hat
    )
    mean, std = exponential(process, x, mu, t, s, [(t, x0_hat)], order=1, eta=eta)
    assert torch.allclose(mean, expected, rtol=1e-12)
    assert std == pytest.approx(c_s * math.sqrt(1 - math.exp(-2 * eta**2 * h)), rel=1e-12)


@pytest.mark.parametrize(("order", "eta"), [(2, 0.0), (2, 1.0), (3, 0.0)])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_higher_orders_integrate_polynomials_exactly(order: int, eta: float, scale: float) -> None:
    # If x0_hat is a polynomial of degree order - 1 in rho, the step is exact: against a fine midpoint rule
    process = D3GMProcess()
    times = [0.6, 0.6 - 0.2 * scale, 0.6 - 0.3 * scale, 0.6 - 0.5 * scale]
    rho = [float(process.rho(time)) for time in times]

    def prediction(r: torch.Tensor) -> torch.Tensor:
        v = (r - rho[2]) / scale
        return sum(coefficient * v**power for power, coefficient in enumerate((0.4, -0.7, 0.3)[:order]))  # type: ignore[return-value]

    history = [(times[i], prediction(torch.tensor([rho[i]], dtype=torch.float64))) for i in (2, 1, 0)]
    zero = torch.zeros(1, dtype=torch.float64)
    mean, _ = exponential(process, zero, zero, times[2], times[3], history, order=order, eta=eta)
    k, h = 1 + eta**2, rho[3] - rho[2]
    v = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * h
    integral = (k * torch.exp(-k * (h - v)) * prediction(rho[2] + v)).mean() * h
    assert float(mean) == pytest.approx(float(process.curves(times[3])[0] * integral), rel=1e-9)


def test_euler_maruyama_is_the_papers_reverse_equation() -> None:
    # Eq. 6 with Appendix D.1's slip mended: dx = [theta (mu - x) - tau^2 sigma^2 score] dt + tau sigma dW
    process = D3GMProcess(stationary_std=0.05, tau=3.0)
    x, mu, x0_hat = images(), images().flip(0), images().flip(2)
    t, s = 0.6, 0.59
    theta = float(process.clock.rate(t))
    sigma2 = 2 * 0.05**2 * theta
    score = process.score(x, x0_hat, mu, t)
    expected = x - (t - s) * (theta * (mu - x) - 9 * sigma2 * score)
    mean, std = euler_maruyama(process, x, mu, t, s, [(t, x0_hat)], order=1, eta=1.0)
    assert torch.allclose(mean, expected, rtol=1e-11)
    assert std == pytest.approx(3 * math.sqrt(sigma2 * (t - s)), rel=1e-12)


# --- the bridge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_bridge_first_step_draws_from_the_marginal(solver: str, eta: float) -> None:
    problem, mu = GaussianProblem(BRIDGE), images()
    seen: list[Step] = []
    x = sample(problem.denoiser, mu, BRIDGE, times=[1.0, 0.7], solver=solver, eta=eta, callback=seen.append)
    assert torch.equal(seen[0].x, mu)
    mean, std = BRIDGE.marginal(mu + 0.3, mu, 0.7)  # E[x0 | mu] is mu + 0.3
    noise = torch.stack([keyed_noise(mu.shape[1:], 0, item, 0, 0) for item in range(2)]).double()
    assert torch.allclose(x, mean + std * noise, rtol=1e-12)


def test_bridge_history_begins_after_the_first_step() -> None:
    problem, mu = GaussianProblem(BRIDGE), images()
    whole = sample(problem.denoiser, mu, BRIDGE, times=[1.0, 0.8, 0.6], order=3)
    part = sample(problem.denoiser, mu, BRIDGE, times=[1.0, 0.8])
    assert torch.equal(whole, sample(problem.denoiser, mu, BRIDGE, times=[0.8, 0.6], state=part, order=1))


def test_bridge_mean_path() -> None:
    # eta = 1 at temperature 0: GOUB's Mean-ODE, here the mean of x_t given mu, which is a (mu + shift) + b mu
    problem, mu = GaussianProblem(BRIDGE), images()
    x = sample(problem.denoiser, mu, BRIDGE, times=[1.0, 0.9, 0.5, 0.2], order=1, eta=1.0, temperature=0.0)
    assert torch.allclose(x, problem.law(mu, 0.2)[0], rtol=1e-12)


# --- the loop ---------------------------------------------------------------------------------------------------------


@every_process
@pytest.mark.parametrize("grid", ["rho", "t"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_steps_are_evaluations(process: DiffusionProcess, grid: str, steps: int) -> None:
    times: list[float] = []

    def denoiser(x: torch.Tensor, mu: torch.Tensor, t: float) -> torch.Tensor:
        assert type(t) is float
        times.append(t)
        return mu + 0.1

    mu = images()
    x = sample(denoiser, mu, process, steps=steps, grid=grid)
    assert torch.allclose(x, mu + 0.1)  # the step to t = 0 returns x0_hat
    assert len(times) == steps and times[0] == 1
    assert times == time_grid(process, steps, grid).tolist()[:-1]


@every_process
def test_rho_grid(process: DiffusionProcess) -> None:
    times = time_grid(process, 9)
    assert times.dtype == torch.float64 and times.shape == (10,)
    assert times[0] == 1 and times[-1] == 0 and float(times[-2]) == pytest.approx(T_MIN, rel=1e-12)
    first = 1 if process == BRIDGE else 0
    assert float(times[first]) == pytest.approx(1 - T_MIN if first else 1, rel=1e-12)
    steps = process.rho(times[first:-1]).diff()
    assert torch.allclose(steps, steps.mean().expand_as(steps), rtol=1e-9)
    assert time_grid(process, 1).tolist() == [1, 0]
    assert time_grid(process, 2).tolist() == pytest.approx([1, T_MIN, 0])
    assert time_grid(process, 3, start=0.5)[0] == 0.5
    leap = time_grid(process, 4, t_first=0.6, t_min=0.1)
    assert leap.tolist() == pytest.approx([1, 0.6, float(process.time_of_rho(process.rho(leap[1:4:2]).mean())), 0.1, 0])
    assert time_grid(process, 2, t_first=0.6, t_min=0.1).tolist() == pytest.approx([1, 0.1, 0])
    assert time_grid(process, 1, t_first=0.6).tolist() == [1, 0]


@every_process
@pytest.mark.parametrize("power", [0.5, 0.9, 2.0])
def test_power_of_the_rho_grid(process: DiffusionProcess, power: float) -> None:
    """In shares of the way from the first rho to the last, the times lie at (k / n)^power."""
    times = time_grid(process, 6, t_first=0.6, t_min=0.1, grid_power=power)
    rho = process.rho(times[1:6])
    shares = (rho - rho[0]) / (rho[-1] - rho[0])
    assert shares.tolist() == pytest.approx([(k / 4) ** power for k in range(5)], abs=1e-9)
    assert times[0] == 1 and times[-1] == 0 and float(times[-2]) == pytest.approx(0.1)


@every_process
def test_one_evaluation_is_the_conditional_mean(process: DiffusionProcess) -> None:
    # One evaluation at t = 1 with temperature 0 returns E[x0 | mu] (the residual is 0 there), whatever the process
    problem, mu = GaussianProblem(process), images()
    x = sample(problem.denoiser, mu, process, steps=1, temperature=0.0)
    offset = problem.law(mu, 1.0)[0] - process.prior(mu)[0]  # of order a(1)
    assert torch.allclose(x, mu + 0.3, atol=float(offset.abs().max()) * 10 + 1e-12)


@open_process
def test_few_steps_lose_spread_and_one_has_the_least_error(process: DiffusionProcess) -> None:
    # With an exact denoiser one evaluation has the error Var(x0 | mu), a sample twice that, with the data's spread
    problem = GaussianProblem(process)
    mu = torch.full((1, 20_000), 0.5, dtype=torch.float64)
    x0 = mu + 0.3 + 0.1 * torch.randn(mu.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    one, five, many = (sample(problem.denoiser, mu, process, steps=steps) for steps in (1, 5, 100))
    error = [float((x - x0).square().mean()) for x in (one, five, many)]
    spread = [float(x.std()) for x in (one, five, many)]
    assert error[0] == pytest.approx(0.01, rel=0.05)
    assert error[2] == pytest.approx(0.02, rel=0.06)
    assert error[0] < error[1]
    assert spread[0] < spread[1] and spread[2] == pytest.approx(0.1, rel=0.03)


def test_trajectory_in_two_parts() -> None:
    process = D3GMProcess()
    problem, mu = GaussianProblem(process), images()
    times = [1.0, 0.8, 0.5, 0.1, 0.0]
    whole = sample(problem.denoiser, mu, process, times=times, order=1)
    middle = sample(problem.denoiser, mu, process, times=times[:3], order=1)
    rest = sample(
        problem.denoiser, mu, process, times=torch.tensor(times[2:], dtype=torch.float64), state=middle, order=1
    )
    assert torch.equal(whole, rest)


@every_process
def test_reverse_initialisation(process: DiffusionProcess) -> None:
    problem, mu = GaussianProblem(process), images()
    initial = images().flip(3)
    seen: list[Step] = []
    sample(problem.denoiser, mu, process, start=0.4, initial=initial, temperature=0.5, callback=seen.append, seed=3)
    mean, std = process.marginal(initial, mu, 0.4)
    noise = torch.stack([keyed_noise(mu.shape[1:], 3, item, 0, INITIAL_STEP) for item in range(2)]).double()
    assert seen[0].t == 0.4
    assert torch.allclose(seen[0].x, mean + 0.5 * std * noise, rtol=1e-12)


@every_process
@pytest.mark.parametrize(("solver", "order"), [("exponential", 1), ("exponential", 2), ("euler_maruyama", 1)])
def test_noise_belongs_to_the_item_not_to_the_batch(process: DiffusionProcess, solver: str, order: int) -> None:
    problem, mu = GaussianProblem(process), images(4)
    items = ["a", 7, ("a", 1), (7, "b")]
    options = {"steps": 3, "solver": solver, "order": order, "eta": 1.0, "grid": "rho"}
    together = sample(problem.denoiser, mu, process, items=items, **options)
    turned = sample(problem.denoiser, mu.flip(0), process, items=items[::-1], **options)
    assert torch.equal(together, turned.flip(0))
    for i, item in enumerate(items):
        assert torch.equal(
            together[i : i + 1], sample(problem.denoiser, mu[i : i + 1], process, items=[item], **options)
        )
    assert torch.equal(together, sample(problem.denoiser, mu, process, items=items, **options))
    assert not torch.equal(together, sample(problem.denoiser, mu, process, items=items, seed=1, **options))


def test_temperature_scales_all_noise() -> None:
    process = D3GMProcess()
    problem, mu = GaussianProblem(process), images()
    cold, cool, warm = (
        sample(problem.denoiser, mu, process, times=[1.0, 0.6, 0.3], eta=1.0, temperature=temperature)
        for temperature in (0.0, 0.5, 1.0)
    )
    assert torch.allclose(warm - cold, 2 * (cool - cold), rtol=1e-9, atol=1e-14)  # linear, as the problem is
    same = sample(problem.denoiser, mu, process, times=[1.0, 0.6, 0.3], eta=1.0, temperature=0.0, seed=5)
    assert torch.equal(cold, same)


@every_process
@pytest.mark.parametrize("last", [0.0, 0.05])
def test_noise_factor_multiplies_the_noise_at_the_inner_times(process: DiffusionProcess, last: float) -> None:
    """Each image follows the trajectory that the times with its factor of c / a give; the first prediction is given."""
    mu, clean = images(3), images(3).flip(0)
    times, factors = [1.0, 0.6, 0.4, 0.2, last], torch.tensor([0.7, 1.0, 1.2])
    given: list[torch.Tensor] = []

    def factor_of(change: torch.Tensor) -> torch.Tensor:
        given.append(change)
        return factors

    def denoiser(x: torch.Tensor, mu: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        b = torch.as_tensor(process.curves(t)[1]).reshape(-1, *(1,) * (x.ndim - 1))
        return (0.25 * clean + 0.5 * mu + 0.25 * torch.tanh(x - b * mu)).to(x)

    options = {"order": 2, "eta": 0.5, "items": ["a", "b", "c"]}
    together = sample(denoiser, mu, process, times=times, noise_factor=factor_of, **options)
    assert len(given) == 1
    for i, factor in enumerate(factors.tolist()):
        rho = process.rho(torch.tensor(times[1:-1], dtype=torch.float64)) - math.log(factor)
        own = [1.0, *process.time_of_rho(rho).tolist(), last]
        alone = sample(denoiser, mu, process, times=own, **options)
        torch.testing.assert_close(together[i], alone[i])


@pytest.mark.parametrize("factors", [torch.ones(3), torch.tensor([1.0, 0.0]), torch.tensor([1.0, torch.nan])])
def test_noise_factors_that_are_none(factors: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="noise_factor must give finite factors above 0 of shape .2,."):
        sample(lambda x, mu, t: mu, images(2), D3GMProcess(), noise_factor=lambda change: factors)


def test_clip_then_correct_then_callback() -> None:
    seen: list[Step] = []

    def correct(x0_hat: torch.Tensor, t: float) -> torch.Tensor:
        assert float(x0_hat.max()) <= 1 and type(t) is float
        return x0_hat + 0.25

    mu = images()
    x = sample(
        lambda x, mu, t: mu + 5.0, mu, D3GMProcess(), steps=3, clip=(0.0, 1.0), correct=correct, callback=seen.append
    )
    assert torch.equal(x, torch.full_like(mu, 1.25))
    assert [step.index for step in seen] == [0, 1, 2]
    assert all(torch.equal(step.x0_hat, x) for step in seen)
    assert [step.t for step in seen] == time_grid(D3GMProcess(), 3).tolist()[:-1]


def test_corrected_predictions_are_what_multistep_remembers() -> None:
    process = D3GMProcess()
    problem, mu = GaussianProblem(process), images()
    moved = sample(lambda x, m, t: problem.denoiser(x, m, t) + 0.1, mu, process, steps=6, order=3)
    corrected = sample(problem.denoiser, mu, process, steps=6, order=3, correct=lambda x0_hat, t: x0_hat + 0.1)
    assert torch.equal(moved, corrected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    process = D3GMProcess()
    problem, mu = GaussianProblem(process), images(dtype=dtype)
    seen: set[torch.dtype] = set()

    def denoiser(x: torch.Tensor, mu: torch.Tensor, t: float) -> torch.Tensor:
        seen.update((x.dtype, mu.dtype))
        return problem.denoiser(x, mu, t).to(dtype)  # as under autocast

    x = sample(denoiser, mu, process, steps=4, eta=0.5)
    assert seen == {torch.float32} and x.dtype == dtype
    exact = sample(problem.denoiser, mu.float(), process, steps=4, eta=0.5)
    assert torch.allclose(x.float(), exact, atol=4 * torch.finfo(dtype).eps)


def test_float32_follows_float64() -> None:
    process = D3GMProcess()
    problem = GaussianProblem(process)
    single = sample(problem.denoiser, images(dtype=torch.float32), process, steps=20, eta=1.0)
    double = sample(problem.denoiser, images(), process, steps=20, eta=1.0)
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), double, atol=1e-5)


def test_no_gradients_and_inputs_left_alone() -> None:
    mu, initial = images().requires_grad_(), images()
    kept = initial.clone()
    x = sample(lambda x, mu, t: mu, mu, D3GMProcess(), start=0.5, initial=initial)
    assert not x.requires_grad and torch.equal(initial, kept)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer, at least 1, got 0"),
        ({"steps": 2.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"solver": "heun"}, "solver must be one of exponential, euler_maruyama, got 'heun'"),
        ({"grid": "log"}, "grid must be one of rho, t"),
        ({"order": 0}, "order must be 1, 2 or 3"),
        ({"order": 4}, "order must be 1, 2 or 3"),
        ({"order": 3, "eta": 0.5}, "order must be at most 2 where eta > 0"),
        ({"eta": -0.1}, "eta must be"),
        ({"eta": math.nan}, "eta must be"),
        ({"eta": (0.0, -1.0)}, "eta must be"),
        ({"eta": (0.0, 0.5, 1.0)}, "eta must be a number, or those of the first and of the last step"),
        ({"eta": (0.0, 1.0), "order": 3}, "order must be at most 2 where eta > 0"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"clip": (1.0, 0.0)}, "clip must be"),
        ({"start": 0.0, "initial": images()}, "start must lie in"),
        ({"start": 1.5}, "start must lie in"),
        ({"start": 0.5}, "initial must be given where sampling starts below t = 1"),
        ({"times": [0.5, 0.0]}, "initial must be given"),
        ({"times": [1.0]}, "times must be at least two decreasing"),
        ({"times": [1.0, 0.5, 0.5]}, "times must be"),
        ({"times": [1.0, 0.2, 0.4]}, "times must be"),
        ({"times": [1.1, 0.5]}, "times must be"),
        ({"times": [1.0, -0.1]}, "times must be"),
        ({"times": [1.0, math.nan]}, "times must be"),
        ({"times": [1.0, 0.5], "start": 0.7}, "start must be left out or equal"),
        ({"state": images(), "initial": images()}, "state and initial must not both"),
        ({"state": images(3)}, "state must have the shape of mu"),
        ({"state": images() / 0.0}, "state must be finite"),
        ({"start": 0.5, "initial": images() * math.nan}, "initial must be finite"),
        ({"items": [0]}, "items must hold one key per batch element"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"correct": lambda x0_hat, t: x0_hat[:1]}, "correct must return the shape"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda x, mu, t: mu, images(), D3GMProcess(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mu", "message"),
    [
        (images() * math.inf, "mu must be finite"),
        (images().long(), "mu must be a real floating tensor"),
        (images().to(torch.complex64), "mu must be a real floating tensor"),
        (torch.tensor(1.0), "mu must be a real floating tensor"),
    ],
)
def test_bad_mu(mu: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda x, mu, t: mu, mu, D3GMProcess())


def test_denoiser_of_another_shape() -> None:
    with pytest.raises(ValueError, match="denoiser must return the shape of x_t"):
        sample(lambda x, mu, t: mu[:, :, :1], images(), D3GMProcess())


@pytest.mark.parametrize("power", [0.0, -1.0, math.inf, math.nan])
def test_bad_grid_power(power: float) -> None:
    with pytest.raises(ValueError, match="grid_power must be a finite number above 0"):
        time_grid(D3GMProcess(), 3, grid_power=power)


@pytest.mark.parametrize("t_min", [0.0, 0.5, 0.9, math.nan])
def test_bad_t_min(t_min: float) -> None:
    with pytest.raises(ValueError, match="t_min must lie"):
        time_grid(BRIDGE, 3, start=0.5 if t_min != 0.9 else 1.0, t_min=t_min)
