from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import sigpy.mri
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_checks import assert_adjoint, dense, randn, stacked
from sigpy.mri.app import SenseRecon

from monai_d3gm.consistency import (
    KspaceConsistency,
    channels_to_complex,
    complex_to_channels,
    fft2c,
    ifft2c,
)

DTYPES = [(torch.complex64, torch.float32, 1e-5), (torch.complex128, torch.float64, 1e-12)]


def line_mask(width: int, seed: int = 0) -> torch.Tensor:
    """Random lines, at least one."""
    mask = torch.rand(width, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[width // 2] = True
    return mask


def coil_maps(coils: int, height: int, width: int, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    """sigpy's simulated birdcage coil, sum of squares 1."""
    return torch.from_numpy(sigpy.mri.birdcage_maps((coils, height, width))).to(dtype)


def phantom(size: int) -> torch.Tensor:
    return torch.from_numpy(sigpy.shepp_logan((size, size))).to(torch.complex128)


def eight_coils(noise: float, size: int = 32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Simulated 8-coil k-space of the Shepp-Logan phantom: (kspace, mask, maps)."""
    maps = coil_maps(8, size, size)
    kspace = fft2c(maps * phantom(size))[None]
    mask = line_mask(size, seed=3)
    mask[size // 2 - 4 : size // 2 + 4] = True
    return kspace + noise * 2**0.5 * randn(*kspace.shape), mask, maps


# One coil.


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["W", "1W", "HW", "B1W", "B11W", "BHW", "H1"]))
def test_hard_projection_for_every_mask_shape(height: int, width: int, form: str) -> None:
    full = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height * 10 + width)) < 0.4
    full[:, height // 2, width // 2] = True
    lines = full[:, height // 2]
    mask = {
        "W": lines[0],
        "1W": lines[:1],
        "HW": full[0],
        "B1W": lines[:, None],
        "B11W": lines[:, None, None],
        "BHW": full,
        "H1": full[0, :, width // 2, None],
    }[form]
    shape = (2, height, width)
    sampled = (mask[:, 0] if form == "B11W" else mask).broadcast_to(shape)
    kspace, prediction = randn(*shape), complex_to_channels(randn(*shape, seed=1))
    consistency = KspaceConsistency(kspace, mask)
    projected = consistency(prediction, 0.3)
    spectrum = fft2c(channels_to_complex(projected))
    # Definition of the projection: the measurement on the mask, the prediction off it.
    expected = torch.where(sampled, kspace, fft2c(channels_to_complex(prediction)))
    assert torch.allclose(spectrum, expected, rtol=0, atol=1e-12)
    assert torch.allclose(consistency(projected, 0.3), projected, rtol=0, atol=1e-12)
    assert torch.allclose(channels_to_complex(consistency.adjoint()), ifft2c(kspace * sampled), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("complex_dtype", "dtype", "tolerance"), DTYPES)
def test_hard_projection_in_the_precision_of_the_image(
    complex_dtype: torch.dtype, dtype: torch.dtype, tolerance: float
) -> None:
    kspace, mask = randn(2, 64, 63, dtype=complex_dtype), line_mask(63)
    projected = KspaceConsistency(kspace, mask)(randn(2, 2, 64, 63, dtype=dtype), 0.5)
    assert projected.dtype == dtype
    error = (fft2c(channels_to_complex(projected.double())) - kspace)[..., mask].abs().max()
    assert float(error) <= tolerance


def test_half_precision_is_computed_in_single() -> None:
    kspace, mask = randn(1, 16, 16, dtype=torch.complex64), line_mask(16)
    consistency, x = KspaceConsistency(kspace, mask), randn(1, 2, 16, 16, dtype=torch.float32).half()
    assert torch.equal(consistency(x, 0.5), consistency(x.float(), 0.5).half())


def test_values_off_the_mask_are_ignored() -> None:
    kspace, mask, x = randn(1, 8, 8), line_mask(8), randn(1, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(KspaceConsistency(kspace, mask)(x, 0.5), KspaceConsistency(kspace * mask, mask)(x, 0.5))


@pytest.mark.parametrize("coils", [None, 3])
@pytest.mark.parametrize("shape", [(5, 6), (6, 5)])
def test_noise_aware_minimiser_against_a_dense_solve(coils: int | None, shape: tuple[int, int]) -> None:
    noise, gamma = 0.3, 0.2
    maps = None if coils is None else randn(coils, *shape, seed=4)
    kspace = randn(1, *shape) if coils is None else randn(1, coils, *shape)
    x0 = randn(1, 2, *shape, seed=5, dtype=torch.float64)
    consistency = KspaceConsistency(kspace, line_mask(shape[1]), maps, noise, prior_std=gamma)
    # Normal equations of ||A x - y||^2 / (2 s^2) + ||x - x0||^2 / (2 gamma^2), solved by LAPACK. Values of y off the
    # mask do not enter: the rows of A there are zero.
    matrix = dense(consistency.forward, (2, *shape))
    left = matrix.mT @ matrix / noise**2 + torch.eye(x0.numel(), dtype=torch.float64) / gamma**2
    right = matrix.mT @ stacked(kspace) / noise**2 + x0.flatten() / gamma**2
    expected = torch.linalg.solve(left, right).reshape(x0.shape)
    assert torch.allclose(consistency(x0, 0.7), expected, atol=1e-12 if coils is None else 2e-5)


def test_noise_and_prior_of_each_image() -> None:
    kspace, mask, x = randn(3, 8, 8), line_mask(8), randn(3, 2, 8, 8, seed=1, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    noise = torch.tensor([0.0, 0.1, 0.2])
    together = KspaceConsistency(kspace, mask, noise_std=noise, prior_std=lambda t: 0.3 * t)(x, t)
    for i in range(3):
        alone = KspaceConsistency(kspace[[i]], mask, noise_std=float(noise[i]), prior_std=0.3 * float(t[i]))
        assert torch.allclose(together[[i]], alone(x[[i]], 0.0), atol=1e-7)  # noise_std was given in single precision


def test_a_certain_prior_is_kept_and_a_noise_free_measurement_wins() -> None:
    kspace, mask, x = randn(1, 8, 8), line_mask(8), randn(1, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(KspaceConsistency(kspace, mask, noise_std=0.1, prior_std=0.0)(x, 0.0), x)
    hard = KspaceConsistency(kspace, mask)
    assert torch.equal(KspaceConsistency(kspace, mask, prior_std=0.0)(x, 0.0), hard(x, 0.0))


def test_binding_a_prior_once() -> None:
    kspace, mask, x = randn(1, 8, 8), line_mask(8), randn(1, 2, 8, 8, dtype=torch.float64)
    unbound = KspaceConsistency(kspace, mask, noise_std=0.1)
    bound = unbound.with_prior_std(lambda t: 0.5)
    assert torch.equal(bound(x, 0.0), KspaceConsistency(kspace, mask, noise_std=0.1, prior_std=0.5)(x, 0.0))
    assert torch.equal(bound.with_prior_std(lambda t: 9.0)(x, 0.0), bound(x, 0.0))
    # Unbound, gamma is the documented 0.1.
    assert torch.equal(unbound(x, 0.0), KspaceConsistency(kspace, mask, noise_std=0.1, prior_std=0.1)(x, 0.0))


def test_scaling_the_prior() -> None:
    kspace, mask, x = randn(2, 8, 8), line_mask(8), randn(2, 2, 8, 8, dtype=torch.float64)
    third = KspaceConsistency(kspace, mask, noise_std=0.1, prior_std=lambda t: 0.2 * t)
    scaled = KspaceConsistency(kspace, mask, noise_std=0.1, prior_std=lambda t: 0.6 * t).with_prior_scale(1 / 3)
    assert torch.allclose(scaled(x, 0.5), third(x, 0.5), atol=1e-12)
    assert torch.allclose(scaled.select([1])(x[1:], 0.5), third(x, 0.5)[1:], atol=1e-12)
    with pytest.raises(ValueError, match="scale is -1.*; accepted: finite and >= 0"):
        third.with_prior_scale(-1)


# Several coils.


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.booleans())
def test_operator_has_its_adjoint(height: int, width: int, coils: int, two_dimensional: bool) -> None:
    mask = line_mask(width) if not two_dimensional else line_mask(height * width).reshape(height, width)
    x = randn(2, 2, height, width, dtype=torch.float64)
    one = KspaceConsistency(randn(2, height, width), mask)
    several = KspaceConsistency(randn(2, coils, height, width), mask, randn(2, coils, height, width, seed=3))
    assert_adjoint(one.forward, one.adjoint, x)
    assert_adjoint(several.forward, several.adjoint, x)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(
    ("complex_dtype", "dtype"), [(torch.complex64, torch.float32), (torch.complex128, torch.float64)]
)
def test_hard_projection_solves_the_normal_equations(
    complex_dtype: torch.dtype, dtype: torch.dtype, noise: float
) -> None:
    kspace, mask, maps = eight_coils(noise)
    consistency = KspaceConsistency(kspace.to(complex_dtype), mask, maps.to(complex_dtype))
    x = consistency(complex_to_channels(phantom(32)[None]).to(dtype) + 0.1 * randn(1, 2, 32, 32, dtype=dtype), 0.5)
    exact = KspaceConsistency(kspace, mask, maps)
    residual = exact.adjoint(exact.forward(x.double())) - exact.adjoint()
    assert float(residual.norm() / exact.adjoint().norm()) <= 1e-5  # the promise of the documentation


def test_hard_projection_is_the_least_squares_solution_nearest_the_prediction() -> None:
    shape, coils = (5, 6), 2
    kspace, maps = randn(1, coils, *shape), randn(coils, *shape, seed=4)
    mask = torch.tensor([True, False, False, True, False, False])  # fewer equations than unknowns
    x0 = randn(1, 2, *shape, seed=5, dtype=torch.float64)
    consistency = KspaceConsistency(kspace, mask, maps)
    matrix = dense(consistency.forward, (2, *shape))
    # The pseudo-inverse of LAPACK: the least change among the least-squares solutions.
    change = torch.linalg.pinv(matrix, rtol=1e-10) @ (stacked(kspace * mask) - matrix @ x0.flatten())
    expected = x0 + change.reshape(x0.shape)
    assert torch.allclose(consistency(x0, 0.5), expected, atol=1e-3)


def test_sigpy_sense_on_the_same_data() -> None:
    kspace, mask, maps = eight_coils(noise=0.02)
    noise, gamma = 0.02, 0.1
    consistency = KspaceConsistency(kspace, mask, maps, noise, prior_std=gamma)
    ours = channels_to_complex(consistency(torch.zeros(1, 2, 32, 32, dtype=torch.float64), 0.5))[0]
    # With x0_hat = 0 the objective is sigpy's, ||A x - y||^2 / 2 + lamda ||x||^2 / 2 with lamda = (s / gamma)^2.
    sense = SenseRecon(
        (kspace[0] * mask).numpy(), maps.numpy(), lamda=(noise / gamma) ** 2, max_iter=300, tol=1e-10, show_pbar=False
    ).run()
    assert np.allclose(ours.numpy(), sense, atol=2e-5)


def test_one_coil_of_unit_sensitivity_is_the_closed_form() -> None:
    kspace, mask, x = randn(2, 8, 9), line_mask(9), randn(2, 2, 8, 9, seed=1, dtype=torch.float64)
    for noise in (0.0, 0.1):
        closed = KspaceConsistency(kspace, mask, noise_std=noise)
        iterative = KspaceConsistency(kspace[:, None], mask, torch.ones(1, 8, 9, dtype=torch.complex128), noise)
        assert torch.allclose(closed(x, 0.5), iterative(x, 0.5), atol=1e-5)


def turns(*shape: int, seed: int = 8) -> torch.Tensor:
    """Maps of modulus 1, such as phase references."""
    return torch.exp(1j * randn(*shape, seed=seed, dtype=torch.float64))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_one_coil_of_modulus_one_is_what_the_iteration_converges_to(noise: float) -> None:
    """A second coil that sees nothing leaves the problem as it is, but not to the closed form."""
    kspace, mask, x = randn(2, 1, 8, 9), line_mask(9), randn(2, 2, 8, 9, seed=1, dtype=torch.float64)
    maps = turns(2, 1, 8, 9)
    closed = KspaceConsistency(kspace, mask, maps, noise)
    nothing = torch.zeros_like(kspace)
    iterative = KspaceConsistency(torch.cat((kspace, nothing), 1), mask, torch.cat((maps, nothing), 1), noise)
    assert torch.allclose(closed(x, 0.5), iterative(x, 0.5), atol=2e-5)
    # and the one coil without a map, whose images have the phase
    phase = maps[:, 0]
    plain = KspaceConsistency(kspace[:, 0], mask, noise_std=noise)
    expected = phase.conj() * channels_to_complex(plain(complex_to_channels(phase * channels_to_complex(x)), 0.5))
    assert torch.allclose(channels_to_complex(closed(x, 0.5)), expected, atol=1e-12)


@pytest.mark.parametrize("attenuation", [1.0, 1.00005, 0.7])
def test_one_coil_against_a_dense_solve(attenuation: float) -> None:
    """Of modulus 1 in closed form, else by the iteration; the normal equations are solved by LAPACK."""
    shape, noise, gamma = (5, 6), 0.3, 0.2
    kspace, maps = randn(1, 1, *shape), attenuation * turns(1, *shape)
    x0 = randn(1, 2, *shape, seed=5, dtype=torch.float64)
    consistency = KspaceConsistency(kspace, line_mask(6), maps, noise, prior_std=gamma)
    matrix = dense(consistency.forward, (2, *shape))
    left = matrix.mT @ matrix / noise**2 + torch.eye(x0.numel(), dtype=torch.float64) / gamma**2
    right = matrix.mT @ stacked(kspace) / noise**2 + x0.flatten() / gamma**2
    expected = torch.linalg.solve(left, right).reshape(x0.shape)
    assert torch.allclose(consistency(x0, 0.7), expected, atol=1e-12 if attenuation == 1 else 5e-6)


@pytest.mark.parametrize(("complex_dtype", "dtype", "tolerance"), DTYPES)
def test_one_coil_of_modulus_one_is_a_projection(
    complex_dtype: torch.dtype, dtype: torch.dtype, tolerance: float
) -> None:
    kspace, mask = randn(2, 1, 64, 63, dtype=complex_dtype), line_mask(63)
    consistency = KspaceConsistency(kspace, mask, turns(2, 1, 64, 63).to(complex_dtype))
    projected = consistency(randn(2, 2, 64, 63, dtype=dtype), 0.5)
    assert projected.dtype == dtype
    error = (consistency.forward(projected) - kspace * mask).abs().max()
    assert float(error) <= tolerance
    assert float((consistency(projected, 0.5) - projected).abs().max()) <= tolerance


@pytest.mark.parametrize("mask_form", ["HW", "BHW", "B1HW", "BCHW"])
def test_masks_of_several_coils(mask_form: str) -> None:
    shape = (2, 2, 6, 6)  # as many coils as images: three axes are batch, H, W all the same
    mask = line_mask(2 * 36).reshape(2, 6, 6)
    given = {
        "HW": mask[0],
        "BHW": mask,
        "B1HW": mask[:, None],
        "BCHW": mask[:, None].expand(shape),
    }[mask_form]
    expected = (mask[:1] if mask_form == "HW" else mask)[:, None].expand(shape)
    x = randn(2, 2, 6, 6, dtype=torch.float64)
    found = KspaceConsistency(randn(*shape), given, randn(*shape, seed=1)).forward(x)
    assert torch.equal(found != 0, expected)


@pytest.mark.skipif("D3GM_DATA" not in os.environ, reason="D3GM_DATA does not name the folder of real data")
@pytest.mark.parametrize("with_phase", [False, True])
def test_real_undersampled_coils(with_phase: bool) -> None:
    """Real 8-coil k-space, 2-D variable density: the hard projection with ESPIRiT maps keeps its promise.

    With the phase of the zero-filled image in the maps too, and then it is the same image divided by that phase.
    """
    from monai_d3gm.consistency import estimate_maps

    measured = torch.from_numpy(np.load(Path(os.environ["D3GM_DATA"]) / "kspace" / "brain_8coil_undersampled.npy"))
    kspace = measured / float(complex_to_channels(ifft2c(measured)).square().sum((0, 1)).sqrt().max())
    mask = (kspace != 0).any(0)
    maps = estimate_maps(kspace, mask).maps
    consistency = KspaceConsistency(kspace[None], mask, maps)
    if with_phase:
        without, adjoint = consistency, channels_to_complex(consistency.adjoint())
        phase = torch.polar(torch.ones_like(adjoint.real), adjoint.angle())
        consistency = KspaceConsistency(kspace[None], mask, maps * phase)
        assert torch.allclose(consistency.adjoint()[:, 0], adjoint.abs(), atol=1e-5)
    x = consistency(consistency.adjoint(), 0.5)
    residual = consistency.adjoint(consistency.forward(x)) - consistency.adjoint()
    assert float(residual.norm() / consistency.adjoint().norm()) <= 1e-5
    if with_phase:
        other, image = (c(c.adjoint(), 0.5).norm(dim=1) for c in (without, consistency))
        assert float((other - image).norm() / image.norm()) <= 1e-2  # both stop at the tolerance, short of the solution


# Batches, gradients, devices.


def make(coils: int | None, noise: float | torch.Tensor, batch: int = 8) -> KspaceConsistency:
    """Measurements by one coil without a map (None), one with a phase (1) or several."""
    mask = torch.stack([line_mask(24, seed) for seed in range(batch)])
    if coils is None:
        return KspaceConsistency(randn(batch, 20, 24, dtype=torch.complex64), mask[:, None], noise_std=noise)
    if coils == 1:
        kspace, maps = randn(batch, 1, 20, 24), turns(batch, 1, 20, 24)
        return KspaceConsistency(kspace.to(torch.complex64), mask[:, None], maps.to(torch.complex64), noise)
    maps = torch.nn.functional.normalize(randn(batch, coils, 20, 24, seed=1), dim=1).to(torch.complex64)
    image = randn(batch, 1, 20, 24, seed=2, dtype=torch.complex64)
    return KspaceConsistency(fft2c(maps * image), mask[:, None], maps, noise)


@pytest.mark.parametrize("coils", [None, 1, 4])
@pytest.mark.parametrize("noise", [0.0, 0.05, torch.linspace(0, 0.1, 8)])
def test_batch_of_eight_equals_eight_batches_of_one(coils: int | None, noise: float | torch.Tensor) -> None:
    consistency = make(coils, noise)
    x, t = randn(8, 2, 20, 24, seed=6, dtype=torch.float32), torch.linspace(0, 1, 8)
    together = consistency.with_prior_std(lambda t: 0.1 + 0.1 * t)(x, t)
    for i in range(8):
        alone = consistency.select([i]).with_prior_std(lambda t: 0.1 + 0.1 * t)(x[[i]], t[[i]])
        assert torch.allclose(together[[i]], alone, atol=1e-5)


@pytest.mark.parametrize("coils", [None, 1, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_selected_images_may_repeat(coils: int | None, batch: int) -> None:
    consistency = make(coils, torch.linspace(0, 0.1, batch), batch)
    indices = [batch - 1, 0, -1, 0]
    x = randn(4, 2, 20, 24, seed=6, dtype=torch.float32)
    part = consistency.select(indices)
    assert part.batch_size == 4
    assert torch.equal(part.adjoint(), consistency.adjoint()[indices])
    assert torch.equal(consistency.select(torch.tensor(indices)).forward(x), part.forward(x))
    for row, index in enumerate(indices):
        alone = consistency.select([index])(x[[row]], 0.5)
        assert torch.allclose(part(x, 0.5)[[row]], alone, atol=1e-5)


@pytest.mark.parametrize("indices", [[], [3], [-4]])
def test_indices_out_of_range_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match=r"-3\.\.2"):
        make(None, 0.0, 3).select(indices)


@pytest.mark.parametrize("coils", [None, 3])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_gradient_and_linear_part(coils: int | None, noise: float) -> None:
    shape = (4, 5)
    kspace = randn(2, *shape) if coils is None else randn(2, coils, *shape)
    maps = None if coils is None else randn(coils, *shape, seed=4)
    consistency = KspaceConsistency(kspace, line_mask(5), maps, noise)
    t = torch.tensor([0.2, 0.8])
    x, direction = (randn(2, 2, *shape, seed=s, dtype=torch.float64) for s in (1, 2))

    def linear(x: torch.Tensor) -> torch.Tensor:
        return consistency(x, t) - consistency(torch.zeros_like(x), t)

    tolerance = 1e-12 if coils is None else 1e-3
    assert torch.allclose(linear(x + direction), linear(x) + linear(direction), atol=tolerance)
    x.requires_grad_()
    # The linear part is symmetric, so that the gradient of <C(x), d> is the linear part applied to d.
    (gradient,) = torch.autograd.grad((consistency(x, t) * direction).sum(), x)
    assert torch.allclose(gradient, linear(direction), atol=tolerance)


def test_autocast_does_not_reach_the_projection() -> None:
    consistency, x = make(4, 0.0), randn(8, 2, 20, 24, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = consistency(x, 0.5)
    assert torch.equal(inside, consistency(x, 0.5))


def test_moving_to_a_device_keeps_everything() -> None:
    consistency, x = make(4, 0.0), randn(8, 2, 20, 24, dtype=torch.float32)
    assert torch.equal(consistency.to("cpu")(x, 0.5), consistency(x, 0.5))
    assert consistency.to("meta").adjoint().is_meta


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kspace": torch.zeros(1, 4, 4)}, "kspace is torch.float32 .*; accepted: complex"),
        ({"kspace": torch.zeros(4, 4, dtype=torch.complex64)}, r"kspace is torch.complex64 \(4, 4\)"),
        ({"kspace": torch.full((1, 4, 4), complex("nan"))}, "kspace holds 16 of 16"),
        ({"kspace": torch.zeros(1, 2, 4, 4, dtype=torch.complex64)}, "with sensitivity_maps"),
        ({"mask": torch.ones(4)}, "mask is torch.float32; accepted: boolean"),
        (
            {"mask": torch.ones(5, dtype=torch.bool)},
            r"mask has shape \(5,\); accepted: broadcastable to kspace, \(1, 4, 4\)",
        ),
        (
            {"mask": torch.ones(2, 4, 4, dtype=torch.bool)},
            r"\(2, 4, 4\); accepted: broadcastable to kspace, \(1, 4, 4\)",
        ),
        ({"mask": torch.ones(1, 2, 4, 4, dtype=torch.bool)}, "mask has shape"),
        ({"mask": torch.tensor(True)}, "mask has shape"),
        ({"mask": torch.zeros(4, dtype=torch.bool)}, r"mask samples no point of the batch elements \[0\]"),
        ({"noise_std": -0.1}, "noise_std is -0.1; accepted: finite and >= 0"),
        ({"noise_std": float("nan")}, "noise_std is nan"),
        ({"noise_std": torch.zeros(2)}, r"noise_std has shape \(2,\); accepted: a float, or shape \(1,\)"),
        ({"prior_std": -1.0}, "prior_std is -1.0; accepted: finite and >= 0"),
        ({"sensitivity_maps": torch.zeros(2, 4, 4, dtype=torch.complex64)}, "kspace is .*; accepted: complex"),
    ],
)
def test_bad_arguments(change: dict[str, torch.Tensor | float], message: str) -> None:
    arguments = {"kspace": randn(1, 4, 4), "mask": torch.ones(4, dtype=torch.bool), **change}
    with pytest.raises(ValueError, match=message):
        KspaceConsistency(**arguments)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (
            torch.zeros(3, 4, 4, dtype=torch.complex64),
            r"sensitivity_maps is torch.complex64 \(3, 4, 4\); accepted: complex",
        ),
        (torch.zeros(2, 4, 4), "accepted: complex"),
        (torch.full((2, 4, 4), complex("inf")), "sensitivity_maps holds 32 of 32"),
    ],
)
def test_bad_sensitivity_maps(maps: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KspaceConsistency(randn(1, 2, 4, 4), torch.ones(4, dtype=torch.bool), maps)


def test_bad_calls() -> None:
    consistency = KspaceConsistency(randn(2, 4, 4), torch.ones(4, dtype=torch.bool), noise_std=0.1)
    with pytest.raises(ValueError, match=r"accepted: real of shape \(2, 2, 4, 4\)"):
        consistency(torch.zeros(1, 2, 4, 4), 0.5)
    with pytest.raises(ValueError, match="prior_std is .*; accepted: finite values"):
        consistency.with_prior_std(lambda t: float("nan"))(torch.zeros(2, 2, 4, 4), 0.5)
    with pytest.raises(ValueError, match="prior_std is .*; accepted: finite values"):
        consistency.with_prior_std(lambda t: torch.zeros(3))(torch.zeros(2, 2, 4, 4), 0.5)


@pytest.mark.parametrize("coils", [1, 3])
def test_the_residual_of_the_truth_is_the_noise(coils: int) -> None:
    """y = A x + n: the root mean square over real and imaginary parts of the samples is n's, whatever the mask."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, 2, 16, 20, generator=generator)
    maps = torch.randn(coils, 16, 20, dtype=torch.complex64, generator=generator)
    maps = maps / maps.abs().square().sum(0, keepdim=True).sqrt()
    mask = torch.arange(20) % 3 == 0
    clean = KspaceConsistency(torch.zeros(2, coils, 16, 20, dtype=torch.complex64), mask, maps).forward(truth)
    noise = 0.1 * torch.randn(clean.shape, dtype=torch.complex64, generator=generator) * mask
    consistency = KspaceConsistency(clean + noise, mask, maps, noise_std=0.1)
    expected = torch.view_as_real(noise)[..., mask, :].square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(consistency.residual(truth), expected)
    torch.testing.assert_close(consistency.select([1]).residual(truth[1:]), expected[1:])


@pytest.mark.parametrize("coils", [None, 3])
def test_gain_is_the_trace_of_the_operator(coils: int | None) -> None:
    """tr(A A^H) / m: 1 for rows of the Fourier matrix; with maps whose squares sum to 1, their mean square."""
    shape = (1, 4, 6) if coils is None else (1, coils, 4, 6)
    mask = torch.tensor([True, False, True, True, False, False]).expand(shape)
    maps = None
    if coils is not None:
        maps = torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
        maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    consistency = KspaceConsistency(torch.zeros(shape, dtype=torch.complex128), mask, maps)
    columns = torch.eye(48, dtype=torch.float64).reshape(48, 2, 4, 6)
    images = [consistency.forward(column[None]) for column in columns]
    trace = sum(float(image.abs().square().sum()) for image in images)
    assert float(consistency.gain) == pytest.approx(trace / (2 * int(mask.sum())), rel=1e-9)


def test_gamma_from_the_residual_does_not_depend_on_the_batch() -> None:
    """Two images with several coils, the maps of one zero on half of its pixels: together each is as it is alone."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 12, 12, dtype=torch.complex128, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[1, :, :6] = 0
    mask = torch.arange(12) % 2 == 0
    kspace = torch.randn(2, 3, 12, 12, dtype=torch.complex128, generator=generator)
    together = KspaceConsistency(kspace, mask, maps, noise_std=0.3, prior_std="residual")
    x0_hat = torch.randn(2, 2, 12, 12, dtype=torch.float64, generator=generator)
    assert float(together.gain[0]) == pytest.approx(2 * float(together.gain[1]))  # type: ignore[index]
    for i in range(2):
        alone = KspaceConsistency(kspace[i : i + 1], mask, maps[i : i + 1], noise_std=0.3, prior_std="residual")
        expected = alone(x0_hat[i : i + 1], 0.5)
        torch.testing.assert_close(together(x0_hat, 0.5)[i : i + 1], expected, rtol=0, atol=1e-5)
        assert float((expected - x0_hat[i : i + 1]).norm()) > 0.1
