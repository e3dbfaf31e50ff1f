"""The L1-wavelet baseline: limits, invariances, and that it beats zero-filling."""

from __future__ import annotations

import os
from pathlib import Path

import fastmri
import nibabel
import numpy as np
import pytest
import torch
from fastmri.data.subsample import RandomMaskFunc
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from monai_d3gm.baselines.l1_wavelet import l1_wavelet, tune_l1_wavelet
from monai_d3gm.metrics import evaluate_images


def transform(image: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(fastmri.fft2c(torch.view_as_real(image.to(torch.complex64))))


def inverse(kspace: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(fastmri.ifft2c(torch.view_as_real(kspace)))


def column_mask(width: int, acceleration: float, seed: int = 0) -> torch.Tensor:
    mask, _ = RandomMaskFunc([0.32 / acceleration], [acceleration])((1, width, 2), seed=seed)
    return mask[..., 0] > 0


def measure(image: torch.Tensor, mask: torch.Tensor, noise_std: float = 0.0) -> torch.Tensor:
    noise = torch.randn(image.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    return (transform(image) + noise_std * 2**0.5 * noise) * mask


@pytest.fixture(scope="module")
def phantom() -> torch.Tensor:
    """The Shepp-Logan phantom with a phase of up to half a turn across the image, 96 x 80."""
    magnitude = torch.from_numpy(resize(shepp_logan_phantom(), (96, 80), anti_aliasing=True)).float()
    return torch.polar(magnitude, torch.linspace(0, np.pi, 80).expand(96, 80).contiguous())


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    return column_mask(80, 3)


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return evaluate_images(image.abs(), truth.abs())["psnr/slice/whole"]


def test_full_sampling_without_regularisation_is_the_inverse_transform(phantom: torch.Tensor) -> None:
    result = l1_wavelet(transform(phantom), regularisation=1e-7)
    assert result.dtype == torch.complex64 and result.shape == phantom.shape
    assert torch.allclose(result, phantom, atol=1e-5)


def test_regularisation_beyond_every_coefficient_gives_zero(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    assert l1_wavelet(measure(phantom, mask), regularisation=1e4).abs().max() == 0


def test_it_beats_zero_filling(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    # the phantom is sparse in wavelets: 1 dB, far below what is observed, only tells working from broken
    assert psnr(l1_wavelet(kspace), phantom) > psnr(inverse(kspace), phantom) + 1.0


def test_unsampled_positions_are_not_pulled_to_zero(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask)
    truth, unsampled = transform(phantom), ~mask[0]
    completed = transform(l1_wavelet(kspace))
    # what is filled in is nearer to the truth than the zeros that zero-filling puts there
    assert (completed - truth)[:, unsampled].norm() < 0.95 * truth[:, unsampled].norm()
    # taken for measurements, the same zeros hold it down
    held = transform(l1_wavelet(kspace, mask=torch.ones_like(mask)))
    assert completed[:, unsampled].norm() > 3 * held[:, unsampled].norm()


def test_the_mask_is_found_in_the_kspace(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    assert torch.equal(l1_wavelet(kspace), l1_wavelet(kspace, mask=mask))


def test_a_mask_says_that_a_zero_was_measured(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask)
    everywhere = l1_wavelet(kspace, mask=torch.ones(1, 80, dtype=torch.bool), regularisation=1e-7)
    assert torch.allclose(everywhere, inverse(kspace), atol=1e-5)
    part = mask & (torch.arange(80) >= 20)  # a mask leaves out what it excludes, zero or not
    assert torch.equal(l1_wavelet(kspace, mask=part), l1_wavelet(kspace * part))


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_result_follows_the_unit_of_the_kspace(phantom: torch.Tensor, mask: torch.Tensor, scale: float) -> None:
    kspace = measure(phantom, mask, 0.01)
    expected = l1_wavelet(kspace)
    assert torch.allclose(l1_wavelet(kspace * scale) / scale, expected, atol=1e-4)


def test_it_is_repeatable(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    first = l1_wavelet(kspace)
    np.random.seed(5)  # noqa: NPY002 - the generator that SigPy's power iteration would use
    assert torch.equal(first, l1_wavelet(kspace))


def test_coils_with_equal_maps_are_one_coil(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    maps = torch.full((2, 96, 80), 0.5**0.5, dtype=torch.complex64)
    maps[1] *= 1j  # of sum of squares 1: the normal operator is that of one coil
    assert torch.allclose(l1_wavelet(maps * kspace, maps, mask=mask[None]), l1_wavelet(kspace), atol=1e-4)


def test_tuning_finds_the_best_of_the_grid(phantom: torch.Tensor) -> None:
    pairs = [(measure(phantom, column_mask(80, 3, seed), 0.02), phantom.abs()) for seed in (0, 1)]
    best, table = tune_l1_wavelet(iter(pairs), [1e-4, 0.02, 2.0], max_iter=10)
    assert list(table) == [1e-4, 0.02, 2.0]
    assert best == 0.02 == max(table, key=lambda value: table[value])
    expected = np.mean([psnr(l1_wavelet(k, regularisation=0.02, max_iter=10), phantom) for k, _ in pairs])
    assert table[0.02] == pytest.approx(expected)


def test_gain_on_a_real_image() -> None:
    folder = os.environ.get("D3GM_DATA")
    path = Path(folder or "", "mri", "open_ms", "patient01_study1_T2W.nii.gz")
    if not folder or not path.is_file():
        pytest.skip("needs the open_ms volumes under D3GM_DATA")
    volume = nibabel.load(path)
    plane = torch.from_numpy(np.asarray(volume.dataobj[:, :, volume.shape[2] // 2], dtype=np.float32))
    spectrum = transform(plane)  # the scanner interpolated: keep the acquired 0.7 x 0.9 of it
    truth = inverse(spectrum[61:345, 23:425]).abs()
    noise_std = float(truth[truth > 0.1 * truth.max()].mean()) / 30
    kspace = measure(truth, column_mask(402, 4), noise_std)
    # +0.98 dB in the tuning's draw of mask and noise (the mean of nine slices is +0.57)
    assert psnr(l1_wavelet(kspace), truth) > psnr(inverse(kspace), truth) + 0.5


def test_what_is_refused(phantom: torch.Tensor) -> None:
    kspace = transform(phantom)
    coils = kspace.expand(2, -1, -1)
    with pytest.raises(ValueError, match="kspace is torch.float32"):
        l1_wavelet(phantom.abs())
    with pytest.raises(ValueError, match="non-finite"):
        l1_wavelet(kspace * float("nan"))
    with pytest.raises(ValueError, match="kspace is 0 wherever"):
        l1_wavelet(torch.zeros_like(kspace))
    with pytest.raises(ValueError, match="sensitivity_maps is None"):
        l1_wavelet(coils)
    with pytest.raises(ValueError, match=r"sensitivity_maps has shape \(96, 80\)"):
        l1_wavelet(coils, torch.ones_like(kspace))
    with pytest.raises(ValueError, match="sum of squares of 2"):
        l1_wavelet(coils, torch.ones_like(coils))
    with pytest.raises(ValueError, match=r"mask is torch.bool of shape \(1, 81\)"):
        l1_wavelet(kspace, mask=torch.ones(1, 81, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask is torch.float32"):
        l1_wavelet(kspace, mask=torch.ones(1, 80))
    with pytest.raises(ValueError, match="regularisation is 0"):
        l1_wavelet(kspace, regularisation=0)
    with pytest.raises(ValueError, match="max_iter is 0"):
        l1_wavelet(kspace, max_iter=0)
    with pytest.raises(ValueError, match="Unknown wavelet name 'db4x'"):
        l1_wavelet(kspace, wavelet="db4x")
    with pytest.raises(ValueError, match="grid is empty"):
        tune_l1_wavelet([(kspace, phantom.abs())], [])
    with pytest.raises(ValueError, match="pairs is empty"):
        tune_l1_wavelet([], [0.1])
