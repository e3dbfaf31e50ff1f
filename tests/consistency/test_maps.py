"""Maps against those that made the data, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import sigpy.mri
import torch

from monai_d3gm.consistency import CoilMapError, estimate_maps, fft2c
from monai_d3gm.consistency.maps import adaptive_maps, calibration_region, espirit_maps, given_maps

SIZE = 48
TRUE_MAPS = torch.from_numpy(sigpy.mri.birdcage_maps((8, SIZE, SIZE))).to(torch.complex64)
PHANTOM = torch.from_numpy(sigpy.shepp_logan((SIZE, SIZE))).to(torch.complex64)
KSPACE = fft2c(TRUE_MAPS * PHANTOM)
INSIDE = PHANTOM.abs() > 0.05


def centre(lines: int) -> torch.Tensor:
    mask = torch.arange(SIZE) % 4 == 0
    mask[SIZE // 2 - lines // 2 : SIZE // 2 - lines // 2 + lines] = True
    return mask


def error(maps: torch.Tensor, true: torch.Tensor = TRUE_MAPS) -> torch.Tensor:
    """1 - |s^H t|^2 by pixel: 0 where two unit vectors agree up to a phase."""
    return 1 - (maps.conj() * true).sum(0).abs().square()


@pytest.mark.parametrize(("lines", "tolerance"), [(24, 1e-4), (12, 3e-4), (8, 5e-3), (5, 0.02)])
def test_simulated_coils_are_found_up_to_the_phase(lines: int, tolerance: float) -> None:
    mask = centre(lines)
    found = estimate_maps(KSPACE * mask, mask)
    assert found.maps.dtype == torch.complex64 and found.maps.shape == KSPACE.shape
    assert torch.allclose(found.maps.abs().square().sum(0)[INSIDE], torch.ones(()), atol=1e-4)
    assert float(error(found.maps)[INSIDE].median()) < tolerance
    assert found.unexplained < 0.02 and found.centre[1] in (lines, lines + 1)


@pytest.mark.parametrize("lines", [2, 3])
def test_below_four_lines_the_adaptive_maps_are_taken(lines: int) -> None:
    found = estimate_maps(KSPACE * centre(lines), centre(lines))
    assert found.estimator == "adaptive"
    assert torch.allclose(found.maps.abs().square().sum(0)[INSIDE], torch.ones(()), atol=1e-4)


def test_both_estimators_have_a_map_at_every_pixel() -> None:
    rectangle = KSPACE[:, :, 16:32]
    maps, eigenvalue = espirit_maps(rectangle, (SIZE, SIZE))
    for each in (maps, adaptive_maps(rectangle, (SIZE, SIZE))):
        assert torch.allclose(each.abs().square().sum(0), torch.ones(SIZE, SIZE), atol=1e-4)
        assert float(error(each)[INSIDE].median()) < 2e-3
    # one set of maps explains the data: the eigenvalue of the projection is 1
    assert float(eigenvalue[INSIDE].min()) > 0.95 and float(eigenvalue.max()) < 1 + 1e-4


def test_maps_are_interpolated_across_a_turn_of_the_phase() -> None:
    """On a matrix larger than the grid of the eigenvectors nothing is lost where their phases jump."""
    shape = (160, 130)
    true = torch.from_numpy(sigpy.mri.birdcage_maps((4, *shape))).to(torch.complex64)
    image = torch.from_numpy(sigpy.shepp_logan(shape)).to(torch.complex64)
    found = estimate_maps(fft2c(true * image), torch.ones(130, dtype=torch.bool))
    inside = image.abs() > 0.05
    assert float(error(found.maps, true)[inside].max()) < 0.02


def test_the_air_around_the_object_has_no_maps() -> None:
    image = torch.zeros(96, 96, dtype=torch.complex64)
    image[40:60, 30:66] = 1
    true = torch.from_numpy(sigpy.mri.birdcage_maps((4, 96, 96))).to(torch.complex64)
    mask = (torch.arange(96) - 48).abs() < 12
    energy = estimate_maps(fft2c(true * image) * mask, mask).maps.abs().square().sum(0)
    assert (
        bool((energy[40:60, 30:66] > 0.999).all()) and bool((energy[:15] == 0).all()) and bool((energy[85:] == 0).all())
    )
    hole = image.clone()
    hole[46:54, 40:56] = 0  # dark tissue is not air
    energy = estimate_maps(fft2c(true * hole) * mask, mask).maps.abs().square().sum(0)
    assert bool((energy[40:60, 30:66] > 0.999).all())


def test_calibration_region() -> None:
    sampled = torch.zeros(11, 14, dtype=torch.bool)
    assert calibration_region(sampled) == (0, 0)
    sampled[5, 7] = True
    assert calibration_region(sampled) == (1, 1)
    sampled[4:6, 6:8] = True
    assert calibration_region(sampled) == (2, 2)
    assert calibration_region(torch.ones(11, 14, dtype=torch.bool)) == (11, 14)
    lines = ((torch.arange(96) - 48).abs() < 4) | (torch.arange(96) == 44)
    assert calibration_region(lines.expand(200, 96)) == (96, 8)  # 768 samples
    assert calibration_region(torch.ones(400, 400, dtype=torch.bool)) == (32, 32)


def test_what_no_map_explains_is_measured() -> None:
    """Coils that see unrelated noise at each pixel: no single map explains the other seven."""
    noise = torch.view_as_complex(torch.randn(8, SIZE, SIZE, 2, generator=torch.Generator().manual_seed(0)))
    assert estimate_maps(noise, torch.ones(SIZE, dtype=torch.bool)).unexplained > 0.1
    assert estimate_maps(KSPACE, torch.ones(SIZE, dtype=torch.bool)).unexplained < 2e-3


def test_given_maps_are_checked_and_normalised() -> None:
    found = given_maps(3 * TRUE_MAPS, KSPACE)
    assert torch.allclose(found.maps, TRUE_MAPS, atol=1e-5) and found.unexplained < 1e-3
    with pytest.raises(CoilMapError, match="maps of another scan"):
        given_maps(TRUE_MAPS.roll(4, 0), KSPACE)
    unchecked = given_maps(TRUE_MAPS.roll(4, 0), KSPACE, torch.arange(SIZE) % 4 == 1)
    assert unchecked.centre == (0, 0) and unchecked.unexplained == 0


@pytest.mark.parametrize("mask", [torch.arange(SIZE) % 2 == 1, torch.arange(SIZE) % 2 == 0])
def test_without_a_centre(mask: torch.Tensor) -> None:
    with pytest.raises(CoilMapError, match="accepted: 2 lines and more around the centre, or sensitivity maps"):
        estimate_maps(KSPACE * mask, mask)
    assert issubclass(CoilMapError, ValueError)


@pytest.mark.parametrize(
    ("kspace", "mask", "message"),
    [
        (KSPACE[0], None, r"accepted: complex \(coils, H, W\)"),
        (KSPACE[:1], None, "at least two coils"),
        (KSPACE.abs(), None, "kspace is torch.float32"),
        (KSPACE * float("nan"), None, "kspace holds"),
        (KSPACE, torch.ones(SIZE), "mask is torch.float32"),
        (KSPACE, torch.ones(SIZE + 1, dtype=torch.bool), "mask has shape"),
        (0 * KSPACE, torch.ones(SIZE, dtype=torch.bool), "the centre of k-space is zero"),
    ],
)
def test_bad_arguments(kspace: torch.Tensor, mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_maps(kspace, mask)


@pytest.mark.skipif("D3GM_DATA" not in os.environ, reason="D3GM_DATA does not name the folder of real data")
def test_real_variable_density_data() -> None:
    """Its 2-D pattern has no fully sampled line, but a fully sampled square of 24 pixels at the centre."""
    kspace = torch.from_numpy(np.load(Path(os.environ["D3GM_DATA"]) / "kspace" / "brain_8coil_undersampled.npy"))
    found = estimate_maps(kspace)
    assert min(found.centre) >= 24 and found.estimator == "ESPIRiT" and found.unexplained < 0.05
