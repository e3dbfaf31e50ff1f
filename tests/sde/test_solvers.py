"""The solvers' steps against closed forms, and their order of convergence."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_problem import GaussianProblem, every_process, images, open_process, rho_times
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_d3gm.sde import D3GMProcess, DiffusionProcess, Sampler, sample
from monai_d3gm.sde.solvers import euler_maruyama, exponential

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
        times = rho_times(process, 1.0, Sampler.t_min, steps)
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
        times = rho_times(process, 0.95, Sampler.t_min, steps)
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
     ("exponential", 2, 0.5), ("exponential", 2, (0.0, 1.5)), ("euler_maruyama", 1, 1.0),
     ("euler_maruyama", 1, 0.7)],
)  # fmt: skip
def test_samples_have_the_mean_and_variance_of_the_data(
    process: DiffusionProcess, solver: str, order: int, eta: float | tuple[float, float]
) -> None:
    problem = GaussianProblem(process)
    mu = torch.full((1, 40_000), 0.5, dtype=torch.float64)
    # From the exact law at 0.98, so that the bridge is one of them. The first order needs the most steps.
    times = rho_times(process, 0.98, Sampler.t_min, 200 if order == 1 else 60)
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


@open_process
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0, 1.7])
def test_euler_maruyama_at_any_eta(process: DiffusionProcess, eta: float) -> None:
    """The theory's equation for any eta, from the process's own forward equation and score."""
    x, mu, x0_hat = images(), images().flip(0), images().flip(2)
    t, s = 0.6, 0.55
    f, h, g = (float(coefficient) for coefficient in process.forward_sde(t))
    drift = f * x + h * mu - (1 + eta**2) / 2 * g**2 * process.score(x, x0_hat, mu, t)
    mean, std = euler_maruyama(process, x, mu, t, s, [(t, x0_hat)], order=1, eta=eta)
    assert torch.allclose(mean, x - (t - s) * drift, rtol=1e-11, atol=1e-13)
    assert std == pytest.approx(eta * g * math.sqrt(t - s), rel=1e-12)
