"""PSNR, SSIM and NMSE: known answers, agreement with fastMRI, regions, invariances."""

from __future__ import annotations

import fastmri.evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from monai_d3gm.metrics import evaluate_images, foreground_mask


def disk(size: int = 48, radius: float = 16.0, slices: int | None = None) -> np.ndarray:
    """A textured disk on a background of exactly 0; as a stack its brightness grows with the slice."""
    rng = np.random.default_rng(3)
    row, column = np.mgrid[:size, :size] - size / 2
    image = (row**2 + column**2 <= radius**2) * (1.0 + 0.3 * ndimage.gaussian_filter(rng.random((size, size)), 2))
    return image if slices is None else np.stack([(i + 1) * image for i in range(slices)])


@pytest.fixture
def volume() -> tuple[np.ndarray, np.ndarray]:
    truth = disk(slices=3)
    return np.abs(truth + 0.1 * np.random.default_rng(0).standard_normal(truth.shape)), truth


def test_volume_protocol_is_that_of_fastmri(volume: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = volume
    figures = evaluate_images(prediction, truth, protocol="volume")
    # reference: the functions of fastmri.evaluate, whose default range is the maximum of the volume
    assert figures["psnr/volume/whole"] == pytest.approx(float(fastmri.evaluate.psnr(truth, prediction)), rel=1e-12)
    assert figures["ssim/volume/whole"] == pytest.approx(float(fastmri.evaluate.ssim(truth, prediction)[0]), rel=1e-12)
    assert figures["nmse/volume/whole"] == pytest.approx(float(fastmri.evaluate.nmse(truth, prediction)), rel=1e-12)


def test_slice_protocol_is_the_mean_of_single_slices(volume: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, truth = volume
    together = evaluate_images(prediction, truth)
    single = [evaluate_images(p, t) for p, t in zip(prediction, truth, strict=True)]
    for name, value in together.items():
        assert value == pytest.approx(np.mean([one[name] for one in single]), rel=1e-12)
    # the range of the first slice is a third of the volume's: its PSNR is lower by the protocol alone
    assert together["psnr/slice/whole"] < evaluate_images(prediction, truth, "volume")["psnr/volume/whole"]


def test_one_slice_is_the_same_under_both_protocols() -> None:
    truth = disk()
    prediction = np.abs(truth + 0.05)
    by_slice, by_volume = evaluate_images(prediction, truth), evaluate_images(prediction, truth, "volume")
    assert list(by_slice.values()) == pytest.approx(list(by_volume.values()))
    assert {name.replace("slice", "volume") for name in by_slice} == set(by_volume)


def test_known_answers_of_a_constant_shift() -> None:
    truth = np.full((16, 16), 2.0)
    figures = evaluate_images(truth + 0.2, truth)
    c1 = (0.01 * 2.0) ** 2
    ssim = (2 * 2.0 * 2.2 + c1) / (2.0**2 + 2.2**2 + c1)  # the luminance term; contrast and structure are 1
    for region in ("whole", "foreground"):
        assert figures[f"psnr/slice/{region}"] == pytest.approx(20.0)  # 20 log10(2 / 0.2)
        assert figures[f"nmse/slice/{region}"] == pytest.approx(0.01)  # (0.2 / 2)^2
        assert figures[f"ssim/slice/{region}"] == pytest.approx(ssim)


def test_equal_images_are_perfect() -> None:
    truth = disk()
    for protocol in ("slice", "volume"):
        figures = evaluate_images(truth, truth, protocol)
        assert len(figures) == 6
        for name, value in figures.items():
            assert value == {"psnr": float("inf"), "ssim": 1.0, "nmse": 0.0}[name.split("/")[0]]


def test_error_in_the_background_leaves_the_foreground_alone() -> None:
    truth = disk()
    prediction = truth.copy()
    prediction[:4, :4] += 0.5
    figures = evaluate_images(prediction, truth)
    assert figures["psnr/slice/foreground"] == float("inf")
    assert figures["nmse/slice/foreground"] == 0.0
    assert figures["ssim/slice/foreground"] == 1.0
    assert np.isfinite(figures["psnr/slice/whole"])


def test_empty_background_inflates_the_whole_image() -> None:
    truth = disk()
    figures = evaluate_images(truth * 0.8, truth)
    mask = foreground_mask(truth)
    # the error is 0 outside the disk, so the whole image gains at most 10 log10(1 / share of the disk)
    gain = figures["psnr/slice/whole"] - figures["psnr/slice/foreground"]
    assert 0.9 * 10 * np.log10(1 / mask.mean()) < gain <= 10 * np.log10(1 / mask.mean())
    assert figures["ssim/slice/foreground"] < figures["ssim/slice/whole"]


def test_empty_slices_are_left_out_of_the_slice_protocol() -> None:
    truth = disk(slices=2)
    prediction = truth + 0.05
    with_empty = evaluate_images(
        np.concatenate([prediction, np.full((1, 48, 48), 0.05)]), np.concatenate([truth, np.zeros((1, 48, 48))])
    )
    assert with_empty == pytest.approx(evaluate_images(prediction, truth))


def test_object_too_small_for_a_foreground_has_no_foreground_figure() -> None:
    truth = np.zeros((16, 16))
    truth[8, 8] = 1.0
    figures = evaluate_images(truth + 0.1, truth)
    assert set(figures) == {"psnr/slice/whole", "ssim/slice/whole", "nmse/slice/whole"}


@settings(max_examples=25)
@given(scale=st.floats(1e-3, 1e4), seed=st.integers(0, 99), protocol=st.sampled_from(["slice", "volume"]))
def test_figures_do_not_depend_on_the_unit(scale: float, seed: int, protocol: str) -> None:
    truth = disk(32, 10.0, slices=2)
    prediction = truth + 0.1 * np.random.default_rng(seed).standard_normal(truth.shape)
    expected = evaluate_images(prediction, truth, protocol)
    scaled = evaluate_images(torch.from_numpy(scale * prediction), torch.from_numpy(scale * truth), protocol)
    assert scaled == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("protocol", ["slice", "volume"])
def test_more_noise_is_worse(protocol: str) -> None:
    truth = disk(slices=2)
    noise = np.random.default_rng(1).standard_normal(truth.shape)
    rows = [evaluate_images(truth + level * noise, truth, protocol) for level in (0.02, 0.05, 0.1, 0.2)]
    for better, worse in zip(rows, rows[1:], strict=False):
        for name in better:
            assert (worse[name] - better[name]) * (1 if name.startswith("nmse") else -1) > 0


@pytest.mark.parametrize("snr", [None, 30, 10, 5])
def test_foreground_is_the_object_with_and_without_noise(snr: float | None) -> None:
    truth = disk(96, 30.0)
    truth[40:50, 40:50] *= 0.02  # a dark hole belongs to the object
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape)
    image = truth if snr is None else np.abs(truth + noise / snr)  # the object's mean is about 1
    row, column = np.mgrid[:96, :96] - 48
    radius = np.hypot(row, column)
    mask = foreground_mask(image)
    # the rule may move the border by the reach of its median and closing, 3 pixels
    assert mask[radius < 27].all()
    assert not mask[radius > 33].any()


def test_foreground_begins_at_half_of_otsus_threshold() -> None:
    """Of values that are uniform from 0 to 1 Otsu's threshold is 1/2; the ramp crosses half of it at a quarter."""
    ramp = np.tile(np.linspace(0, 1, 128), (128, 1))
    first = int(foreground_mask(ramp)[64].argmax())
    assert first == pytest.approx(0.25 * 127, abs=1.5)
    spikes = ramp.copy()
    spikes[40:48, 60:68] = 50.0  # 0.4 % of the pixels: beyond the 99.5th percentile, at which values are clipped
    assert int(foreground_mask(spikes)[64].argmax()) == first
    spikes[40:54, 60:74] = 50.0  # 1.2 %: not clipped, so that the threshold is theirs
    assert int(foreground_mask(spikes)[64].argmax()) > 2 * first - 4


def test_foreground_ignores_specks_closes_gaps_and_drops_small_regions() -> None:
    """Each rule at its limit: a 5 x 5 median, a disk of radius 3, 2 % of the slice's largest region."""
    slices = np.zeros((3, 64, 64))
    slices[0, 4:60, 4:60] = 1.0
    slices[1, 30:33, 30:33] = 1.0  # 9 of the 25 pixels around its centre
    slices[2, 30:34, 30:34] = 1.0  # 16 of them, but of 49 fewer than half
    assert [bool(mask.any()) for mask in foreground_mask(slices)] == [True, False, True]
    for gap, closed in ((6, True), (7, False)):  # a disk of radius 3 does not fit into six columns
        image = np.zeros((64, 64))
        image[10:54, 10:25] = image[10:54, 25 + gap : 60] = 1.0
        assert foreground_mask(image)[32, 25 + gap // 2] == closed
    image = np.zeros((64, 64))
    image[10:46, 4:46] = 1.0  # 36 x 42 pixels, 1500 without the corners
    image[50:56, 50:57] = 1.0  # 6 x 7, 30 without: 2 % of it
    assert foreground_mask(image)[53, 53]
    image[55, 50:57] = 0.0
    assert not foreground_mask(image)[53, 53]


def test_foreground_of_an_empty_and_of_a_full_image() -> None:
    assert not foreground_mask(np.zeros((2, 16, 16))).any()
    full = foreground_mask(torch.ones(16, 16))
    assert full.shape == (16, 16) and full.all()


@pytest.mark.parametrize(
    ("prediction", "reference", "protocol", "message"),
    [
        (np.ones((8, 8)), np.ones((8, 8)), "patch", "protocol is 'patch'"),
        (np.ones((8, 9)), np.ones((8, 8)), "slice", r"prediction has shape \(1, 8, 9\)"),
        (np.ones((8, 8), complex), np.ones((8, 8)), "slice", "prediction is complex"),
        (np.ones((8, 8)), np.full((8, 8), np.nan), "slice", "reference holds 64 non-finite"),
        (np.ones((8, 8)), np.zeros((8, 8)), "volume", "reference has the maximum 0"),
        (np.ones((6, 8)), np.ones((6, 8)), "slice", "7 x 7 up"),
        (np.ones(8), np.ones(8), "slice", r"prediction has shape \(8,\)"),
    ],
)
def test_what_is_refused(prediction: np.ndarray, reference: np.ndarray, protocol: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_images(prediction, reference, protocol)
