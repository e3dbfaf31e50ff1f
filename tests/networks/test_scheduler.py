"""D3GMScheduler: its targets, its denoiser and its steps, against the processes' closed forms."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import Scheduler

from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.networks.schedulers.d3gm import PREDICTION_TYPES, size_multiple
from monai_d3gm.sde import PROCESSES, D3GMProcess, OrnsteinUhlenbeckBridge, VariancePreservingProcess

IMAGES = (4, 1, 6, 6)


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, mu, noise = (torch.randn(IMAGES, generator=generator, dtype=torch.float64) for _ in range(3))
    return x0, mu, noise


class Oracle(torch.nn.Module):
    """A network that returns what it was told, whatever its input."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: None = None) -> torch.Tensor:
        return self.output


def test_it_is_a_monai_scheduler() -> None:
    scheduler = D3GMScheduler()
    assert isinstance(scheduler, Scheduler)
    assert scheduler.num_train_timesteps == 1000 and len(scheduler.timesteps) == scheduler.num_inference_steps == 5


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_add_noise_is_the_marginal(name: str) -> None:
    scheduler = D3GMScheduler(PROCESSES[name]())
    x0, mu, noise = batch()
    k = torch.tensor([0, 10, 500, 998])
    mean, std = scheduler.process.marginal(x0, mu, (k.double() + 1) / 1000)
    torch.testing.assert_close(scheduler.add_noise(x0, noise, k, mu), mean + std * noise)


@pytest.mark.parametrize("name", sorted(PROCESSES))
@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
def test_a_perfect_prediction_gives_x0(name: str, prediction: str) -> None:
    scheduler = D3GMScheduler(PROCESSES[name](), prediction_type=prediction)
    x0, mu, noise = batch()
    k = torch.tensor([0, 10, 500, 998])
    x_t = scheduler.add_noise(x0, noise, k, mu)
    target = scheduler.get_target(x0, noise, k, mu)
    denoise = scheduler.denoiser(Oracle(target))
    torch.testing.assert_close(denoise(x_t, mu, scheduler.time_of(k)), x0, atol=1e-7, rtol=0)


def test_the_velocity_has_unit_variance_at_every_time() -> None:
    """E v^2 = (c^2 + a^2 sigma_d^2) / V = 1, for x0 - mu of variance sigma_d^2: 4 standard errors of 4e5 draws."""
    scheduler = D3GMScheduler(sigma_data=0.2)
    generator = torch.Generator().manual_seed(1)
    difference = 0.2 * torch.randn(4, 1, 1, 100_000, generator=generator)
    noise = torch.randn(4, 1, 1, 100_000, generator=generator)
    v = scheduler.get_velocity(difference, noise, torch.tensor([0, 50, 400, 999]), torch.zeros_like(difference))
    assert (v.var(dim=-1) - 1).abs().max() < 4 * (2 / 100_000) ** 0.5


def test_the_networks_input_has_unit_variance_and_its_time_is_rho() -> None:
    scheduler = D3GMScheduler(sigma_data=0.2)
    generator = torch.Generator().manual_seed(1)
    mu = torch.rand(1, 1, 1, 100_000, generator=generator)
    x0 = mu + 0.2 * torch.randn(mu.shape, generator=generator)
    x_t = scheduler.add_noise(x0, torch.randn(mu.shape, generator=generator), torch.tensor([300]), mu)
    inputs, time = scheduler.network_input(x_t, mu, 0.301)
    assert abs(float(inputs[:, 0].var()) - 1) < 4 * (2 / 100_000) ** 0.5
    torch.testing.assert_close(inputs[:, 1:], mu)
    torch.testing.assert_close(time, 10 * scheduler.process.rho(0.301).float().reshape(1))


def test_one_network_serves_processes_with_the_same_rho() -> None:
    """What the network is given depends on the process through rho alone: r / a = (x0 - mu) + eps / e^rho."""
    x0, mu, noise = batch()
    inputs = []
    for process in (D3GMProcess(), VariancePreservingProcess()):
        scheduler = D3GMScheduler(process)
        t = float(process.time_of_rho(0.5))
        mean, std = process.marginal(x0, mu, t)
        inputs.append(scheduler.network_input(mean + std * noise, mu, t))
    torch.testing.assert_close(inputs[0][0], inputs[1][0], atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(inputs[0][1], inputs[1][1], atol=1e-6, rtol=1e-6)


def test_the_end_of_a_bridge() -> None:
    """There x_1 = mu, the target is (x0 - mu) / sigma_d and a perfect prediction of it gives x0."""
    scheduler = D3GMScheduler(OrnsteinUhlenbeckBridge(), sigma_data=0.2)
    x0, mu, noise = batch()
    k = torch.full((4,), 999)
    target = scheduler.get_velocity(x0, noise, k, mu)
    torch.testing.assert_close(target, (x0 - mu) / 0.2)
    torch.testing.assert_close(scheduler.denoiser(Oracle(target))(mu, mu, 1.0), x0)
    for prediction, words in (("epsilon", "a = 0"), ("score", "c = 0")):
        with pytest.raises(ValueError, match=words):
            other = D3GMScheduler(OrnsteinUhlenbeckBridge(), prediction_type=prediction)
            other.to_x0(other.get_target(x0, noise, k, mu), mu, mu, 1.0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_with_an_exact_denoiser_end_at_x0(eta: float) -> None:
    scheduler = D3GMScheduler()
    scheduler.set_timesteps(7)
    x0, mu, noise = batch()
    x = scheduler.add_noise(x0, noise, scheduler.timesteps[:1].expand(4), mu)
    for k in scheduler.timesteps:
        t = float(scheduler.time_of(k))
        a, _, c = scheduler.process.curves(t)
        eps = (x - mu - a * (x0 - mu)) / c
        output = scheduler.get_target(x0, eps, k.expand(4), mu)
        x, x0_hat = scheduler.step(output, k, x, mu, eta=eta)
        torch.testing.assert_close(x0_hat, x0, atol=1e-6, rtol=0)
    torch.testing.assert_close(x, x0, atol=1e-6, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 5, 100, 1000])
def test_timesteps_decrease_from_the_last(n: int) -> None:
    scheduler = D3GMScheduler()
    scheduler.set_timesteps(n)
    k = scheduler.timesteps
    assert len(k) == n and k[0] == 999 and k[-1] >= 0 and bool((k.diff() < 0).all())


@pytest.mark.parametrize("shape", [(1, 2, 15, 21), (1, 2, 16, 16), (2, 2, 9, 30)])
def test_the_denoiser_pads_to_the_networks_multiple(shape: tuple[int, ...]) -> None:
    net = ConditionalNAFNet(width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)).eval()
    x_t, mu = torch.randn(shape), torch.rand(shape)
    assert D3GMScheduler().denoiser(net)(x_t, mu, 0.5).shape == shape


def test_monais_unet_drops_in() -> None:
    unet = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=2,
        out_channels=1,
        channels=(8, 8, 8),
        attention_levels=(False, False, False),
        num_res_blocks=1,
        norm_num_groups=4,
    ).eval()
    assert size_multiple(unet) == 4
    image = torch.rand(2, 1, 18, 13)
    assert D3GMScheduler().denoiser(unet)(image, image, 0.5).shape == image.shape


def test_a_process_outside_the_trained_range_is_refused() -> None:
    """tau = 4 starts at rho = ln(0.005 / (4 * 10 / 255)) = -3.445, below what tau = 2 was trained for."""
    net = ConditionalNAFNet(width=8, encoder_blocks=(1,), decoder_blocks=(1,))
    D3GMScheduler(D3GMProcess(tau=2.0), rho_range=(-2.76, 11.0)).denoiser(net)
    D3GMScheduler(D3GMProcess(tau=1.0), rho_range=(-2.76, 11.0)).denoiser(net)
    with pytest.raises(ValueError, match=r"starts at rho = .*-3\.44.*trained for rho from -2\.76.*off by -0\.68"):
        D3GMScheduler(D3GMProcess(tau=4.0), rho_range=(-2.76, 11.0)).denoiser(net)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"prediction_type": "x"}, "prediction_type is 'x'"),
        ({"sigma_data": 0.0}, "sigma_data is 0.0"),
        ({"sigma_data": float("nan")}, "sigma_data is nan"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"rho_range": (1.0, 0.0)}, "rho_range is"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        D3GMScheduler(**arguments)  # type: ignore[arg-type]


def test_bad_timesteps() -> None:
    scheduler = D3GMScheduler()
    x0, mu, noise = batch()
    with pytest.raises(ValueError, match="timesteps has"):
        scheduler.add_noise(x0, noise, torch.tensor([0, 1, 2, 1000]), mu)
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match="timestep is 3"):
        scheduler.step(x0, 3, x0, mu)
