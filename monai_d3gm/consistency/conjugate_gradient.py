"""Conjugate gradients for a batch of independent Hermitian positive semi-definite systems.

The variant is that of conjugate residuals (Stiefel, Comment. Math. Helv. 29, 1955): the conjugate gradient method in
the inner product of the matrix itself. Each iterate has the smallest residual of the Krylov space, which falls
monotonically; on the nearly singular systems of parallel imaging that takes several times fewer iterations than the
usual variant, which minimises the error's energy. On a singular system it converges to the solution nearest its start.
Every batch element has step lengths and a stopping test of its own: its result does not depend on the batch around it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_residuals", "norm"]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> for each batch element, accumulated in float64."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return (a * b).flatten(1).sum(dim=1, dtype=torch.float64)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each batch element, (B, ...) -> float64 (B,).

    Example:
        >>> norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [5.0, 1.0]
    """
    return _inner(x, x).sqrt()


def conjugate_residuals(
    operator: Callable[[Tensor], Tensor],
    rhs: Tensor,
    initial: Tensor,
    tolerance: Tensor,
    *,
    max_iterations: int = 3000,
) -> Tensor:
    """Solve M x = b for each element of a batch.

    The recurrence runs in b's precision. Its residual drifts from the true one, so when it meets the tolerance the
    true residual is computed in double precision, and the recurrence started again from there if that one does not.

    Args:
        operator: M, Hermitian positive semi-definite, acting on each batch element alone, in the precision of its
            argument.
        rhs: b, real or complex (B, ...); where M is singular, b is in its range.
        initial: x at the start, like b.
        tolerance: largest acceptable ||b - M x||, (B,).
        max_iterations: number after which the best that was reached is returned, with a RuntimeWarning.

    Returns:
        x, of b's shape and dtype.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> rhs = torch.tensor([[1.0, 2.0]])
        >>> conjugate_residuals(lambda x: x @ matrix.to(x.dtype), rhs, torch.zeros(1, 2), torch.tensor([1e-6]))
        tensor([[0.0909, 0.6364]])
    """
    double = torch.complex128 if rhs.is_complex() else torch.float64
    column = (-1, *(1 for _ in rhs.shape[1:]))

    def scale(factor: Tensor, x: Tensor) -> Tensor:
        return factor.to(x.real.dtype).reshape(column) * x

    tolerance = tolerance.to(rhs.device, torch.float64)
    solution = initial.to(double)
    left = max_iterations
    while True:
        true_residual = rhs.to(double) - operator(solution)
        active = norm(true_residual) > tolerance
        if left == 0 or not bool(active.any()):
            break
        residual = direction = true_residual.to(rhs.dtype)
        image = operator(direction)
        residual_image = image
        energy = _inner(residual, residual_image)
        change = torch.zeros_like(rhs)
        while left > 0 and bool(active.any()):
            left -= 1
            squared = _inner(image, image)
            active = active & (squared > 0)
            step = torch.where(active, energy / torch.where(active, squared, 1.0), 0.0)
            change = change + scale(step, direction)
            residual = residual - scale(step, image)
            active = active & (norm(residual) > tolerance)
            residual_image = operator(residual)
            previous, energy = energy, _inner(residual, residual_image)
            ratio = torch.where(active & (previous > 0), energy / previous, 0.0)
            direction = residual + scale(ratio, direction)
            image = residual_image + scale(ratio, image)
        solution = solution + change
    if bool(active.any()):
        worst = float((norm(true_residual)[active] / tolerance[active]).max())
        warnings.warn(
            f"conjugate gradients stopped after {max_iterations} iterations with a residual {worst:.3g} times the "
            "tolerance: the system is close to singular",
            RuntimeWarning,
            stacklevel=2,
        )
    return solution.to(rhs.dtype)
