"""Rain and haze against their formulas, their seeds, how much they take from a photograph, and haze taken off."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_d3gm.data import bundled_photographs, read_image
from monai_d3gm.metrics import psnr
from monai_d3gm.transforms import (
    DarkChannelPrior,
    DarkChannelPriord,
    SimulateHaze,
    SimulateHazed,
    SimulateRain,
    SimulateRaind,
    SimulateWeather,
)
from monai_d3gm.transforms.weather.functional import (
    Haze,
    Rain,
    RainLayer,
    add_haze,
    add_rain,
    dark_channel_prior,
    depth_map,
    draw_haze,
    draw_rain,
    guided_filter,
    streaks,
)

KINDS = [SimulateRain, SimulateHaze]


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    return read_image(bundled_photographs(["coffee.png"])[0]).data[:, 100:228, 200:328]


def test_haze_is_the_scattering_model(photograph: np.ndarray) -> None:
    """I = J t + A (1 - t) written out, in float64."""
    haze = Haze(beta=1.3, nearest=0.25, airlight=(0.9, 0.8, 0.7))
    depth = depth_map(photograph.shape[1:], np.random.default_rng(1))
    t = np.exp(-1.3 * (0.25 + 0.75 * depth.astype(np.float64)))
    expected = photograph * t + np.array([0.9, 0.8, 0.7])[:, None, None] * (1 - t)
    np.testing.assert_allclose(add_haze(photograph, haze, depth), expected, atol=1e-6)


def test_haze_with_nearest_1_is_homogeneous() -> None:
    hazy = add_haze(np.full((3, 8, 8), 0.2, np.float32), Haze(2.0, 1.0, (0.7, 0.7, 0.7)), depth_map((8, 8), _rng()))
    np.testing.assert_allclose(hazy, 0.2 * np.exp(-2) + 0.7 * (1 - np.exp(-2)), rtol=1e-6)


def test_a_streak_has_the_length_the_width_and_the_angle_that_are_asked_for() -> None:
    """Second moments of one rare streak: a bar of length L and Gaussian profile of full width w at half maximum."""
    layer = RainLayer(length=40, angle=30, width=3, density=0.02, opacity=1.0)
    found = [_principal_axis(streaks((160, 160), layer, np.random.default_rng(seed))) for seed in range(6)]
    angles = [angle for angle, _ in found]
    assert np.mean(angles) == pytest.approx(30, abs=3)  # each varies by 2 degrees
    drawn = streaks((160, 160), layer, _rng())
    assert drawn.max() <= 1.0 and drawn.min() >= 0.0


def test_rain_without_layers_is_its_veil(photograph: np.ndarray) -> None:
    veil = Haze(0.4, 0.5, (0.8, 0.8, 0.8))
    expected = add_haze(photograph, veil, depth_map(photograph.shape[1:], np.random.default_rng(5)))
    np.testing.assert_allclose(add_rain(photograph, Rain((), veil, 0.9), np.random.default_rng(5)), expected, atol=1e-6)


def test_denser_rain_covers_more() -> None:
    covered = [
        float(streaks((128, 128), RainLayer(20, 0, 2, density, 1.0), np.random.default_rng(0)).mean())
        for density in (0.02, 0.1, 0.4)
    ]
    assert covered[0] < covered[1] < covered[2]


@pytest.mark.parametrize(
    ("kind", "light", "heavy"), [(SimulateRain, (22.0, 40.0), (9.0, 17.0)), (SimulateHaze, (15.0, 40.0), (3.0, 10.0))]
)
def test_amounts_range_from_light_to_heavy(
    kind: type[SimulateWeather], light: tuple[float, float], heavy: tuple[float, float], photograph: np.ndarray
) -> None:
    """Mean PSNR of 12 draws; Rain100H's inputs have 13.6 dB on average (Ren et al., CVPR 2019)."""
    for amount, (low, high) in ((0.0, light), (1.0, heavy)):
        degrade = kind((amount, amount))
        figures = [psnr(degrade(photograph, np.random.default_rng(seed)).numpy(), photograph) for seed in range(12)]
        assert low < np.mean(figures) < high


@pytest.mark.parametrize("kind", KINDS)
def test_weather_is_a_function_of_its_seed_in_8_bit(kind: type[SimulateWeather], photograph: np.ndarray) -> None:
    first, again, other = (kind().set_random_state(seed)(photograph) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.dtype == torch.float32 and torch.equal((first * 255).round() / 255, first)
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("kind", [SimulateRaind, SimulateHazed])
def test_dictionary_transforms_go_by_seed_and_key(
    kind: type[SimulateRaind] | type[SimulateHazed], photograph: np.ndarray
) -> None:
    item = {"image": torch.from_numpy(photograph), "key": "a"}
    first, again = (kind(seed=0)(item)["mu"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, kind(seed=0)(item | {"key": "b"})["mu"])
    assert not torch.equal(first, kind(seed=1)(item)["mu"])
    assert torch.equal(*(kind().set_random_state(7)(item)["mu"] for _ in range(2)))


def test_drawn_weather_is_in_range() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        rain, haze = draw_rain(rng, rng.uniform()), draw_haze(rng, rng.uniform())
        assert 1 <= len(rain.layers) <= 4
        assert all(0 < layer.opacity <= 1 and abs(layer.angle) <= 60 for layer in rain.layers)
        assert 0 < haze.beta and 0 <= haze.nearest <= 1 and all(0 <= a <= 1 for a in haze.airlight)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_depth_of_narrow_scenes(shape: tuple[int, int]) -> None:
    depth = depth_map(shape, _rng())
    assert depth.shape == shape and np.isfinite(depth).all() and 0 <= depth.min() <= depth.max() <= 1


@pytest.mark.parametrize("amount", [(-0.1, 1), (0.5, 0.4), (0, 1.1), (0.5,)])
def test_amounts_out_of_range_are_refused(amount: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"amount is .*accepted: two increasing numbers from 0"):
        SimulateRain(amount)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 8, 8)), r"shape \(1, 8, 8\); accepted: \(3, H, W\)"),
        (np.zeros((3, 0, 8)), r"shape \(3, 0, 8\)"),
        (np.full((3, 8, 8), 1.5), "values from 1.5 to 1.5; accepted: 0 to 1"),
        (np.full((3, 8, 8), np.nan), "values from nan"),
    ],
)
def test_what_is_no_photograph_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulateHaze()(image)


def test_the_dark_channel_prior_inverts_haze_where_its_assumptions_hold() -> None:
    """Every box of the scene holds a black pixel and the sky is all airlight, so A and t are found exactly: J is back
    where t is constant over the guided filter's box, and nowhere is the estimate clipped."""
    rng = np.random.default_rng(0)
    clear = rng.uniform(0, 0.8, (3, 400, 160)).astype(np.float32)
    clear[:, ::5, ::5] = 0
    depth = np.zeros((400, 160), np.float32)
    depth[:100] = 1
    hazy = add_haze(clear, Haze(beta=1e4, nearest=1e-4, airlight=(0.9, 0.85, 0.8)), depth)
    estimate = dark_channel_prior(hazy, radius=7, omega=1.0)
    np.testing.assert_allclose(estimate[:, 240:], clear[:, 240:], atol=2e-3)


def test_omega_is_the_share_that_is_taken_off() -> None:
    """With homogeneous haze of transmission t, 1 - omega (1 - t) is used in its place."""
    clear = np.random.default_rng(0).uniform(0, 0.7, (3, 300, 60)).astype(np.float32)
    clear[:, ::5, ::5] = 0
    clear[:, :20] = 0.9
    hazy = add_haze(clear, Haze(beta=float(np.log(2)), nearest=1.0, airlight=(0.9, 0.9, 0.9)), np.zeros((300, 60)))
    found = dark_channel_prior(hazy, omega=0.8)[:, 150:]
    expected = 0.9 + (hazy[:, 150:] - 0.9) / (1 - 0.8 * 0.5)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_exposure_is_a_power_law_of_the_means(photograph: np.ndarray) -> None:
    """w_1 = -1/2 and w_0 = log(0.43) / 2 move the mean to the geometric mean of the one found and 0.43."""
    hazy = SimulateHaze((1, 1)).set_random_state(0)(photograph).numpy()
    plain, brought = (dark_channel_prior(hazy, exposure=w) for w in (None, (np.log(0.43) / 2, -0.5, 0, 0, 0)))
    assert float(brought.mean()) == pytest.approx(np.sqrt(0.43 * plain.mean()), rel=1e-4)
    by_input = dark_channel_prior(hazy, exposure=(0, 0, 1, 0, 0))
    np.testing.assert_allclose(by_input, plain * hazy.mean(), rtol=1e-4, atol=1e-6)
    black = dark_channel_prior(np.zeros((3, 8, 8), np.float32), exposure=(9, -9, 9, -9, 9))
    assert np.isfinite(black).all()


def test_the_exposure_is_changed_by_a_factor_of_three_at_most(photograph: np.ndarray) -> None:
    for w, factor in ((9, 3), (-9, 1 / 3)):
        changed = dark_channel_prior(photograph, exposure=(w, 0, 0, 0, 0))
        np.testing.assert_allclose(changed, factor * dark_channel_prior(photograph), rtol=1e-5, atol=1e-6)


def test_small_particles_scatter_blue_more_than_red() -> None:
    """Over black, 1 - I / A is t = exp(-beta (550 nm / wavelength)^angstrom), written out for 610 and 465 nm."""
    haze = Haze(beta=0.7, nearest=1.0, airlight=(1.0, 1.0, 1.0), angstrom=1.3)
    red, _, blue = 1 - add_haze(np.zeros((3, 2, 2), np.float32), haze, np.zeros((2, 2), np.float32))[:, 0, 0]
    assert red == pytest.approx(np.exp(-0.7 * (550 / 610) ** 1.3), rel=1e-5)
    assert blue == pytest.approx(np.exp(-0.7 * (550 / 465) ** 1.3), rel=1e-5)


def test_dense_patches_hide_more() -> None:
    density = np.array([[0.5, 1.5]], np.float32)
    hazy = add_haze(np.zeros((3, 1, 2), np.float32), Haze(1.0, 1.0, (1.0, 1.0, 1.0)), np.zeros((1, 2)), density)
    np.testing.assert_allclose(1 - hazy[0, 0], np.exp([-0.5, -1.5]), rtol=1e-5)


def test_the_guided_filter_keeps_its_guide_or_smooths_by_epsilon() -> None:
    """epsilon 0 returns the guide itself; a large one the box mean of the box mean."""
    guide = np.random.default_rng(0).uniform(size=(40, 30)).astype(np.float32)
    np.testing.assert_allclose(guided_filter(guide, guide, 3, 0.0), guide, atol=1e-4)
    padded = np.pad(guide, 6, mode="symmetric")
    box = np.lib.stride_tricks.sliding_window_view(padded, (7, 7)).mean((-2, -1))
    twice = np.lib.stride_tricks.sliding_window_view(box, (7, 7)).mean((-2, -1))
    np.testing.assert_allclose(guided_filter(guide, guide, 3, 1e6), twice, atol=1e-4)


def test_the_dictionary_form_keeps_the_hazy_photograph(photograph: np.ndarray) -> None:
    hazy = SimulateHaze((0.6, 0.6)).set_random_state(0)(photograph)
    item = DarkChannelPriord(radius=15, omega=0.9)({"mu": hazy, "key": "a"})
    assert torch.equal(item["degraded"], hazy)
    assert torch.equal(item["mu"], DarkChannelPrior(radius=15, omega=0.9)(hazy))
    assert psnr(item["mu"].numpy(), photograph) > psnr(hazy.numpy(), photograph)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"radius": 0}, "radius is 0; accepted: an integer"),
        ({"radius": 2.5}, "radius is 2.5"),
        ({"omega": 0.0}, "omega is 0.0; accepted: above 0 and up to 1"),
        ({"lowest_transmission": 1.5}, "lowest_transmission is 1.5"),
        ({"exposure": (0.0, 1.0)}, r"exposure is \(0.0, 1.0\); accepted: five finite numbers"),
        ({"exposure": (0.0, 0.0, 0.0, 0.0, np.nan)}, "exposure is .*nan"),
    ],
)
def test_bad_options_of_the_dark_channel_prior(option: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DarkChannelPrior(**option)  # type: ignore[arg-type]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _principal_axis(drawn: np.ndarray) -> tuple[float, float]:
    """Angle from the vertical of the direction along which the autocorrelation falls slowest, and its sharpness."""
    spectrum = np.abs(np.fft.fft2(drawn - drawn.mean())) ** 2
    correlation = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    middle = np.array(correlation.shape) // 2
    window = correlation[middle[0] - 12 : middle[0] + 13, middle[1] - 12 : middle[1] + 13].clip(0)
    rows, columns = np.mgrid[-12:13, -12:13]
    moments = np.array([[(window * rows**2).sum(), (window * rows * columns).sum()], [0, (window * columns**2).sum()]])
    moments[1, 0] = moments[0, 1]
    values, vectors = np.linalg.eigh(moments)
    row, column = vectors[:, 1] * np.sign(vectors[0, 1])
    return float(np.rad2deg(np.arctan2(column, row))), float(values[1] / values[0])
