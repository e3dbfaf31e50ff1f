"""The order of training items: the same for one process and for several, and for a run that is resumed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, TensorDataset

from monai_d3gm.data import ConsecutiveSampler

SIZES = st.integers(1, 5)


def items(size: int) -> Dataset:
    return TensorDataset(torch.arange(size))


def epoch(sampler: ConsecutiveSampler, number: int) -> list[int]:
    sampler.set_epoch(number)
    return list(sampler)


@given(SIZES, SIZES, st.integers(1, 4), SIZES)
def test_replicas_share_the_batches_of_one_process(batch: int, batches: int, replicas: int, epochs: int) -> None:
    """The global batch of a step, rank by rank, is the batch of a single process with the same items in a step."""
    dataset = items(batch * batches * replicas * epochs)
    single = ConsecutiveSampler(dataset, batch * replicas, batches)
    several = [ConsecutiveSampler(dataset, batch, batches, replicas, rank) for rank in range(replicas)]
    seen: list[int] = []
    for number in range(1, epochs + 1):
        wanted, parts = epoch(single, number), [epoch(sampler, number) for sampler in several]
        assert all(len(part) == len(sampler) for part, sampler in zip(parts, several, strict=True))
        step = [[part[b * batch : (b + 1) * batch] for part in parts] for b in range(batches)]
        assert [index for ranks in step for part in ranks for index in part] == wanted
        seen += wanted
    assert seen == list(range(len(seen)))  # disjoint, nothing twice, nothing left out


def test_an_epoch_does_not_depend_on_those_before() -> None:
    dataset = items(40)
    through = ConsecutiveSampler(dataset, batch_size=2, epoch_length=3)
    order = [epoch(through, number) for number in (1, 2, 3, 4)]
    resumed = ConsecutiveSampler(dataset, batch_size=2, epoch_length=3)
    assert [epoch(resumed, number) for number in (3, 4)] == order[2:]
    assert epoch(resumed, 1) == order[0] == [0, 1, 2, 3, 4, 5]


def test_epochs_go_round_in_the_data() -> None:
    assert epoch(ConsecutiveSampler(items(4), batch_size=3, epoch_length=2), 2) == [2, 3, 0, 1, 2, 3]


def test_a_loader_makes_whole_batches_of_it() -> None:
    sampler = ConsecutiveSampler(items(100), batch_size=4, epoch_length=3, num_replicas=2, rank=1)
    loader = DataLoader(items(100), batch_size=4, sampler=sampler)
    assert len(loader) == 3
    # the second of two processes: the second half of every eight items
    assert [batch[0].tolist() for batch in loader] == [[4, 5, 6, 7], [12, 13, 14, 15], [20, 21, 22, 23]]


@pytest.mark.parametrize(("batch_size", "epoch_length"), [(0, 1), (1, 0)])
def test_empty_epochs_are_refused(batch_size: int, epoch_length: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size} and epoch_length {epoch_length}"):
        ConsecutiveSampler(items(4), batch_size, epoch_length)


def test_a_rank_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="rank"):
        ConsecutiveSampler(items(4), 1, 1, num_replicas=2, rank=2)
