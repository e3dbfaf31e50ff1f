"""A process added as one class: its curves are enough for sampling, checkpoints and training, with no other change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from gaussian_problem import GaussianProblem, images
from torch import Tensor

from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint, save_checkpoint
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import PROCESSES, DiffusionProcess, Sampler, process_from_config, sample


class Widening(DiffusionProcess):
    """``a = e^{-Theta}``, ``b = 1 - a``, ``c = w (1 - a)``; ``dx = theta (mu - x) dt + w sqrt(2 theta (1 - a)) dW``."""

    _parameters: ClassVar[tuple[str, ...]] = ("schedule", "width", "terminal_decay")

    def __init__(self, schedule: str = "cosine", width: float = 0.2, terminal_decay: float = 0.005) -> None:
        super().__init__(schedule, terminal_decay)
        self.width = width

    def noise_std(self, t: float | Tensor) -> Tensor:
        return -self.width * torch.expm1(-self.clock(t))

    def forward_sde(self, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        theta = self.clock.rate(t)
        return -theta, theta, self.width * torch.sqrt(-2 * theta * torch.expm1(-self.clock(t)))

    def prior(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        return mu.clone(), mu.new_tensor(float(self.noise_std(1.0)))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in the registry."""
    monkeypatch.setitem(PROCESSES, "Widening", Widening)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler(steps=100, order=2),
        Sampler(steps=100, order=2, eta=1.0),
        Sampler(steps=400, solver="euler_maruyama", grid="t", eta=1.0),
    ],
)
def test_every_solver_draws_from_it(sampler: Sampler) -> None:
    """x0 ~ N(mu + 0.3, 0.1^2): its mean and standard deviation, over 6400 values (standard error 0.00125)."""
    problem, mu = GaussianProblem(Widening()), torch.full((1, 1, 80, 80), 0.5, dtype=torch.float64)
    drawn = sample(problem.denoiser, mu, problem.process, sampler=sampler)
    assert float((drawn - mu).mean()) == pytest.approx(0.3, abs=0.005)
    assert float((drawn - mu).std()) == pytest.approx(0.1, abs=0.005)


def test_the_base_class_gives_the_rest() -> None:
    process, mu = Widening(width=0.3), images()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    assert torch.allclose(process.time_of_rho(process.rho(t)), t, atol=1e-12)
    a, _, c = process.curves(0.7)
    assert float(c) == pytest.approx(0.3 * (1 - float(a)))
    # the variance of a transition from 0.2 to 0.7 adds up to the marginal's: c_t^2 = (a_t / a_s)^2 c_s^2 + var
    a_s, _, c_s = process.curves(0.2)
    std = process.transition(mu, mu, 0.2, 0.7)[1]
    assert float(c) == pytest.approx(math.hypot(float(a / a_s * c_s), float(std)), rel=1e-9)
    assert process_from_config(process.config()) == process


def test_a_checkpoint_of_it_is_stored_and_loaded(tmp_path: Path) -> None:
    network = ConditionalNAFNet(width=4, encoder_blocks=(1,), decoder_blocks=(1,))
    save_checkpoint(tmp_path / "model.pt", network, D3GMScheduler(Widening(width=0.3)), {}, {})
    assert build_scheduler(load_checkpoint(tmp_path / "model.pt", network)).process == Widening(width=0.3)
