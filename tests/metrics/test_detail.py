"""HFEN, GMSD and power spectra: known answers, independent implementations, invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.signal import convolve2d

from monai_d3gm.metrics import evaluate_detail, gmsd, hfen, radial_power_spectrum, spectrum_ratio_db


@pytest.fixture
def truth() -> np.ndarray:
    rng = np.random.default_rng(5)
    image = np.zeros((65, 64))
    image[16:48, 12:52] = 1.0 + 0.5 * ndimage.gaussian_filter(rng.random((32, 40)), 1)
    return image


@pytest.fixture
def noise(truth: np.ndarray) -> np.ndarray:
    return np.random.default_rng(6).standard_normal(truth.shape)


def test_equal_images_have_no_error(truth: np.ndarray) -> None:
    assert set(evaluate_detail(truth, truth).values()) == {0.0}


def test_hfen_known_answers(truth: np.ndarray) -> None:
    assert hfen(truth + 0.3, truth) == pytest.approx(0.0, abs=1e-12)  # the kernel's taps sum to 0
    assert hfen(0.7 * truth, truth) == pytest.approx(0.3)  # linear
    assert hfen(np.zeros_like(truth), truth) == pytest.approx(1.0)


def test_hfen_agrees_with_the_separable_laplacian_of_gaussian(truth: np.ndarray, noise: np.ndarray) -> None:
    prediction = truth + 0.05 * noise
    # scipy's taps differ in how the Gaussian's derivative is sampled; at sigma 1.5 by about a percent of the norm
    filtered = [ndimage.gaussian_laplace(x, 1.5, mode="nearest", truncate=7 / 1.5) for x in (prediction - truth, truth)]
    assert hfen(prediction, truth) == pytest.approx(np.linalg.norm(filtered[0]) / np.linalg.norm(filtered[1]), rel=0.02)


def test_hfen_without_an_edge_is_refused() -> None:
    with pytest.raises(ValueError, match="reference has no edge"):
        hfen(np.ones((32, 32)), np.ones((32, 32)))


def test_gmsd_follows_the_published_code(truth: np.ndarray, noise: np.ndarray) -> None:
    prediction = truth + 0.05 * noise

    def magnitude(image: np.ndarray) -> np.ndarray:
        # Xue et al.'s GMSD.m: conv2(image, ones(2)/4, 'same')(1:2:end, 1:2:end), then conv2 with Prewitt taps / 3.
        # 'same' of a 2 x 2 kernel keeps the full convolution from its second row and column on.
        full = convolve2d(image, np.full((2, 2), 0.25))
        half = full[1 : 1 + image.shape[0], 1 : 1 + image.shape[1]][::2, ::2]
        dx = np.array([[1, 0, -1]] * 3) / 3
        return np.sqrt(convolve2d(half, dx, mode="same") ** 2 + convolve2d(half, dx.T, mode="same") ** 2)

    m_r, m_p = (magnitude(255 * x / truth.max()) for x in (truth, prediction))
    expected = np.std((2 * m_r * m_p + 170) / (m_r**2 + m_p**2 + 170))
    assert gmsd(prediction, truth) == pytest.approx(expected, rel=1e-10)


def test_blur_and_noise_have_opposite_signs_in_the_spectrum(truth: np.ndarray, noise: np.ndarray) -> None:
    assert evaluate_detail(ndimage.gaussian_filter(truth, 1.5), truth)["spectrum_mean_db/slice/whole"] < 0
    assert evaluate_detail(truth + 0.1 * noise, truth)["spectrum_mean_db/slice/whole"] > 0


def test_more_noise_and_more_blur_are_worse(truth: np.ndarray, noise: np.ndarray) -> None:
    for degraded in (
        [truth + level * noise for level in (0.01, 0.03, 0.1, 0.3)],
        [ndimage.gaussian_filter(truth, sigma) for sigma in (0.5, 0.8, 1.2, 2.0)],
    ):
        for measure in (hfen, gmsd):
            values = [measure(image, truth) for image in degraded]
            assert values == sorted(values) and values[0] > 0


@settings(max_examples=20)
@given(scale=st.floats(1e-3, 1e4), seed=st.integers(0, 99))
def test_detail_does_not_depend_on_the_unit(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = rng.random((2, 32, 32))
    expected = evaluate_detail(prediction, reference)
    scaled = evaluate_detail(torch.from_numpy(scale * prediction), torch.from_numpy(scale * reference))
    assert scaled == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_stacks_are_averaged_and_empty_slices_left_out(truth: np.ndarray, noise: np.ndarray) -> None:
    stack = np.stack([truth, 2 * truth, np.zeros_like(truth)])
    predicted = np.stack([truth + 0.1 * noise, 2 * truth + 0.1 * noise, 0.1 * noise])
    for measure in (hfen, gmsd):
        assert measure(predicted, stack) == pytest.approx(np.mean([measure(predicted[i], stack[i]) for i in (0, 1)]))


@settings(max_examples=30)
@given(height=st.integers(8, 40), width=st.integers(8, 40), data=st.data())
def test_a_plane_wave_lies_in_its_ring(height: int, width: int, data: st.DataObject) -> None:
    bands = data.draw(st.integers(1, min(height, width) // 2))
    cycles = data.draw(st.integers(0, (width - 1) // 2))
    image = np.broadcast_to(np.cos(2 * np.pi * cycles * np.arange(width) / width), (height, width))
    frequencies, power = radial_power_spectrum(image, bands)
    assert frequencies.shape == power.shape == (bands,)
    assert np.isfinite(power).all()  # no ring is empty
    # frequency cycles / width, in units of a ring's width 1 / (2 bands)
    assert int(np.argmax(power)) == (2 * bands * cycles) // width


def test_white_noise_has_a_flat_spectrum() -> None:
    image = np.random.default_rng(0).standard_normal((20, 64, 64))
    _, power = radial_power_spectrum(image, bands=8)
    # orthonormal: power = variance = 1. The first ring has 49 frequencies, 25 of them independent, over 20 slices:
    # relative standard deviation 1 / sqrt(500) = 0.045; four of them
    assert power == pytest.approx(np.ones(8), abs=0.18)


def test_ratio_of_spectra_known_answers() -> None:
    reference = np.random.default_rng(0).random((32, 32))
    ratio = spectrum_ratio_db(2 * reference, reference)
    assert ratio.ratio_db == pytest.approx(np.full(16, 20 * np.log10(2)), rel=1e-6)
    assert ratio.mean_db == pytest.approx(ratio.max_abs_db)
    assert ratio.frequencies == pytest.approx((np.arange(16) + 0.5) / 32)


def test_empty_rings_compare_as_equal() -> None:
    reference = np.ones((32, 32))  # nothing beyond the mean but rounding
    assert spectrum_ratio_db(reference * (1 + 1e-15), reference).max_abs_db < 1e-6


@pytest.mark.parametrize("bands", [0, 9])
def test_rings_beyond_the_grid_are_refused(bands: int) -> None:
    with pytest.raises(ValueError, match=f"bands is {bands}; accepted .* 1 to 8"):
        radial_power_spectrum(np.ones((16, 20)), bands)


@pytest.mark.parametrize("measure", [hfen, gmsd, spectrum_ratio_db, evaluate_detail])
def test_shapes_that_differ_are_refused(measure: object) -> None:
    with pytest.raises(ValueError, match="prediction has shape"):
        measure(np.ones((32, 32)), np.ones((32, 33)))  # type: ignore[operator]
