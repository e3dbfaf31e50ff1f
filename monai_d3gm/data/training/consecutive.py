"""The items of an epoch of training: consecutive ones, so that a run resumed at an epoch sees the same items."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset, DistributedSampler

__all__ = ["ConsecutiveSampler"]


class ConsecutiveSampler(DistributedSampler[Any]):
    """Epoch e (from 1) takes the items (e - 1) n .. e n - 1, n = ``epoch_length`` * ``batch_size`` * processes.

    Each process takes ``batch_size`` consecutive items of every stretch of ``batch_size`` * processes. MONAI's trainers
    call ``set_epoch`` for it, as for any DistributedSampler.

    Args:
        dataset: items that are pure functions of their index; the epochs go round in it.
        batch_size: items of a batch, for each process.
        epoch_length: batches of an epoch.
        num_replicas: processes; 1 when left out and torch.distributed is not running.
        rank: this process.

    Example:
        >>> sampler = ConsecutiveSampler(range(100), batch_size=2, epoch_length=3)
        >>> sampler.set_epoch(2)
        >>> list(sampler)
        [6, 7, 8, 9, 10, 11]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        epoch_length: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if batch_size < 1 or epoch_length < 1:
            raise ValueError(f"batch_size is {batch_size} and epoch_length {epoch_length}; accepted: at least 1 each.")
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.batch_size = batch_size
        self.epoch_length = epoch_length
        self.epoch = 1

    def __len__(self) -> int:
        return self.batch_size * self.epoch_length

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)  # type: ignore[arg-type]
        for batch in range((self.epoch - 1) * self.epoch_length, self.epoch * self.epoch_length):
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            yield from ((first + k) % size for k in range(self.batch_size))
