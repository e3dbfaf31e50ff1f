"""Batches of slices of one volume each, so that all slices of a batch have one shape and the same entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from monai_d3gm.data.restoration.kspace import KspaceSliceDataset

__all__ = ["VolumeBatchSampler", "collate_slices"]


class VolumeBatchSampler(Sampler[list[int]]):
    """Batches of consecutive items of a `KspaceSliceDataset`; none goes over the end of a volume.

    Args:
        dataset: whose items are batched.
        batch_size: the most items in a batch.

    Raises:
        ValueError: ``batch_size`` is below 1.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> list(VolumeBatchSampler(KspaceSliceDataset(bundled_epi_path(), slices=5), batch_size=3))
        [[0, 1, 2], [3, 4]]
    """

    def __init__(self, dataset: KspaceSliceDataset, batch_size: int = 8) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; accepted: an integer of at least 1.")
        self.batches: list[list[int]] = []
        first = 0
        for volume in dataset.volumes:
            end = first + len(volume.slices)
            self.batches += [list(range(i, min(i + batch_size, end))) for i in range(first, end, batch_size)]
            first = end

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def collate_slices(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One dict of slices: tensors stacked, floats as a tensor (B,), anything else (names, None) as a list.

    Example:
        >>> batch = collate_slices([{"mu": torch.zeros(2, 4, 4), "scale": 2.0, "key": "a:0", "crop": None}])
        >>> batch["mu"].shape, batch["scale"], batch["key"], batch["crop"]
        (torch.Size([1, 2, 4, 4]), tensor([2.]), ['a:0'], [None])
    """
    batch: dict[str, Any] = {}
    for key, first in items[0].items():
        values = [item[key] for item in items]
        if isinstance(first, torch.Tensor):
            batch[key] = torch.stack(values)
        else:
            batch[key] = torch.tensor(values, dtype=torch.float32) if isinstance(first, float) else values
    return batch
