from __future__ import annotations

import pytest
import torch
from operator_checks import randn

from monai_d3gm.consistency import conjugate_residuals


def system(rank: int, batch: int = 3, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Hermitian positive semi-definite matrices of this rank, and right sides in their range."""
    factor = randn(batch, size, rank)
    matrix = factor @ factor.mH
    return matrix, (matrix @ randn(batch, size, 1, seed=1))[..., 0]


def apply(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (matrix.to(x.dtype) @ x[..., None])[..., 0]


@pytest.mark.parametrize("rank", [12, 5])
def test_solution_nearest_the_start(rank: int) -> None:
    matrix, rhs = system(rank)
    initial = randn(3, 12, seed=2)
    found = conjugate_residuals(lambda x: apply(matrix, x), rhs, initial, torch.full((3,), 1e-10))
    # The pseudo-inverse of LAPACK gives the least change that solves the system.
    exact = initial + apply(torch.linalg.pinv(matrix, hermitian=True, rtol=1e-10), rhs - apply(matrix, initial))
    assert torch.allclose(found, exact, atol=1e-6)


def test_elements_do_not_depend_on_their_batch() -> None:
    matrix, rhs = system(12)
    rhs[1] = 0  # solved at once
    rhs[2] *= 1e6  # solved last
    tolerance = torch.tensor([1e-3, 1e-3, 1e-8])
    together = conjugate_residuals(lambda x: apply(matrix, x), rhs, torch.zeros_like(rhs), tolerance)
    for i in range(3):
        one = slice(i, i + 1)
        alone = conjugate_residuals(
            lambda x, one=one: apply(matrix[one], x), rhs[one], torch.zeros_like(rhs[one]), tolerance[one]
        )
        assert torch.allclose(together[one], alone, rtol=1e-9, atol=1e-9)
    assert not together[1].any()


def test_single_precision_meets_a_tolerance_below_its_own_drift() -> None:
    spectrum = torch.logspace(-5, 0, 40, dtype=torch.float64)
    rotation = torch.linalg.qr(randn(40, 40, dtype=torch.float64)).Q
    matrix = (rotation * spectrum) @ rotation.mT
    rhs = (matrix @ randn(40, dtype=torch.float64))[None].float()
    found = conjugate_residuals(lambda x: apply(matrix, x), rhs, torch.zeros_like(rhs), torch.tensor([1e-6]))
    assert found.dtype == torch.float32
    assert float((apply(matrix, found.double()) - rhs).norm()) <= 2e-6  # the result is rounded to single once more


@pytest.mark.parametrize("iterations", [1, 3, 6])
def test_every_iterate_has_the_least_residual_of_its_krylov_space(iterations: int) -> None:
    """The definition of conjugate residuals, against LAPACK's least squares over x0 + span(r, Mr, M^2 r, ...)."""
    matrix, rhs = system(12, batch=1)
    initial = randn(1, 12, seed=2)
    with pytest.warns(RuntimeWarning, match=f"stopped after {iterations} iterations"):
        found = conjugate_residuals(lambda x: apply(matrix, x), rhs, initial, torch.zeros(1), max_iterations=iterations)
    vectors = [rhs - apply(matrix, initial)]
    for _ in range(iterations):
        vectors.append(apply(matrix, vectors[-1]))
    images = torch.stack(vectors[1:], dim=-1)  # M times the basis
    images = images / images.norm(dim=1, keepdim=True)
    weights = torch.linalg.lstsq(images, vectors[0][..., None]).solution
    least = (vectors[0] - (images @ weights)[..., 0]).norm()
    assert float((rhs - apply(matrix, found)).norm()) == pytest.approx(float(least), rel=1e-6)


def test_it_stops_when_the_residual_meets_the_tolerance() -> None:
    """Not one iteration before, nor after: the residual falls with every one, so the first below is known."""
    matrix, rhs = system(12, batch=1)
    residuals = []
    for iterations in range(1, 9):
        with pytest.warns(RuntimeWarning):
            x = conjugate_residuals(
                lambda x: apply(matrix, x), rhs, torch.zeros_like(rhs), torch.zeros(1), max_iterations=iterations
            )
        residuals.append(float((rhs - apply(matrix, x)).norm()))
    assert residuals == sorted(residuals, reverse=True)
    for k in (2, 5):
        tolerance = torch.tensor([(residuals[k - 1] + residuals[k]) / 2])
        x = conjugate_residuals(lambda x: apply(matrix, x), rhs, torch.zeros_like(rhs), tolerance)
        assert float((rhs - apply(matrix, x)).norm()) == pytest.approx(residuals[k], rel=1e-9)


def test_stopping_early_is_said() -> None:
    matrix, rhs = system(12)
    with pytest.warns(RuntimeWarning, match="stopped after 2 iterations"):
        conjugate_residuals(
            lambda x: apply(matrix, x), rhs, torch.zeros_like(rhs), torch.full((3,), 1e-9), max_iterations=2
        )
