"""The classical reconstructions: limits, invariances, closed forms, and that they beat zero-filling."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fastmri
import nibabel
import numpy as np
import pytest
import pywt
import sigpy.mri
import torch
from fastmri.data.subsample import RandomMaskFunc
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from monai_d3gm.baselines import cg_sense, l1_wavelet, total_variation
from monai_d3gm.baselines.operator import as_problem
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


METHODS = [l1_wavelet, total_variation, cg_sense]


@pytest.mark.parametrize("method", METHODS)
def test_full_sampling_without_regularisation_is_the_inverse_transform(method: Any, phantom: torch.Tensor) -> None:
    result = method(transform(phantom), regularisation=1e-7)
    assert result.dtype == torch.complex64 and result.shape == phantom.shape
    assert torch.allclose(result, phantom, atol=1e-5)


def test_what_regularisation_beyond_measure_leaves(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    """Of wavelets the coarsest level, which is not penalised, and of energy nothing."""
    kspace = measure(phantom, mask)
    coarse = pywt.wavedec2(l1_wavelet(kspace, regularisation=1e4).numpy(), "db4", mode="periodization")
    assert np.abs(coarse[0]).max() > 1
    assert float(cg_sense(kspace, regularisation=1e4).abs().max()) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_it_beats_zero_filling(method: Any, phantom: torch.Tensor, mask: torch.Tensor) -> None:
    """With coils that differ; what regularises beyond energy does so with one coil, too.

    1 dB, far below what is observed, only tells working from broken.
    """
    rng = torch.Generator().manual_seed(0)
    maps = torch.from_numpy(sigpy.mri.birdcage_maps((6, 96, 80))).to(torch.complex64)
    noise = 0.01 * 2**0.5 * torch.randn(6, 96, 80, dtype=torch.complex64, generator=rng)
    kspace = (torch.stack([transform(maps[c] * phantom) for c in range(6)]) + noise) * mask
    combined = (maps.conj() * torch.stack([inverse(k) for k in kspace])).sum(0)
    assert psnr(method(kspace, maps, mask=mask), phantom) > psnr(combined, phantom) + 1.0
    if method is not cg_sense:
        kspace = measure(phantom, mask, 0.01)
        assert psnr(method(kspace), phantom) > psnr(inverse(kspace), phantom) + 1.0


@pytest.mark.parametrize("method", METHODS)
def test_the_phase_constraint_helps_a_real_image(method: Any, phantom: torch.Tensor, mask: torch.Tensor) -> None:
    reference = phantom / phantom.abs().clamp_min(1e-6)
    kspace, maps = measure(phantom, mask, 0.01), torch.where(phantom.abs() > 0, reference, 1.0 + 0j)[None]
    free, held = (method(kspace[None], maps, mask=mask, phase_weight=w) for w in (0.0, 0.5))
    assert psnr(held, phantom) > psnr(free, phantom)
    assert held.imag.norm() < 0.5 * free.imag.norm()


def test_the_minimisers_are_stationary(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    """CG-SENSE solves its normal equations; the objective of TV and L1 falls no further by iterating on."""
    kspace = measure(phantom, mask, 0.01)
    problem = as_problem(kspace, phase_weight=0.3)
    x = cg_sense(kspace, regularisation=0.05, phase_weight=0.3) / problem.scale
    assert float((problem.gradient(x) + 0.05 * x).norm() / problem.start.norm()) < 1e-3

    def objective(image: torch.Tensor) -> float:
        x = image / problem.scale
        fit = 0.5 * (x.conj() * (problem.normal(x) - 2 * problem.start)).sum().real + 0.15 * x.imag.square().sum()
        steps = torch.stack([x.roll(-1, axis) - x for axis in (0, 1)]).abs().square().sum(0).sqrt().sum()
        return float(fit + 0.01 * steps)

    values = [
        objective(total_variation(kspace, regularisation=0.01, phase_weight=0.3, max_iter=count))
        for count in (120, 1000)
    ]
    assert values[1] <= values[0] + 1e-3 * abs(values[0]) and abs(values[0] - values[1]) < 5e-3 * abs(values[1])


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


def test_the_weights_are_for_images_whose_percentile_is_one(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    """The scale is NumPy's 99.5th percentile of the zero-filled magnitude, which `start` is divided by."""
    kspace = measure(phantom, mask)
    problem = as_problem(kspace)
    magnitude = inverse(kspace).abs().numpy()
    assert problem.scale == pytest.approx(np.percentile(magnitude, 99.5), rel=1e-5)
    assert float(np.percentile(magnitude, 99)) < 0.999 * problem.scale < 0.999 * float(magnitude.max())
    np.testing.assert_allclose(problem.start.abs().numpy() * problem.scale, magnitude, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e5])
def test_result_follows_the_unit_of_the_kspace(phantom: torch.Tensor, mask: torch.Tensor, scale: float) -> None:
    kspace = measure(phantom, mask, 0.01)
    expected = l1_wavelet(kspace)
    assert torch.allclose(l1_wavelet(kspace * scale) / scale, expected, atol=1e-4)


def test_it_is_repeatable(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    assert torch.equal(l1_wavelet(kspace), l1_wavelet(kspace))
    assert not torch.equal(l1_wavelet(kspace), l1_wavelet(kspace, seed=1))


def test_coils_with_equal_maps_are_one_coil(phantom: torch.Tensor, mask: torch.Tensor) -> None:
    kspace = measure(phantom, mask, 0.01)
    maps = torch.full((2, 96, 80), 0.5**0.5, dtype=torch.complex64)
    maps[1] *= 1j  # of sum of squares 1: the normal operator is that of one coil
    several = l1_wavelet(maps * kspace, maps, mask=mask[None], regularisation=0.01)
    one = l1_wavelet(kspace, regularisation=0.01)
    assert torch.allclose(several, one, atol=1e-4)


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
    with pytest.raises(ValueError, match="phase_weight is -1"):
        l1_wavelet(kspace, phase_weight=-1)
    for method in (total_variation, cg_sense):
        with pytest.raises(ValueError, match="regularisation is -1"):
            method(kspace, regularisation=-1)
        with pytest.raises(ValueError, match="max_iter is 0"):
            method(kspace, max_iter=0)
