"""The k-space steps against fastMRI, numpy and closed forms, and their MONAI faces."""

from __future__ import annotations

import fastmri
import numpy as np
import pytest
import torch
from fastmri.data import transforms as fastmri_transforms
from fastmri.data.subsample import create_mask_for_mask_type
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_d3gm.consistency.fourier import fft2c, ifft2c
from monai_d3gm.transforms import (
    CartesianMask,
    CartesianMaskd,
    CropReadout,
    CropReadoutd,
    CropToAcquiredBand,
    CropToAcquiredBandd,
    NormalizeKspace,
    NormalizeKspaced,
    SimulateKspace,
    SimulateKspaced,
    ZeroFilled,
    ZeroFilledd,
)
from monai_d3gm.transforms.kspace import functional


def phantom(height: int, width: int, depth: int = 1, seed: int = 0) -> np.ndarray:
    """A head-like magnitude volume: a bright ellipse with a dark rim, blobs and texture; zero outside."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    radius = np.hypot(y / 0.8, x / 0.65)
    image = np.where(radius < 1, 0.6, 0.0) + np.where((radius > 0.9) & (radius < 1), 0.4, 0.0)
    for _ in range(12):
        cy, cx, r = rng.uniform(-0.5, 0.5, 3)
        image += np.where(np.hypot(y - cy, x - cx) < 0.05 + 0.1 * abs(r), 0.3 * r, 0) * (radius < 0.85)
    volume = np.stack([image * (1 + 0.05 * rng.standard_normal(image.shape)) for _ in range(depth)], axis=-1)
    return np.maximum(volume, 0).astype(np.float32) * (radius < 1)[..., None]


def random_kspace(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


# --- masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", functional.MASK_TYPES)
@pytest.mark.parametrize("acceleration", [2, 4, 5, 8, 16])
@pytest.mark.parametrize("width", [180, 320, 368])
def test_masks_are_those_of_fastmri(kind: str, acceleration: int, width: int) -> None:
    expected, lines = create_mask_for_mask_type(kind, [0.32 / acceleration], [acceleration])((1, width, 2), seed=(7, 9))
    mask = functional.cartesian_mask(width, acceleration, kind, seed=(7, 9))
    assert torch.equal(mask, expected.flatten() > 0)
    # fastMRI's centre begins at (width - lines + 1) // 2 (subsample.calculate_center_mask)
    start = (width - lines + 1) // 2
    assert mask[start : start + lines].all()


@given(width=st.integers(64, 400), acceleration=st.floats(1.5, 12), seed=st.integers(0, 2**32 - 1))
def test_equispaced_fraction_keeps_the_stated_acceleration(width: int, acceleration: float, seed: int) -> None:
    if round(width * 0.32 / acceleration) >= round(width / acceleration):
        return
    mask = functional.cartesian_mask(width, acceleration, "equispaced_fraction", seed=seed)
    assert abs(int(mask.sum()) - width / acceleration) <= 3 + 0.06 * width / acceleration


def test_random_mask_has_the_stated_acceleration_on_average() -> None:
    share = np.mean([functional.cartesian_mask(320, 6.5, seed=s).float().mean() for s in range(300)])
    assert share == pytest.approx(1 / 6.5, rel=0.05)  # 300 masks: standard error about 0.6 %


def test_acceleration_one_samples_every_line() -> None:
    assert functional.cartesian_mask(64, 1, "random").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "spiral"}, "mask is 'spiral'; accepted: random"),
        ({"acceleration": 0.5}, "acceleration is 0.5"),
        ({"acceleration": 65}, "acceleration is 65"),
        ({"acceleration": float("nan")}, "acceleration is nan"),
        ({"kind": "magic", "acceleration": 2.5}, "accepts integers"),
        ({"center_fraction": 0.25}, "center_fraction is 0.25"),
        ({"center_fraction": -0.1}, "center_fraction is -0.1"),
        (
            {"kind": "magic_fraction", "acceleration": 4, "center_fraction": 0.249},
            "all that are sampled lie in the centre",
        ),
        ({"acceleration": 64, "center_fraction": 0.0, "seed": 2}, "samples none of 64 lines"),
    ],
)
def test_masks_that_do_not_exist(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        functional.cartesian_mask(**({"width": 64, "acceleration": 4} | arguments))


def test_mask_transform_masks_the_last_axis_and_honours_padding() -> None:
    kspace = random_kspace(3, 20, 64)
    masked, mask = CartesianMask(4, "equispaced_fraction")(kspace, seed=1, padding=(10, 60))
    assert mask.shape == (1, 1, 64) and mask.dtype == torch.bool
    assert not mask[..., :10].any() and not mask[..., 60:].any()
    assert torch.equal(masked, kspace * mask)
    function = create_mask_for_mask_type("equispaced_fraction", [0.08], [4])
    expected, _, _ = fastmri_transforms.apply_mask(torch.view_as_real(kspace), function, seed=1, padding=(10, 60))
    assert torch.equal(torch.view_as_real(masked), expected)


def test_padding_that_begins_before_the_first_column_leaves_out_none() -> None:
    _, mask = CartesianMask(2)(random_kspace(20, 64), seed=1, padding=(-1, 63))
    _, whole = CartesianMask(2)(random_kspace(20, 64), seed=1)
    assert mask.any() and torch.equal(mask[..., :63], whole[..., :63]) and not mask[..., 63]


# --- the forward model -----------------------------------------------------------------------------------------


@given(
    rows=st.integers(4, 40),
    columns=st.integers(4, 40),
    coils=st.integers(1, 3),
    data=st.data(),
    seed=st.integers(0, 99),
)
def test_cropping_the_readout_commutes_with_the_mask(
    rows: int, columns: int, coils: int, data: st.DataObject, seed: int
) -> None:
    """The strip's measurement is mask * F of the strip of the image: both sides computed on their own."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(coils, rows, columns, dtype=torch.complex64, generator=generator)
    mask = torch.rand(columns, generator=generator) < 0.5
    start = data.draw(st.integers(0, rows - 1))
    height = data.draw(st.integers(1, rows - start))
    strip = functional.crop_readout(fft2c(image) * mask, start, height)
    assert torch.allclose(strip, fft2c(image[:, start : start + height]) * mask, atol=1e-5)


def test_crop_readout_is_fastmris_centre_crop() -> None:
    kspace = random_kspace(2, 41, 30)
    expected = fastmri_transforms.complex_center_crop(fastmri.ifft2c(torch.view_as_real(kspace)), (20, 30))
    assert torch.allclose(torch.view_as_real(ifft2c(CropReadout(20)(kspace))), expected, atol=1e-5)
    with pytest.raises(ValueError, match="do not lie in the 41 rows"):
        CropReadout(42)(kspace)


def test_zero_filled_is_fastmris() -> None:
    kspace = random_kspace(31, 24)
    expected = fastmri.ifft2c(torch.view_as_real(kspace)).permute(2, 0, 1)
    assert torch.allclose(ZeroFilled()(kspace), expected, atol=1e-5)


def test_simulated_data_obey_the_forward_model() -> None:
    magnitude = phantom(48, 40)[..., 0]
    kspace, image, noise_std, maps = functional.simulate_kspace(
        magnitude, np.random.default_rng(3), snr=float("inf"), coils=4
    )
    assert noise_std == 0 and maps is not None
    assert torch.allclose(image.abs(), torch.from_numpy(magnitude), atol=1e-6)
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(48, 40), atol=1e-5)
    assert torch.allclose(kspace, fft2c(maps * image), atol=1e-5)
    assert torch.allclose(functional.zero_filled(kspace, maps), image, atol=1e-5)


def test_noise_has_the_stated_level_in_kspace_and_image() -> None:
    magnitude = np.full((128, 128), 2.0, dtype=np.float32)
    kspace, image, noise_std, _ = functional.simulate_kspace(magnitude, np.random.default_rng(0), snr=40.0)
    assert noise_std == pytest.approx(2.0 / 40)
    for noise in (kspace - fft2c(image), ifft2c(kspace) - image):
        for part in (noise.real, noise.imag):
            assert float(part.std()) == pytest.approx(noise_std, rel=0.03)  # 16384 values: standard error 0.6 %


@pytest.mark.parametrize(("spikes", "top"), [(8, 1.0), (12, 100.0)])
def test_the_foreground_of_the_snr_is_above_a_tenth_of_a_percentile(spikes: int, top: float) -> None:
    """Of 2000 pixels the 99.5th percentile is that of order 1990: the spikes count from eleven on."""
    values = np.full(2000, 1.0)
    values[:spikes] = 100.0
    values[spikes : spikes + 4] = 0.101 * top, 0.101 * top, 0.099 * top, 0.099 * top
    foreground = values[values > 0.1 * top]
    assert functional.foreground_mean(values.reshape(40, 50)) == pytest.approx(foreground.mean())
    *_, noise_std, _ = functional.simulate_kspace(values.reshape(40, 50), np.random.default_rng(0), snr=20.0)
    assert noise_std == pytest.approx(foreground.mean() / 20)


def test_the_phase_is_smooth_and_within_its_amplitude() -> None:
    for seed in range(20):
        phase = functional.smooth_phase((96, 64), np.random.default_rng(seed), 2.0)
        deviation = phase - phase.mean()
        assert np.ptp(phase) <= 4.0 + 1e-5
        # cos(3 pi y / n) changes by at most 3 pi / n per voxel; 16 such terms, each of at most the amplitude.
        assert np.abs(np.diff(deviation, axis=0)).max() < 2.0 * 16 * 3 * np.pi / 96


@pytest.mark.parametrize("arguments", [{"snr": 0.0}, {"snr": float("nan")}, {"snr": 10.0, "coils": 0}])
def test_simulation_refuses(arguments: dict) -> None:
    with pytest.raises(ValueError, match="accepted"):
        functional.simulate_kspace(np.ones((8, 8)), np.random.default_rng(0), **arguments)


def test_simulation_refuses_an_empty_image() -> None:
    with pytest.raises(ValueError, match="magnitude is zero everywhere"):
        functional.simulate_kspace(np.zeros((8, 8)), np.random.default_rng(0), snr=10.0)


# --- normalisation ---------------------------------------------------------------------------------------------


@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
def test_normalisation_keeps_the_phase_and_is_inverted(factor: float, seed: int) -> None:
    kspace = factor * torch.randn(16, 12, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    item = {"kspace": kspace, "mu": ZeroFilled()(kspace), "noise_std": 0.1 * factor}
    normalize = NormalizeKspaced(("kspace", "mu", "noise_std"))
    result = normalize(item)
    assert functional.magnitude_scale(result["mu"].norm(dim=0)) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(result["kspace"].angle(), kspace.angle(), atol=1e-5)
    assert torch.allclose(result["mu"], ZeroFilled()(result["kspace"]), atol=1e-4)
    back = normalize.inverse(result)
    assert torch.allclose(back["kspace"] / factor, kspace / factor, atol=1e-5)
    assert back["noise_std"] == pytest.approx(item["noise_std"])


def test_scale_is_numpys_percentile() -> None:
    values = np.random.default_rng(0).random((37, 53)).astype(np.float32)
    expected = np.percentile(values, 99.5, method="lower")
    assert functional.magnitude_scale(torch.from_numpy(values)) == pytest.approx(float(expected))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_no_scale_without_signal(value: float) -> None:
    with pytest.raises(ValueError, match="99.5th percentile"):
        functional.magnitude_scale(torch.full((4, 4), value))


def test_percentile_out_of_range() -> None:
    with pytest.raises(ValueError, match="percentile is 0"):
        NormalizeKspace(percentile=0)


# --- the acquired band -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("share", [0.5, 0.625, 0.75])
def test_zero_filled_interpolation_is_detected_and_undone(axis: int, share: float) -> None:
    """A complex image is interpolated by zeros in k-space, then its magnitude taken, as a scanner does."""
    volume = phantom(192, 192, 4)
    phase = functional.smooth_phase((192, 192), np.random.default_rng(1), 1.5)[..., None]
    spectrum = np.fft.fftshift(np.fft.fft(volume * np.exp(1j * phase), axis=axis), axes=axis)
    half = int(share * 96)
    keep = [slice(None)] * 3
    keep[axis] = slice(96 - half, 96 + half)
    truncated = np.zeros_like(spectrum)
    truncated[tuple(keep)] = spectrum[tuple(keep)]
    interpolated = np.abs(np.fft.ifft(np.fft.ifftshift(truncated, axes=axis), axis=axis)).astype(np.float32)
    assert functional.acquired_fraction(interpolated, axis) == pytest.approx(share, abs=0.04)
    assert functional.acquired_fraction(interpolated, 1 - axis) == 1.0
    cropped, kept, affine = functional.crop_to_acquired_band(interpolated, (0, 1), np.diag([1.0, 2.0, 3.0, 1.0]))
    assert affine is not None
    assert cropped.shape[axis] == round(kept[axis] * 192) and cropped.shape[1 - axis] == 192
    # The voxels grow by the inverse of the share kept and voxel 0 stays where it was.
    assert affine[axis, axis] == pytest.approx((1.0, 2.0)[axis] / kept[axis])
    assert np.array_equal(affine[:3, 3], np.zeros(3))


def test_a_skull_stripped_volume_is_left_alone() -> None:
    volume = phantom(160, 160, 8)
    assert (volume == 0).mean() > 0.5
    cropped, kept, _ = functional.crop_to_acquired_band(volume, (0, 1))
    assert kept == (1.0, 1.0)
    assert np.array_equal(cropped, volume)


def test_short_and_empty_axes_are_left_alone() -> None:
    assert functional.acquired_fraction(np.ones((16, 64), np.float32), 0) == 1.0
    assert functional.acquired_fraction(np.zeros((64, 64), np.float32), 0) == 1.0


@given(old=st.integers(8, 60), data=st.data())
def test_truncation_keeps_band_limited_images(old: int, data: st.DataObject) -> None:
    """A cosine below the new Nyquist frequency is the same function of the position, sampled more coarsely."""
    new = data.draw(st.integers(4, old))
    frequency = data.draw(st.integers(0, (new - 1) // 2))
    image = 2 + np.cos(2 * np.pi * frequency * np.arange(old) / old + 0.3)[None].astype(np.float32)
    expected = 2 + np.cos(2 * np.pi * frequency * np.arange(new) / new + 0.3)
    assert np.allclose(functional.truncate_band(image, 1, new)[0], expected, atol=1e-5)


def test_truncation_refuses() -> None:
    with pytest.raises(ValueError, match="size is 9; accepted: 1 to 8"):
        functional.truncate_band(np.ones((4, 8)), 1, 9)


# --- MONAI's faces ---------------------------------------------------------------------------------------------


def test_crop_transform_updates_the_affine_of_a_metatensor() -> None:
    volume = phantom(128, 128, 3)
    spectrum = np.fft.rfft(volume, axis=0)
    spectrum[40:] = 0
    interpolated = np.abs(np.fft.irfft(spectrum, n=128, axis=0)).astype(np.float32)
    image = MetaTensor(torch.from_numpy(interpolated)[None], affine=torch.eye(4, dtype=torch.float64))
    cropped = CropToAcquiredBandd("image")({"image": image})["image"]
    assert isinstance(cropped, MetaTensor)
    assert float(cropped.affine[0, 0]) == pytest.approx(128 / cropped.shape[1])
    plain = CropToAcquiredBand()(image.as_tensor())
    assert not isinstance(plain, MetaTensor) and torch.equal(plain, cropped.as_tensor())
    pair = CropToAcquiredBand()(torch.cat([image.as_tensor(), 2 * image.as_tensor()]))
    assert torch.allclose(pair[1], 2 * pair[0], atol=1e-5)


def pipeline(seed: int | None) -> Compose:
    return Compose(
        [
            SimulateKspaced("image", snr=30.0, seed=seed),
            CropReadoutd("kspace", 32),
            CartesianMaskd("kspace", 4, "random", seed=seed),
            ZeroFilledd("kspace"),
            NormalizeKspaced(("kspace", "mu", "noise_std")),
        ]
    )


def test_a_slice_is_a_function_of_seed_and_key() -> None:
    magnitude = phantom(48, 64)[..., 0]
    first = pipeline(5)({"image": magnitude, "key": "a:1"})
    steps = pipeline(5)
    steps({"image": magnitude, "key": "a:0"})
    again = steps({"image": magnitude, "key": "a:1"})
    assert torch.equal(first["kspace"], again["kspace"]) and torch.equal(first["mask"], again["mask"])
    for other in (pipeline(5)({"image": magnitude, "key": "a:2"}), pipeline(6)({"image": magnitude, "key": "a:1"})):
        assert not torch.equal(first["kspace"], other["kspace"])


def test_without_a_seed_monais_random_state_rules() -> None:
    magnitude = phantom(48, 64)[..., 0]
    one, two, three = (pipeline(None).set_random_state(s)({"image": magnitude}) for s in (1, 1, 2))
    assert torch.equal(one["kspace"], two["kspace"])
    assert not torch.equal(one["mask"], three["mask"])


def test_array_and_dictionary_forms_agree() -> None:
    magnitude = torch.from_numpy(phantom(40, 48)[..., 0])[None]
    array = SimulateKspace(30.0, coils=3).set_random_state(0)(magnitude)
    item = SimulateKspaced("image", 30.0, coils=3).set_random_state(0)({"image": magnitude})
    assert torch.equal(array[0], item["kspace"]) and torch.equal(array[1], item["image"])
    assert item["noise_std"] == array[2] and torch.equal(array[3], item["sensitivity_maps"])
    assert torch.equal(ZeroFilledd("kspace")(item)["mu"], ZeroFilled()(array[0], array[3]))


def test_simulation_wants_one_image() -> None:
    with pytest.raises(ValueError, match=r"img has shape \(3, 8, 8\)"):
        SimulateKspace()(torch.ones(3, 8, 8))
