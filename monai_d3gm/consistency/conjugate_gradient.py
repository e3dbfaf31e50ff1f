"""Conjugate gradients for a batch of independent Hermitian positive semi-definite systems.

The recurrence is that of Hestenes and Stiefel (1952), started from zero, so that on a singular but consistent system
it converges to the solution of least norm. Every batch element has step lengths and a stopping test of its own: the
result does not depend on what else is in the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradient", "norm"]


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> for each batch element, accumulated in float64."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return (a * b).flatten(1).sum(dim=1, dtype=torch.float64)


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of each batch element, (B, ...) -> float64 (B,).

    >>> norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [5.0, 1.0]
    """
    return _inner(x, x).sqrt()


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], rhs: Tensor, tolerance: Tensor, *, max_iterations: int = 500
) -> Tensor:
    """Solve M x = b for each element of a batch, from x = 0.

    The residual of the recurrence drifts from b - M x in single precision. When it meets the tolerance the true
    residual is computed, and the recurrence started again from there if that one does not.

    Args:
        operator: M, Hermitian positive semi-definite and acting on each batch element alone.
        rhs: b, real or complex (B, ...); where M is singular, b in its range.
        tolerance: largest acceptable ||b - M x||, (B,).
        max_iterations: applications of M after which the best that was reached is returned, with a RuntimeWarning.

    Returns:
        x, of b's shape and dtype.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> conjugate_gradient(lambda x: x @ matrix, torch.tensor([[1.0, 2.0]]), torch.tensor([1e-6]))
    tensor([[0.0909, 0.6364]])
    """
    column = (-1, *(1 for _ in rhs.shape[1:]))
    real = torch.empty(0, dtype=rhs.dtype).real.dtype

    def scale(factor: Tensor, x: Tensor) -> Tensor:
        return factor.to(real).reshape(column) * x

    tolerance = tolerance.to(rhs.device, torch.float64)
    x = torch.zeros_like(rhs)
    residual = direction = rhs
    energy = _inner(residual, residual)
    restarted = True
    for _ in range(max_iterations):
        active = energy.sqrt() > tolerance
        if not bool(active.any()):
            if restarted:
                return x
            residual = direction = rhs - operator(x)
            energy = _inner(residual, residual)
            restarted = True
            continue
        restarted = False
        image = operator(direction)
        curvature = _inner(direction, image)
        active = active & (curvature > 0)
        step = torch.where(active, energy / torch.where(active, curvature, 1.0), 0.0)
        x = x + scale(step, direction)
        residual = residual - scale(step, image)
        previous, energy = energy, _inner(residual, residual)
        direction = residual + scale(torch.where(active, energy / previous, 0.0), direction)
    worst = float((norm(rhs - operator(x)) / tolerance).max())
    if worst > 1:
        warnings.warn(
            f"conjugate gradients stopped after {max_iterations} iterations at a residual {worst:.3g} times the "
            "tolerance: the system is close to singular",
            RuntimeWarning,
            stacklevel=2,
        )
    return x
