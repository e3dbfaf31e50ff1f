"""The loss whose minimiser is a quantile."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["QuantileLoss"]


class QuantileLoss(nn.Module):
    """The mean of max(p (y - q), (p - 1) (y - q)) for a predicted quantile q of y at the level p.

    It is the check function of Koenker and Bassett (Econometrica 46, 1978). For y = |error| and a half-width q,
    the interval score of Gneiting and Raftery (JASA 2007) at the coverage p is 2 / (1 - p) times this loss, but for a
    term without q: both have the same minimiser.

    Args:
        level: p, in (0, 1).
        relative: divide the loss of each image by the mean of its values, so that images of small errors count as much
            as those of large ones.

    Raises:
        ValueError: the level is out of range.

    Example:
        >>> QuantileLoss(0.9)(torch.tensor([1.0]), torch.tensor([3.0]))
        tensor(1.8000)
    """

    def __init__(self, level: float = 0.9, relative: bool = False) -> None:
        super().__init__()
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; accepted: above 0, below 1.")
        self.level, self.relative = level, relative

    def forward(self, quantile: Tensor, value: Tensor) -> Tensor:
        """The loss of ``quantile`` for ``value``, of one shape; (B, ...) where it is relative."""
        difference = value - quantile
        loss = torch.maximum(self.level * difference, (self.level - 1) * difference)
        if not self.relative:
            return loss.mean()
        return (loss.flatten(1).mean(1) / value.flatten(1).mean(1).clamp_min(1e-6)).mean()
