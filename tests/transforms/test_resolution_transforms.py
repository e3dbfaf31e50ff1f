"""Degradations of resolution and the ways back against closed forms, and the geometry of both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from monai_d3gm.consistency import DownsamplingConsistency
from monai_d3gm.transforms import (
    LowerResolution,
    LowerResolutiond,
    SimulateLowResolution,
    SimulateLowResolutiond,
    UpsampleLowResolution,
    UpsampleLowResolutiond,
)
from monai_d3gm.transforms.resolution import functional

OBLIQUE = np.array([[0.1, 0.9, 0, -30], [-0.8, 0.1, 0.2, 20], [0, 0.02, 3, 5], [0, 0, 0, 1.0]])
CASES = [(factor, blocks) for factor in ((2, 2), (4, 4), (1, 3), (3, 2)) for blocks in (False, True)]


def gaussian(centre: tuple[float, float], width: float, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """exp(-|r - centre|^2 / (2 width^2)) at places in fine pixels, (1, H, W) in double precision."""
    y, x = (torch.exp(-((place - c) ** 2) / (2 * width**2)) for place, c in zip((rows, columns), centre, strict=True))
    return y[None, :, None] * x[None, None, :]


def places(count: int, factor: int, blocks: bool) -> torch.Tensor:
    """Where low-resolution pixels lie, in fine pixels: f i, or f i + (f - 1) / 2."""
    return factor * torch.arange(count, dtype=torch.float64) + ((factor - 1) / 2 if blocks else 0)


def centre_of_mass(image: torch.Tensor) -> list[float]:
    weights = image[0] / image.sum()
    return [float((weights.sum(1 - dim) * torch.arange(image.shape[dim + 1])).sum()) for dim in (0, 1)]


# --- degradation ------------------------------------------------------------------------------------------------


@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    factor=st.sampled_from([1, 2, 4, (1, 3), (3, 2)]),
    kernel=st.sampled_from([None, torch.ones(1, 1), functional.gaussian_kernel((0.3, 0.2), 0.4)]),
)
def test_the_operator_is_that_of_the_consistency(
    rows: int, columns: int, factor: int | tuple[int, int], kernel: torch.Tensor | None
) -> None:
    factors = functional.pair(factor)
    image = torch.rand(2, rows * factors[0], columns * factors[1], generator=torch.Generator().manual_seed(0))
    low = functional.degrade(image, factor, kernel)
    consistency = DownsamplingConsistency(low[:, None], factors, kernel=kernel)
    assert torch.allclose(consistency.forward(image[:, None]), low[:, None], atol=1e-6)
    assert torch.equal(LowerResolution(factor, kernel)(image), low)


def test_blocks_are_means_and_truncation_is_the_crop_of_the_spectrum() -> None:
    image = torch.rand(1, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    blocks = functional.degrade(image, (4, 3), torch.ones(1, 1, dtype=torch.float64))
    assert torch.allclose(blocks, image.reshape(1, 3, 4, 5, 3).mean((2, 4)))
    # 15 -> 5 columns: an odd number, without a frequency n / 2
    spectrum = np.fft.fft(image.numpy(), axis=-1)[..., [0, 1, 2, -2, -1]] / 3
    expected = torch.from_numpy(np.fft.ifft(spectrum, axis=-1).real.copy())
    assert torch.allclose(functional.degrade(image, (1, 3)), expected)


@given(rows=st.integers(4, 30), columns=st.integers(4, 30), factor=st.sampled_from([2, 3, 4]))
def test_pixels_that_fill_no_block_are_left_out_at_the_end(rows: int, columns: int, factor: int) -> None:
    image = torch.arange(float(rows * columns)).reshape(1, rows, columns)
    cropped = functional.crop_to_multiple(image, factor)
    assert cropped.shape == (1, rows // factor * factor, columns // factor * factor)
    assert torch.equal(cropped, image[:, : cropped.shape[1], : cropped.shape[2]])


# --- the way back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factors", "blocks"), CASES)
def test_sinc_restores_what_is_band_limited(factors: tuple[int, int], blocks: bool) -> None:
    """cos(2 pi k r / N) with k < n / 2 comes back from its samples, wherever in the fine grid they were taken."""
    n = (9, 10)
    place = [places(count, factor, blocks) for count, factor in zip(n, factors, strict=True)]
    fine = [torch.arange(count * factor, dtype=torch.float64) for count, factor in zip(n, factors, strict=True)]

    def wave(grids: list[torch.Tensor]) -> torch.Tensor:
        rows, columns = (
            torch.cos(2 * math.pi * k * grid / (count * factor) + 0.3)
            for k, grid, count, factor in zip((3, 4), grids, n, factors, strict=True)
        )
        return rows[:, None] * columns

    restored = functional.upsample(wave(place), factors, "sinc", blocks=blocks)
    assert torch.allclose(restored, wave(fine), rtol=0, atol=1e-12)


def test_sinc_is_the_adjoint_of_truncation_times_the_factors_and_its_inverse_on_the_band() -> None:
    image = torch.rand(1, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fine = functional.upsample(image, 2)
    other = torch.rand(1, 18, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose((fine * other).sum(), 4 * (image * functional.degrade(other, 2)).sum())
    assert torch.allclose(functional.degrade(fine, 2), image, atol=1e-12)
    assert torch.allclose(fine[:, ::2, ::2], image, atol=1e-12)  # pixel 0 stays, and the samples are met


@pytest.mark.parametrize(("factors", "blocks"), CASES)
def test_bicubic_keeps_a_ramp_in_place(factors: tuple[int, int], blocks: bool) -> None:
    """Cubic convolution reproduces linear functions (Keys 1981) two pixels from the border.

    A ramp whose value is its place in fine pixels shows a shift of half a pixel as 0.5.
    """
    rows, columns = (places(8, factor, blocks) for factor in factors)
    for ramp, dim in ((rows[:, None].expand(8, 8), 0), (columns.expand(8, 8), 1)):
        fine = functional.upsample(ramp.contiguous(), factors, "bicubic", blocks=blocks)
        inside = slice(2 * factors[dim], -3 * factors[dim])
        values = fine.movedim(dim, 0)[inside]
        expected = torch.arange(8 * factors[dim], dtype=torch.float64)[inside, None].expand_as(values)
        assert torch.allclose(values, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_about_blocks_is_that_of_pillow(factor: int) -> None:
    """Pillow's BICUBIC has a = -1/2 and pixels' edges in common; it renormalises at the border, so inside only."""
    image = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    size = (11 * factor, 9 * factor)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    fine = functional.upsample(torch.from_numpy(image), factor, "bicubic", blocks=True).numpy()
    inside = (slice(2 * factor, -2 * factor),) * 2
    assert np.allclose(fine[inside], expected[inside], atol=1e-6)


def test_bicubic_of_the_fixed_first_pixel_meets_the_samples() -> None:
    image = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    fine = functional.upsample(image, (4, 3), "bicubic")
    assert fine.shape == (2, 1, 24, 15) and torch.allclose(fine[..., ::4, ::3], image, atol=1e-6)


@pytest.mark.parametrize("mode", functional.UPSAMPLINGS)
@pytest.mark.parametrize(("factors", "blocks"), CASES)
def test_there_and_back_keeps_place_and_mass(mode: str, factors: tuple[int, int], blocks: bool) -> None:
    """The centre of mass of a Gaussian is where it was put, to 0.01 fine pixels, and its sum is 2 pi width^2.

    Symmetric interpolation kernels keep both but for what aliasing leaves at this width, 6 fine pixels.
    """
    centre, shape = (38.3, 45.6), (84, 96)
    rows, columns = (torch.arange(float(n), dtype=torch.float64) for n in shape)
    image = gaussian(centre, 6.0, rows, columns)
    low = functional.degrade(image, factors, torch.ones(1, 1, dtype=torch.float64) if blocks else None)
    fine = functional.upsample(low, factors, mode, blocks=blocks)
    assert centre_of_mass(fine) == pytest.approx(centre, abs=0.01)
    assert float(fine.sum()) == pytest.approx(2 * math.pi * 36, rel=1e-3)


# --- geometry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factors", "blocks"), CASES)
def test_affines_say_where_low_resolution_voxels_lie(factors: tuple[int, int], blocks: bool) -> None:
    """To 1e-5 mm: voxel i of the low-resolution volume is at fine index f i, or f i + (f - 1) / 2, in world space."""
    three = (*factors, 1)
    affine = functional.low_resolution_affine(OBLIQUE, three, blocks=blocks)
    index = np.array([3, 5, 2, 1.0])
    shift = np.append((np.array(three) - 1) / 2 if blocks else np.zeros(3), 0)
    expected = OBLIQUE @ (index * np.append(three, 1) + shift)
    assert np.allclose(affine @ index, expected, rtol=0, atol=1e-5)
    assert np.allclose(functional.high_resolution_affine(affine, three, blocks=blocks), OBLIQUE, rtol=0, atol=1e-10)


@pytest.mark.parametrize("blocks", [False, True])
def test_the_affine_of_a_metatensor_follows_there_and_back(blocks: bool) -> None:
    image = MetaTensor(torch.rand(1, 9, 12), affine=torch.from_numpy(OBLIQUE), meta={"name": "a"})
    low = LowerResolution((2, 3), torch.ones(1, 1) if blocks else None)(image)
    assert isinstance(low, MetaTensor) and low.shape == (1, 4, 4) and low.meta["name"] == "a"
    expected = functional.low_resolution_affine(OBLIQUE, (2, 3, 1), blocks=blocks)
    assert np.allclose(low.affine.numpy(), expected, rtol=0, atol=1e-5)
    for mode in functional.UPSAMPLINGS:
        fine = UpsampleLowResolution((2, 3), mode, blocks)(low)
        assert isinstance(fine, MetaTensor) and fine.shape == (1, 8, 12)
        assert np.allclose(fine.affine.numpy(), OBLIQUE, rtol=0, atol=1e-5)
    noisy = SimulateLowResolution((2, 3), "blocks" if blocks else "truncation")(image)[0]
    assert isinstance(noisy, MetaTensor) and np.allclose(noisy.affine.numpy(), expected, rtol=0, atol=1e-5)


# --- blur and noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_the_kernel_has_the_stated_covariance(angle: float) -> None:
    """Sigma = R diag(s^2) R^T, but for the tails beyond 3 of the larger standard deviation: 2.7 % of the variance."""
    sigma = (2.0, 0.8)
    kernel = functional.gaussian_kernel(sigma, angle).double()
    place = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    grid = torch.stack(torch.meshgrid(place, place, indexing="ij"))
    covariance = torch.einsum("ahw,bhw,hw->ab", grid, grid, kernel)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    expected = turn @ torch.diag(torch.tensor(sigma, dtype=torch.float64) ** 2) @ turn.T
    assert torch.allclose(covariance, expected, rtol=0, atol=0.03 * sigma[0] ** 2)
    assert float(kernel.sum()) == pytest.approx(1)


def test_noise_has_the_stated_level_and_law() -> None:
    """Level: foreground mean over SNR. Rician where there is no signal: E m^2 = 2 s^2, E m = s sqrt(pi / 2)."""
    image = torch.zeros(1, 400, 200)
    image[:, :200] = 3.0
    noisy, std = functional.add_noise(image, np.random.default_rng(0), 10.0)
    assert std == pytest.approx(0.3)
    dark, bright = noisy[:, 200:], noisy[:, :200]
    assert float(dark.square().mean()) == pytest.approx(2 * std**2, rel=0.02)
    assert float(dark.mean()) == pytest.approx(std * math.sqrt(math.pi / 2), rel=0.02)
    assert float(bright.std()) == pytest.approx(std, rel=0.02)  # 40 000 pixels: standard error 0.4 %
    real, _ = functional.add_noise(image, np.random.default_rng(0), 10.0, magnitude=False)
    assert float(real[:, 200:].std()) == pytest.approx(std, rel=0.02) and float(real.min()) < 0
    none, std = functional.add_noise(image, np.random.default_rng(0), math.inf)
    assert std == 0 and torch.equal(none, image)


def test_the_bias_of_rician_noise_is_removed_in_the_mean_square() -> None:
    """E y^2 = x^2 + 2 s^2: the corrected mean square is x^2 where nothing is cut off at 0."""
    noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    y = torch.hypot(5 + noise[0], noise[1])[None]
    assert float(y.square().mean()) == pytest.approx(27, abs=0.1)
    assert float(functional.remove_rician_bias(y, 1.0).square().mean()) == pytest.approx(25, abs=0.1)
    assert torch.allclose(functional.remove_rician_bias(y, 0.0), y)
    both = functional.remove_rician_bias(torch.cat([y, y]), torch.tensor([0.0, 1.0]))
    assert torch.allclose(both[:1], y) and torch.equal(both[1:], functional.remove_rician_bias(y, 1.0))


# --- MONAI's faces ----------------------------------------------------------------------------------------------


def test_a_random_state_repeats_the_simulation() -> None:
    image = torch.rand(1, 32, 24)
    simulate = SimulateLowResolution(2, "kernel")
    one, two, three = (simulate.set_random_state(seed)(image) for seed in (1, 1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[2], two[2])
    assert not torch.equal(one[0], three[0]) and not torch.equal(one[2], three[2])


def test_a_seed_makes_the_noise_the_slices_and_the_blur_the_volumes() -> None:
    image = torch.rand(1, 32, 25)
    simulate = SimulateLowResolutiond("image", 2, "kernel", seed=5)
    items = {key: simulate({"image": image, "key": key}) for key in ("a:0", "a:1", "b:0")}
    again = SimulateLowResolutiond("image", 2, "kernel", seed=5)({"image": image, "key": "a:0"})
    assert torch.equal(items["a:0"]["low_resolution"], again["low_resolution"])
    assert not torch.equal(items["a:0"]["low_resolution"], items["a:1"]["low_resolution"])
    assert torch.equal(items["a:0"]["kernel"], items["a:1"]["kernel"])
    assert items["a:0"]["kernel"].shape != items["b:0"]["kernel"].shape or not torch.equal(
        items["a:0"]["kernel"], items["b:0"]["kernel"]
    )
    assert items["a:0"]["image"].shape == (1, 32, 24)


def test_the_dictionary_transforms_are_the_array_transforms() -> None:
    image = torch.rand(1, 16, 24)
    chain = Compose([LowerResolutiond("image", 2), UpsampleLowResolutiond("image", 2, "bicubic", output="mu")])
    item = chain({"image": image})
    assert torch.equal(item["image"], LowerResolution(2)(image))
    assert torch.equal(item["mu"], UpsampleLowResolution(2, "bicubic")(item["image"]))
    simulate = SimulateLowResolutiond("image", 2, "blocks", snr=30.0)
    item = simulate.set_random_state(3)({"image": image})
    low, noise_std, kernel = SimulateLowResolution(2, "blocks", snr=30.0).set_random_state(3)(image)
    assert torch.equal(item["low_resolution"], low) and item["noise_std"] == noise_std
    assert kernel is not None and torch.equal(item["kernel"], kernel) and torch.equal(item["image"], image)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LowerResolution(0), "factor is 0; accepted: an integer of at least 1"),
        (lambda: LowerResolution((2, 2, 2)), r"factor is \(2, 2, 2\)"),
        (lambda: LowerResolution(1.5), "factor is"),
        (lambda: LowerResolution(2)(torch.ones(8, 8)), r"img has shape \(8, 8\); accepted: \(C, H, W\)"),
        (lambda: LowerResolution(4)(torch.ones(1, 3, 8)), r"image has \(3, 8\) pixels; accepted: at least the factor"),
        (lambda: SimulateLowResolution(2, "fog"), "degradation is 'fog'; accepted: truncation, kernel, blocks"),
        (lambda: SimulateLowResolution(2, snr=0.0), "snr is 0.0; accepted"),
        (lambda: SimulateLowResolution(2, sigma=(2.0, 1.0)), "sigma is"),
        (lambda: SimulateLowResolution(2)(torch.zeros(1, 8, 8)), "the image is zero everywhere"),
        (lambda: UpsampleLowResolution(2, "nearest"), "mode is 'nearest'; accepted: sinc, bicubic"),
        (lambda: functional.upsample(torch.ones(4, 4), 2, "linear"), "mode is 'linear'"),
        (lambda: functional.degrade(torch.ones(1, 9, 8), 2), "accepted: multiples of the factor"),
        (lambda: functional.gaussian_kernel((0.0, 1.0)), "sigma is"),
        (lambda: functional.degradation_kernel("fog", np.random.default_rng(0)), "degradation is 'fog'"),
        (lambda: functional.add_noise(torch.ones(1, 2, 2), np.random.default_rng(0), float("nan")), "snr is nan"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
