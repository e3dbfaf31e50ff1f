"""Virtual coils: white, few, and with the way back to the scan's own shading."""

from __future__ import annotations

import pytest
import sigpy.mri
import torch

from monai_d3gm.consistency import fft2c, ifft2c, prepare_coils
from monai_d3gm.consistency.coils import ENERGY, compression_matrix

SIZE = 64
ROWS, COLUMNS = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
IMAGE = torch.exp(-((ROWS**2 / 0.3 + COLUMNS**2 / 0.4) ** 2)).to(torch.complex64)
"""Smooth, so that the outer samples hold noise alone."""


def scan(coils: int, noise_std: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """K-space with correlated noise of a birdcage coil whose channels have gains of their own; without noise too."""
    gains = torch.linspace(0.5, 2.0, coils)[:, None, None]
    signal = fft2c(gains * torch.from_numpy(sigpy.mri.birdcage_maps((coils, SIZE, SIZE))).to(torch.complex64) * IMAGE)
    generator = torch.Generator().manual_seed(coils)
    mixing = torch.eye(coils) + 0.3 * torch.randn(coils, coils, generator=generator, dtype=torch.complex64)
    noise = torch.view_as_complex(torch.randn(coils, SIZE, SIZE, 2, generator=generator))
    return signal + noise_std * torch.einsum("cd,dhw->chw", mixing, noise), signal


@pytest.mark.parametrize("coils", [2, 4, 12])
def test_the_noise_is_white_and_of_the_stated_level(coils: int) -> None:
    kspace, signal = scan(coils)
    system = prepare_coils(kspace)
    noise = system.apply(kspace - signal).flatten(1)
    covariance = noise @ noise.mH / (2 * noise.shape[1] * system.noise_std**2)
    # from 40 samples a coil or a tenth of 4096 the eigenvalues are known to about a quarter
    assert torch.allclose(covariance, torch.eye(len(noise), dtype=covariance.dtype), atol=0.35)


def test_from_eight_coils_on_they_are_compressed() -> None:
    assert len(prepare_coils(scan(7)[0]).matrix) == 7
    system = prepare_coils(scan(12)[0])
    assert 2 <= len(system.matrix) < 8 and system.energy >= ENERGY
    assert system.describe()["virtual_coils"] == len(system.matrix)
    assert len(prepare_coils(scan(12)[0], virtual=9).matrix) == 9


def test_compression_keeps_what_it_says() -> None:
    """Rank 3 by construction: three virtual coils hold all energy, two what the singular values say."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(10, 3, generator=generator, dtype=torch.complex128))
    sources = torch.linalg.qr(torch.randn(64, 3, generator=generator, dtype=torch.complex128))[0].mH
    kspace = (basis @ (torch.tensor([3.0, 2.0, 1.0], dtype=torch.complex128)[:, None] * sources)).reshape(10, 8, 8)
    matrix, held = compression_matrix(kspace, 0.0)
    assert len(matrix) == 3 and held == pytest.approx(1)
    assert compression_matrix(kspace, 0.0, 2)[1] == pytest.approx(13 / 14)
    assert torch.allclose(matrix @ matrix.mH, torch.eye(3, dtype=matrix.dtype), atol=1e-9)


@pytest.mark.parametrize("coils", [4, 12])
def test_the_intensity_leads_back_to_the_coils_of_the_scan(coils: int) -> None:
    kspace, signal = scan(coils)
    system = prepare_coils(kspace)
    image = (system.sensitivity.maps.conj() * ifft2c(system.apply(signal))).sum(0)
    expected = ifft2c(signal).abs().square().sum(0).sqrt()
    inside = IMAGE.abs() > 0.3
    assert torch.allclose((image.abs() * system.intensity)[inside], expected[inside], rtol=0.06)


def test_coils_of_noise_alone_do_no_harm() -> None:
    kspace, signal = scan(4)
    noise = 0.05 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.complex64)
    with_noise = prepare_coils(torch.cat([kspace, noise]))
    maps = with_noise.sensitivity.maps
    inside = IMAGE.abs() > 0.3
    image = (maps.conj() * ifft2c(with_noise.apply(torch.cat([signal, 0 * noise])))).sum(0)
    expected = ifft2c(signal).abs().square().sum(0).sqrt()
    assert torch.allclose((image.abs() * with_noise.intensity)[inside], expected[inside], rtol=0.03)


def test_an_exact_fit_of_several_coils_is_refused() -> None:
    with pytest.raises(ValueError, match="noise_std is 0.0 with 4 coils; accepted: above 0"):
        prepare_coils(scan(4)[0], noise_std=0.0)
    assert prepare_coils(scan(4)[0], noise_std=0.02).noise_std == 0.02
