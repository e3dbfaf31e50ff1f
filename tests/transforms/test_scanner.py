"""The random scanner: what it draws obeys the forward model that it states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_d3gm.consistency.fourier import fft2c
from monai_d3gm.transforms.kspace.scanner import (
    RandomScanner,
    estimated_maps,
    random_coils,
    random_phase,
    random_structures,
)


def disc(size: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - size / 2
    return (np.hypot(rows, columns) < 0.35 * size).astype(np.float32)


@pytest.mark.parametrize("coils", [1, 2, 8])
def test_kspace_is_the_transform_of_the_coil_images_plus_noise(coils):
    scan = RandomScanner(snr=(20.0, 20.0))(disc(), np.random.default_rng(3), coils)
    clean = fft2c(scan.image if scan.maps is None else scan.maps * scan.image)
    noise = torch.view_as_real(scan.kspace - clean)
    # the mean square of N normal numbers has the relative standard deviation sqrt(2 / N): under 0.02 here
    assert float(noise.std()) == pytest.approx(scan.noise_std, rel=0.05)


@pytest.mark.parametrize("coils", [2, 5, 16])
def test_maps_have_sum_of_squares_one_and_differ(coils):
    maps, shading = random_coils((48, 40), coils, np.random.default_rng(0))
    assert maps.shape == (coils, 48, 40) and shading.shape == (48, 40)
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(48, 40), atol=1e-4, rtol=0)
    gram = torch.einsum("chw,dhw->cd", maps, maps.conj()) / maps[0].numel()
    assert float(torch.linalg.eigvalsh(gram)[-1]) < 0.99  # one eigenvalue of 1: all coils would see the same


def test_noise_floor_reaches_the_background():
    scan = RandomScanner(structures=0, ring=0.0)(disc(), np.random.default_rng(1), 1)
    background = (scan.image.abs() == 0).sum()
    assert int(background) > 1000
    assert float(torch.fft.ifft2(scan.kspace, norm="ortho").abs().min()) > 0


def test_phase_has_a_part_that_the_centre_of_kspace_does_not_show():
    """Over 40 draws the imaginary share of the energy, after the smooth phase, spreads from none to a twelfth."""
    shares = []
    for seed in range(40):
        phase, sign = random_phase(disc(), np.random.default_rng(seed), smooth=0.0)
        field = torch.polar(torch.from_numpy(disc()), torch.from_numpy(phase)) * torch.from_numpy(sign)
        kspace = fft2c(field)
        window = torch.from_numpy(np.hanning(64)[:, None] * np.hanning(64)[None]).float()
        keep = (torch.arange(64) - 32).abs() < 6
        low = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kspace * window * keep * keep[:, None])))
        real = field * torch.polar(torch.ones_like(low.real), -low.angle())
        shares.append(float(real.imag.square().sum() / real.abs().square().sum()))
    assert min(shares) < 0.001 and max(shares) > 0.05


def test_structures_change_only_the_object_without_a_ring():
    image = disc()
    changed = random_structures(image, np.random.default_rng(0), count=6, ring=0.0)
    assert changed.shape == image.shape and not np.array_equal(changed, image)
    assert float(changed.min()) >= 0
    np.testing.assert_array_equal(random_structures(image, np.random.default_rng(0), count=0), image)


def test_estimated_maps_of_a_wide_centre_are_near_the_true_ones():
    maps, _ = random_coils((64, 64), 4, np.random.default_rng(5))
    object_ = torch.from_numpy(disc())
    estimate = estimated_maps(fft2c(maps * object_), 24, np.random.default_rng(0))
    inside = torch.from_numpy(disc() > 0)
    inside[:22], inside[42:], inside[:, :22], inside[:, 42:] = False, False, False, False  # away from the edge
    agreement = (estimate.conj() * maps).sum(0).abs()[inside]  # 1 where they are equal up to a phase
    assert float(agreement.min()) > 0.98


def test_same_generator_same_scan():
    first, second = (RandomScanner()(disc(), np.random.default_rng(9), 3) for _ in range(2))
    assert torch.equal(first.kspace, second.kspace) and first.noise_std == second.noise_std
