from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import sigpy.mri
import torch

from monai_d3gm.consistency import CoilMapError, espirit_maps, fft2c
from monai_d3gm.consistency.coils import calibration_width

SIZE = 48
TRUE_MAPS = torch.from_numpy(sigpy.mri.birdcage_maps((8, SIZE, SIZE)))
PHANTOM = torch.from_numpy(sigpy.shepp_logan((SIZE, SIZE)))
KSPACE = fft2c(TRUE_MAPS * PHANTOM).to(torch.complex64)


def centre(lines: int) -> torch.Tensor:
    mask = torch.arange(SIZE) % 4 == 0
    mask[SIZE // 2 - lines // 2 : SIZE // 2 - lines // 2 + lines] = True
    return mask


@pytest.mark.parametrize(("lines", "tolerance"), [(24, 0.01), (12, 0.01), (8, 0.06)])
def test_simulated_coils_are_found_up_to_the_phase(lines: int, tolerance: float) -> None:
    mask = centre(lines)
    maps = espirit_maps(KSPACE * mask, mask)
    inside = PHANTOM.abs() > 0.05
    # The true maps with the first coil's phase removed; ESPIRiT's own error at a small calibration region is what
    # the tolerance on the median pixel allows.
    true = (TRUE_MAPS * (TRUE_MAPS[0].conj() / TRUE_MAPS[0].abs())).to(torch.complex64)
    error = (maps - true).abs().square().sum(0).sqrt()[inside]
    assert maps.dtype == torch.complex64 and maps.shape == KSPACE.shape
    assert float(error.median()) < tolerance
    energy = maps.abs().square().sum(0)
    assert torch.allclose(energy[energy > 0], torch.ones(()), atol=1e-4)
    assert float((energy[inside] > 0).float().mean()) > 0.99


def test_the_mask_is_found_from_the_data() -> None:
    mask = centre(16)
    assert torch.equal(espirit_maps(KSPACE * mask), espirit_maps(KSPACE * mask, mask))
    assert not torch.equal(espirit_maps(KSPACE * mask), espirit_maps(KSPACE * mask, calib_width=12))


def test_a_dead_first_coil_gives_finite_maps() -> None:
    kspace = KSPACE.clone()
    kspace[0] = 0
    assert bool(torch.isfinite(espirit_maps(kspace)).all())


def test_calibration_width() -> None:
    sampled = torch.zeros(11, 14, dtype=torch.bool)
    assert calibration_width(sampled) == 0
    sampled[5, 7] = True
    assert calibration_width(sampled) == 1
    sampled[4:6, 6:8] = True
    assert calibration_width(sampled) == 2
    assert calibration_width(torch.ones(11, 14, dtype=torch.bool)) == 11


@pytest.mark.parametrize("mask", [torch.arange(SIZE) % 2 == 0, centre(6)])
def test_without_a_calibration_region(mask: torch.Tensor) -> None:
    with pytest.raises(CoilMapError, match="fully sampled square .* give sensitivity_maps"):
        espirit_maps(KSPACE * mask, mask)
    assert issubclass(CoilMapError, ValueError)


def test_calibration_region_smaller_than_asked_for() -> None:
    with pytest.raises(CoilMapError, match="12 pixels wide, and ESPIRiT needs at least 20"):
        espirit_maps(KSPACE, centre(12), calib_width=20)


@pytest.mark.parametrize(
    ("kspace", "mask", "width", "message"),
    [
        (KSPACE[0], None, None, r"kspace must be complex \(coils, H, W\)"),
        (KSPACE[:1], None, None, "at least two coils"),
        (KSPACE.abs(), None, None, "kspace must be complex"),
        (KSPACE * float("nan"), None, None, "kspace must be finite"),
        (KSPACE, torch.ones(SIZE), None, "mask must be boolean"),
        (KSPACE, torch.ones(SIZE + 1, dtype=torch.bool), None, "does not fit"),
        (KSPACE, None, 4, "calib_width must be at least 8, got 4"),
    ],
)
def test_bad_arguments(kspace: torch.Tensor, mask: torch.Tensor | None, width: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        espirit_maps(kspace, mask, width)


@pytest.mark.skipif("D3GM_DATA" not in os.environ, reason="D3GM_DATA does not name the folder of real data")
def test_real_variable_density_data() -> None:
    """Its 2-D pattern has no fully sampled line, but a fully sampled square of 24 pixels at the centre."""
    kspace = torch.from_numpy(np.load(Path(os.environ["D3GM_DATA"]) / "kspace" / "brain_8coil_undersampled.npy"))
    sampled = (kspace != 0).any(0)
    assert not bool(sampled.all(0).any()) and calibration_width(sampled) == 24
    energy = espirit_maps(kspace).abs().square().sum(0)
    assert torch.allclose(energy[energy > 0], torch.ones(()), atol=1e-4)
    sampled[sampled.shape[0] // 2, sampled.shape[1] // 2] = False
    with pytest.raises(CoilMapError, match="0 pixels wide"):
        espirit_maps(kspace, sampled)
