"""Batches of slices: within a volume, in order, with tensors stacked and the rest as lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_bundle import magnitude, write_nifti

from monai_d3gm.data import KspaceSliceDataset, VolumeBatchSampler, collate_slices


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> KspaceSliceDataset:
    folder = tmp_path_factory.mktemp("volumes")
    for name, slices in (("a", 3), ("b", 1), ("c", 4)):
        write_nifti(folder / f"{name}.nii", magnitude(32, 32, slices))
    return KspaceSliceDataset(folder, acceleration=2)


@given(batch_size=st.integers(1, 9))
def test_every_slice_once_in_order_and_batches_within_volumes(dataset: KspaceSliceDataset, batch_size: int) -> None:
    sampler = VolumeBatchSampler(dataset, batch_size)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert [index for batch in batches for index in batch] == list(range(8))
    owner = [0, 0, 0, 1, 2, 2, 2, 2]
    for batch in batches:
        assert len(batch) <= batch_size and len({owner[index] for index in batch}) == 1


@pytest.mark.parametrize("batch_size", [0, 1.5, True])
def test_bad_batch_sizes_are_refused(dataset: KspaceSliceDataset, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}"):
        VolumeBatchSampler(dataset, batch_size)


def test_a_batch_of_slices_has_what_the_slices_have(dataset: KspaceSliceDataset) -> None:
    items = [dataset[0], dataset[1]]
    batch = collate_slices(items)
    assert set(batch) == set(items[0])
    assert batch["key"] == ["a:0", "a:1"] and batch["crop"] == [None, None] and batch["slice"] == [0, 1]
    for name in ("kspace", "mask", "mu", "reference"):
        assert torch.equal(batch[name], torch.stack([item[name] for item in items]))
    assert batch["scale"].tolist() == pytest.approx([item["scale"] for item in items])
    assert batch["noise_std"].shape == (2,) and batch["noise_std"].dtype == torch.float32
