"""The noise against the level and covariance that were put in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_d3gm.consistency.fourier import fft2c, ifft2c
from monai_d3gm.consistency.noise import (
    beside_field,
    estimate_noise_std,
    noise_covariance,
    outer_samples,
    whitening_matrix,
)


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    """Complex noise of standard deviation 1 per part."""
    return torch.view_as_complex(torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed)))


def smooth_object(rows: int = 128, columns: int = 96) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return torch.exp(-8 * (x**2 + y**2)).to(torch.complex64)


def mixing(coils: int) -> torch.Tensor:
    return torch.eye(coils) + 0.4 * white(coils, coils, seed=1)


def test_the_noise_is_found_around_an_object() -> None:
    """Four standard errors of a median, which is 1.25 s / sqrt(n) of n samples."""
    noise_std = 0.02
    kspace = fft2c(smooth_object()) + noise_std * white(128, 96)
    error = 1.25 * noise_std / (0.1 * 128 * 96) ** 0.5
    assert abs(estimate_noise_std(kspace) - noise_std) < 4 * error


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rounded", [False, True])
def test_padding_holds_no_noise(axis: int, rounded: bool) -> None:
    """Noise of 3 in the inner half, zeros outside: the level of the half, also where a transform rounded the zeros."""
    kspace = 3 * white(128, 128)
    kspace.movedim(axis, 0)[:32] = kspace.movedim(axis, 0)[96:] = 0
    if rounded:
        kspace = fft2c(ifft2c(kspace))
        assert bool((kspace != 0).float().mean() > 0.9)
    assert estimate_noise_std(kspace) == pytest.approx(3, rel=0.1)


@given(share=st.floats(0.15, 1.0), partial=st.booleans())
def test_lines_that_were_not_sampled_hold_none(share: float, partial: bool) -> None:
    mask = torch.from_numpy(np.random.default_rng(0).random(96) < share)
    mask[:30] &= not partial
    mask[48] = True
    assert estimate_noise_std(white(128, 96) * mask) == pytest.approx(1, rel=0.2)


def test_no_samples_no_noise() -> None:
    with pytest.raises(ValueError, match="kspace is zero everywhere"):
        estimate_noise_std(torch.zeros(8, 8, dtype=torch.complex64))


def test_the_corners_come_first() -> None:
    """A tenth of 40 x 20 samples, all beyond the ellipse through the middles of the edges."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(20.0), indexing="ij")
    samples = outer_samples(torch.complex(rows - 20, columns - 10))
    assert 80 <= samples.shape[1] < 90
    assert bool(((samples.real / 20).square() + (samples.imag / 10).square() > 1).all())


@pytest.mark.parametrize("padded", [0, 64])
def test_beside_the_field_of_view_is_noise_alone(padded: int) -> None:
    """An object with sharp edges in the middle half of the readout: its signal reaches the corners of k-space."""
    image = torch.zeros(128, 96, dtype=torch.complex64)
    image[40:90, 20:80] = 1
    measured = fft2c(image) + 2e-3 * white(128, 96)
    kspace = torch.nn.functional.pad(measured, (0, 0, padded, padded))
    assert estimate_noise_std(kspace) > 3e-3
    beside = beside_field(kspace, (128 + 2 * padded) // 2)
    assert estimate_noise_std(beside) == pytest.approx(2e-3, rel=0.1)


def test_without_room_beside_the_field_of_view_all_of_kspace_counts() -> None:
    kspace = white(64, 48)
    assert beside_field(kspace, 64) is kspace and beside_field(kspace, 60) is kspace
    kspace[16:48] = 0
    inside = fft2c(torch.nn.functional.pad(ifft2c(white(32, 48)), (0, 0, 16, 16)))
    assert beside_field(inside, 32) is inside
    zero = torch.zeros(8, 8, dtype=torch.complex64)
    assert beside_field(zero, 4) is zero


@pytest.mark.parametrize("coils", [2, 8])
def test_whitened_coils_are_white(coils: int) -> None:
    """Of 4000 samples a variance is known to 1.6 %, the extreme eigenvalues of 8 coils to about 10 %."""
    mixed = mixing(coils) @ white(coils, 4000)
    whitening = whitening_matrix(noise_covariance(mixed))
    true = mixing(coils).to(torch.complex128)
    left = whitening @ true @ true.mH @ whitening.mH
    assert torch.allclose(left, torch.eye(coils, dtype=torch.complex128), atol=0.15)


def test_signal_among_the_noise_is_left_out() -> None:
    noise = white(4, 2000)
    signal = 40 * white(1, 60, seed=3) * torch.ones(4, 1)
    covariance = noise_covariance(torch.cat([noise, signal], dim=1))
    assert torch.allclose(covariance, 2 * torch.eye(4, dtype=torch.complex128), atol=0.3)


def test_a_coil_that_is_off_stays_harmless() -> None:
    noise = white(3, 2000)
    noise[1] = 0
    whitening = whitening_matrix(noise_covariance(noise))
    assert bool(torch.isfinite(torch.view_as_real(whitening)).all())
    assert float((whitening @ noise.to(whitening))[1].abs().max()) < 1e-6
    with pytest.raises(ValueError, match="samples are all 0"):
        noise_covariance(torch.zeros(2, 100, dtype=torch.complex64))
    with pytest.raises(ValueError, match="3 samples of 3 coils"):
        noise_covariance(white(3, 3))
