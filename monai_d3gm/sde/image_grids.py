"""A grid of each image's own: the theory's section of this name, for :class:`~monai_d3gm.sde.Sampler.noise_scaling`.

In an image of strong detail x0 given mu spreads further than in one of weak detail. The noise c / a at which the state
shows the detail is higher by the same factor. So c / a at the times between the first and the last is multiplied by a
factor of each image's own, which shifts their rho by minus its logarithm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_d3gm.sde.process import DiffusionProcess

_FACTORS = (1 / 8, 8.0)
"""The range of an image's factor."""

_NEAREST = 0.9
"""Share of the way in rho to the first time, or to the last, that a factor may take the time next to it."""

Images = slice | Tensor
"""Images of a batch: all, or their indices."""


@dataclass(frozen=True)
class Grids:
    """The times of a batch's trajectories.

    Attributes:
        groups: which images, and the decreasing times that they share; together the whole batch.
        batch: images.

    Example:
        >>> Grids.shared([1.0, 0.5, 0.0], batch=2).time(1)
        0.5
    """

    groups: tuple[tuple[Images, list[float]], ...]
    batch: int

    @classmethod
    def shared(cls, times: Sequence[float], batch: int) -> Grids:
        """One list of times for all images."""
        return cls(((slice(None), list(times)),), batch)

    def scaled(self, process: DiffusionProcess, factors: Tensor) -> Grids:
        """The grids on which c / a between the ends is a factor times what it is on this one, which is shared.

        Args:
            process: gives rho.
            factors: (B,), above 0; limited so that the times stay between the first and the last.
        """
        ((_, times),) = self.groups
        rho = process.rho(torch.tensor(times, dtype=torch.float64))
        most, least = _NEAREST * (rho[1] - rho[0]), _NEAREST * (rho[-2] - rho[-1])
        distinct, which = factors.detach().cpu().double().unique(return_inverse=True)
        inner = process.time_of_rho(rho[1:-1] - distinct.log().clamp(least, most)[:, None]).tolist()
        grids = [[times[0], *between, times[-1]] for between in inner]
        if len(grids) == 1:
            return Grids.shared(grids[0], self.batch)
        return Grids(tuple(((which == k).nonzero()[:, 0], grid) for k, grid in enumerate(grids)), self.batch)

    def time(self, index: int) -> float | Tensor:
        """The time of an evaluation; (B,) where images differ in it."""
        if len({times[index] for _, times in self.groups}) == 1:
            return self.groups[0][1][index]
        time = torch.empty(self.batch, dtype=torch.float64)
        for images, times in self.groups:
            time[images] = times[index]
        return time

    def map(self, function: Callable[[Images, list[float]], Tensor]) -> Tensor:
        """Apply a function to each group and its times, and join the results, (images, ...), to one batch."""
        if len(self.groups) == 1:
            return function(*self.groups[0])
        parts = [function(*group) for group in self.groups]
        whole = parts[0].new_empty(self.batch, *parts[0].shape[1:])
        for (images, _), part in zip(self.groups, parts, strict=True):
            whole[images] = part
        return whole


def noise_factors(change: Tensor, reference: float, exponent: float) -> Tensor:
    """The factor of c / a of each image, (d / r)^p within 1/8 to 8.

    Args:
        change: x0_hat - mu of the first evaluation, (B, ...).
        reference: r, in the images' units.
        exponent: p.

    Returns:
        (B,) float32.

    Example:
        >>> noise_factors(torch.full((1, 1, 2, 2), 0.4), reference=0.1, exponent=0.5)
        tensor([2.])
    """
    return ((change_amplitude(change) / reference) ** exponent).clamp(*_FACTORS)


def change_amplitude(change: Tensor) -> Tensor:
    """Amplitude of images where they have one: sqrt(sum d^4 / sum d^2), the root mean square weighted by energy.

    Background, where nothing changes, does not count: a crop around the object has the same amplitude.

    Args:
        change: d, (B, ...).

    Returns:
        (B,) float32, in the images' units; the smallest positive normal number where an image is zero everywhere.

    Example:
        >>> change = torch.tensor([[[0.0, 0.0, 0.25, -0.25]], [[0.5, 0.5, 0.5, 0.5]]])
        >>> change_amplitude(change)
        tensor([0.2500, 0.5000])
    """
    least = torch.finfo(torch.float32).tiny
    energy = change.flatten(1).float().square()
    return (energy.square().sum(1) / energy.sum(1).clamp(min=least)).sqrt().clamp(min=least)
