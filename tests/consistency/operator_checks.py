"""What the tests of measurement operators share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inner(a: Tensor, b: Tensor) -> float:
    """Real part of <a, b>: the inner product of complex arrays taken as real vectors."""
    return float((a * b.conj()).sum().real)


def assert_adjoint(forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """The dot-product test <A x, y> = <x, A^H y> for random y, relative to the norms."""
    image = forward(x)
    y = randn(*image.shape, seed=17, dtype=image.dtype)
    scale = float(image.norm() * y.norm()) + 1e-30
    assert abs(inner(image, y) - inner(x, adjoint(y))) <= 1e-12 * scale


def dense(operator: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear operator on real arrays of this shape, real and imaginary parts of its values stacked."""
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    columns = []
    for vector in basis:
        value = operator(vector[None])[0].flatten()
        columns.append(torch.cat((value.real, value.imag)) if value.is_complex() else value)
    return torch.stack(columns, dim=1)


def stacked(value: Tensor) -> Tensor:
    """One measurement as the real vector that `dense` maps to."""
    value = value.flatten()
    return torch.cat((value.real, value.imag)) if value.is_complex() else value
