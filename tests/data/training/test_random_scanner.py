"""Training items of a random scanner."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import PersistentDataset

from monai_d3gm.data import RandomScannerDataset
from monai_d3gm.data.training.scanner import centre_lines, compression
from monai_d3gm.engines import kspace_consistency


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    rows, columns, _ = np.mgrid[:96, :80, :3]
    data = 100.0 * (np.hypot(rows - 48, columns - 40) < 36) * (1 + 0.3 * np.sin(rows / 3))
    path = tmp_path_factory.mktemp("volumes") / "disc.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data.astype(np.float32), np.eye(4)), path)
    return path


def dataset(volume, **options):
    options = {"batch_size": 4, "coils": (1, 6), "widths": (96, 128), "heights": (96, 120), "strip": 48} | options
    return RandomScannerDataset([volume], 40, **options)


def batch_of(item):
    tensors = {k: v[None] for k, v in item.items() if k in ("kspace", "mask", "phase", "sensitivity_maps")}
    return tensors | {"noise_std": item["noise_std"][None]}


def test_a_batch_shares_lines_and_coils(volume):
    data = dataset(volume)
    shapes = [tuple(data[index]["kspace"].shape) for index in range(16)]
    for first in range(0, 16, 4):
        assert len(set(shapes[first : first + 4])) == 1
    assert len(set(shapes)) > 1


def test_the_truth_explains_the_measurement_of_one_coil_to_its_noise(volume):
    data = dataset(volume, coils=(1,), partial=0.0)
    for index in range(6):
        item = data[index]
        residual = kspace_consistency(batch_of(item)).residual(item["image"][None])
        assert float(residual) == pytest.approx(float(item["noise_std"]), rel=0.1)


def test_estimated_maps_explain_most_of_what_several_coils_measured(volume):
    data = dataset(volume, coils=(6,), partial=0.0)
    for index in range(4):
        item = data[index]
        consistency = kspace_consistency(batch_of(item))
        torch.testing.assert_close(
            item["sensitivity_maps"].abs().square().sum(0), torch.ones(48, item["mask"].shape[-1])
        )
        power = float(item["kspace"].abs().square().sum() / item["mask"].sum() / 6 / 48 / 2) ** 0.5
        assert float(consistency.residual(item["image"][None])) < 0.5 * power


def test_items_depend_on_seed_and_index_alone(volume, tmp_path):
    first, second = dataset(volume), dataset(volume)
    torch.testing.assert_close(first[7]["mu"], second[7]["mu"], rtol=0, atol=0)
    assert not torch.equal(dataset(volume, seed=1)[7]["mu"], first[7]["mu"])
    kept = PersistentDataset(list(range(40)), first.__getitem__, cache_dir=tmp_path)
    for _ in range(2):  # made, then read
        torch.testing.assert_close(kept[7]["mu"], second[7]["mu"], rtol=0, atol=0)


def test_compression_keeps_all_energy_of_few_directions():
    generator = torch.Generator().manual_seed(0)
    two = torch.randn(2, 16, 16, dtype=torch.complex64, generator=generator)
    mixing = torch.randn(9, 2, dtype=torch.complex64, generator=generator)
    kspace = torch.einsum("cv,vhw->chw", mixing, two)
    basis = compression(kspace, 2)
    torch.testing.assert_close(basis @ basis.mH, torch.eye(2, dtype=torch.complex64), atol=1e-5, rtol=0)
    kept = torch.einsum("vc,chw->vhw", basis, kspace)
    assert float(kept.norm()) == pytest.approx(float(kspace.norm()), rel=1e-4)


def test_centre_lines():
    mask = torch.zeros(16, dtype=torch.bool)
    mask[6:11] = True
    mask[2] = True
    assert centre_lines(mask) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strip": 100}, "strip is 100"),
        ({"masks": ("spiral",)}, "masks is"),
        ({"accelerations": (0.5, 4)}, "accelerations is"),
    ],
)
def test_arguments_out_of_range_are_named(volume, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(volume, **options)
