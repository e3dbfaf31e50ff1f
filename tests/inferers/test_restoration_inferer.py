"""RestorationInferer: batches, samples, tiles, volumes, consistency, the fidelity dial, memory."""

from __future__ import annotations

import inspect
import json
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_d3gm.consistency import KspaceConsistency, channels_to_complex, fft2c
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import OrnsteinUhlenbeckBridge, Sampler, sample


def network(**arguments: Any) -> ConditionalNAFNet:
    torch.manual_seed(0)
    options = {"width": 8, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,), "attention_window": 16}
    net = ConditionalNAFNet(**{**options, **arguments}).eval()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.fill_(0.3)
    return net


def images(batch: int = 2, size: tuple[int, ...] = (16, 16), channels: int = 2) -> Tensor:
    return torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def test_it_is_the_sampler() -> None:
    scheduler, net, mu = D3GMScheduler(), network(), images()
    expected = sample(scheduler.denoiser(net), mu, scheduler.process, steps=5, seed=7, items=["a", "b"])
    torch.testing.assert_close(RestorationInferer(scheduler, seed=7)(mu, net, items=["a", "b"]), expected)


@pytest.mark.parametrize("eta, order", [(0.0, 2), (1.0, 1)])
def test_a_batch_equals_its_elements(eta: float, order: int) -> None:
    net, mu = network(), images(8)
    kspace = fft2c(channels_to_complex(images(8)))
    consistency = KspaceConsistency(kspace, torch.arange(16) % 4 == 0, noise_std=0.01)
    options: dict[str, Any] = {"sampler": Sampler(eta=eta, order=order), "num_samples": 2}
    mean, std = RestorationInferer(D3GMScheduler(), **options).moments(mu, net, consistency)
    for i in range(8):
        one = RestorationInferer(D3GMScheduler(), **options)
        alone = one.moments(mu[i : i + 1], net, consistency.select([i]), items=[i])
        torch.testing.assert_close(mean[i : i + 1], alone[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(std[i : i + 1], alone[1], atol=1e-5, rtol=0)
    for size in (1, 3):
        split = RestorationInferer(D3GMScheduler(), batch_size=size, **options)(mu, net, consistency)
        torch.testing.assert_close(split, mean, atol=1e-5, rtol=0)


def test_the_configuration_makes_the_same_inferer() -> None:
    """Of every argument but those that change no image: progress and halve_on_out_of_memory."""
    chosen: dict[str, Any] = {"fidelity": 0.3, "num_samples": 2, "seed": 5, "roi_size": [8, 8], "overlap": 0.5}
    chosen |= {"batch_size": 3, "amp": "bfloat16", "compile": "reduce-overhead"}
    scheduler, sampler = D3GMScheduler(OrnsteinUhlenbeckBridge()), Sampler(steps=3, eta=[0, 1.6])
    config = json.loads(json.dumps(RestorationInferer(scheduler, sampler, **chosen).config()))
    assert config == {**chosen, "sampler": sampler.config(), "process": scheduler.process.config()}
    arguments = set(inspect.signature(RestorationInferer).parameters) - {"progress", "halve_on_out_of_memory"}
    assert set(config) == arguments - {"scheduler"} | {"process"}


def test_two_runs_are_bit_identical() -> None:
    restore = RestorationInferer(D3GMScheduler(), Sampler(eta=1.0, order=1))
    assert torch.equal(restore(images(), network()), restore(images(), network()))


def test_moments_are_those_of_the_samples() -> None:
    net, mu = network(), images()
    samples = [
        sample(D3GMScheduler().denoiser(net), mu, D3GMScheduler().process, items=[(i, k) for i in range(2)])
        for k in range(4)
    ]
    mean, std = RestorationInferer(D3GMScheduler(), num_samples=4).moments(mu, net)
    torch.testing.assert_close(mean, torch.stack(samples).mean(0), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(std, torch.stack(samples).std(0), atol=1e-6, rtol=1e-4)
    magnitude = RestorationInferer(D3GMScheduler(), num_samples=4).moments(
        mu, net, of=lambda x: x.norm(dim=1, keepdim=True)
    )
    torch.testing.assert_close(magnitude[1], torch.stack([s.norm(dim=1, keepdim=True) for s in samples]).std(0))


def test_one_sample_has_no_deviation() -> None:
    assert not RestorationInferer(D3GMScheduler()).moments(images(), network())[1].any()


@pytest.mark.parametrize("size, roi", [((96, 96), 64), ((101, 90), 50), ((70, 130), (64, 72))])
def test_tiles_equal_the_whole(size: tuple[int, int], roi: int | tuple[int, int]) -> None:
    """A few convolutions and a window of 8: but near its border a tile sees what the whole sees.

    There the weights are below exp(-0.5 * (4 * 3 / 4)^2) = 0.011 of the neighbour's.
    """
    net, mu = network(attention_window=8, middle_blocks=0, patch_size=2), images(1, size)
    whole = RestorationInferer(D3GMScheduler())(mu, net)
    tiled = RestorationInferer(D3GMScheduler(), roi_size=roi, overlap=0.5)(mu, net)
    assert (whole - tiled).abs().max() < 0.01 * whole.std()


def test_a_tile_as_large_as_the_image_is_the_image() -> None:
    net, mu = network(), images(1, (30, 21))
    whole = RestorationInferer(D3GMScheduler())(mu, net)
    torch.testing.assert_close(RestorationInferer(D3GMScheduler(), roi_size=(64, 64))(mu, net), whole)


def test_volumes_go_slice_by_slice() -> None:
    net, mu = network(), images(2, (16, 12, 3))
    restore = RestorationInferer(D3GMScheduler())
    volume = restore(mu, net, items=["a", "b"])
    for d in range(3):
        torch.testing.assert_close(volume[..., d], restore(mu[..., d], net, items=[f"a/{d}", f"b/{d}"]))


def test_a_3d_network_takes_the_volume_whole() -> None:
    net = network(spatial_dims=3, in_channels=2, out_channels=1)
    assert RestorationInferer(D3GMScheduler(), Sampler(steps=2))(images(1, (8, 8, 6), 1), net).shape[-1] == 6


def test_hard_projection_holds_the_measurement() -> None:
    truth, mu = images(), images() * 0.5
    kspace = fft2c(channels_to_complex(truth))
    mask = torch.arange(16) % 4 == 0
    restored = RestorationInferer(D3GMScheduler())(mu, network(), KspaceConsistency(kspace, mask))
    torch.testing.assert_close(fft2c(channels_to_complex(restored))[..., mask], kspace[..., mask], atol=1e-5, rtol=1e-5)


def test_the_last_corrections_have_gamma_scaled() -> None:
    """As if gamma were smaller at the times of the last evaluations; a hard projection and one evaluation stay."""
    net, mu, scheduler = network(), images(), D3GMScheduler()
    kspace, mask = fft2c(channels_to_complex(images())), torch.arange(16) % 4 == 0
    scaled = RestorationInferer(scheduler, Sampler(last_prior_scales=(0.5, 0.25)), batch_size=1)
    factors = {scaled.times[-3]: 0.5, scaled.times[-2]: 0.25}
    noisy = KspaceConsistency(kspace, mask, noise_std=0.01)
    stated = noisy.with_prior_std(lambda t: scheduler.prior_std(t) * factors.get(t, 1.0))
    restored, plain = scaled(mu, net, noisy), RestorationInferer(scheduler)
    torch.testing.assert_close(restored, plain(mu, net, stated), atol=1e-6, rtol=0)
    assert float((restored - plain(mu, net, noisy)).abs().max()) > 1e-4
    hard = KspaceConsistency(kspace, mask)
    torch.testing.assert_close(scaled(mu, net, hard), plain(mu, net, hard), atol=1e-6, rtol=0)
    samplers = [Sampler(last_prior_scales=scales) for scales in ((0,), ())]
    one = [RestorationInferer(scheduler, sampler, fidelity=1)(mu, net, noisy) for sampler in samplers]
    assert torch.equal(*one)
    with pytest.raises(ValueError, match="last_prior_scales is .0.25,.: an object with a method with_prior_scale"):
        RestorationInferer(scheduler, Sampler(last_prior_scales=[0.25]))(mu, net, lambda x0_hat, t: x0_hat)


@pytest.mark.parametrize("chosen, roi_size", [({"order": 3}, None), ({"eta": (0.0, 1.5)}, None), ({}, 16)])
def test_noise_scaling_is_an_images_own(chosen: dict[str, Any], roi_size: int | None) -> None:
    """A batch of images that change differently equals its elements, and tiles see their image's time."""
    net, scheduler = network(), D3GMScheduler()
    mu = images(3, (24, 16)) * torch.tensor([1.0, 0.5, 2.0])[:, None, None, None]

    def inferer(noise_scaling: tuple[float, float] | None) -> RestorationInferer:
        sampler = Sampler(t_first=0.5, noise_scaling=noise_scaling, **chosen)
        return RestorationInferer(scheduler, sampler, roi_size=roi_size)

    restore = inferer((0.1, 1.0))
    together = restore(mu, net)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], restore(mu[i : i + 1], net, items=[i]), atol=1e-5, rtol=0)
    without = inferer(None)
    assert float((together - without(mu, net)).abs().max()) > 1e-4
    flat = inferer((0.1, 0.0))
    torch.testing.assert_close(flat(mu, net), without(mu, net), atol=1e-5, rtol=0)


def test_any_callable_gets_the_whole_batch() -> None:
    shapes = []

    def correction(x0_hat: Tensor, t: float) -> Tensor:
        shapes.append(x0_hat.shape)
        return x0_hat.clamp(0, 1)

    restored = RestorationInferer(D3GMScheduler(), num_samples=2)(images(3), network(), correction)
    assert set(shapes) == {(3, 2, 16, 16)} and 0 <= restored.min() and restored.max() <= 1
    with pytest.raises(ValueError, match="batch_size is 2 for 3 images"):
        RestorationInferer(D3GMScheduler(), batch_size=2)(images(3), network(), correction)


class Counting(nn.Module):
    """Counts evaluations and keeps rho, which the time given to the network is a multiple of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, 1, 1))
        self.times: list[float] = []

    def forward(self, x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        self.times.append(float(timesteps[0]) / 10)
        return x[:, :2] * 0.1


@pytest.mark.parametrize("fidelity", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_fidelity_dial(fidelity: float) -> None:
    """Evaluations between rho(1) and rho(1) + (1 - fidelity)(rho_end - rho(1)), the definition of the dial."""
    scheduler, net = D3GMScheduler(), Counting()
    RestorationInferer(scheduler, Sampler(steps=4), fidelity=fidelity)(images(), net)
    first, end = float(scheduler.process.rho(1.0)), float(scheduler.process.rho(0.02))
    assert len(net.times) == (1 if fidelity == 1 else 4)
    assert net.times[0] == pytest.approx(first, abs=1e-4)
    assert net.times[-1] == pytest.approx(first + (1 - fidelity) * (end - first), abs=1e-3)


@pytest.mark.parametrize("fidelity", [0.9, 0.5, 0.2])
def test_fidelity_after_a_first_leap(fidelity: float) -> None:
    """The dial goes from t_first on, where the state begins to say something, and no step lies before it."""
    scheduler, net = D3GMScheduler(), Counting()
    RestorationInferer(scheduler, Sampler(steps=4, t_first=0.4, t_min=0.1), fidelity=fidelity)(images(), net)
    first, end = (float(scheduler.process.rho(t)) for t in (0.4, 0.1))
    assert len(net.times) == 4 and net.times[1] == pytest.approx(first, abs=1e-3)
    assert net.times[-1] == pytest.approx(first + (1 - fidelity) * (end - first), abs=1e-3)


def test_fidelity_of_a_bridge() -> None:
    """At its end rho is -infinite: the dial counts from the first time after it."""
    scheduler, net = D3GMScheduler(OrnsteinUhlenbeckBridge()), Counting()
    RestorationInferer(scheduler, Sampler(steps=4), fidelity=0.5)(images(), net)
    times = Sampler(steps=4).times(scheduler.process)
    first, end = float(scheduler.process.rho(times[1])), float(scheduler.process.rho(0.02))
    assert net.times[-1] == pytest.approx((first + end) / 2, abs=1e-3)


def test_reverse_initialisation() -> None:
    scheduler, net, mu = D3GMScheduler(), network(), images()
    start = RestorationInferer(scheduler, Sampler(start=0.4))
    expected = sample(scheduler.denoiser(net), mu, scheduler.process, start=0.4, initial=mu + 0.1)
    torch.testing.assert_close(start(mu, net, initial=mu + 0.1), expected)
    with pytest.raises(ValueError, match="start is 0.4"):
        start(mu, net)
    with pytest.raises(ValueError, match="start is 1.0"):
        RestorationInferer(scheduler)(mu, net, initial=mu)


class Greedy(nn.Module):
    """Runs out of memory above a batch of two."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.size_multiple = net.size_multiple

    def forward(self, x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return self.net(x, timesteps)


def test_out_of_memory_halves_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    net, mu = network(), images(5)
    with caplog.at_level(logging.WARNING):
        restored = RestorationInferer(D3GMScheduler())(mu, Greedy(net))
    assert "going on with 2" in caplog.text
    torch.testing.assert_close(restored, RestorationInferer(D3GMScheduler())(mu, net), atol=1e-5, rtol=0)
    with pytest.raises(torch.OutOfMemoryError):
        RestorationInferer(D3GMScheduler(), halve_on_out_of_memory=False)(mu, Greedy(net))


def test_half_precision_network_keeps_the_state_in_single() -> None:
    restored = RestorationInferer(D3GMScheduler(), amp="bfloat16")(images(), network())
    assert restored.dtype == torch.float32
    torch.testing.assert_close(restored, RestorationInferer(D3GMScheduler())(images(), network()), atol=0.05, rtol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
def test_nothing_is_compiled_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    compiler = torch.compile

    def backend(graph: nn.Module, inputs: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda module, mode: compiler(module, mode=mode, backend=backend))
    net, mu = network(), images()
    restore = RestorationInferer(D3GMScheduler(), Sampler(steps=2), compile=True)
    restored = restore(mu, net)
    count = len(compiled)
    assert count > 0
    assert torch.equal(restore(mu, net), restored)
    assert torch.equal(RestorationInferer(D3GMScheduler(), Sampler(steps=2), compile=True)(mu, net), restored)
    assert len(compiled) == count


def test_compiled_network() -> None:
    restored = RestorationInferer(D3GMScheduler(), Sampler(steps=2), compile=True)(images(), network())
    expected = RestorationInferer(D3GMScheduler(), Sampler(steps=2))(images(), network())
    torch.testing.assert_close(restored, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"sampler": {"steps": 5}}, "sampler is .'steps': 5.; accepted: a Sampler"),
        ({"num_samples": 1.5}, "num_samples is 1.5"),
        ({"num_samples": 10**9}, "num_samples is 1000000000; accepted: up to 10000"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"fidelity": 1.5}, "fidelity is 1.5; accepted: a number in .0, 1."),
        ({"fidelity": 0.5, "sampler": Sampler(grid="t")}, "grid is 't' with fidelity 0.5"),
        ({"overlap": 1.0}, "overlap is 1.0"),
        ({"roi_size": (0, 8)}, "roi_size is"),
        ({"amp": "int8"}, "amp is 'int8'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RestorationInferer(D3GMScheduler(), **arguments)


def test_bad_calls() -> None:
    net, mu = network(), images()
    with pytest.raises(ValueError, match="items has 1 keys"):
        RestorationInferer(D3GMScheduler())(mu, net, items=["a"])
    with pytest.raises(ValueError, match="roi_size is"):
        RestorationInferer(D3GMScheduler(), roi_size=(8, 8, 8))(mu, net)
    with pytest.raises(ValueError, match="roi_size is 1: .* tiles of an image of .*; accepted: up to 4096"):
        RestorationInferer(D3GMScheduler(), roi_size=1)(torch.zeros(1, mu.shape[1], 1024, 1024), net)
    with pytest.raises(ValueError, match="mu"):
        RestorationInferer(D3GMScheduler())(mu * float("nan"), net)
