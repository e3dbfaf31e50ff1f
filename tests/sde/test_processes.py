"""The five processes against closed forms and against one another, in float64."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_d3gm.sde import (
    PROCESSES,
    SCHEDULES,
    CoefficientDecoupledProcess,
    D3GMProcess,
    DiffusionProcess,
    OrnsteinUhlenbeckBridge,
    OrnsteinUhlenbeckProcess,
    VariancePreservingProcess,
    process_from_config,
)

ALL = [kind() for kind in PROCESSES.values()]
every_process = pytest.mark.parametrize("process", ALL, ids=lambda process: type(process).__name__)
inner_times = st.floats(0.01, 0.99)


def images(count: int, batch: int = 3, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, 2, 4, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


@every_process
def test_curves_at_the_ends(process: DiffusionProcess) -> None:
    assert [float(curve) for curve in process.curves(0.0)] == [1, 0, 0]
    a, b, c = (float(curve) for curve in process.curves(1.0))
    bridge, preserving = isinstance(process, OrnsteinUhlenbeckBridge), isinstance(process, VariancePreservingProcess)
    assert a == (0 if bridge else pytest.approx(0.005, rel=1e-13))
    assert b == (0 if preserving else 1 - a)
    assert (c == 0) == bridge


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [1e-4, 0.2, 0.9, 1.0])
def test_d3gm_curves(schedule: str, t: float) -> None:
    process = D3GMProcess(schedule, stationary_std=0.04, tau=3.0)
    decay = math.exp(-float(process.clock(t)))
    a, b, c = (float(curve) for curve in process.curves(t))
    assert (a, b) == (pytest.approx(decay, rel=1e-14), pytest.approx(1 - decay, abs=1e-15))
    assert c == pytest.approx(0.12 * math.sqrt(-math.expm1(-2 * float(process.clock(t)))), rel=1e-14)


@given(inner_times)
def test_tau_one_is_the_ornstein_uhlenbeck_process(t: float) -> None:
    for ours, theirs in zip(D3GMProcess(tau=1.0).curves(t), OrnsteinUhlenbeckProcess().curves(t), strict=True):
        assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


@given(st.floats(1, 8), inner_times)
def test_tau_only_scales_the_stationary_measure(tau: float, t: float) -> None:
    wide = D3GMProcess(stationary_std=0.03, tau=tau).curves(t)
    same = OrnsteinUhlenbeckProcess(stationary_std=0.03 * tau).curves(t)
    assert [float(v) for v in wide] == pytest.approx([float(v) for v in same], rel=1e-12)


def test_decoupled_noise_in_closed_form() -> None:
    # constant rate k: c^2 = e^{-2kt} int 2 L s0^2 e^{2 (L + k) u} du = L s0^2 (e^{2Lt} - e^{-2kt}) / (L + k)
    process = CoefficientDecoupledProcess("constant", sigma_min=0.02, sigma_max=0.7, terminal_decay=0.01)
    growth, k = math.log(0.7 / 0.02), -math.log(0.01)
    for t in (1e-6, 0.01, 1 / 64, 0.33, 0.999, 1.0):
        expected = growth * 0.02**2 * (math.exp(2 * growth * t) - math.exp(-2 * k * t)) / (growth + k)
        assert float(process.noise_std(t)) == pytest.approx(math.sqrt(expected), rel=1e-9 if t < 1e-3 else 1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_decoupled_noise_against_a_finer_quadrature(schedule: str) -> None:
    process = CoefficientDecoupledProcess(schedule)
    growth = math.log(50)
    for t in (0.1, 0.47, 1.0):
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * t
        integrand = torch.exp(2 * (process.clock(u) - process.clock(t))) * 2 * growth * 1e-4 * torch.exp(2 * growth * u)
        assert float(process.noise_std(t)) == pytest.approx(math.sqrt(float(integrand.mean() * t)), rel=1e-9)


def test_decoupled_is_continuous_across_its_panels() -> None:
    process = CoefficientDecoupledProcess()
    edges = torch.arange(1, 64, dtype=torch.float64) / 64
    below, above = process.noise_std(edges * (1 - 1e-15)), process.noise_std(edges)
    assert torch.allclose(below, above, rtol=1e-13, atol=0)
    times = torch.linspace(0.001, 1, 5000, dtype=torch.float64)
    assert bool((process.rho(times).diff() < 0).all())


def test_variance_preserving_keeps_the_variance() -> None:
    a, b, c = VariancePreservingProcess().curves(torch.linspace(0, 1, 50))
    assert torch.allclose(a**2 + c**2, torch.ones(50, dtype=torch.float64), rtol=1e-14)
    assert not b.any()


def test_bridge_in_the_papers_letters() -> None:
    process = OrnsteinUhlenbeckBridge(stationary_std=0.1)
    end = float(process.clock(1.0))
    for t in (0.05, 0.5, 0.95):
        theta = float(process.clock(t))
        v_t, v_end, v_left = (0.01 * -math.expm1(-2 * s) for s in (theta, end, end - theta))
        a, b, c = (float(curve) for curve in process.curves(t))
        assert a == pytest.approx(math.exp(-theta) * v_left / v_end, rel=1e-12)
        assert b == pytest.approx(1 - a, abs=1e-14)
        assert c == pytest.approx(math.sqrt(v_t * v_left / v_end), rel=1e-12)


@settings(max_examples=30)
@given(inner_times)
def test_bridge_is_the_conditioned_process(t: float) -> None:
    # x_t of the OU process from x0, given x_1 = mu, by Gaussian conditioning with its marginal and transition
    bridge, free = OrnsteinUhlenbeckBridge(), OrnsteinUhlenbeckProcess()
    x0, mu = images(2)
    mean, std = free.marginal(x0, mu, t)
    end_mean, end_std = free.transition(mean, mu, t, 1.0)
    decay = float(free.curves(1.0)[0] / free.curves(t)[0])
    gain = decay * std**2 / (decay**2 * std**2 + end_std**2)
    conditioned, left = bridge.marginal(x0, mu, t)
    assert torch.allclose(conditioned, mean + gain * (mu - end_mean), atol=1e-12)
    assert float(left) == pytest.approx(float(std * torch.sqrt(1 - gain * decay)), rel=1e-9)


@every_process
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_forward_equation_moves_the_curves(process: DiffusionProcess, t: float) -> None:
    # a' = f a, b' = f b + h, (c^2)' = 2 f c^2 + g^2, by central differences (error about 1e-10)
    f, h, g = (float(coefficient) for coefficient in process.forward_sde(t))
    e = 1e-6
    before, here, after = (process.curves(t + shift) for shift in (-e, 0.0, e))
    a, b, c = (float(curve) for curve in here)
    slope_a, slope_b = (float(after[i] - before[i]) / (2 * e) for i in (0, 1))
    slope_variance = float(after[2] ** 2 - before[2] ** 2) / (2 * e)
    assert slope_a == pytest.approx(f * a, rel=1e-7)
    assert slope_b == pytest.approx(f * b + h, rel=1e-7)
    assert slope_variance == pytest.approx(2 * f * c**2 + g**2, rel=1e-6, abs=1e-9)


@every_process
def test_rho_falls_and_inverts(process: DiffusionProcess) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    a, _, c = process.curves(t)
    rho = process.rho(t)
    assert float(rho[0]) == math.inf
    assert (float(rho[-1]) == -math.inf) == isinstance(process, OrnsteinUhlenbeckBridge)
    assert torch.allclose(rho[1:-1], torch.log(a / c)[1:-1], atol=1e-11)
    assert bool((rho.diff() < 0).all())
    assert torch.allclose(process.time_of_rho(rho), t, atol=1e-12)
    assert process.time_of_rho(rho[:6].reshape(2, 3)).shape == (2, 3)


@every_process
def test_times_near_the_ends_of_rho(process: DiffusionProcess) -> None:
    """rho changes fastest near t = 0, and slowest or (the bridge) without bound near t = 1."""
    t = torch.tensor([1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 1e-9, 1.0], dtype=torch.float64)
    found = process.time_of_rho(process.rho(t))
    assert torch.allclose(found, t, rtol=0, atol=2e-12)
    assert float(found[0]) == pytest.approx(1e-6, rel=1e-9)
    assert float(process.time_of_rho(math.inf)) == pytest.approx(0, abs=1e-16)
    lowest = float(process.rho(1.0))
    if math.isfinite(lowest):
        assert float(process.time_of_rho(lowest - 5e-7)) == 1  # what rounding to float32 may leave below
        assert float(process.time_of_rho(lowest + 1e-6)) < 1
        with pytest.raises(ValueError, match="rho is .*; accepted: numbers not below"):
            process.time_of_rho(lowest - 2e-6)


def test_rho_below_the_range() -> None:
    with pytest.raises(ValueError, match="rho is .*; accepted: numbers not below"):
        D3GMProcess().time_of_rho(-5.0)
    with pytest.raises(ValueError, match="rho is .*; accepted: numbers not below"):
        OrnsteinUhlenbeckBridge().time_of_rho(math.nan)


@every_process
def test_marginal_is_the_transition_from_zero(process: DiffusionProcess) -> None:
    x0, mu = images(2)
    for t in (0.0, 0.3, 1.0):
        for direct, through in zip(process.marginal(x0, mu, t), process.transition(x0, mu, 0.0, t), strict=True):
            assert torch.allclose(direct, through, rtol=1e-12, atol=1e-15)


@every_process
@settings(max_examples=25)
@given(times=st.lists(inner_times, min_size=3, max_size=3, unique=True))
def test_transitions_compose(process: DiffusionProcess, times: list[float]) -> None:
    first, middle, last = sorted(times)
    x, mu = images(2)
    mean, std = process.transition(x, mu, first, last)
    on_the_way, early = process.transition(x, mu, first, middle)
    composed, late = process.transition(on_the_way, mu, middle, last)
    decay = process.curves(last)[0] / process.curves(middle)[0]
    assert torch.allclose(mean, composed, rtol=1e-12, atol=1e-12)
    # between neighbouring times the variance is a difference of rho: 1e-12 of c^2, not of itself
    assert float(std**2) == pytest.approx(
        float((decay * early) ** 2 + late**2), rel=1e-12, abs=1e-12 * float(process.noise_std(last)) ** 2
    )


@settings(max_examples=50)
@given(st.floats(0.0, 4.0), st.floats(0.05, 1.0), st.sampled_from(sorted(SCHEDULES)))
def test_cocycle(start: float, length: float, schedule: str) -> None:
    # in the clock the D3GM transition depends on the difference alone: from 0 over the same length it is the same
    process = D3GMProcess(schedule)
    x, mu = images(2)
    clock = -math.log(0.005)

    def at(theta: float) -> float:
        t = torch.tensor([0.0, 1.0], dtype=torch.float64)
        for _ in range(80):
            middle = t.mean()
            t = torch.stack([middle, t[1]] if float(process.clock(middle)) < theta else [t[0], middle])
        return float(t.mean())

    s, t, u = at(start), at(start + length), at(length)
    assert start + length < clock
    span = float(process.clock(t) - process.clock(s))
    mean, std = process.transition(x, mu, s, t)
    assert torch.allclose(mean, mu + math.exp(-span) * (x - mu), rtol=1e-12, atol=1e-12)
    assert float(std) == pytest.approx(
        process.tau * process.stationary_std * math.sqrt(-math.expm1(-2 * span)), rel=1e-12
    )
    assert torch.allclose(mean, process.transition(x, mu, 0.0, u)[0], rtol=1e-9)


@given(inner_times, inner_times)
def test_stationary_law_is_invariant(s: float, t: float) -> None:
    s, t = sorted((s, t))
    process = D3GMProcess()
    x, mu = images(2)
    law = process.prior(mu)
    decay = float(torch.exp(process.clock(s) - process.clock(t)))
    mean, std = process.transition(mu, mu, s, t)
    assert torch.allclose(mean, law[0], atol=1e-14)
    assert math.hypot(decay * float(law[1]), float(std)) == pytest.approx(float(law[1]), rel=1e-12)


@every_process
@settings(max_examples=25)
@given(times=st.lists(inner_times, min_size=2, max_size=2, unique=True))
def test_posterior_is_bayes(process: DiffusionProcess, times: list[float]) -> None:
    s, t = sorted(times)
    x_t, x0, mu = images(3)
    prior_mean, prior_std = process.marginal(x0, mu, s)
    _, noise = process.transition(x0, mu, s, t)
    decay = process.curves(t)[0] / process.curves(s)[0]
    shift = process.transition(torch.zeros_like(mu), mu, s, t)[0]
    precision = prior_std**-2 + (decay / noise) ** 2
    mean, std = process.posterior(x_t, x0, mu, t, s)
    expected = (prior_mean / prior_std**2 + decay * (x_t - shift) / noise**2) / precision
    near = 1e-9 if t - s > 1e-3 else 1e-4  # the right side divides by the small variance of a short step
    assert torch.allclose(mean, expected, rtol=near, atol=near)
    assert float(std) == pytest.approx(float(precision**-0.5), rel=near)


@every_process
def test_posterior_at_time_zero_is_x0(process: DiffusionProcess) -> None:
    x_t, x0, mu = images(3)
    mean, std = process.posterior(x_t, x0, mu, 0.4, 0.0)
    assert torch.allclose(mean, x0, atol=1e-15)
    assert float(std) == 0


def test_bridge_at_its_end() -> None:
    process = OrnsteinUhlenbeckBridge()
    x0, mu = images(2)
    for ours, expected in zip(process.posterior(mu, x0, mu, 1.0, 0.6), process.marginal(x0, mu, 0.6), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-14)
    near = process.posterior(mu, x0, mu, 1 - 1e-9, 0.6)  # the limit is approached
    assert torch.allclose(near[0], process.marginal(x0, mu, 0.6)[0], atol=1e-6)
    mean, std = process.transition(x0, mu, 0.3, 1.0)
    assert torch.equal(mean, mu) and float(std) == 0
    assert torch.equal(process.transition(mu, mu, 1.0, 1.0)[0], mu)
    assert torch.equal(process.prior(mu)[0], mu) and float(process.prior(mu)[1]) == 0
    with pytest.raises(ValueError, match="t is .*; accepted: a time at which"):
        process.score(mu, x0, mu, 1.0)


@every_process
def test_score_is_the_gradient_of_the_log_density(process: DiffusionProcess) -> None:
    x_t, x0, mu = images(3)
    mean, std = process.marginal(x0, mu, 0.4)
    x = x_t.clone().requires_grad_()
    torch.distributions.Normal(mean, std).log_prob(x).sum().backward()
    assert torch.allclose(process.score(x_t, x0, mu, 0.4), x.grad, rtol=1e-10)
    with pytest.raises(ValueError, match="t is .*; accepted: a time at which"):
        process.score(x_t, x0, mu, 0.0)


@pytest.mark.parametrize(
    ("process", "mean", "std"),
    [
        (D3GMProcess(stationary_std=0.04, tau=3.0), 0.3, 0.12),
        (OrnsteinUhlenbeckProcess(stationary_std=0.04), 0.3, 0.04),
        (CoefficientDecoupledProcess(), 0.3, float(CoefficientDecoupledProcess().curves(1.0)[2])),
        (VariancePreservingProcess(), 0.0, 1.0),
        (OrnsteinUhlenbeckBridge(), 0.3, 0.0),
    ],
)
def test_prior(process: DiffusionProcess, mean: float, std: float) -> None:
    law = process.prior(torch.full((2, 3), 0.3, dtype=torch.float64))
    assert torch.equal(law[0], torch.full((2, 3), mean, dtype=torch.float64))
    assert float(law[1]) == std


@every_process
def test_one_time_per_element(process: DiffusionProcess) -> None:
    x0, mu, x_t = images(3)
    t, s = torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0.1, 0.3, 0.6])
    calls = {
        "marginal": lambda i, a, b: process.marginal(x0[i], mu[i], a),
        "transition": lambda i, a, b: process.transition(x_t[i], mu[i], b, a),
        "posterior": lambda i, a, b: process.posterior(x_t[i], x0[i], mu[i], a, b),
        "score": lambda i, a, b: (process.score(x_t[i], x0[i], mu[i], a), torch.zeros(len(x0[i]), 1, 1, 1)),
    }
    for name, call in calls.items():
        mean, std = call(slice(None), t, s)
        assert mean.shape == x0.shape and std.shape == (3, 1, 1, 1), name
        for i in range(3):
            alone, spread = call(slice(i, i + 1), float(t[i]), float(s[i]))
            assert torch.allclose(mean[i], alone[0], rtol=1e-12) and torch.allclose(std[i].flatten(), spread.flatten())


@every_process
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_is_kept(process: DiffusionProcess, dtype: torch.dtype) -> None:
    x0, mu = images(2, dtype=dtype)
    mean, std = process.marginal(x0, mu, 0.3)
    assert mean.dtype == std.dtype == dtype
    exact = process.marginal(x0.double(), mu.double(), 0.3)[0]
    assert torch.allclose(mean.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)  # one rounding, at the end


def test_marginal_lets_gradients_through() -> None:
    x0, mu = images(2)
    x0.requires_grad_()
    process = D3GMProcess()
    process.marginal(x0, mu, 0.5)[0].sum().backward()
    assert torch.allclose(x0.grad, process.curves(0.5)[0].expand_as(x0))


@every_process
def test_config_round_trip(process: DiffusionProcess) -> None:
    config = process.config()
    assert all(type(value) in (str, float) for value in config.values())
    again = process_from_config(config)
    assert again == process and hash(again) == hash(process) and repr(again) == repr(process)
    assert eval(repr(process), {type(process).__name__: type(process)}) == process
    assert pickle.loads(pickle.dumps(process)) == process


def test_processes_differ_by_their_arguments() -> None:
    assert D3GMProcess(tau=2.0) != D3GMProcess(tau=4.0)
    assert D3GMProcess(tau=1.0) != OrnsteinUhlenbeckProcess()
    assert D3GMProcess() != "D3GMProcess"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "name is None; accepted: D3GMProcess"),
        ({"name": "Process"}, "name is 'Process'; accepted: D3GMProcess"),
        ({"name": "VariancePreservingProcess", "tau": 2.0}, "has no tau; accepted: schedule, terminal_decay"),
        ({"name": "D3GMProcess", "tau": 0.5}, "tau is 0.5"),
    ],
)
def test_bad_config(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        process_from_config(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: D3GMProcess(stationary_std=0.0), "stationary_std"),
        (lambda: D3GMProcess(stationary_std=math.inf), "stationary_std"),
        (lambda: D3GMProcess(tau=0.99), "tau"),
        (lambda: D3GMProcess(tau=math.nan), "tau"),
        (lambda: D3GMProcess(terminal_decay=1.0), "terminal_decay"),
        (lambda: OrnsteinUhlenbeckProcess("sine"), "schedule"),
        (lambda: OrnsteinUhlenbeckBridge(stationary_std=-1.0), "stationary_std"),
        (lambda: CoefficientDecoupledProcess(sigma_min=0.0), "sigma_min"),
        (
            lambda: CoefficientDecoupledProcess(sigma_min=0.5, sigma_max=0.5),
            "sigma_max is 0.5; accepted: a number above",
        ),
    ],
)
def test_bad_arguments(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x, mu: p.transition(x, mu, 0.5, 0.4), "s is 0.5 and t is 0.4; accepted: s at or before t"),
        (lambda p, x, mu: p.posterior(x, x, mu, 0.5, 0.5), "s is 0.5 and t is 0.5; accepted: s before t"),
        (lambda p, x, mu: p.marginal(x, mu, 1.5), "t is 1.5; accepted: numbers in"),
        (lambda p, x, mu: p.transition(x, mu, -0.5, 0.5), "s is -0.5; accepted: numbers in"),
        (lambda p, x, mu: p.marginal(x, mu[:1], 0.5), "mu has shape .* that of x0"),
        (lambda p, x, mu: p.marginal(x.long(), mu, 0.5), "x0 is .*; accepted: a real floating tensor"),
        (lambda p, x, mu: p.marginal(x, mu.to(torch.complex64), 0.5), "mu is .*; accepted: a real floating tensor"),
        (
            lambda p, x, mu: p.marginal(x, mu, torch.tensor([0.1, 0.2])),
            "there are 2 times; accepted: one, or one per item of the batch of 3",
        ),
        (lambda p, x, mu: p.prior(3.0), "mu is float; accepted: a real floating tensor"),
    ],
)
def test_bad_inputs(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(D3GMProcess(), *images(2))  # type: ignore[operator]
