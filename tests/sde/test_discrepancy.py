"""Discrepancy measures against torch's divergences, the design's numbers and the paper's formula."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from monai_d3gm.sde import (
    PROCESSES,
    CoefficientDecoupledProcess,
    D3GMProcess,
    DiffusionProcess,
    OrnsteinUhlenbeckBridge,
    OrnsteinUhlenbeckProcess,
    VariancePreservingProcess,
    calibrate_tau,
    cocycle_defect,
    proposition2_bound,
    temporal_discrepancy,
)

ALL = [kind() for kind in PROCESSES.values()]
every_process = pytest.mark.parametrize("process", ALL, ids=lambda process: type(process).__name__)


def pair(deviation: float = 0.1, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair whose root mean square difference is ``deviation`` exactly."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.rand(batch, 1, 8, 8, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, mu.shape, generator=generator).double() * 2 - 1
    return mu + deviation * sign, mu


@every_process
def test_temporal_discrepancy(process: DiffusionProcess) -> None:
    x0, mu = pair()
    result = temporal_discrepancy(x0, mu, process)
    assert all(value.shape == (2,) and value.dtype == torch.float64 for value in result)
    mean, std = process.marginal(x0, mu, 1.0)
    law_mean, law_std = process.prior(mu)
    w2 = ((mean - law_mean) ** 2 + (std - law_std) ** 2).flatten(1).sum(1).sqrt()
    assert torch.allclose(result.w2_total, w2, rtol=1e-12)
    assert torch.allclose(result.w2_per_pixel * 8, result.w2_total)  # 64 values: sqrt(64)
    if isinstance(process, OrnsteinUhlenbeckBridge):
        assert not result.w2_total.any() and bool(result.kl_total.isnan().all())
        return
    kl = kl_divergence(Normal(mean, std), Normal(law_mean, law_std)).flatten(1).sum(1)
    assert torch.allclose(result.kl_total, kl, rtol=1e-8)
    assert torch.allclose(result.kl_per_pixel * 64, result.kl_total)


def test_wider_stationary_measure_lowers_the_discrepancy() -> None:
    x0, mu = pair()
    kl = [float(temporal_discrepancy(x0, mu, D3GMProcess(tau=tau)).kl_total[0]) for tau in (1.0, 2.0, 4.0)]
    assert kl[0] > kl[1] > kl[2]


@every_process
def test_cocycle_defect(process: DiffusionProcess) -> None:
    preserving = isinstance(process, D3GMProcess | VariancePreservingProcess)
    defect = cocycle_defect(process)
    assert defect < 1e-12 if preserving else defect > 1


@pytest.mark.parametrize(("deviation", "tau"), [(0.05, 1.0), (0.1, 2.0), (0.2, 4.0)])
def test_calibrate_tau_gives_the_designs_numbers(deviation: float, tau: float) -> None:
    assert calibrate_tau([pair(deviation)]) == pytest.approx(tau, rel=0.01)


def test_calibrated_tau_meets_the_tolerance() -> None:
    tau = calibrate_tau([pair(0.3)], 1e-4, stationary_std=0.05, terminal_decay=0.01)
    process = D3GMProcess(stationary_std=0.05, terminal_decay=0.01, tau=tau)
    assert temporal_discrepancy(*pair(0.3), process).kl_per_pixel.tolist() == pytest.approx([1e-4] * 2, rel=1e-7)
    assert calibrate_tau([pair(0.001)]) == 1


def test_calibrate_tau_reads_a_stream_and_counts_pixels() -> None:
    def stream() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield pair(0.1, batch=3)
        yield pair(0.3, batch=1)

    expected = calibrate_tau([pair(math.sqrt((3 * 0.1**2 + 0.3**2) / 4))])
    assert calibrate_tau(stream()) == pytest.approx(expected, rel=1e-12)


def test_bound_is_equation_5_as_printed() -> None:
    # typed from the paper with its letters: sigma_T^2 / (2 theta_T) is tau^2 lambda^2, sigma_max that at t = 1
    x0, mu = pair()
    process = D3GMProcess("constant", stationary_std=0.04, tau=2.0, terminal_decay=0.01)
    theta, variance, d, delta, bound = -math.log(0.01), 0.08**2, 64, 0.1, 3.0
    sigma_max2 = 2 * variance * theta
    residual = 64 * 0.1**2
    noise = sigma_max2 * (bound * sigma_max2 + d + 2 * math.sqrt(-d * math.log(delta)) - 2 * math.log(delta))
    expected = abs((residual - variance) * math.exp(-2 * theta) + variance - noise)
    got = proposition2_bound(x0, mu, process, score_bound=bound, delta=delta)
    assert got.tolist() == pytest.approx([expected] * 2, rel=1e-12)


@every_process
def test_bound_is_finite_for_every_process(process: DiffusionProcess) -> None:
    assert bool(torch.isfinite(proposition2_bound(*pair(), process, score_bound=1.0)).all())


def test_bound_of_the_bridge_is_that_of_the_process_it_conditions() -> None:
    bridge, free = (
        proposition2_bound(*pair(), process, score_bound=1.0)
        for process in (OrnsteinUhlenbeckBridge(), OrnsteinUhlenbeckProcess())
    )
    assert torch.allclose(bridge, free, rtol=1e-14)


def test_bad_arguments() -> None:
    x0, mu = pair()
    bad = x0.clone()
    bad[0, 0, 0, 0] = math.nan
    process = CoefficientDecoupledProcess()
    with pytest.raises(ValueError, match="score_bound"):
        proposition2_bound(x0, mu, process, score_bound=-1.0)
    with pytest.raises(ValueError, match="delta"):
        proposition2_bound(x0, mu, process, score_bound=1.0, delta=1.0)
    with pytest.raises(ValueError, match="x0 holds NaN"):
        temporal_discrepancy(bad, mu, process)
    with pytest.raises(ValueError, match="mu has shape"):
        temporal_discrepancy(x0, mu[..., :3], process)
    with pytest.raises(ValueError, match="pairs is empty"):
        calibrate_tau([])
    with pytest.raises(ValueError, match="mu holds NaN"):
        calibrate_tau([(x0, bad)])
    with pytest.raises(ValueError, match="stationary_std"):
        calibrate_tau([(x0, mu)], stationary_std=0.0)
    for tolerance in (0.0, 1e-10, -1.0, math.inf):  # a^4 / 4 = 1.6e-10 is left whatever tau
        with pytest.raises(ValueError, match="tolerance is .*; accepted: a finite number above 1.56e-10"):
            calibrate_tau([(x0, mu)], tolerance)
