from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_checks import assert_adjoint, dense, randn
from torch import Tensor

from monai_d3gm.consistency import DownsamplingConsistency, fft2c

FACTORS = [(1, 1), (2, 2), (3, 3), (4, 2), (1, 3)]
KERNEL = torch.tensor([[0.0, 0.1, 0.05], [0.2, 0.4, 0.1], [0.0, 0.1, 0.05]], dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    st.integers(2, 6), st.integers(2, 6), st.sampled_from(FACTORS), st.sampled_from([None, torch.ones(1, 1), KERNEL])
)
def test_operator_has_its_adjoint(
    height: int, width: int, factor: tuple[int, int], kernel: torch.Tensor | None
) -> None:
    operator = DownsamplingConsistency(uniform(2, 3, height, width), factor, kernel=kernel)
    x = randn(2, *operator.image_shape, dtype=torch.float64)
    assert_adjoint(operator.forward, operator.adjoint, x)


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(FACTORS))
def test_truncation_is_the_crop_of_the_spectrum(height: int, width: int, factor: tuple[int, int]) -> None:
    low = uniform(1, 1, height, width)
    operator = DownsamplingConsistency(low, factor)
    x = randn(1, *operator.image_shape, dtype=torch.float64)
    # numpy's convention: frequencies -n//2 .. (n-1)//2 of the fine spectrum are kept. One axis after the other, the
    # real part of the plain crop is the mean of the frequencies n/2 and -n/2.
    expected = x
    for dim, (n, f) in zip((-2, -1), ((height, factor[0]), (width, factor[1])), strict=True):
        frequencies = torch.fft.fftfreq(n, 1 / n).round().long()
        crop = torch.fft.fft(expected, dim=dim, norm="forward").index_select(dim, frequencies % (n * f))
        expected = torch.fft.ifft(crop, dim=dim, norm="forward").real
    assert torch.allclose(operator.forward(x), expected, rtol=0, atol=1e-12)


def test_truncation_keeps_the_first_pixel_in_place_and_blocks_are_means() -> None:
    # A band-limited image is sampled at 0, f, 2 f, ...: the interpolant passes through its own samples.
    wave = torch.cos(2 * torch.pi * (torch.arange(24.0, dtype=torch.float64) / 24 - 0.1))
    x = (0.5 + 0.3 * wave[:, None] * wave)[None, None]
    low = uniform(1, 1, 8, 8)
    assert torch.allclose(DownsamplingConsistency(low, 3).forward(x), x[..., ::3, ::3], rtol=0, atol=1e-12)
    blocks = DownsamplingConsistency(low, 3, kernel=torch.ones(1, 1))
    expected = torch.nn.functional.avg_pool2d(x, 3)
    assert torch.allclose(blocks.forward(x), expected, rtol=0, atol=1e-12)


def test_blur_is_a_convolution_that_keeps_constants_at_the_border() -> None:
    operator = DownsamplingConsistency(uniform(1, 1, 4, 4), 2, kernel=KERNEL)
    constant = torch.full((1, 1, 8, 8), 0.7, dtype=torch.float64)
    assert torch.allclose(operator.forward(constant), torch.full((1, 1, 4, 4), 0.7, dtype=torch.float64))
    impulse = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    impulse[..., 4, 4] = 1
    # Convolution puts the kernel's first element at (3, 3): block means of the image with the kernel placed at 3..5.
    image = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    image[..., 3:6, 3:6] = KERNEL
    assert torch.allclose(operator.forward(impulse), torch.nn.functional.avg_pool2d(image, 2))


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from(FACTORS))
def test_hard_projection_by_truncation(height: int, width: int, factor: tuple[int, int]) -> None:
    low = uniform(2, 2, height, width)
    consistency = DownsamplingConsistency(low, factor)
    x = uniform(2, *consistency.image_shape, seed=1)
    projected = consistency(x, 0.5)
    assert torch.allclose(consistency.forward(projected), low, rtol=0, atol=1e-12)
    assert torch.allclose(consistency(projected, 0.5), projected, rtol=0, atol=1e-12)
    # Frequencies above the measured band are the prediction's.
    change = fft2c(projected - x)
    above = (torch.arange(change.shape[-2]) - change.shape[-2] // 2).abs() > height / 2
    assert float(change[..., above, :].abs().sum()) < 1e-10


def test_hard_projection_by_blur() -> None:
    low = uniform(2, 1, 8, 9).float()
    consistency = DownsamplingConsistency(low, 2, kernel=KERNEL)
    projected = consistency(uniform(2, 1, 16, 18, seed=1).float(), 0.5)
    residual = consistency.adjoint(consistency.forward(projected) - low)
    assert float(residual.norm() / consistency.adjoint().norm()) <= 1e-5  # the promise of the documentation
    assert projected.dtype == torch.float32


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3)])
def test_minimiser_against_a_dense_solve(shape: tuple[int, int], noise: float, kernel: torch.Tensor | None) -> None:
    gamma = 0.2
    low = uniform(1, 1, *shape)
    consistency = DownsamplingConsistency(low, 2, kernel=kernel, noise_std=noise, prior_std=gamma)
    x0 = uniform(1, *consistency.image_shape, seed=2)
    matrix = dense(consistency.forward, consistency.image_shape)
    residual = (low - consistency.forward(x0)).flatten()
    # LAPACK on the normal equations, and its pseudo-inverse for the hard projection.
    if noise:
        left = matrix.mT @ matrix / noise**2 + torch.eye(x0.numel(), dtype=torch.float64) / gamma**2
        change = torch.linalg.solve(left, matrix.mT @ residual / noise**2)
    else:
        change = torch.linalg.pinv(matrix) @ residual
    assert torch.allclose(consistency(x0, 0.3), x0 + change.reshape(x0.shape), atol=1e-12 if kernel is None else 1e-4)


@pytest.mark.parametrize("kernel", [None, KERNEL])
def test_batches_selection_and_gradient(kernel: torch.Tensor | None) -> None:
    noise = torch.linspace(0, 0.2, 8)
    consistency = DownsamplingConsistency(uniform(8, 1, 4, 5), (2, 3), kernel=kernel, noise_std=noise)
    x = uniform(8, 1, 8, 15, seed=3)
    bound = consistency.with_prior_std(lambda t: 0.1 + 0.1 * t)
    t = torch.linspace(0, 1, 8)
    together = bound(x, t)
    for i in range(8):
        assert torch.allclose(together[[i]], bound.select([i])(x[[i]], t[[i]]), atol=1e-5)
    repeated = bound.select([2, 2, 0])
    assert torch.allclose(repeated(x[[2, 2, 0]], t[[2, 2, 0]]), together[[2, 2, 0]], atol=1e-5)
    assert torch.equal(bound.to("cpu")(x, t), together)
    # Affine with a symmetric linear part: its product with a direction is the gradient.
    direction = uniform(8, 1, 8, 15, seed=4)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((bound(x, t) * direction).sum(), x)
    linear = bound(direction, t) - bound(torch.zeros_like(direction), t)
    assert torch.allclose(gradient, linear, atol=1e-4)


def test_autocast_does_not_reach_the_projection() -> None:
    consistency, x = DownsamplingConsistency(uniform(1, 1, 4, 4).float(), 2), uniform(1, 1, 8, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = consistency(x, 0.5)
    assert torch.equal(inside, consistency(x, 0.5))


@pytest.mark.parametrize(
    ("low", "factor", "kernel", "message"),
    [
        (torch.zeros(1, 4, 4), 2, None, r"accepted: real of shape \(B, C, h, w\)"),
        (torch.zeros(1, 1, 4, 4, dtype=torch.complex64), 2, None, "low_resolution is torch.complex64"),
        (torch.full((1, 1, 4, 4), float("inf")), 2, None, "low_resolution holds 16 of 16"),
        (torch.zeros(1, 1, 4, 4), 0, None, "factor is 0; accepted: an integer >= 1"),
        (torch.zeros(1, 1, 4, 4), 1.5, None, "factor is 1.5"),
        (torch.zeros(1, 1, 4, 4), (2, 2, 2), None, "factor is .2, 2, 2."),
        (torch.zeros(1, 1, 4, 4), 2, torch.ones(2, 3), "kernel has shape .* odd sides"),
        (torch.zeros(1, 1, 4, 4), 2, torch.ones(17, 1), "accepted: sides below twice those of the images"),
        (torch.zeros(1, 1, 4, 4), 2, torch.full((1, 1), float("nan")), "kernel holds 1 of 1"),
    ],
)
def test_bad_arguments(low: torch.Tensor, factor: int, kernel: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DownsamplingConsistency(low, factor, kernel=kernel)


def test_bad_call() -> None:
    with pytest.raises(ValueError, match=r"accepted: real of shape \(1, 1, 8, 8\)"):
        DownsamplingConsistency(torch.zeros(1, 1, 4, 4), 2)(torch.zeros(1, 1, 4, 4), 0.5)


# --- gamma from the residual ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [None, torch.rand(5, 3, generator=torch.Generator().manual_seed(1))])
def test_gain_is_the_trace_of_the_operator(kernel: Tensor | None) -> None:
    """tr(A A^T) / m, from the dense matrix; away from the border, which the blur reflects, its rows are alike."""
    consistency = DownsamplingConsistency(torch.rand(1, 1, 6, 8, dtype=torch.float64), 4, kernel=kernel)
    columns = torch.eye(24 * 32, dtype=torch.float64).reshape(-1, 1, 24, 32)
    rows = consistency.forward(columns).square().sum(0)[0]
    expected = rows.mean() if kernel is None else rows[1:-1, 1:-1].mean()
    assert consistency.gain == pytest.approx(float(expected), rel=1e-9)


def test_gamma_from_the_residual_leaves_alone_what_explains_the_measurement() -> None:
    """One image misses the measurement by half of the noise, the other by ten times of it, both by a constant."""
    truth = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    y = DownsamplingConsistency(torch.zeros(2, 1, 7, 7, dtype=torch.float64), 4).forward(truth)
    consistency = DownsamplingConsistency(y, 4, noise_std=0.1, prior_std="residual")
    off = torch.tensor([0.05, 1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    restored = consistency(truth + off, 1.0)
    assert torch.equal(restored[0], (truth + off)[0])
    # r^2 = 1, so that gamma^2 g = 1 - 0.01; n is odd and A A^T = g I: r s^2 / (g gamma^2 + s^2) is left
    assert float(consistency.residual(restored)[1]) == pytest.approx(0.01, rel=1e-6)


def test_gamma_from_the_residual_has_the_size_of_white_errors() -> None:
    """The weight found for errors of a known gamma is close to gamma^2 / (gamma^2 + s^2), for every item by itself."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 1, 256, 256, generator=generator)
    gamma, s = torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1), 0.2
    y = DownsamplingConsistency(torch.zeros(3, 1, 128, 128), 2).forward(truth)
    y = y + s * torch.randn(y.shape, generator=generator)
    x0_hat = truth + gamma * torch.randn(truth.shape, generator=generator)
    adaptive = DownsamplingConsistency(y, 2, noise_std=s, prior_std="residual")(x0_hat, 0.5)
    stated = DownsamplingConsistency(y, 2, noise_std=s)
    for i in range(3):
        expected = stated.select([i]).with_prior_std(lambda t, i=i: float(gamma[i]))(x0_hat[i : i + 1], 0.5)
        part = (expected - x0_hat[i : i + 1]).norm()
        assert float((adaptive[i : i + 1] - expected).norm() / part) < 0.05


def test_gamma_from_the_residual_can_be_scaled() -> None:
    """Of one image and no other noise: half of the gamma that the residual r shows, gamma^2 g = (r^2 - s^2) / 4."""
    y = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    consistency = DownsamplingConsistency(y, 4, noise_std=0.1, prior_std="residual").with_prior_scale(0.5)
    restored = consistency(torch.ones(1, 1, 28, 28, dtype=torch.float64), 1.0)
    left = 0.01 / ((1 - 0.01) / 4 + 0.01)
    assert float(consistency.residual(restored)) == pytest.approx(left, rel=1e-6)


def test_a_hard_projection_needs_no_gamma() -> None:
    consistency = DownsamplingConsistency(y := torch.rand(1, 1, 4, 4), 2, prior_std="residual")
    assert torch.allclose(consistency.forward(consistency(torch.rand(1, 1, 8, 8), 0.3)), y, atol=1e-5)
    with pytest.raises(ValueError, match="prior_std is 'x'; accepted: .* or 'residual'"):
        DownsamplingConsistency(y, 2, prior_std="x")
