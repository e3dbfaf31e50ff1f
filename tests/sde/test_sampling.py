"""Sampling against problems with known answers: start, grid, step, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_problem import BRIDGE, GaussianProblem, every_process, images, open_process

from monai_d3gm.sde import (
    INITIAL_STEP,
    SOLVERS,
    D3GMProcess,
    DiffusionProcess,
    Sampler,
    Step,
    keyed_noise,
    sample,
)
from monai_d3gm.sde.solvers import exponential

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
    assert times == Sampler(steps=steps, grid=grid).times(process).tolist()[:-1]


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


@every_process
def test_the_short_form_is_the_sampler(process: DiffusionProcess) -> None:
    problem, mu = GaussianProblem(process), images()
    sampler = Sampler(steps=4, eta=0.7, temperature=0.8, grid="t", clip=(0.2, 0.9))
    short = sample(problem.denoiser, mu, process, steps=4, eta=0.7, temperature=0.8, grid="t", clip=(0.2, 0.9))
    assert torch.equal(sample(problem.denoiser, mu, process, sampler=sampler), short)


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
    assert [step.t for step in seen] == Sampler(steps=3).times(D3GMProcess()).tolist()[:-1]


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


@open_process
def test_the_last_eta_where_the_grid_ends_above_zero(process: DiffusionProcess) -> None:
    """Then every step draws noise, and the last one has the last eta: against the solver's steps by hand."""
    mu, denoiser = images(), GaussianProblem(process).denoiser
    times, etas, state = [0.9, 0.7, 0.4, 0.2], [0.2, 0.6, 1.0], mu
    for t, s, eta in zip(times[:-1], times[1:], etas, strict=True):
        state, _ = exponential(process, state, mu, t, s, [(t, denoiser(state, mu, t))], order=1, eta=eta)
    options = {"times": times, "state": mu, "order": 1, "temperature": 0.0}
    assert torch.allclose(sample(denoiser, mu, process, eta=(0.2, 1.0), **options), state, rtol=1e-12)


class Scaled:
    """A correction that notes the scale of gamma at each evaluation."""

    def __init__(self, seen: list[float], scale: float = 1.0) -> None:
        self.seen, self.scale = seen, scale

    def with_prior_scale(self, scale: float) -> Scaled:
        return Scaled(self.seen, scale)

    def __call__(self, x0_hat: torch.Tensor, t: float) -> torch.Tensor:
        self.seen.append(self.scale)
        return x0_hat


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ([], [1, 1, 1, 1]),
        ([0.5], [1, 1, 1, 0.5]),
        ([0.2, 0.3, 0.4], [1, 0.2, 0.3, 0.4]),
        ([0.1, 0.2, 0.3, 0.4], [1, 0.2, 0.3, 0.4]),
        ([0.0, 0.1, 0.2, 0.3, 0.4], [1, 0.2, 0.3, 0.4]),
    ],
)
@pytest.mark.parametrize("last", [0.0, 0.1])
def test_the_last_scales_of_gamma_but_never_the_first(scales: list[float], expected: list[float], last: float) -> None:
    """With as many factors as evaluations, or more, the first correction has gamma itself; also on a grid to 0.1."""
    seen: list[float] = []
    mu, times = images(), [1.0, 0.7, 0.5, 0.3, last]
    sample(lambda x, mu, t: mu, mu, D3GMProcess(), times=times, last_prior_scales=scales, correct=Scaled(seen))
    assert seen == expected


def test_a_single_correction_is_never_scaled() -> None:
    seen: list[float] = []
    sample(lambda x, mu, t: mu, images(), D3GMProcess(), steps=1, last_prior_scales=[0.5], correct=Scaled(seen))
    assert seen == [1.0]
    with pytest.raises(ValueError, match="correct is a .*with_prior_scale"):
        sample(lambda x, mu, t: mu, images(), D3GMProcess(), last_prior_scales=[0.5], correct=lambda x0_hat, t: x0_hat)


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.1])
def test_five_evaluations_keep_the_spread_where_the_first_step_leaps(spread: float) -> None:
    """At t = 0.51 the noise c / a is 0.2. By the recursion of the linear updates, with the exact denoiser, five
    evaluations of order 2 have 0.79 to 1.05 of the spread (the image returned at 0.1 lacks what x_t does not tell);
    of order 1 on the plain grid 0.41 to 0.53."""
    process = D3GMProcess()
    problem = GaussianProblem(process, spread=spread)
    mu = torch.full((1, 20_000), 0.5, dtype=torch.float64)
    times = Sampler(steps=5, t_first=0.51, t_min=0.1).times(process)
    leap = sample(problem.denoiser, mu, process, times=times, eta=1.0, order=2)
    plain = sample(problem.denoiser, mu, process, steps=5, eta=1.0, order=1)
    assert 0.75 < float(leap.std()) / spread < 1.1
    assert float(plain.std()) / spread < 0.6


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; accepted: an integer, at least 1"),
        ({"sampler": Sampler(), "steps": 5}, "sampler is given together with steps"),
        ({"start": 0.5}, "initial is None; accepted where sampling starts at 0.5"),
        ({"times": [0.5, 0.0]}, "initial is None"),
        ({"times": [1.0]}, "times is .1.0.; accepted: at least two decreasing"),
        ({"times": [1.0, 0.5, 0.5]}, "times is"),
        ({"times": [1.0, 0.2, 0.4]}, "times is"),
        ({"times": [1.1, 0.5]}, "times is"),
        ({"times": [1.0, -0.1]}, "times is"),
        ({"times": [1.0, math.nan]}, "times is"),
        ({"times": [1.0, 0.5], "start": 0.7}, "start is 0.7; accepted where times are given"),
        ({"state": images(), "initial": images()}, "state and initial are both given"),
        ({"state": images(3)}, "state has shape .* that of mu"),
        ({"state": images() / 0.0}, "state holds NaN or infinity"),
        ({"start": 0.5, "initial": images() * math.nan}, "initial holds NaN or infinity"),
        ({"items": [0]}, "items is .0.; accepted: one key per batch element"),
        ({"seed": 1.5}, "seed is 1.5; accepted: an integer"),
        ({"correct": lambda x0_hat, t: x0_hat[:1]}, "correct returned shape"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda x, mu, t: mu, images(), D3GMProcess(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mu", "message"),
    [
        (images() * math.inf, "mu holds NaN or infinity"),
        (images().long(), "mu is .*; accepted: a real floating tensor"),
        (images().to(torch.complex64), "mu is .*; accepted: a real floating tensor"),
        (torch.tensor(1.0), "mu is .*; accepted: a real floating tensor"),
    ],
)
def test_bad_mu(mu: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample(lambda x, mu, t: mu, mu, D3GMProcess())


def test_denoiser_of_another_shape() -> None:
    with pytest.raises(ValueError, match="denoiser returned shape .*; accepted: that of x_t"):
        sample(lambda x, mu, t: mu[:, :, :1], images(), D3GMProcess())
