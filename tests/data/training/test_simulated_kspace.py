"""Training items: pure functions of (seed, index) that obey the forward model."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from monai_d3gm.baselines import l1_wavelet
from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft2c, ifft1c, ifft2c
from monai_d3gm.data import SimulatedKspaceDataset
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight

WIDTHS = (64, 80)


def save_volume(path: Path, shape: tuple[int, int, int], seed: int) -> Path:
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grid) < 0.7
    data = (inside * (100 + 20 * rng.standard_normal(shape))).clip(0).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("volumes")
    isotropic = [save_volume(folder / f"iso{i}.nii.gz", (72, 60, 50), i) for i in range(2)]
    return [
        {"paths": isotropic, "weight": 3, "axes": [0, 1, 2]},
        {"paths": [save_volume(folder / "slices.nii.gz", (66, 90, 6), 9)]},
    ]


def make(volumes: list[dict], **arguments: object) -> SimulatedKspaceDataset:
    return SimulatedKspaceDataset(
        volumes, **({"length": 40, "batch_size": 4, "seed": 3, "widths": WIDTHS, "height": 72, "strip": 24} | arguments)
    )


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one
    )


def test_shapes_and_types(volumes: list[dict]) -> None:
    dataset = make(volumes)
    for index in range(12):
        item, width = dataset[index], dataset.width(index)
        assert item["image"].shape == item["mu"].shape == (2, 24, width) and item["mu"].dtype == torch.float32
        assert item["kspace"].shape == item["phase"].shape == (24, width)
        assert item["kspace"].dtype == item["phase"].dtype == torch.complex64
        assert item["mask"].shape == (1, width) and item["mask"].dtype == torch.bool
        assert item["noise_std"].dtype == item["scale"].dtype == torch.float32
        assert float(item["acceleration"]) in (4, 8, 16)
        assert all(torch.isfinite(v).all() for v in item.values() if isinstance(v, torch.Tensor))


def test_the_strip_obeys_the_forward_model(volumes: list[dict]) -> None:
    """y = mask * (F (phase x) + n): the difference to mask * F (phase x) is white noise of the stated level."""
    residuals = []
    for index in range(20):
        item = make(volumes)[index]
        image, mask = channels_to_complex(item["image"]), item["mask"].expand_as(item["kspace"])
        assert not item["kspace"][~mask].any()
        assert torch.allclose(item["phase"].abs(), torch.ones(()), atol=1e-6)
        image = item["phase"] * image
        noise = (item["kspace"] - fft2c(image))[mask] / item["noise_std"]
        residuals += [noise.real, noise.imag]
    values = torch.cat(residuals)
    assert float(values.std()) == pytest.approx(1, rel=0.05) and abs(float(values.mean())) < 0.05


def test_mu_is_the_l1_wavelet_estimate(volumes: list[dict]) -> None:
    """Of this very measurement, with this very phase, and the weight that follows from them."""
    for index in range(4):
        item = make(volumes, strip=None)[index]
        measured = item["kspace"][None], item["mask"], item["phase"][None]
        weight = phase_constraint_weight(*measured, float(item["noise_std"]))
        kspace, mask, phase = measured
        expected = l1_wavelet(kspace, phase, mask=mask, phase_weight=weight, scale=1.0)
        assert torch.allclose(item["mu"], complex_to_channels(expected), atol=1e-4)


def test_cropping_the_readout_is_exact(volumes: list[dict]) -> None:
    """With and without the strip the same item is drawn; the strip lies at some row of the whole."""
    whole, strip = make(volumes, strip=None)[5], make(volumes)[5]
    assert torch.equal(whole["mask"], strip["mask"]) and torch.equal(whole["scale"], strip["scale"])
    starts = range(72 - 24 + 1)
    rows = [r for r in starts if torch.allclose(whole["image"][:, r : r + 24], strip["image"], atol=1e-6)]
    assert len(rows) == 1
    # The phase is that of the whole field of view: the strip's own k-space would give a coarser one.
    assert torch.equal(whole["phase"][rows[0] : rows[0] + 24], strip["phase"])
    # The estimate of the strip is made with 24 more rows on each side. The wavelets lie elsewhere in it, so that it
    # differs from that of the whole, by less than half of what both err.
    part = whole["mu"][:, rows[0] : rows[0] + 24]
    assert float((strip["mu"] - part).norm()) < 0.5 * float((part - strip["image"]).norm())
    hybrid = ifft1c(whole["kspace"], dim=-2)[rows[0] : rows[0] + 24]
    assert torch.allclose(ifft1c(strip["kspace"], dim=-2), hybrid, atol=1e-5)


def test_one_in_these_units_is_the_percentile_of_the_zero_filled_magnitude(volumes: list[dict]) -> None:
    item = make(volumes, strip=None)[0]
    values = ifft2c(item["kspace"]).abs().numpy()
    assert float(np.percentile(values, 99.5, method="lower")) == pytest.approx(1, rel=1e-5)


def test_an_item_depends_on_seed_and_index_alone(volumes: list[dict]) -> None:
    one, two = make(volumes), make(volumes, length=1000)
    for index in (7, 0, 39):
        assert same(one[index], two[index])
    assert not torch.equal(one[7]["image"], one[8]["image"])
    assert not torch.equal(one[7]["image"][..., :64], make(volumes, seed=4)[7]["image"][..., :64])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 on DataLoader
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_stack_whatever_the_workers(volumes: list[dict], workers: int) -> None:
    dataset = make(volumes, length=16)
    batches = list(DataLoader(dataset, batch_size=4, num_workers=workers))
    assert len({batch["mask"].shape[-1] for batch in batches}) == 2
    for number, batch in enumerate(batches):
        assert batch["noise_std"].shape == (4,) and batch["noise_std"].dtype == torch.float32
        assert torch.equal(batch["mu"][2], dataset[4 * number + 2]["mu"])


def test_groups_are_drawn_by_weight(volumes: list[dict]) -> None:
    dataset = make(volumes, length=400)
    share = np.mean([dataset[i]["key"].startswith("iso") for i in range(400)])
    assert share == pytest.approx(0.75, abs=0.08)  # weights 3 and 1 (one file): standard error 0.022


def test_a_list_of_files_is_enough(volumes: list[dict]) -> None:
    dataset = make([volumes[0]["paths"][0]], augment=False)
    axes = {dataset[i]["key"].split(":")[1] for i in range(10)}
    assert axes == {"2"}


def test_indices_out_of_range(volumes: list[dict]) -> None:
    dataset = make(volumes)
    for index in (-1, 40):
        with pytest.raises(IndexError, match=f"index is {index}"):
            dataset[index]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volumes": []}, "volumes is empty"),
        ({"length": 0}, "length is 0"),
        ({"strip": 73}, "strip is 73; accepted: 1 to height, 72"),
        ({"snr": (0.0, 3.0)}, "snr is"),
        ({"resolution": (0.7, 1.2)}, "resolution is"),
        ({"accelerations": (100,)}, "accelerations, masks or widths: acceleration is 100"),
        ({"masks": ("spiral",)}, "accelerations, masks or widths: mask is 'spiral'"),
    ],
)
def test_arguments_out_of_range(volumes: list[dict], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**({"volumes": volumes} | arguments))


@pytest.mark.parametrize(("group", "message"), [({"axes": [3]}, "axes is"), ({"weight": -1}, "the groups' weights")])
def test_groups_out_of_range(volumes: list[dict], group: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([volumes[1] | group])


@pytest.mark.skipif("D3GM_DATA" not in os.environ, reason="D3GM_DATA does not name the folder of real data")
def test_real_volumes() -> None:
    folder = Path(os.environ["D3GM_DATA"]) / "mri"
    paths = [folder / "ds002748" / "sub-22_T1w.nii.gz", folder / "open_ms" / "patient03_study2_T2W.nii.gz"]
    dataset = SimulatedKspaceDataset(paths, length=8, batch_size=4)
    for index in range(8):
        item = dataset[index]
        assert item["mu"].shape == (2, 64, dataset.width(index))
        # The zero-filled image misses most of the fine detail and little of the energy.
        assert 0.01 < float((item["image"] - item["mu"]).square().mean().sqrt()) < 0.4
