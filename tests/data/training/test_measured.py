"""Training items of measured k-space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_bundle import full_kspace

from monai_d3gm.consistency import KspaceConsistency
from monai_d3gm.consistency.fourier import channels_to_complex, ifft2c
from monai_d3gm.data import MeasuredKspaceDataset, write_kspace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fastmri")
    for width in (96, 112):
        write_kspace(folder / f"file{width}.h5", full_kspace(192, width, 3), recon_size=(96, width))
    return folder


@pytest.mark.parametrize("axis, widths", [("phase", {96, 112}), ("frequency", {192})])
def test_items_obey_the_forward_model(folder: Path, axis: str, widths: set[int]) -> None:
    """k-space of the image times the phase is the measurement on the mask; the file's own k-space has no noise."""
    dataset = MeasuredKspaceDataset(folder, 40, batch_size=4, accelerations=(4,), axis=axis, strip=32)
    seen = set()
    for index in range(0, 40, 3):
        item = dataset[index]
        assert item["image"].shape == item["mu"].shape == (2, 32, item["kspace"].shape[1])
        seen.add(item["kspace"].shape[1])
        consistency = KspaceConsistency(item["kspace"][None, None], item["mask"][None], item["phase"][None, None])
        assert float(consistency.residual(item["image"][None])) < 1e-4 * float(item["kspace"].abs().max())
        assert not item["kspace"][:, ~item["mask"][0]].any()
    assert seen == widths


def test_batches_have_one_width_and_items_are_functions_of_seed_and_index(folder: Path) -> None:
    dataset = MeasuredKspaceDataset(folder, 64, batch_size=4, seed=3, strip=16)
    again = MeasuredKspaceDataset(folder, 64, batch_size=4, seed=3, strip=16)
    for batch in range(0, 64, 4):
        assert len({dataset[batch + k]["mu"].shape for k in range(4)}) == 1
    for index in (63, 5):
        assert torch.equal(dataset[index]["kspace"], again[index]["kspace"])
        assert dataset[index]["key"] == again[index]["key"]
    whole = MeasuredKspaceDataset(folder, 4, batch_size=1, accelerations=(1,), strip=None)[0]
    image = channels_to_complex(whole["image"][None])[0] * whole["phase"]
    assert torch.allclose(image, ifft2c(whole["kspace"]), atol=1e-5)


def test_what_is_not_accepted_is_named(folder: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"axis": "z"}, "axis is 'z'"),
        ({"masks": ["spiral"]}, "masks is"),
        ({"strip": 97}, "strip is 97; accepted: 1 to the 96 rows"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MeasuredKspaceDataset(folder, 4, **{"batch_size": 1, "strip": 16, **options})  # type: ignore[arg-type]
    mask = np.arange(96) % 2 == 0
    write_kspace(tmp_path / "masked.h5", full_kspace(192, 96) * mask, recon_size=(96, 96), mask=mask)
    with pytest.raises(ValueError, match="single-coil files without a mask"):
        MeasuredKspaceDataset(tmp_path, 4, batch_size=1)
