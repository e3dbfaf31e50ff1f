"""The base of the training data sets: items are pure functions of (seed, index)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from monai_d3gm.transforms.kspace.functional import keyed_generator


def check_counts(**counts: int) -> None:
    """Raise ValueError, naming it, where a count is below 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; accepted: 1 or more.")


class TrainingDataset(Dataset, ABC):
    """Items that depend on ``seed`` and their index alone, so that a resumed run sees the same items.

    Args:
        length: number of items.
        seed: seed of all that is random.
        sizes: further arguments that must be at least 1, by name.

    Raises:
        ValueError: length or a size is below 1.
    """

    def __init__(self, length: int, seed: int, **sizes: int) -> None:
        check_counts(length=length, **sizes)
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"index is {index}; accepted: 0 to {self.length - 1}.")
        return self._draw(index, keyed_generator(self.seed, "item", index))

    @abstractmethod
    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Item ``index``, all that is random in it from ``rng``."""
