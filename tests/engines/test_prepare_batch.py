"""Batches of training steps: which times and noise are drawn, and that the loss is the one stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft2c, ifft2c
from monai_d3gm.engines import D3GMPrepareBatch, MeanPathPrepareBatch, RegressionPrepareBatch, kspace_consistency
from monai_d3gm.inferers import D3GMInferer, RegressionInferer
from monai_d3gm.losses import score_matching_weight
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.networks.schedulers.d3gm import PREDICTION_TYPES
from monai_d3gm.sde import D3GMProcess, OrnsteinUhlenbeckBridge, Sampler, sample

DRAWS = 4000
KOLMOGOROV_SMIRNOV = 1.63 / DRAWS**0.5
"""The distance of an empirical distribution from its law that one of a hundred exceeds."""


def batch(size: int = 3, seed: int = 0, noise_std: float = 0.0, shape: tuple[int, int] = (12, 10)) -> dict[str, Any]:
    """Images, their undersampled k-space with noise, and the zero-filled images, in float64."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 2, *shape, generator=generator, dtype=torch.float64)
    noise = noise_std * torch.randn(size, 2, *shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(size, 1, shape[1], generator=generator) < 0.4
    mask[..., shape[1] // 2] = True
    kspace = (fft2c(channels_to_complex(image)) + channels_to_complex(noise)) * mask
    return {
        "image": image,
        "mu": complex_to_channels(ifft2c(kspace)),
        "kspace": kspace,
        "mask": mask,
        "noise_std": torch.full((size,), noise_std),
        "index": torch.arange(size),
    }


class Constant(nn.Module):
    """A network whose output is given: it stands for any error that a network can make."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, timesteps: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        return self.output


def distance_from_uniform(values: Tensor, lower: float, upper: float) -> float:
    """Largest distance between the empirical distribution of values and the uniform one."""
    law = (values.sort().values - lower) / (upper - lower)
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return float(torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max())


def timesteps(scheduler: D3GMScheduler | None = None, **arguments: Any) -> Tensor:
    torch.manual_seed(0)
    return D3GMPrepareBatch(scheduler or D3GMScheduler(), **arguments).get_timesteps(torch.zeros(DRAWS, 1))


@pytest.mark.parametrize("spread", ["t", "rho"])
def test_the_share_at_one(spread: str) -> None:
    assert (timesteps(share_at_one=1.0, spread=spread) == 999).all()
    # one of a thousand of the rest is there too; the standard deviation of a share of 1/2 is 1 / (2 sqrt(n))
    for share in (0.0, 0.5):
        found = (timesteps(share_at_one=share, spread=spread) == 999).double().mean()
        assert float(found) == pytest.approx(share, abs=4 * 0.5 / DRAWS**0.5)


def test_the_rest_is_uniform_in_t() -> None:
    k = timesteps()
    assert k.dtype == torch.int64 and int(k.min()) < 5 and int(k.max()) > 994
    # the middles of the bins of the discrete times
    assert distance_from_uniform(k + 0.5, 0, 1000) < KOLMOGOROV_SMIRNOV + 0.5 / 1000
    rest = timesteps(share_at_one=0.5)
    rest = rest[rest < 999]
    assert distance_from_uniform(rest + 0.5, 0, 1000) < 2**0.5 * KOLMOGOROV_SMIRNOV + 1 / 1000


@pytest.mark.parametrize("t_min", [0.02, 0.2])
def test_the_rest_is_uniform_in_rho(t_min: float) -> None:
    scheduler = D3GMScheduler()
    k = timesteps(scheduler, spread="rho", t_min=t_min)
    assert int(k.min()) == round(1000 * t_min) - 1 and int(k.max()) == 999
    process = scheduler.process
    lower, upper = float(process.rho(1.0)), float(process.rho(t_min))
    # neighbouring times at t_min, where they are furthest apart in rho
    grain = (upper - float(process.rho(t_min + 0.001))) / (upper - lower)
    assert distance_from_uniform(process.rho(scheduler.time_of(k)), lower, upper) < KOLMOGOROV_SMIRNOV + grain


def test_a_bridge_has_times_up_to_its_end() -> None:
    """Its rho is minus infinity at t = 1: the spread is cut, and times stay in range."""
    k = timesteps(D3GMScheduler(OrnsteinUhlenbeckBridge()), spread="rho")
    assert int(k.min()) == 19 and int(k.max()) == 999


@given(st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 3))
def test_a_batch_draws_the_same_whatever_came_before(first: int, seed: int, before: int) -> None:
    data = batch(2, shape=(4, 4)) | {"index": torch.tensor([first, first + 1])}

    def draw(before: int, **changes: Any) -> tuple[Tensor, Tensor, Tensor]:
        prepare = D3GMPrepareBatch(D3GMScheduler(), seed=seed)
        for index in range(before):
            prepare(data | {"index": torch.tensor([index, 0])}, "cpu")
        state = torch.get_rng_state()
        _, target, _, options = prepare(data | changes, "cpu")
        assert torch.equal(torch.get_rng_state(), state)
        return target, options["noise"], options["timesteps"]

    fresh, later = draw(0), draw(before)
    for one, other in zip(fresh, later, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(fresh[1], draw(0, index=torch.tensor([first + 2, first + 3]))[1])


def test_without_a_seed_the_draws_are_those_of_torch() -> None:
    prepare, data = D3GMPrepareBatch(D3GMScheduler()), batch()
    torch.manual_seed(1)
    first = prepare(data, "cpu")[3]["noise"]
    assert not torch.equal(prepare(data, "cpu")[3]["noise"], first)
    torch.manual_seed(1)
    assert torch.equal(prepare(data, "cpu")[3]["noise"], first)
    noise = prepare.get_noise(torch.zeros(DRAWS, 3))
    # standard deviations of the mean and of the standard deviation of n normal numbers: 1 / sqrt(n), 1 / sqrt(2 n)
    assert float(noise.mean()) == pytest.approx(0, abs=4 / (3 * DRAWS) ** 0.5)
    assert float(noise.std()) == pytest.approx(1, abs=4 / (6 * DRAWS) ** 0.5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_what_the_inferer_is_given(prediction_type: str) -> None:
    scheduler = D3GMScheduler(prediction_type=prediction_type)
    data = batch() | {"degraded": torch.zeros(3, 2, 12, 10, dtype=torch.float64)}
    data["sharp"] = data["image"] + 1
    prepare = D3GMPrepareBatch(scheduler, condition_name="degraded", image_name="sharp", seed=0)
    x0, target, positional, options = prepare(data, "cpu")
    assert torch.equal(x0, data["sharp"]) and torch.equal(options["condition"], data["degraded"])
    assert positional == () and set(options) == {"noise", "timesteps", "condition"}
    wanted = scheduler.get_target(x0, options["noise"], options["timesteps"], data["degraded"])
    assert torch.equal(target, wanted)
    # a network that gives the target has no loss
    prediction = D3GMInferer(scheduler)(inputs=x0, diffusion_model=Constant(target), **options)
    assert torch.equal(prediction, target)


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_consistency_in_the_loss(noise_std: float) -> None:
    """prediction - target = (C(x0_hat) - C(x0)) / c_out, the error that is left after the correction."""
    scheduler = D3GMScheduler()
    data = batch(noise_std=noise_std)
    prepare = D3GMPrepareBatch(scheduler, data_consistency=kspace_consistency, seed=3)
    x0, target, _, options = prepare(data, "cpu")
    output = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5), dtype=x0.dtype)
    prediction = D3GMInferer(scheduler)(inputs=x0, diffusion_model=Constant(output), **options)

    t = scheduler.time_of(options["timesteps"])
    x_t = scheduler.add_noise(x0, options["noise"], options["timesteps"], data["mu"])
    correct = kspace_consistency(data).with_prior_std(scheduler.prior_std)
    left = correct(scheduler.to_x0(output, x_t, data["mu"], t), t) - correct(x0, t)
    c_out = scheduler.prior_std(t).reshape(-1, 1, 1, 1)  # c_out and gamma_t are the same function of t
    torch.testing.assert_close(prediction - target, left / c_out, rtol=1e-5, atol=1e-6)
    if noise_std == 0:  # what was measured does not count
        assert (fft2c(channels_to_complex(target)) * data["mask"]).abs().max() < 1e-5


def test_weights_multiply_prediction_and_target() -> None:
    scheduler, data = D3GMScheduler(), batch()
    _, plain, _, options = D3GMPrepareBatch(scheduler, seed=1)(data, "cpu")
    x0, target, _, weighted = D3GMPrepareBatch(scheduler, weighting=score_matching_weight, seed=1)(data, "cpu")
    weight = score_matching_weight(scheduler, options["timesteps"])
    assert torch.equal(weighted["weight"], weight)
    torch.testing.assert_close(target, plain * weight.reshape(-1, 1, 1, 1))
    prediction = D3GMInferer(scheduler)(inputs=x0, diffusion_model=Constant(plain), **weighted)
    torch.testing.assert_close(prediction, target)


def test_equal_images_are_weighted_by_their_distance_to_mu() -> None:
    """The weight is sigma_d over the root mean square of x_0 - mu, at most 10."""
    scheduler = D3GMScheduler(sigma_data=0.1)
    mu = torch.zeros(3, 1, 4, 4)
    data = {"image": mu + torch.tensor([0.1, -0.4, 1e-6]).reshape(3, 1, 1, 1), "mu": mu, "index": [0]}
    _, _, _, options = D3GMPrepareBatch(scheduler, equal_images=True, seed=1)(data, "cpu")
    torch.testing.assert_close(options["weight"], torch.tensor([1.0, 0.25, 10.0]))


PATH = Sampler(steps=3, order=1, eta=1.0, temperature=0.0, grid="t")


@pytest.mark.parametrize("seed", range(6))
def test_the_first_images_are_on_the_mean_path(seed: int) -> None:
    """Their state is the sampler's, with the network and the measurement; the target leads from there to x_0."""
    scheduler, data = D3GMScheduler(), batch(noise_std=0.1)
    network = Constant(torch.full((2, 2, 12, 10), 0.3, dtype=torch.float64))
    options: dict[str, Any] = {"measurement": kspace_consistency, "share_on_path": 0.7, "seed": seed}
    x0, target, _, drawn = MeanPathPrepareBatch(scheduler, network, PATH, **options)(data, "cpu")
    t = float(scheduler.time_of(drawn["timesteps"][0]))
    assert drawn["timesteps"][0] == drawn["timesteps"][1] and t in (1.0, 0.667, 0.333)

    state = scheduler.add_noise(x0, drawn["noise"], drawn["timesteps"], data["mu"])
    expected = data["mu"][:2]
    if t < 1:
        correct = kspace_consistency(data).select([0, 1]).with_prior_std(scheduler.prior_std)
        times = [1.0, 0.667] if t == 0.667 else [1.0, 2 / 3, 0.333]
        denoiser = scheduler.denoiser(network)
        expected = sample(denoiser, expected, scheduler.process, sampler=PATH, times=times, correct=correct)
    torch.testing.assert_close(state[:2], expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(scheduler.to_x0(target, state, data["mu"], scheduler.time_of(drawn["timesteps"])), x0)


def test_a_batch_without_a_measurement_goes_uncorrected() -> None:
    """As with no measurement at all; the hard projection of another run shows that a correction would be seen."""
    scheduler, data = D3GMScheduler(), batch()
    network = Constant(torch.full((3, 2, 12, 10), 0.3, dtype=torch.float64))
    without, none, some = (
        MeanPathPrepareBatch(scheduler, network, PATH, measurement, share_on_path=1.0, seed=1)(data)[1]
        for measurement in (None, lambda batch, device: None, kspace_consistency)
    )
    torch.testing.assert_close(without, none, rtol=0, atol=0)
    assert not torch.allclose(without, some)


def test_every_time_of_the_path_is_drawn() -> None:
    scheduler, data, network = D3GMScheduler(), batch(), Constant(torch.zeros(3, 2, 12, 10, dtype=torch.float64))
    drawn = {
        int(MeanPathPrepareBatch(scheduler, network, PATH, share_on_path=1.0, seed=seed)(data)[3]["timesteps"][0])
        for seed in range(20)
    }
    assert drawn == {999, 666, 332}


def test_no_share_on_the_path_is_the_batch_of_the_forward_law() -> None:
    scheduler, data = D3GMScheduler(), batch()
    path = MeanPathPrepareBatch(scheduler, nn.Identity(), PATH, share_on_path=0.0, seed=3)(data)
    plain = D3GMPrepareBatch(scheduler, seed=3)(data)
    torch.testing.assert_close(path[1], plain[1])


@pytest.mark.parametrize(
    ("sampler", "share", "message"),
    [(Sampler(), 0.5, "the temperature 1.0; accepted: 0"), (PATH, 1.5, "share_on_path is 1.5; accepted: 0 to 1")],
)
def test_what_is_no_mean_path_is_refused(sampler: Sampler, share: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeanPathPrepareBatch(D3GMScheduler(), nn.Identity(), sampler, share_on_path=share)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share_at_one": -0.1}, "share_at_one is -0.1"),
        ({"share_at_one": 1.5}, "share_at_one is 1.5"),
        ({"share_at_one": float("nan")}, "share_at_one is nan"),
        ({"spread": "sigma"}, "spread is 'sigma'; accepted: 't' or 'rho'"),
        ({"t_min": 0.0}, "t_min is 0.0"),
        ({"t_min": 1.0}, "t_min is 1.0"),
    ],
)
def test_refused(arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        D3GMPrepareBatch(D3GMScheduler(), **arguments)


def test_consistency_of_several_coils_takes_the_batch_as_it_is() -> None:
    maps = torch.full((1, 2, 4, 4), 0.5**0.5, dtype=torch.complex64)
    kspace = torch.ones(1, 2, 4, 4, dtype=torch.complex64)
    data = {"kspace": kspace, "mask": torch.ones(1, 1, 1, 4).bool(), "sensitivity_maps": maps}
    image = torch.zeros(1, 2, 4, 4)
    # all lines are sampled and both coils agree: the image is the inverse transform over the map's value
    expected = complex_to_channels(ifft2c(kspace[:, 0]) / 0.5**0.5)
    torch.testing.assert_close(kspace_consistency(data, "cpu")(image, 1.0), expected, rtol=1e-4, atol=1e-5)


def phase_of(*shape: int) -> Tensor:
    return torch.exp(1j * torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64))


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_consistency_of_one_coil_with_a_phase(noise_std: float) -> None:
    """y = M F (phase x) + n. The correction is that of the images with their phase, and hard without noise."""
    plain = batch(noise_std=noise_std)
    phase = phase_of(3, 12, 10)
    data = plain | {"image": complex_to_channels(channels_to_complex(plain["image"]) * phase.conj()), "phase": phase}
    consistency = kspace_consistency(data, "cpu")
    assert consistency.batch_size == 3 and torch.equal(consistency.noise_std, plain["noise_std"].double())
    measured = fft2c(channels_to_complex(plain["image"])) * plain["mask"]
    torch.testing.assert_close(consistency.forward(data["image"])[:, 0], measured)
    adjoint = channels_to_complex(plain["mu"]) * phase.conj()
    torch.testing.assert_close(consistency.adjoint(), complex_to_channels(adjoint))
    x = torch.randn(3, 2, 12, 10, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = consistency(x, 1.0)
    expected = kspace_consistency(plain)(complex_to_channels(channels_to_complex(x) * phase), 1.0)
    torch.testing.assert_close(channels_to_complex(found) * phase, channels_to_complex(expected))
    if noise_std == 0:
        torch.testing.assert_close(consistency.forward(found)[:, 0], plain["kspace"])


@pytest.mark.parametrize("coils", [1, 3])
def test_consistency_of_several_coils_with_a_phase(coils: int) -> None:
    """y = M F (S phase x) + n; coils of which there is one are no other case."""
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(2, coils, 12, 10, generator=generator, dtype=torch.complex128)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    phase, image = phase_of(2, 12, 10), torch.randn(2, 12, 10, generator=generator, dtype=torch.complex128)
    mask = torch.rand(2, 1, 1, 10, generator=generator) < 0.6
    mask[..., 5] = True
    data = {"kspace": fft2c(maps * (phase * image)[:, None]) * mask, "mask": mask, "sensitivity_maps": maps}
    consistency = kspace_consistency(data | {"phase": phase})
    torch.testing.assert_close(consistency.forward(complex_to_channels(image)), data["kspace"])
    # the truth fits the measurement and stays; anything else comes to fit it
    torch.testing.assert_close(
        consistency(complex_to_channels(image), 1.0), complex_to_channels(image), atol=1e-9, rtol=0
    )
    x = torch.randn(2, 2, 12, 10, generator=generator, dtype=torch.float64)
    residual = consistency.adjoint(consistency.forward(consistency(x, 1.0))) - consistency.adjoint()
    assert float(residual.norm() / consistency.adjoint().norm()) <= 1e-5
    without = kspace_consistency(data)
    torch.testing.assert_close(
        channels_to_complex(consistency.adjoint()) * phase, channels_to_complex(without.adjoint())
    )


# --- regression --------------------------------------------------------------------------------------------------


def test_regression_restores_what_its_target_says() -> None:
    scheduler, data = D3GMScheduler(sigma_data=0.13), batch()
    inputs, target, positional, options = RegressionPrepareBatch(scheduler)(data, "cpu")
    assert torch.equal(inputs, data["mu"]) and positional == () and options == {}
    inferer = RegressionInferer(scheduler)
    assert torch.equal(inferer(inputs, Constant(target)), target)
    torch.testing.assert_close(inferer.restore(inputs, Constant(target)), data["image"])


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
def test_regression_with_consistency_in_the_loss(noise_std: float) -> None:
    """prediction - target = (C(x0_hat) - C(x0)) / sigma_d at t = 1, as for the diffusion's loss there."""
    scheduler = D3GMScheduler(D3GMProcess())
    data = batch(noise_std=noise_std)
    inputs, target, _, options = RegressionPrepareBatch(scheduler, data_consistency=kspace_consistency)(data, "cpu")
    output = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(5), dtype=inputs.dtype)
    inferer = RegressionInferer(scheduler)
    prediction = inferer(inputs, Constant(output), **options)
    correct = kspace_consistency(data).with_prior_std(scheduler.prior_std)
    restored = inferer.restore(inputs, Constant(output), correct)
    left = restored - correct(data["image"], 1.0)
    torch.testing.assert_close(prediction - target, left / scheduler.sigma_data, rtol=1e-5, atol=1e-6)


def test_a_projected_regression_holds_the_measurement() -> None:
    data = batch(shape=(9, 7))
    correct = kspace_consistency(data)
    network = ConditionalNAFNet(in_channels=2, out_channels=2, width=4, encoder_blocks=(1,), decoder_blocks=(1,))
    restored = RegressionInferer(D3GMScheduler()).restore(data["mu"].float(), network, correct)
    found = fft2c(channels_to_complex(restored)) * data["mask"]
    assert (found - data["kspace"]).abs().max() < 1e-5  # in units in which k-space is about 1


def test_regression_pads_to_the_networks_multiple() -> None:
    torch.manual_seed(0)
    network = ConditionalNAFNet(in_channels=2, out_channels=2, width=4, encoder_blocks=(1, 1), decoder_blocks=(1, 1))
    nn.init.normal_(network.outro.weight)
    mu = torch.randn(1, 2, 9, 7)
    inferer = RegressionInferer(D3GMScheduler())
    output = inferer(mu, network)
    assert output.shape == mu.shape
    # the last row and column repeated, up to multiples of 4
    padded = mu[:, :, [*range(9), 8, 8, 8]][..., [*range(7), 6]]
    assert output.abs().max() > 0.1
    torch.testing.assert_close(output, inferer(padded, network)[:, :, :9, :7])
