"""The phase reference on phases that are known, the weight of the constraint, and the L1-wavelet estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sigpy.mri
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from monai_d3gm.baselines import l1_wavelet
from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft2c
from monai_d3gm.transforms import CompressedSensing, CompressedSensingd, ZeroFilled
from monai_d3gm.transforms.kspace import functional
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight, phase_reference

HEIGHT, WIDTH = 32, 48


def lines(reach: int, width: int = WIDTH) -> Tensor:
    """A fully sampled centre of `reach` lines to either side of the central one, and every fifth line further out."""
    position = torch.arange(width) - width // 2
    return (position.abs() <= reach) | ((position.abs() > reach + 1) & (position % 5 == 0))


def positive(height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Tensor:
    """A positive image whose low-pass part is positive everywhere: 1 and some noise."""
    return 1 + 0.3 * torch.rand(height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def object_with_edges(height: int = 64, width: int = 96) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    inside = (y**2 / 0.7 + x**2 / 0.5 < 1).double()
    return inside * (1 + 0.3 * torch.sin(9 * y) * torch.cos(11 * x))


def coil_maps(coils: int, height: int, width: int) -> Tensor:
    """sigpy's simulated birdcage coil, sum of squares 1."""
    return torch.from_numpy(sigpy.mri.birdcage_maps((coils, height, width))).to(torch.complex128)


def imaginary_share(image: Tensor) -> float:
    return float(image.imag.square().sum() / image.abs().square().sum())


# --- patterns along both axes -----------------------------------------------------------------------------------


def test_whole_lines_written_as_points_of_both_axes_are_lines() -> None:
    image, maps = object_with_edges(32, 48) * torch.exp(torch.tensor(0.4j)), coil_maps(2, 32, 48)
    mask = lines(6)
    kspace = fft2c(maps * image) * mask
    assert torch.equal(phase_reference(kspace, mask, maps), phase_reference(kspace, mask.expand(32, 48), maps))
    (estimate, _), (points, _) = (CompressedSensing()(kspace, m, maps) for m in (mask, mask.expand(32, 48)))
    assert torch.equal(estimate, points)


def test_points_of_both_axes_have_no_phase_constraint() -> None:
    image, maps = object_with_edges(12, 16), coil_maps(2, 12, 16)
    points = torch.rand(12, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    points[4:9, 6:11] = True
    assert phase_constraint_weight(fft2c(maps * image) * points, points, maps) == 0


@pytest.mark.parametrize("reach", [2, 4])
def test_the_centre_of_a_pattern_along_both_axes_tells_the_phase(reach: int) -> None:
    position = [torch.arange(size) - size // 2 for size in (HEIGHT, WIDTH)]
    mask = torch.hypot(position[0][:, None].float(), position[1].float()) <= reach
    mask |= torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.2
    image = positive() * np.exp(0.7j)
    found = phase_reference(fft2c(image) * mask, mask)
    assert torch.allclose(found, torch.full_like(found, complex(np.exp(0.7j))), atol=0.05)
    mask[HEIGHT // 2, WIDTH // 2] = False
    assert torch.equal(phase_reference(fft2c(image), mask), torch.ones(HEIGHT, WIDTH, dtype=torch.complex128))


# --- the reference ----------------------------------------------------------------------------------------------


@given(angle=st.floats(-3.1, 3.1), reach=st.integers(1, 20))
def test_a_constant_phase_is_recovered_whatever_the_centre(angle: float, reach: int) -> None:
    mask = lines(reach)
    image = positive() * np.exp(1j * angle)
    found = phase_reference(fft2c(image) * mask, mask)
    assert torch.allclose(found, torch.full_like(found, complex(np.exp(1j * angle))), atol=1e-12)


@pytest.mark.parametrize("reach", [2, 5])
def test_a_linear_phase_is_recovered_up_to_the_bandwidth_of_the_centre(reach: int) -> None:
    """A ramp of m turns has its energy m lines from the central one, where the window is above 0 up to m = reach."""
    mask, turns = lines(reach), torch.arange(WIDTH, dtype=torch.float64) / WIDTH
    for m in range(-reach, reach + 1):
        image = torch.exp(2j * torch.pi * m * turns).expand(HEIGHT, WIDTH)
        assert torch.allclose(phase_reference(fft2c(image) * mask, mask), image, atol=1e-9)
    beyond = (1 + 0.5 * torch.exp(2j * torch.pi * 10 * turns)).expand(HEIGHT, WIDTH)
    assert mask[WIDTH // 2 + 10]  # it was measured, but the centre does not reach it
    found = phase_reference(fft2c(beyond) * mask, mask)
    assert torch.allclose(found, torch.ones_like(found), atol=1e-12)


@pytest.mark.parametrize("coils", [1, 4])
def test_a_smooth_phase_is_followed_better_the_wider_the_centre(coils: int) -> None:
    magnitude = object_with_edges()
    field = functional.smooth_phase(magnitude.shape, np.random.default_rng(1), 2.0)
    image = magnitude * torch.exp(1j * torch.from_numpy(field))
    maps = None if coils == 1 else coil_maps(coils, *magnitude.shape)
    shares = []
    for reach in (3, 6, 12):
        mask = lines(reach, 96)
        found = phase_reference(fft2c(image if maps is None else maps * image) * mask, mask, maps)
        assert torch.allclose(found.abs(), torch.ones(()).double(), atol=1e-12)
        shares.append(imaginary_share(image * found.conj()))
    assert imaginary_share(image) > 0.3 > 0.05 > shares[0] > shares[1] > shares[2]


@settings(max_examples=20)
@given(angle=st.floats(-3.1, 3.1), coils=st.sampled_from([None, 3]))
def test_a_global_phase_goes_into_the_reference_alone(angle: float, coils: int | None) -> None:
    """And the estimate is the same, within single precision."""
    maps = None if coils is None else coil_maps(coils, HEIGHT, WIDTH)
    image = positive() * torch.exp(1j * torch.linspace(0, 2, WIDTH).double())
    mask, kspace = lines(4), fft2c(image if maps is None else maps * image)
    turn = complex(np.exp(1j * angle))
    estimate, phase = CompressedSensing()(kspace * mask, mask, maps)
    turned, other = CompressedSensing()(turn * kspace * mask, mask, maps)
    assert torch.allclose(other, turn * phase, atol=1e-10)
    assert torch.allclose(turned, estimate, atol=1e-3)


def test_a_phase_that_goes_from_the_image_into_the_maps_leaves_the_reference() -> None:
    image, maps, mask = positive(), coil_maps(3, HEIGHT, WIDTH), lines(4)
    kspace = fft2c(maps * image) * mask
    turn = torch.exp(1j * torch.arange(3).double())[:, None, None]
    expected = phase_reference(kspace, mask, maps)
    assert torch.allclose(phase_reference(turn * kspace, mask, turn * maps), expected, atol=1e-12)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 8), (7, 1), (5, 7)])
def test_small_and_odd_images(height: int, width: int) -> None:
    image = positive(height, width) * np.exp(0.7j)
    found = phase_reference(fft2c(image), torch.ones(width, dtype=torch.bool))
    assert torch.allclose(found, torch.full_like(found, complex(np.exp(0.7j))), atol=1e-9)


def test_without_a_centre_the_reference_is_one() -> None:
    mask = torch.arange(WIDTH) % 4 == 1
    assert not mask[WIDTH // 2]
    image = positive() * np.exp(0.7j)
    estimate, phase = CompressedSensing()((fft2c(image) * mask).to(torch.complex64), mask)
    assert torch.equal(phase, torch.ones_like(phase)) and torch.isfinite(estimate).all()


# --- the weight -------------------------------------------------------------------------------------------------


def with_share(share: float, size: int = 128) -> Tensor:
    """A flat image, so that the phase is known, with white detail, of which the imaginary part has a share."""
    generator = torch.Generator().manual_seed(0)
    real, imaginary = torch.randn(2, size, size, generator=generator, dtype=torch.float64)
    return 10 + torch.complex((1 - share) ** 0.5 * real, share**0.5 * imaginary)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.5), (0.08, 0.5), (0.2, 0.125), (0.5, 0.02), (0.9, 0.0)])
def test_the_weight_falls_with_the_imaginary_share_of_the_detail(share: float, expected: float) -> None:
    """The formula's value for the share that was made; the share is measured on 11 lines, to about a tenth."""
    mask = lines(10, 128)
    weight = phase_constraint_weight(fft2c(with_share(share))[None] * mask, mask, torch.ones(1, 128, 128))
    assert weight == pytest.approx(expected, rel=0.25)


def test_noise_is_no_imaginary_detail() -> None:
    mask, noise_std = lines(10, 128), 0.8
    noise = torch.complex(*torch.randn(2, 128, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    kspace, maps = (fft2c(with_share(0.0)) + noise_std * noise)[None] * mask, torch.ones(1, 128, 128)
    assert phase_constraint_weight(kspace, mask, maps, noise_std) == 0.5
    # an imaginary share of 0.64 / (1 + 2 * 0.64) = 0.28, were it taken for detail
    assert phase_constraint_weight(kspace, mask, maps) == pytest.approx(0.5 * (0.1 / 0.28) ** 2, rel=0.25)


def test_the_weight_falls_with_the_coils_that_differ() -> None:
    """n is the number of coils where each sees a part of its own of equal energy, and 1 where all see the same."""
    image, mask = torch.full((64, 64), 10.0, dtype=torch.complex128), lines(5, 64)
    image += 0.5 * torch.cos(torch.arange(64) * 2.5)[:, None]
    same = torch.full((4, 64, 64), 0.5, dtype=torch.complex128)
    apart = torch.zeros_like(same)
    for coil in range(4):
        apart[coil, 16 * coil : 16 * coil + 16] = 1
    weights = [phase_constraint_weight(fft2c(maps * image) * mask, mask, maps) for maps in (same, apart)]
    assert weights == pytest.approx([0.5, 0.5 / 16], rel=0.02)
    mixed, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.complex128))
    maps = torch.einsum("cd,dhw->chw", mixed, apart)
    assert phase_constraint_weight(fft2c(maps * image) * mask, mask, maps) == pytest.approx(weights[1], rel=1e-6)


def test_without_a_centre_nothing_is_constrained() -> None:
    mask, maps = torch.arange(WIDTH) % 4 == 1, torch.ones(1, HEIGHT, WIDTH)
    assert phase_constraint_weight(fft2c(positive())[None] * mask, mask, maps) == 0.0


# --- the estimate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coils", [1, 4])
def test_it_is_nearer_an_image_of_smooth_phase_than_zero_filling(coils: int) -> None:
    magnitude = object_with_edges()
    field = functional.smooth_phase(magnitude.shape, np.random.default_rng(3), 2.0)
    image = magnitude * torch.exp(1j * torch.from_numpy(field))
    maps = None if coils == 1 else coil_maps(coils, *magnitude.shape)
    mask = functional.cartesian_mask(96, 3, "random", seed=2)
    kspace = fft2c(image if maps is None else maps * image) * mask
    estimate, phase = CompressedSensing()(kspace, mask, maps)
    truth = image * phase.conj()
    zero_filled = functional.zero_filled(kspace, maps) * phase.conj()
    assert float((channels_to_complex(estimate) - truth).norm()) < 0.97 * float((zero_filled - truth).norm())


# --- the transforms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coils", [None, 3])
def test_array_and_dictionary_forms(coils: int | None) -> None:
    maps = None if coils is None else coil_maps(coils, HEIGHT, WIDTH).to(torch.complex64)
    image = (positive() * torch.exp(1j * torch.linspace(0, 2, WIDTH).double())).to(torch.complex64)
    mask = lines(5).reshape((1,) * (1 if coils is None else 2) + (-1,))
    kspace = fft2c(image if maps is None else maps * image) * mask
    estimate, phase = CompressedSensing()(kspace, mask, maps)
    assert estimate.shape == (2, HEIGHT, WIDTH) and estimate.dtype == torch.float32
    assert phase.shape == (HEIGHT, WIDTH) and phase.dtype == torch.complex64
    assert torch.equal(phase, phase_reference(kspace, mask, maps))
    stack, weights = (kspace[None], phase[None]) if maps is None else (kspace, maps * phase)
    strength = phase_constraint_weight(stack, mask, weights)
    expected = l1_wavelet(stack, weights, mask=mask, phase_weight=strength)
    assert torch.equal(estimate, complex_to_channels(expected))

    item: dict[Any, Any] = {"kspace": kspace, "mask": mask, "mu": ZeroFilled()(kspace, maps), "key": "a:0"}
    item |= {"image": complex_to_channels(image), "reference": image.abs()}
    if maps is not None:
        item["sensitivity_maps"] = maps
    before = dict(item)
    result = CompressedSensingd("image")(item)
    assert item.keys() == before.keys() and all(item[k] is before[k] for k in item)
    assert result.keys() == item.keys() | {"phase", "zero_filled"}
    assert torch.equal(result["mu"], estimate) and torch.equal(result["phase"], phase)
    assert result["zero_filled"] is item["mu"]
    assert torch.allclose(channels_to_complex(result["image"]) * phase, image, atol=1e-6)
    for key in ("kspace", "mask", "reference", "key"):
        assert result[key] is item[key]


def test_a_key_that_is_missing() -> None:
    kspace, mask = torch.randn(16, 16, dtype=torch.complex64), torch.ones(1, 16, dtype=torch.bool)
    item = {"kspace": kspace, "mask": mask, "mu": ZeroFilled()(kspace)}
    assert "image" not in CompressedSensingd("image", allow_missing_keys=True)(item)
    with pytest.raises(KeyError, match="image"):
        CompressedSensingd("image")(item)


def test_what_the_transform_refuses() -> None:
    kspace, maps = torch.ones(2, 4, 6, dtype=torch.complex64), torch.ones(2, 4, 6, dtype=torch.complex64)
    mask = torch.ones(6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"kspace has shape \(2, 4, 6\); accepted: \(H, W\), or"):
        CompressedSensing()(kspace, mask)
    with pytest.raises(ValueError, match=r"kspace has shape \(4, 6\)"):
        CompressedSensing()(kspace[0], mask, maps)
    points = torch.ones(2, 4, 6, dtype=torch.bool)
    points[0, 1, 2] = False
    with pytest.raises(ValueError, match=r"mask of shape \(2, 4, 6\) differs between coils"):
        CompressedSensing()(kspace[0], points)
