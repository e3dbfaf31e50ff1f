"""How much a network stretches its input: the local Lipschitz constant, the largest singular value of its Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["local_lipschitz"]


def local_lipschitz(function: Callable[[Tensor], Tensor], x: Tensor, *, iterations: int = 20, seed: int = 0) -> Tensor:
    """``||J(x)||_2`` of a function at each item of a batch, by power iteration on ``J^T J``.

    From a random unit vector ``u``, ``u <- J^T J u / |J^T J u|``; the result is ``|J u|`` at the last. The items of a
    batch do not depend on each other, so one product serves all. Each value is a lower bound of the function's
    Lipschitz constant, and approaches the norm of the Jacobian from below.

    Args:
        function: from (B, ...) to (B, ...), item by item, differentiable.
        x: the inputs, floating (B, ...).
        iterations: of the power method, at least 1.
        seed: of the first vector.

    Returns:
        (B,), in ``x``'s dtype.

    Raises:
        ValueError: ``iterations`` is below 1.

    Example:
        >>> matrix = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> local_lipschitz(lambda x: x @ matrix, torch.zeros(1, 2))
        tensor([3.])
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations is {iterations!r}; accepted: an integer of at least 1.")
    generator = torch.Generator().manual_seed(seed)
    direction = _unit(torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device))
    point = x.detach()
    stretched = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    pull_back = torch.func.vjp(function, point)[1]
    for _ in range(iterations):
        image = torch.func.jvp(function, (point,), (direction,))[1]
        stretched = image.flatten(1).norm(dim=1)
        direction = _unit(pull_back(image)[0])
    return stretched.detach()


def _unit(x: Tensor) -> Tensor:
    """Each item divided by its norm; zero stays zero."""
    norm = x.flatten(1).norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
    return x / norm.reshape(-1, *(1,) * (x.ndim - 1))
