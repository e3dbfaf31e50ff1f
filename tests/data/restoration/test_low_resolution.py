"""Slices of low resolution, for training and to restore: the operators, the geometry, and what cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from dicom_series import oblique_affine, write_classic
from torch.utils.data import DataLoader

from monai_d3gm.consistency import DownsamplingConsistency
from monai_d3gm.data import (
    LowResolutionSliceDataset,
    SimulatedLowResolutionDataset,
    VolumeBatchSampler,
    bundled_epi_path,
    collate_slices,
)
from monai_d3gm.data.restoration.low_resolution import estimate_noise
from monai_d3gm.engines import RestorationEvaluator, batch_image, downsampling_consistency, nonnegative
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import Sampler
from monai_d3gm.transforms.resolution import functional

OBLIQUE = np.array([[0.1, 0.9, 0, -30], [-0.8, 0.1, 0.2, 20], [0, 0.02, 3, 5], [0, 0, 0, 1.0]])
NOISELESS = {"snr": float("inf"), "magnitude": False}


def ellipsoid(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grid[:2]) + 0.2 * grid[2] ** 2 < 0.7
    return (inside * (100 + 20 * rng.standard_normal(shape))).clip(0).astype(np.float32)


def save(path: Path, data: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


# --- training ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("volumes")
    isotropic = [save(folder / f"iso{i}.nii.gz", ellipsoid(62, 58, 50, seed=i)) for i in range(2)]
    return [
        {"paths": isotropic, "weight": 3, "axes": [0, 1, 2]},
        {"paths": [save(folder / "slices.nii.gz", ellipsoid(61, 50, 6, seed=9))]},
    ]


def training(volumes: list[dict], **arguments: Any) -> SimulatedLowResolutionDataset:
    return SimulatedLowResolutionDataset(
        volumes, **({"length": 60, "batch_size": 4, "seed": 3, "patch": 24} | arguments)
    )


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(one[k], two[k]) if isinstance(one[k], torch.Tensor) else one[k] == two[k] for k in one
    )


def test_training_items_have_their_shapes_and_shares(volumes: list[dict]) -> None:
    dataset = training(volumes, degradations={"truncation": 2, "blocks": 1, "kernel": 1})
    items = [dataset[i] for i in range(60)]
    for item in items:
        assert item["image"].shape == item["mu"].shape == (1, 24, 24)
        assert item["image"].dtype == item["mu"].dtype == item["noise_std"].dtype == torch.float32
        rows, columns = item["factor"].tolist()
        assert (rows == 1 and columns in (2, 3, 4)) if item["degradation"] == "blocks" else rows == columns in (2, 4)
        assert all(torch.isfinite(v).all() for v in item.values() if isinstance(v, torch.Tensor))
    # half of 60, standard error 3.9
    assert abs(sum(item["degradation"] == "truncation" for item in items) - 30) < 12
    assert {training(volumes)[i]["degradation"] for i in range(20)} == {"truncation"}


@pytest.mark.parametrize("degradation", ["truncation", "blocks"])
def test_mu_is_the_degraded_image_on_the_fine_grid(volumes: list[dict], degradation: str) -> None:
    """A patch as large as the field of view, without noise, is degraded and upsampled by the public functions."""
    dataset = training(
        volumes, patch=72, augment=False, degradations={degradation: 1}, snr=(1e12, 1e12), magnitude=False
    )
    for index in range(12):  # 72 is a multiple of all factors and larger than every picture
        item = dataset[index]
        factors, blocks = item["factor"].tolist(), degradation == "blocks"
        low = functional.degrade(item["image"], factors, torch.ones(1, 1) if blocks else None)
        mu = functional.upsample(low, factors, "bicubic" if blocks else "sinc", blocks=blocks)
        assert torch.allclose(item["mu"], mu, atol=1e-5)
        values = item["mu"].abs().flatten().numpy()
        assert float(np.percentile(values, 99.5, method="lower")) == pytest.approx(1, rel=1e-5)


def test_patches_begin_on_low_resolution_pixels(volumes: list[dict]) -> None:
    """A smaller patch lies in a larger one about the same pixel, whole low-resolution pixels from its corner."""
    for index in range(8):
        large, small = (training(volumes, patch=p, factors=(4,), resolution=(1.0, 1.0))[index] for p in (32, 24))
        windows = large["image"][0].unfold(0, 24, 1).unfold(1, 24, 1)
        (found,) = (windows == small["image"][0]).flatten(2).all(2).nonzero().tolist()
        assert found[0] % 4 == found[1] % 4 == 0
        assert torch.equal(large["mu"][0, found[0] :, found[1] :][:24, :24], small["mu"][0])


def test_whole_slices_come_with_the_measurement_of_their_batch(volumes: list[dict]) -> None:
    """Without noise the degraded truth is the measurement; a batch has one kind and one factor."""
    shares = {"truncation": 1, "blocks": 1}
    dataset = training(
        volumes, field=72, factors=(2, 3, 4), degradations=shares, snr=(1e12, 1e12), magnitude=False, augment=False
    )
    seen = set()
    for batch in DataLoader(dataset, batch_size=4):
        (factors,) = set(map(tuple, batch["factor"].tolist()))
        (kind,) = set(batch["degradation"])
        seen.add((kind, factors))
        assert batch["image"].shape == (4, 1, 72, 72) and not batch["magnitude"].any()
        kernel = torch.ones(1, 1) if kind == "blocks" else None
        low = torch.stack([functional.degrade(image, factors, kernel) for image in batch["image"]])
        torch.testing.assert_close(batch["low_resolution"], low, atol=1e-5, rtol=0)
        if kind == "truncation":
            assert downsampling_consistency(batch).residual(batch["image"]).max() < 1e-4
    assert len(seen) > 3
    with pytest.raises(ValueError, match="field is 70; accepted: a multiple of each factor"):
        training(volumes, field=70)


def test_training_noise_has_the_stated_ratio(volumes: list[dict]) -> None:
    """With and without noise the same picture is drawn: the difference has the level that the item states."""
    arguments = {"degradations": {"truncation": 1}, "magnitude": False, "patch": 72}
    for index in range(4):
        noisy, clean = (training(volumes, snr=snr, **arguments)[index] for snr in ((20.0, 20.0), (1e12, 1e12)))
        factor = int(noisy["factor"][0])
        noise = noisy["mu"] * noisy["scale"] - clean["mu"] * clean["scale"]
        # the sinc interpolation of white noise meets it at the low-resolution pixels
        level = float(noise[:, ::factor, ::factor].std() / noisy["scale"])
        assert level == pytest.approx(float(noisy["noise_std"]), rel=0.15)  # 324 pixels or more: 4 % standard error


def test_a_training_item_depends_on_seed_and_index_alone(volumes: list[dict]) -> None:
    one, two = training(volumes), training(volumes, length=1000)
    for index in (7, 0, 59):
        assert same(one[index], two[index])
    assert not torch.equal(one[7]["image"], one[8]["image"])
    assert not torch.equal(one[7]["image"], training(volumes, seed=4)[7]["image"])
    batch = next(iter(DataLoader(one, batch_size=4)))
    assert batch["mu"].shape == (4, 1, 24, 24) and batch["factor"].shape == (4, 2) and len(batch["key"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"volumes": []}, "volumes is empty"),
        ({"length": 0}, "length is 0"),
        ({"patch": 0}, "patch is 0"),
        ({"factors": (1.5,)}, r"factors is \(1.5,\)"),
        ({"thickness": ()}, r"thickness is \(\)"),
        ({"degradations": {"fog": 1}}, "degradations is {'fog': 1}; accepted: shares of truncation, kernel, blocks"),
        ({"degradations": {"kernel": 0}}, "not all 0"),
        ({"snr": (0.0, 3.0)}, "snr is"),
        ({"resolution": (0.7, 1.2)}, "resolution is"),
    ],
)
def test_training_arguments_out_of_range(volumes: list[dict], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training(**({"volumes": volumes} | arguments))
    with pytest.raises(IndexError, match="index is 60"):
        training(volumes)[60]


# --- simulated inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degradation", ["truncation", "blocks", "kernel"])
@pytest.mark.parametrize("plane", ["in", "through"])
def test_a_simulated_slice_obeys_the_forward_model(tmp_path: Path, degradation: str, plane: str) -> None:
    path = save(tmp_path / "a.nii.gz", data := ellipsoid(42, 35, 33))
    dataset = LowResolutionSliceDataset(
        path, factor=4, simulate=True, degradation=degradation, plane=plane, slices=3, **NOISELESS
    )
    volume, batch = dataset.volumes[0], collate_slices([dataset[i] for i in range(3)])
    expected = data[:40, :32] if plane == "in" else data[..., :32]
    assert volume.shape == expected.shape and volume.has_truth and volume.simulated
    assert np.allclose(volume.affine, OBLIQUE, rtol=0, atol=1e-6)  # pixels are left out at the end: voxel 0 stays
    for i, number in enumerate(volume.slices):
        truth = np.take(expected, number, axis=volume.slice_axis)
        assert np.allclose(batch["reference"][i] * batch["scale"][i], truth, atol=1e-3)
        assert torch.equal(batch["image"][i, 0], batch["reference"][i])
    consistency = downsampling_consistency(batch)
    assert torch.allclose(consistency.forward(batch["image"]), batch["low_resolution"], atol=1e-5)
    assert consistency.image_shape == tuple(batch["mu"].shape[1:])
    blocks = degradation != "truncation"
    assert ("kernel" in batch) == blocks
    for mode in ("sinc", "bicubic"):
        fine = functional.upsample(batch["low_resolution"], dataset.factors, mode, blocks=blocks)
        assert torch.allclose(batch[mode], fine, atol=1e-5)
    assert torch.equal(batch["mu"], batch["bicubic" if blocks else "sinc"])


def test_one_in_these_units_is_the_percentile_of_the_volume(tmp_path: Path) -> None:
    dataset = LowResolutionSliceDataset(save(tmp_path / "a.nii.gz", ellipsoid(32, 36, 5)), factor=2, simulate=True)
    items = [dataset[i] for i in range(5)]
    values = torch.stack([item["mu"] for item in items]).abs().numpy()
    assert float(np.percentile(values, 99.5, method="lower")) == pytest.approx(1, rel=1e-5)
    assert len({item["scale"] for item in items}) == 1


def test_a_simulated_slice_depends_on_seed_name_and_number_alone(tmp_path: Path) -> None:
    data = ellipsoid(32, 36, 5)
    for name in ("a", "b"):
        save(tmp_path / f"{name}.nii.gz", data)
    one, other = (
        LowResolutionSliceDataset(tmp_path, factor=2, simulate=True, degradation="kernel", slices=s) for s in ("all", 1)
    )
    third = LowResolutionSliceDataset(tmp_path, factor=2, simulate=True, degradation="kernel", seed=1)
    assert [item["key"] for item in (one[2], other[0], one[7], other[1])] == ["a:2", "a:2", "b:2", "b:2"]
    assert same(one[2] | {"affine": 0}, other[0] | {"affine": 0})  # also after another volume was read
    assert same(one[7] | {"affine": 0}, other[1] | {"affine": 0})
    assert torch.equal(one[0]["kernel"], one[4]["kernel"])  # one blur for a volume
    assert not torch.equal(one[2]["low_resolution"], one[7]["low_resolution"])
    assert not torch.equal(one[2]["low_resolution"], third[2]["low_resolution"])


def test_empty_slices_are_skipped(tmp_path: Path) -> None:
    data = ellipsoid(32, 36, 6)
    data[..., [0, 5]] = 0
    (volume,) = LowResolutionSliceDataset(save(tmp_path / "a.nii.gz", data), simulate=True).volumes
    assert volume.skipped == (0, 5) and volume.slices == (1, 2, 3, 4)


# --- measured inputs --------------------------------------------------------------------------------------------


def ball(affine: np.ndarray, shape: tuple[int, int, int], centre: np.ndarray, width: float) -> np.ndarray:
    """A Gaussian in world space, sampled at the voxels' centres."""
    index = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)])
    world = np.einsum("ab,bxyz->axyz", affine, index)[:3]
    distance = ((world - centre[:, None, None, None]) ** 2).sum(0)
    return (100 * np.exp(-distance / (2 * width**2))).astype(np.float32)


@pytest.mark.parametrize(
    ("plane", "factor", "degradation"),
    [("in", 2, None), ("in", 4, "blocks"), ("through", 3, None), ("through", 2, "truncation")],
)
def test_what_was_measured_stays_where_it_is(tmp_path: Path, plane: str, factor: int, degradation: str | None) -> None:
    """The centre of mass of a Gaussian is where it was put in world space, to a fortieth of a fine voxel.

    It is sampled where the low-resolution voxels' centres are; mu puts it there on the fine grid with its own affine.
    """
    affine, shape = oblique_affine((2.0, 2.2, 2.4)), (24, 22, 20)
    centre = (affine @ np.array([11.3, 10.6, 9.8, 1.0]))[:3]
    path = save(tmp_path / "a.nii.gz", ball(affine, shape, centre, 5.0), affine)
    dataset = LowResolutionSliceDataset(path, factor=factor, plane=plane, degradation=degradation)
    (volume,) = dataset.volumes
    fine = np.stack([dataset[i]["mu"][0].numpy() for i in range(len(dataset))], axis=volume.slice_axis)
    assert fine.shape == volume.shape
    assert volume.shape == tuple(
        n * f for n, f in zip(shape, (1, 1, factor) if plane == "through" else (factor, factor, 1), strict=True)
    )
    index = [float((fine.sum(tuple({0, 1, 2} - {a})) * np.arange(fine.shape[a])).sum() / fine.sum()) for a in range(3)]
    found = (volume.affine @ np.array([*index, 1.0]))[:3]
    assert found == pytest.approx(centre, abs=2.0 / factor / 40)
    assert not volume.has_truth and "reference" not in dataset[0] and "image" not in dataset[0]


@pytest.mark.parametrize(("plane", "three"), [("in", (2, 2, 1)), ("through", (1, 1, 2))])
def test_the_affine_of_the_fine_volume(tmp_path: Path, plane: str, three: tuple[int, int, int]) -> None:
    """To 1e-5 mm: voxel 0 stays in plane; a thick slice is the mean place of the thin ones that it becomes."""
    path = save(tmp_path / "a.nii.gz", ellipsoid(20, 22, 7))
    (volume,) = LowResolutionSliceDataset(path, factor=2, plane=plane).volumes
    coarse = np.array([4, 6, 3, 1.0])
    first = volume.affine @ (coarse * np.append(three, 1))
    last = volume.affine @ (coarse * np.append(three, 1) + np.append(np.array(three) - 1, 0))
    expected = nibabel.load(path).affine @ coarse
    assert np.allclose(first if plane == "in" else (first + last) / 2, expected, rtol=0, atol=1e-5)


def test_interpolated_images_are_cropped_to_their_band(tmp_path: Path) -> None:
    """64 of 128 rows were acquired: a share of 0.5, and rows twice as far apart. The spectrum's edge shows it."""
    truth = ellipsoid(64, 80, 3)
    image = functional.upsample(torch.from_numpy(truth.transpose(2, 0, 1).copy()), (2, 1)).abs()
    path = save(tmp_path / "a.nii.gz", image.numpy().transpose(1, 2, 0))
    dataset = LowResolutionSliceDataset(path, factor=2)
    (volume,) = dataset.volumes
    assert volume.kept_band == pytest.approx((0.5, 1), abs=0.05)
    assert dataset[0]["low_resolution"].shape[1:] == (round(128 * volume.kept_band[0]), 80)
    assert volume.shape == (2 * round(128 * volume.kept_band[0]), 160, 3)
    expected = nibabel.load(path).affine @ np.diag([1 / volume.kept_band[0] / 2, 0.5, 1, 1])
    assert np.allclose(volume.affine, expected, rtol=0, atol=1e-5)


def test_a_dicom_series_is_cropped_by_its_header(tmp_path: Path) -> None:
    """AcquisitionMatrix says 30 columns and 20 rows of 40 and 40, though the spectrum of so few voxels says nothing."""
    affine = oblique_affine()
    stored = (4 * ellipsoid(40, 40, 4)).astype(np.uint16)
    # frequency and phase encodings, the latter along a column (axis 1)
    write_classic(tmp_path / "series", stored, affine, extra={"AcquisitionMatrix": [30, 0, 0, 20]})
    for inputs in (tmp_path / "series", sorted((tmp_path / "series").iterdir())):
        dataset = LowResolutionSliceDataset(inputs, factor=2)
        (volume,) = dataset.volumes
        assert volume.format.name == "dicom" and volume.stem == volume.original.source.name
        assert volume.kept_band == (0.75, 0.5) and volume.shape == (60, 40, 4)
        assert any("interpolated by the scanner" in note for note in volume.warnings)
        assert np.allclose(volume.affine, affine @ np.diag([1 / 0.75 / 2, 1, 1, 1]), rtol=0, atol=1e-4)
        assert dataset[0]["low_resolution"].shape == (1, 30, 20) and dataset[0]["noise_std"] > 0


def test_one_volume_of_a_4d_file_is_chosen_by_name() -> None:
    with pytest.raises(ValueError, match="4-D file with 2 volumes; choose one: frame, 0 to 1"):
        LowResolutionSliceDataset(bundled_epi_path())
    second = LowResolutionSliceDataset(bundled_epi_path(), frame=1, slices=1)
    data = np.asarray(nibabel.load(bundled_epi_path()).dataobj[..., 1], dtype=np.float32)
    item = second[0]
    low = item["low_resolution"][0] * item["scale"]
    assert np.allclose(low, data[:, :, item["slice"]], atol=1e-3)
    assert second.volumes[0].warnings == ("4-D file: volume 1 of 2 was taken, counted from 0",)
    with pytest.raises(ValueError, match="volume_index is 2"):
        LowResolutionSliceDataset(bundled_epi_path(), frame=2)


# --- noise ------------------------------------------------------------------------------------------------------


def smooth(rows: int, columns: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    return (100 * (1.2 + 0.5 * torch.sin(3 * y) * torch.cos(2 * x)))[None]


@pytest.mark.parametrize("snr", [10.0, 50.0])
def test_the_noise_of_a_smooth_image_is_found(snr: float) -> None:
    slices = [functional.add_noise(smooth(96, 80), np.random.default_rng(i), snr) for i in range(5)]
    estimate = estimate_noise([image[0].numpy() for image, _ in slices])
    assert estimate == pytest.approx(slices[0][1], rel=0.05)


def test_the_noise_of_simulated_slices_can_be_estimated(tmp_path: Path) -> None:
    """The truth and the estimate have the range that the data set's page states; what was drawn stays the same."""
    path = tmp_path / "smooth.nii.gz"
    nibabel.save(nibabel.Nifti1Image(smooth(96, 80).numpy().transpose(1, 2, 0).repeat(3, axis=2), np.eye(4)), path)
    known, estimated = (
        LowResolutionSliceDataset(path, simulate=True, snr=40, estimate_noise=each)[1] for each in (False, True)
    )
    ratio = float(estimated["noise_std"] / known["noise_std"])
    assert ratio != 1 and 0.7 < ratio < 2
    assert torch.equal(estimated["low_resolution"], known["low_resolution"])


def test_the_noise_of_a_magnitude_image_is_never_0(tmp_path: Path) -> None:
    """The floor is the foreground's mean over 200."""
    flat = np.zeros((40, 40), dtype=np.float32)
    flat[4:36, 4:36] = 50
    assert estimate_noise([flat, np.full_like(flat, 50)]) >= 50 / 200
    assert estimate_noise([np.full_like(flat, 50)]) == pytest.approx(50 / 200)
    path = save(tmp_path / "a.nii.gz", np.repeat(flat[..., None], 3, axis=2))
    item = LowResolutionSliceDataset(path, noise_std=3.0)[0]
    assert item["noise_std"] * item["scale"] == pytest.approx(3.0)


# --- use --------------------------------------------------------------------------------------------------------


def test_consistency_pulls_towards_the_measurement(tmp_path: Path) -> None:
    dataset = LowResolutionSliceDataset(save(tmp_path / "a.nii.gz", ellipsoid(32, 36, 3)), factor=2, simulate=True)
    batch = collate_slices([dataset[0], dataset[1]])
    consistency = downsampling_consistency(batch)
    assert isinstance(consistency, DownsamplingConsistency)
    assert torch.allclose(consistency.noise_std.float(), batch["noise_std"])
    before, after = torch.zeros_like(batch["mu"]), consistency(torch.zeros_like(batch["mu"]), 1.0)
    assert bool((consistency.residual(after) < 0.2 * consistency.residual(before)).all())
    batch.pop("noise_std")
    hard = downsampling_consistency(batch)(torch.zeros_like(batch["mu"]), 1.0)
    assert torch.allclose(consistency.forward(hard), batch["low_resolution"], atol=1e-5)


@pytest.mark.parametrize(("plane", "shape"), [("in", (32, 36, 8)), ("through", (33, 36, 8))])
def test_the_engine_restores_a_volume_in_its_units(tmp_path: Path, plane: str, shape: tuple[int, int, int]) -> None:
    path = save(tmp_path / "a.nii.gz", data := ellipsoid(33, 36, 8))
    dataset = LowResolutionSliceDataset(path, factor=2, simulate=True, plane=plane)
    loader = DataLoader(dataset, batch_sampler=VolumeBatchSampler(dataset, 16), collate_fn=collate_slices)
    network = ConditionalNAFNet(
        in_channels=2, out_channels=1, width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)
    )
    evaluator = RestorationEvaluator(
        "cpu",
        loader,
        network,
        RestorationInferer(D3GMScheduler(), Sampler(steps=1)),
        data_consistency=downsampling_consistency,
        to_image=nonnegative,
        baselines={name: batch_image(name) for name in ("bicubic", "sinc")},
        progress=False,
    )
    evaluator.run()
    volume = evaluator.state.volume
    for images in volume.images.values():
        restored = volume.source.as_volume(images)
        assert restored.shape == volume.source.shape == shape
        # in the input's units: the mean of the object, 100, is kept by every method (an untrained network adds noise)
        inside = data[: shape[0], :, :] > 0
        assert float(restored[inside].mean()) == pytest.approx(float(data[: shape[0]][inside].mean()), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 3}, "factor is 3; accepted: 2, 4"),
        ({"factor": True}, "factor is True"),
        ({"factor": 5, "plane": "through"}, "factor is 5; accepted: 2, 3, 4"),
        ({"plane": "across"}, "plane is 'across'; accepted: in, through"),
        ({"degradation": "kernel"}, "degradation is 'kernel'; accepted: truncation, blocks"),
        ({"degradation": "fog", "simulate": True}, "degradation is 'fog'; accepted: truncation, kernel, blocks"),
        ({"noise_std": 0.0}, "noise_std is 0.0; accepted: a number above 0, or None"),
        ({"snr": 0.0}, "snr is 0.0"),
        ({"slices": 0}, "slices is 0"),
        ({"inputs": []}, "inputs is empty"),
    ],
)
def test_arguments_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LowResolutionSliceDataset(**({"inputs": bundled_epi_path(), "frame": 0} | arguments))


def test_inputs_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: the folder has no input; accepted: NIfTI, DICOM"):
        LowResolutionSliceDataset(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"nowhere.nii: no such file or folder"):
        LowResolutionSliceDataset(tmp_path / "nowhere.nii")
    small = save(tmp_path / "small.nii.gz", ellipsoid(32, 3, 2))
    with pytest.raises(ValueError, match=r"small.nii.gz: \(32, 3, 2\) voxels are too few for the factor 4"):
        LowResolutionSliceDataset(small, factor=4, simulate=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "x.nii.gz", ellipsoid(8, 8, 2))
    with pytest.raises(ValueError, match="would be written to the same output; rename one"):
        LowResolutionSliceDataset([tmp_path / "a", tmp_path / "b"])
    files = write_classic(tmp_path / "series", (4 * ellipsoid(8, 8, 4)).astype(np.uint16))
    with pytest.raises(ValueError, match="of a volume of which not all files were given"):
        LowResolutionSliceDataset(files[:2])
    phase = write_classic(
        tmp_path / "phase", (4 * ellipsoid(8, 8, 2)).astype(np.uint16), image_type=("ORIGINAL", "PRIMARY", "P")
    )
    with pytest.raises(ValueError, match="phase"):
        LowResolutionSliceDataset(phase)
