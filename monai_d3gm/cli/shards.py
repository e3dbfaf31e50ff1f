"""A run shared by several processes that ``torchrun`` starts: each takes its part of the inputs.

Files are independent, so the processes communicate twice: they begin after the first process has begun, and at the end
the first gathers the outcomes of all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

from monai_d3gm.bundle import BundleError

__all__ = ["Shard"]

_Item = TypeVar("_Item")


class Shard:
    """This process among those that share the run, by ``RANK`` and ``WORLD_SIZE``; without them it is alone.

    Raises:
        BundleError: the environment's values are no rank and number of processes.

    Example:
        >>> Shard().part(["a", "b"])
        ['a', 'b']
    """

    def __init__(self) -> None:
        rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise BundleError(f"RANK is {rank!r} and WORLD_SIZE {size!r}; accepted: integers, 0 <= RANK < WORLD_SIZE.")
        self.rank, self.size = int(rank), int(size)
        self._met: Any = None
        if self.size > 1:
            import torch

            if torch.cuda.is_available():  # so that the device "cuda" is another for each process of a machine
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())

    @property
    def first(self) -> bool:
        """Whether this process writes and prints the results of all."""
        return self.rank == 0

    def part(self, items: Sequence[_Item]) -> list[_Item]:
        """Every ``size``-th item, beginning with the ``rank``-th."""
        return list(items[self.rank :: self.size])

    def wait_for_first(self) -> None:
        """Wait for the first process: it may refuse the run for all."""
        if self.size > 1:
            if self.first:
                self._store().set("begun", b"1")
            self._store().wait(["begun"])

    def _store(self) -> Any:
        """The store at which the processes meet."""
        import torch.distributed as dist

        if self._met is None:
            self._met, *_ = next(dist.rendezvous("env://", timeout=timedelta(days=30)))
        return self._met

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, on the first process, which waits for them; nothing on the others.

        A value goes from process to process as JSON, by the store at which they met: once in a run.
        """
        if self.size == 1:
            return [value]
        store = self._store()
        store.set(f"rank {self.rank}", json.dumps(value))
        return [json.loads(store.get(f"rank {rank}")) for rank in range(self.size)] if self.first else []
