"""D3GMInferer: MONAI's interface, and the loss of a corrected prediction."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import DiffusionInferer

from monai_d3gm.consistency import KspaceConsistency
from monai_d3gm.inferers import D3GMInferer, linear_part
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import sample


@pytest.fixture
def network() -> ConditionalNAFNet:
    torch.manual_seed(0)
    return ConditionalNAFNet(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)).eval()


def images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, mu, noise = (torch.randn(2, 2, 8, 8, generator=generator) for _ in range(3))
    return x0, mu, noise


def test_training_step_is_the_network_on_the_preconditioned_input(network: ConditionalNAFNet) -> None:
    scheduler = D3GMScheduler()
    inferer = D3GMInferer(scheduler)
    assert isinstance(inferer, DiffusionInferer)
    x0, mu, noise = images()
    k = torch.tensor([3, 800])
    x_t = scheduler.add_noise(x0, noise, k, mu)
    inputs, time = scheduler.network_input(x_t, mu, scheduler.time_of(k))
    prediction = inferer(inputs=x0, diffusion_model=network, noise=noise, timesteps=k, condition=mu)
    torch.testing.assert_close(prediction, network(inputs, time))


def test_sample_is_the_solver_over_the_schedulers_timesteps(network: ConditionalNAFNet) -> None:
    scheduler = D3GMScheduler()
    scheduler.set_timesteps(4)
    _, mu, noise = images()
    times = [*scheduler.time_of(scheduler.timesteps).tolist(), 0.0]
    expected = sample(scheduler.denoiser(network), mu, scheduler.process, times=times, seed=3)
    inferer = D3GMInferer(scheduler)
    image = inferer.sample(diffusion_model=network, conditioning=mu, verbose=False, seed=3)
    torch.testing.assert_close(image, expected)
    mean, std = scheduler.process.prior(mu)
    given = inferer.sample(input_noise=noise, diffusion_model=network, conditioning=mu, verbose=False)
    expected = sample(scheduler.denoiser(network), mu, scheduler.process, times=times, state=mean + std * noise)
    torch.testing.assert_close(given, expected)


def test_intermediates(network: ConditionalNAFNet) -> None:
    inferer = D3GMInferer(D3GMScheduler())
    _, mu, _ = images()
    image, states = inferer.sample(
        diffusion_model=network, conditioning=mu, verbose=False, save_intermediates=True, intermediate_steps=1
    )
    assert len(states) == 5 and image.shape == states[0].shape == mu.shape


def test_loss_of_the_corrected_prediction() -> None:
    """L(F) - L(v) is the corrected x0_hat's error in the target's units, by the definition of both."""
    scheduler = D3GMScheduler()
    x0, mu, noise = images()
    mask = torch.arange(8) % 3 == 0
    correction = KspaceConsistency(torch.fft.fft2(torch.complex(x0[:, 0], x0[:, 1])), mask, noise_std=0.02)
    correction = correction.with_prior_std(scheduler.prior_std)
    k = torch.tensor([100, 900])
    t = scheduler.time_of(k)
    x_t = scheduler.add_noise(x0, noise, k, mu)
    target = scheduler.get_target(x0, noise, k, mu)
    output = target + 0.1 * torch.randn(target.shape, generator=torch.Generator().manual_seed(5))
    error = correction(scheduler.to_x0(output, x_t, mu, t), t) - correction(x0, t)
    a, _, c = scheduler.process.curves(t)
    c_out = (0.1 * c / torch.sqrt(a**2 * 0.01 + c**2)).float().reshape(-1, 1, 1, 1)
    actual = linear_part(correction, output, t) - linear_part(correction, target, t)
    torch.testing.assert_close(actual, error / c_out, atol=2e-3, rtol=2e-3)


def test_bad_arguments(network: ConditionalNAFNet) -> None:
    inferer = D3GMInferer(D3GMScheduler())
    x0, mu, noise = images()
    with pytest.raises(ValueError, match="condition is None"):
        inferer(inputs=x0, diffusion_model=network, noise=noise, timesteps=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="mode is 'crossattn'"):
        inferer.sample(diffusion_model=network, conditioning=mu, mode="crossattn")
    with pytest.raises(ValueError, match="conditioning is None"):
        inferer.sample(diffusion_model=network)
    with pytest.raises(ValueError, match="amp is 'float8'"):
        D3GMInferer(D3GMScheduler(), amp="float8")
