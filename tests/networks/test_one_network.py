"""One network makes the processes one: the proposition of the theory, on a shared grid of noise levels c / a."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_d3gm.consistency import KspaceConsistency, channels_to_complex, fft2c
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import PROCESSES, DiffusionProcess, Sampler, Step, sample

NOISES = [5.0, 1.5, 0.5, 0.2, 0.06, 0.01]  # all processes but none at t = 1 reach the first
SIGMA = 0.1


def images(seed: int) -> Tensor:
    return torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network() -> ConditionalNAFNet:
    """Untrained, with blocks that are not the identity that they begin as."""
    torch.manual_seed(0)
    net = ConditionalNAFNet(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), attention_window=16)
    for name, parameter in net.named_parameters():
        if name.endswith(("beta", "gamma")):
            torch.nn.init.constant_(parameter, 0.3)
    return net.double().eval()


def trajectory(process: DiffusionProcess, sampler: Sampler, measured: bool) -> tuple[list[Tensor], Tensor]:
    """The states w = (x - b mu) / a at the shared noise levels, and the image."""
    scheduler, mu = D3GMScheduler(process, sigma_data=SIGMA), images(1)
    rho = -torch.tensor(NOISES, dtype=torch.float64).log()
    times = [*process.time_of_rho(rho).tolist(), 0.0]
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a, b, _ = (float(curve) for curve in process.curves(times[0]))
    correct = None
    if measured:
        kspace, mask = fft2c(channels_to_complex(images(3))), torch.arange(16) % 3 == 0
        correct = KspaceConsistency(kspace, mask, noise_std=0.05).with_prior_std(scheduler.prior_std)
    seen: list[Tensor] = []

    def keep(step: Step) -> None:
        a, b, _ = (float(curve) for curve in process.curves(step.t))
        seen.append((step.x - b * mu) / a)

    state = a * (mu + NOISES[0] * noise) + b * mu
    image = sample(
        scheduler.denoiser(network()),
        mu,
        process,
        sampler=sampler,
        times=times,
        state=state,
        correct=correct,
        callback=keep,
    )
    return seen, image


@pytest.mark.parametrize(
    "options",
    [
        {"order": 1},
        {"order": 2},
        {"order": 3},
        {"order": 1, "eta": 1.0},
        {"order": 2, "eta": [0.0, 1.6]},
        {"order": 2, "eta": 1.0, "temperature": 0.0, "clip": [0.0, 1.0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("measured", [False, True])
def test_the_processes_draw_one_trajectory(options: dict[str, Any], measured: bool) -> None:
    """Equal to rounding: the network is given rho in single precision, whose spacing at 10 rho = 46 is 4e-6."""
    sampler = Sampler(**options)
    (first_states, first_image), *others = (trajectory(kind(), sampler, measured) for kind in PROCESSES.values())
    assert len(first_states) == len(NOISES)
    for states, image in others:
        for state, first in zip(states, first_states, strict=True):
            torch.testing.assert_close(state, first, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(image, first_image, rtol=1e-5, atol=1e-5)


def test_the_states_themselves_differ() -> None:
    """What agrees is w; x_t at a noise level is another image under each process, and so is an Euler-Maruyama step."""
    times = {name: kind().time_of_rho(-math.log(0.5)) for name, kind in PROCESSES.items()}
    amplitudes = {round(float(PROCESSES[name]().curves(t)[0]), 4) for name, t in times.items()}
    assert len(amplitudes) == len(PROCESSES)
    euler = [trajectory(PROCESSES[name](), Sampler(solver="euler_maruyama"), False)[1] for name in list(PROCESSES)[:3]]
    assert float((euler[0] - euler[2]).abs().max()) > 1e-3
