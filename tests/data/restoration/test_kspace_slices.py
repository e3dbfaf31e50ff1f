"""The slices to restore: against fastMRI's own transforms, and on inputs that cannot be used."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import fastmri
import h5py
import nibabel
import numpy as np
import pytest
import torch
from fastmri.data import transforms as fastmri_transforms
from fastmri.data.mri_data import SliceDataset
from fastmri.data.subsample import create_mask_for_mask_type
from torch.utils.data import DataLoader

from monai_d3gm.baselines import cg_sense
from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft2c, ifft2c
from monai_d3gm.consistency.noise import estimate_noise_std
from monai_d3gm.data import (
    KspaceFileError,
    KspaceSliceDataset,
    bundled_epi_path,
    collate_slices,
    find_inputs,
    write_kspace,
)
from monai_d3gm.engines import kspace_consistency
from monai_d3gm.transforms import CompressedSensing, ZeroFilled
from monai_d3gm.transforms.kspace.functional import foreground_mean, simulate_kspace


def disc(rows: int, columns: int) -> np.ndarray:
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return ((y**2 / 0.4 + x**2 / 0.5 < 1) * (1.2 + np.sin(9 * y) * np.cos(7 * x))).astype(np.float32)


def simulated_kspace(slices: int, rows: int, columns: int, coils: int = 1) -> torch.Tensor:
    items = [
        simulate_kspace(1e-4 * disc(rows, columns), np.random.default_rng(s), snr=80.0, coils=coils)
        for s in range(slices)
    ]
    return torch.stack([item[0] for item in items])


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A fully sampled single-coil file: 96 rows (readout oversampled), 50 columns (46 encoded), images of 48 x 44."""
    kspace = simulated_kspace(3, 96, 50)
    kspace[..., :2] = kspace[..., 48:] = 0
    images = fastmri_transforms.center_crop(ifft2c(kspace).abs(), (48, 44))
    path = tmp_path / "single.h5"
    write_kspace(path, kspace, recon_size=(48, 44), reconstruction=images, padding=(2, 48), spacing=(2.0, 2.5, 4.0))
    return path


@pytest.fixture
def multi(tmp_path: Path) -> Path:
    path = tmp_path / "multi.h5"
    write_kspace(path, simulated_kspace(2, 64, 64, coils=4), recon_size=(64, 64))
    return path


def write_nifti(path: Path, data: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, np.diag([2.0, 2.0, 4.0, 1.0])), path)
    return path


def test_fully_sampled_files_against_fastmri(single: Path) -> None:
    """fastMRI's own steps with the same mask, at full readout: image, zero-filled image and crop."""
    dataset = KspaceSliceDataset(single, acceleration=4, mask="equispaced_fraction")
    theirs = SliceDataset(single.parent, "singlecoil")
    assert len(dataset) == len(theirs) == 3
    for index in range(3):
        item = dataset[index]
        kspace, _, target, attributes, _, _ = theirs[index]
        full = fastmri_transforms.to_tensor(kspace)
        mask = item["mask"][..., None].float()
        expected = fastmri_transforms.complex_center_crop(fastmri.ifft2c(full * mask), (48, 44))
        ours = fastmri_transforms.center_crop(item["zero_filled"], item["crop"]).permute(1, 2, 0)
        assert torch.allclose(ours * item["scale"], expected, atol=1e-5 * item["scale"])
        assert item["kspace"].shape == (48, 50) and item["crop"] == (48, 44)
        assert torch.allclose(item["reference"] * item["scale"], torch.from_numpy(target))
        truth = fastmri_transforms.center_crop(item["image"].norm(dim=0), item["crop"])
        assert torch.allclose(truth, item["reference"], atol=1e-5)
        whole = fastmri_transforms.complex_center_crop(fastmri.ifft2c(full), item["kspace"].shape)
        whole = torch.view_as_complex(whole.contiguous()) / item["scale"]
        assert torch.allclose(channels_to_complex(item["image"]) * item["phase"], whole, atol=1e-5)
        # fastMRI samples no column outside those encoded (apply_mask's padding).
        left, right = attributes["padding_left"], attributes["padding_right"]
        assert (left, right) == (2, 48)
        assert not item["mask"][:, :left].any() and not item["mask"][:, right:].any()


def test_a_slice_obeys_the_forward_model(single: Path, multi: Path) -> None:
    """y = mask * F (S phase x); A^H y is the zero-filled image, whose A leaves out the phase."""
    for item in (KspaceSliceDataset(single)[1], KspaceSliceDataset(bundled_epi_path(), snr=float("inf"))[3]):
        image = item["phase"] * channels_to_complex(item["image"])
        assert torch.allclose(item["kspace"], fft2c(image) * item["mask"], atol=1e-4)
        zero_filled = channels_to_complex(item["zero_filled"])
        assert torch.allclose(fft2c(zero_filled), item["kspace"], atol=1e-4)
        consistency = kspace_consistency(collate_slices([item]))
        assert torch.allclose(consistency.forward(item["image"][None]), item["kspace"], atol=1e-4)
        adjoint = channels_to_complex(consistency.adjoint())[0]
        assert torch.allclose(adjoint * item["phase"], zero_filled, atol=1e-4)
    item = KspaceSliceDataset(bundled_epi_path(), snr=float("inf"), coils=3)[3]
    maps, image = item["sensitivity_maps"], item["phase"] * channels_to_complex(item["image"])
    assert item["mask"].shape == (1, 1, 96) and item["kspace"].shape == (3, 128, 96)
    assert torch.allclose(item["kspace"], fft2c(maps * image) * item["mask"], atol=1e-4)
    consistency = kspace_consistency(collate_slices([item]))
    assert torch.allclose(consistency.forward(item["image"][None])[0], item["kspace"], atol=1e-4)


def test_the_estimate_is_that_of_the_transform_and_nearer_the_truth(single: Path) -> None:
    """`mu` belongs to the slice's own k-space and phase; the zero-filled image has its first meaning."""
    for item in (KspaceSliceDataset(single)[1], KspaceSliceDataset(bundled_epi_path(), coils=3)[3]):
        maps = item.get("sensitivity_maps")
        estimate, phase = CompressedSensing()(item["kspace"], item["mask"], maps, item["noise_std"])
        assert torch.equal(item["mu"], estimate) and torch.equal(item["phase"], phase)
        assert torch.allclose(item["zero_filled"], ZeroFilled()(item["kspace"], maps), atol=1e-6)
        assert torch.allclose(phase.abs(), torch.ones(()), atol=1e-6)
        aligned = channels_to_complex(item["zero_filled"]) * phase.conj()
        left = [(image - item["image"]).norm() for image in (item["mu"], complex_to_channels(aligned))]
        assert left[0] < left[1]


def test_coil_maps_are_estimated_from_what_was_sampled(multi: Path) -> None:
    item = KspaceSliceDataset(multi, acceleration=2)[0]
    maps = item["sensitivity_maps"]
    assert maps.shape == (4, 64, 64) and item["mask"].shape == (1, 1, 64)
    energy = maps.abs().square().sum(dim=0)
    assert torch.allclose(energy[item["reference"] > 0.1], torch.ones(()), atol=1e-3)
    assert item["coils"]["coils"] == item["coils"]["virtual_coils"] == 4
    # Combining the coils with the maps gives the root of the sum of squares, up to noise and the maps' error.
    inside = item["reference"] > 0.3
    difference = (item["image"].norm(dim=0) - item["reference"])[inside]  # both in the units of the whitened coils
    assert float(difference.abs().mean()) < 0.03


def test_a_file_with_a_mask_is_taken_as_it_is(tmp_path: Path) -> None:
    mask = (np.arange(40) % 3 == 0) | (np.abs(np.arange(40) - 20) < 4)
    kspace = simulated_kspace(2, 40, 40)
    write_kspace(tmp_path / "test.h5", kspace.numpy() * mask, recon_size=(40, 40), mask=mask)
    dataset = KspaceSliceDataset(tmp_path / "test.h5", acceleration=8)
    item = dataset[0]
    assert "image" not in item and "reference" not in item and not dataset.volumes[0].has_truth
    assert np.array_equal(item["mask"][0].numpy(), mask)
    assert torch.allclose(item["kspace"] * item["scale"], kspace[0] * torch.from_numpy(mask), atol=1e-6)
    with pytest.raises(KspaceFileError, match=r"test\.h5: the file has a mask along the phase axis"):
        KspaceSliceDataset(tmp_path / "test.h5", axis="frequency")


def test_the_frequency_axis_is_the_phase_axis_of_the_transposed_slice(single: Path, tmp_path: Path) -> None:
    item = KspaceSliceDataset(single, axis="frequency")[2]
    assert item["transposed"] and item["mask"].shape == (1, 96) and item["crop"] == (44, 48)
    assert item["kspace"].shape == (44, 96)
    stored = KspaceSliceDataset(single)[2]
    assert torch.allclose(item["reference"] * item["scale"], stored["reference"].T * stored["scale"], atol=1e-7)
    truth = fastmri_transforms.center_crop(item["image"].norm(dim=0), item["crop"])
    assert torch.allclose(truth, item["reference"], atol=1e-5)

    volume = np.stack([disc(40, 56)] * 2, axis=-1)
    turned = KspaceSliceDataset(write_nifti(tmp_path / "a.nii.gz", volume.swapaxes(0, 1)))[0]
    (tmp_path / "turned").mkdir()
    same = KspaceSliceDataset(write_nifti(tmp_path / "turned" / "a.nii.gz", volume), axis="frequency")[0]
    for name in ("kspace", "mask", "mu", "zero_filled", "phase", "image", "reference"):
        assert torch.equal(turned[name], same[name])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12 on DataLoader
def test_slices_are_reproducible_whatever_the_order_and_workers(tmp_path: Path) -> None:
    volume = np.stack([disc(40, 40)] * 5, axis=-1)
    path = write_nifti(tmp_path / "a.nii.gz", volume)
    one = KspaceSliceDataset(path, seed=1)
    items = [one[i] for i in range(5)]
    some = KspaceSliceDataset([bundled_epi_path(), path], seed=1, slices=1)
    assert some[1]["key"] == "a:2" and torch.equal(some[1]["kspace"], items[2]["kspace"])
    shutil.copy(path, tmp_path / "b.nii.gz")
    assert not torch.equal(KspaceSliceDataset(tmp_path / "b.nii.gz", seed=1)[2]["kspace"], items[2]["kspace"])
    assert not torch.equal(KspaceSliceDataset(path, seed=2)[2]["kspace"], items[2]["kspace"])
    assert not torch.equal(items[0]["mask"], items[1]["mask"])
    for batch, item in zip(DataLoader(one, batch_size=None, num_workers=2), items, strict=True):
        assert torch.equal(batch["kspace"], item["kspace"]) and batch["key"] == item["key"]


@pytest.mark.parametrize("kind", ["random", "equispaced_fraction"])
def test_a_mask_per_volume_is_fastmris(kind: str, tmp_path: Path) -> None:
    """The slices of a file share the mask that fastMRI's own transform draws for a file of this name, and those of a
    simulated volume one of its name; another seed draws another."""
    path = tmp_path / "file1000007.h5"
    write_kspace(path, simulated_kspace(3, 64, 50), recon_size=(48, 50))
    dataset = KspaceSliceDataset(path, acceleration=4, mask=kind, mask_per="volume")
    function = create_mask_for_mask_type(kind, [0.08], [4])
    _, expected, _ = fastmri_transforms.apply_mask(torch.ones(1, 64, 50, 2), function, seed=tuple(map(ord, path.name)))
    for index in range(3):
        assert torch.equal(dataset[index]["mask"].flatten(), expected.flatten() > 0)
    other = KspaceSliceDataset(path, acceleration=4, mask=kind, mask_per="volume", seed=1)
    assert torch.equal(other[0]["mask"], other[2]["mask"]) and not torch.equal(other[0]["mask"], dataset[0]["mask"])

    for name in ("a", "b"):
        write_nifti(tmp_path / f"{name}.nii.gz", np.stack([disc(64, 50)] * 2, axis=-1))
    masks = [
        [item["mask"] for item in KspaceSliceDataset(tmp_path / f"{name}.nii.gz", mask=kind, mask_per=per)]
        for name, per in (("a", "volume"), ("b", "volume"), ("a", "slice"))
    ]
    assert torch.equal(masks[0][0], masks[0][1]) and not torch.equal(masks[0][0], masks[1][0])
    assert not torch.equal(masks[2][0], masks[2][1])


def test_the_noise_of_simulated_kspace_can_be_estimated(tmp_path: Path) -> None:
    """By the estimate for measured k-space, too large where signal reaches the outer frequencies (here the edge of a
    disc at SNR 20); what was drawn stays the same."""
    write_nifti(tmp_path / "a.nii.gz", np.stack([disc(128, 96)] * 2, axis=-1))
    known, estimated = (
        KspaceSliceDataset(tmp_path / "a.nii.gz", snr=20, estimate_noise=each)[0] for each in (False, True)
    )
    assert float(estimated["noise_std"]) == pytest.approx(estimate_noise_std(estimated["kspace"]), rel=1e-5)
    assert 1 < float(estimated["noise_std"] / known["noise_std"]) < 1.5
    assert torch.equal(estimated["kspace"], known["kspace"])


def test_volumes_say_what_a_writer_needs(single: Path) -> None:
    dataset = KspaceSliceDataset([single, bundled_epi_path()], slices=2)
    h5, nifti = dataset.volumes
    assert (h5.format.name, h5.shape, h5.slices, h5.coils) == ("fastmri", (48, 44, 3), (0, 2), 1)
    assert np.allclose(np.diag(h5.affine), (2.0, 2.5, 4.0, 1.0)) and h5.has_truth and not h5.simulated
    assert (nifti.format.name, nifti.shape, nifti.slices) == ("nifti", (128, 96, 24), (6, 18))
    assert np.allclose(nifti.affine, nibabel.load(bundled_epi_path()).affine) and nifti.simulated
    assert [(dataset[i]["volume"], dataset[i]["key"]) for i in range(4)] == [
        (0, "single:0"),
        (0, "single:2"),
        (1, "example4d:6"),
        (1, "example4d:18"),
    ]


def test_background_slices_are_skipped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volume = np.stack([disc(40, 40)] * 6, axis=-1)
    volume[..., [0, 1, 5]] = 0
    dataset = KspaceSliceDataset(write_nifti(tmp_path / "a.nii.gz", volume))
    assert dataset.volumes[0].slices == (2, 3, 4) and dataset.volumes[0].skipped == (0, 1, 5)
    assert "3 of 6 slices are zero everywhere" in caplog.text


def test_interpolated_volumes_are_cropped_to_their_band(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume = np.stack([disc(128, 96) * (1 + 0.3 * rng.standard_normal((128, 96)))] * 2, axis=-1)
    spectrum = np.fft.rfft(volume, axis=0)
    spectrum[40:] = 0
    path = write_nifti(tmp_path / "a.nii.gz", np.abs(np.fft.irfft(spectrum, n=128, axis=0)).astype(np.float32))
    volume_info = KspaceSliceDataset(path).volumes[0]
    assert volume_info.kept_band[0] == pytest.approx(40 / 64, abs=0.04) and volume_info.kept_band[1] == 1
    assert volume_info.shape[0] == round(128 * volume_info.kept_band[0])
    # The field of view stays: 128 voxels of 2 mm.
    assert volume_info.shape[0] * volume_info.affine[0, 0] == pytest.approx(256)


def test_known_noise_is_in_the_images_units(single: Path) -> None:
    item = KspaceSliceDataset(single, noise_std=1e-6)[0]
    assert item["noise_std"] * item["scale"] == pytest.approx(1e-6)
    assert KspaceSliceDataset(single, noise_std=0.0)[0]["noise_std"] == 0
    # estimated from 40 samples, in the file's units: the mean of the foreground over the SNR
    item = KspaceSliceDataset(single)[0]
    stated = foreground_mean(1e-4 * disc(96, 50)) / 80
    assert item["noise_std"] * item["scale"] == pytest.approx(stated, rel=0.3)


def test_several_coils_are_not_fitted_exactly(multi: Path) -> None:
    with pytest.raises(KspaceFileError, match=r"multi\.h5: noise_std is 0 with 4 coils"):
        KspaceSliceDataset(multi, noise_std=0.0)


def correlated_scan(coils: int, size: int = 96, snr: float = 60.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy k-space of the disc with a loop array, whose coils' noise is correlated, and its root sum of squares."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    angle = 2 * torch.pi * torch.arange(coils)[:, None, None] / coils
    distance = (y - 1.3 * angle.sin()).square() + (x - 1.3 * angle.cos()).square()
    maps = torch.polar(1 / (0.3 + distance), 2 * distance.sqrt() + angle)
    image = torch.from_numpy(disc(size, size)) * torch.exp(1j * (0.8 * x - 0.5 * y))
    signal = maps * image
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(coils) + 0.3 * torch.randn(coils, coils, generator=generator, dtype=torch.complex64)
    noise = torch.view_as_complex(torch.randn(coils, size, size, 2, generator=generator))
    std = float(signal.abs().square().sum(0).sqrt()[image.abs() > 0.5].mean()) / snr
    kspace = fft2c(signal.to(torch.complex64)) + std * torch.einsum("cd,dhw->chw", mixing, noise)
    return kspace, signal.abs().square().sum(0).sqrt()


def test_a_small_centre_of_sixteen_coils_loses_no_tissue(tmp_path: Path) -> None:
    """8 of 96 lines at the centre, correlated noise: maps on the whole disc, white noise, and 6 dB over zero filling.

    The maps of a square of 8 x 8 would lose most of it: the centre's lines are used at their full length.
    """
    kspace, truth = correlated_scan(16)
    lines = (torch.arange(96) % 3 == 0) | ((torch.arange(96) - 48).abs() < 4) | (torch.arange(96) == 44)
    write_kspace(tmp_path / "a.h5", (kspace * lines)[None], recon_size=(96, 96), mask=lines.numpy())
    item = KspaceSliceDataset(tmp_path / "a.h5")[0]
    inside = truth > 0.1 * truth.max()
    energy = item["sensitivity_maps"].abs().square().sum(0)
    assert float((energy[inside] > 0.99).float().mean()) == 1.0
    assert item["coils"]["virtual_coils"] < 16 and item["coils"]["energy_kept"] >= 0.999
    assert item["coils"]["unexplained"] < 0.03
    # the noise of what was measured, in the virtual coils, at the corners of k-space
    corners = item["kspace"][:, :12, lines][..., :4]
    assert float(torch.view_as_real(corners).std()) == pytest.approx(item["noise_std"], rel=0.1)
    maps = item["sensitivity_maps"]
    solved = cg_sense(item["kspace"], maps, mask=item["mask"])
    residual = torch.view_as_real((fft2c(maps * solved) - item["kspace"])[:, :, lines]).square().mean().sqrt()
    # a least-squares fit has less than the noise: sqrt(1 - unknowns / numbers), with 9 coils and 0.4 of the lines 0.85
    assert 0.7 < float(residual) / item["noise_std"] < 1.1

    def psnr(image: torch.Tensor) -> float:
        scaled = image * item["scale"] * item["intensity"]
        return float(10 * torch.log10(truth.max() ** 2 / (scaled - truth)[inside].square().mean()))

    assert psnr(solved.abs()) > psnr(item["zero_filled"].norm(dim=0)) + 6


def test_slices_of_a_volume_share_their_virtual_coils(tmp_path: Path) -> None:
    kspace, _ = correlated_scan(10, 48)
    other = torch.cat([kspace[:5], 0.01 * kspace[5:]])  # of another number of virtual coils when taken alone
    write_kspace(tmp_path / "a.h5", torch.stack([kspace, other, kspace]), recon_size=(48, 48))
    dataset = KspaceSliceDataset(tmp_path / "a.h5", acceleration=2)
    batch = collate_slices([dataset[i] for i in range(3)])
    assert batch["kspace"].shape[1] == batch["coils"][0]["virtual_coils"] < 10
    assert torch.equal(KspaceSliceDataset(tmp_path / "a.h5", acceleration=2)[2]["kspace"], batch["kspace"][2])


@pytest.mark.parametrize("how", ["file", "npy", "cfl"])
def test_maps_of_the_users_own(tmp_path: Path, how: str) -> None:
    """They are whitened with the data and made of sum of squares 1: both sides of S x = coils then agree."""
    kspace, truth = correlated_scan(4, 64)
    own = ifft2c(kspace) / truth.clamp_min(1e-3) * (truth > 0.1 * truth.max())
    write_kspace(tmp_path / "a.h5", kspace[None], recon_size=(64, 64))
    option = None
    if how == "file":
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["sensitivity_maps"] = own.numpy()[None]
    elif how == "npy":
        option = tmp_path / "maps.npy"
        np.save(option, own.numpy())
    else:
        option = tmp_path / "maps.cfl"
        option.with_suffix(".hdr").write_text("# Dimensions\n64 64 1 4 1 1 1 1 1 1 1 1 1 1 1 1\n")
        option.write_bytes(own.numpy().transpose(1, 2, 0).tobytes(order="F"))
    item = KspaceSliceDataset(tmp_path / "a.h5", acceleration=2, maps=option)[0]
    assert item["coils"]["maps"] == "given"
    energy = item["sensitivity_maps"].abs().square().sum(0)
    assert torch.allclose(energy[truth > 0.1 * truth.max()], torch.ones(()), atol=1e-4)
    assert item["coils"]["unexplained"] < 0.05


def test_maps_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    kspace, _ = correlated_scan(4, 64)
    write_kspace(tmp_path / "a.h5", kspace[None], recon_size=(64, 64))
    np.save(tmp_path / "small.npy", np.ones((4, 32, 32), np.complex64))
    with pytest.raises(KspaceFileError, match=r"small\.npy: maps of shape \(4, 32, 32\); accepted: \(4, 64, 64\)"):
        KspaceSliceDataset(tmp_path / "a.h5", maps=tmp_path / "small.npy")[0]
    words = r"a\.h5: slice 0: the coil sensitivity maps \(given\) leave .* unexplained"
    wrong = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None].expand(4, 64, 64).to(torch.complex64)
    np.save(tmp_path / "wrong.npy", wrong.numpy())
    with pytest.raises(KspaceFileError, match=words):
        KspaceSliceDataset(tmp_path / "a.h5", maps=tmp_path / "wrong.npy")[0]


# --- inputs that cannot be used --------------------------------------------------------------------------------


def test_empty_and_missing_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}: the folder has no input")):
        KspaceSliceDataset(tmp_path)
    with pytest.raises(ValueError, match="none: no such file or folder"):
        KspaceSliceDataset(tmp_path / "none")
    with pytest.raises(ValueError, match="inputs is empty"):
        KspaceSliceDataset([])


def test_two_inputs_for_one_output(single: Path, tmp_path: Path) -> None:
    write_nifti(tmp_path / "single.nii", disc(40, 40)[..., None])
    with pytest.raises(ValueError, match=r"single\.nii and .*single\.h5 would be written to the same output"):
        find_inputs(tmp_path)


def test_the_content_decides(single: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "sub"
    hidden.mkdir()
    shutil.copy(single, hidden / "kspace.dat")
    assert KspaceSliceDataset(hidden / "kspace.dat").volumes[0].format.name == "fastmri"
    (hidden / "image.h5").write_bytes(bundled_epi_path().read_bytes())
    assert [volume.format.name for volume in KspaceSliceDataset(hidden, slices=1).volumes] == ["nifti", "fastmri"]
    (hidden / "text.h5").write_text("text")
    with pytest.raises(KspaceFileError, match=r"text\.h5: not an HDF5 file"):
        KspaceSliceDataset(hidden)
    (hidden / "text.dat").write_text("text")
    with pytest.raises(
        ValueError, match=r"text\.dat: not an input; accepted: NIfTI, fastMRI k-space, ISMRMRD raw data"
    ):
        KspaceSliceDataset(hidden / "text.dat")


def test_errors_of_a_slice_name_it(tmp_path: Path) -> None:
    kspace = simulated_kspace(2, 40, 40)
    kspace[1] = 0
    # Sampled lines that hold nothing: no noise and no scale can be found.
    kspace[1, :, 3] = 1
    mask = np.arange(40) == 20
    write_kspace(tmp_path / "b.h5", kspace, recon_size=(40, 40), mask=mask)
    with pytest.raises(KspaceFileError, match=r"b\.h5: slice 1: kspace is zero everywhere"):
        KspaceSliceDataset(tmp_path / "b.h5")[1]


LINES = (np.arange(64) % 4 == 0) | (np.abs(np.arange(64) - 32) < 4)
PARTIAL = np.arange(64) < 40
ELLIPSE = np.hypot(*np.mgrid[-32:32, -32:32]) < 32.5
SCATTERED = (np.random.default_rng(0).random((64, 64)) < 0.3) | (
    ELLIPSE[::-1] & (np.hypot(*np.mgrid[-32:32, -32:32]) < 9)
)


@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize(
    ("sampled", "shape", "transposed"),
    [
        (LINES, (1, 64), False),
        (PARTIAL, (1, 64), False),
        (LINES[:, None], (1, 64), True),
        (PARTIAL[:, None], (1, 64), True),
        (ELLIPSE, (64, 64), False),
        (SCATTERED, (64, 64), False),
        (np.outer(LINES, PARTIAL), (64, 64), False),
    ],
    ids=["columns", "partial columns", "rows", "partial rows", "ellipse", "scattered", "both axes"],
)
def test_zeros_are_the_mask(
    sampled: np.ndarray, shape: tuple[int, int], transposed: bool, coils: int, tmp_path: Path
) -> None:
    """What was undersampled before is taken as it is, and its own image is no truth."""
    pattern = torch.from_numpy(np.broadcast_to(sampled, (64, 64)).copy())
    full = simulated_kspace(2, 64, 64, coils)
    images, truth = (ifft2c(k).abs().square().reshape(2, coils, 64, 64).sum(1).sqrt() for k in (full * pattern, full))
    write_kspace(tmp_path / "a.h5", full * pattern, recon_size=(64, 48), reconstruction=2 * images[..., 8:-8])
    dataset = KspaceSliceDataset(tmp_path / "a.h5", acceleration=3)
    volume, item = dataset.volumes[0], dataset[1]
    assert not volume.has_truth and "reference" not in item and "image" not in item
    assert "as acquired" in volume.origin and any("no truth" in text for text in volume.warnings)
    assert volume.attributes["acceleration"] == pytest.approx(float(1 / pattern.double().mean()), rel=0.03)
    assert item["transposed"] == transposed and item["mask"].shape[-2:] == shape
    height, width = item["kspace"].shape[-2:]
    expected = pattern.T if transposed else pattern
    assert torch.equal(item["mask"].reshape(shape).expand(height, width), expected[:height])
    assert bool((item["kspace"] * ~item["mask"] == 0).all())
    if coils == 1 and height == 64:  # maps of several coils are estimated, and zero outside the object
        mu, zero_filled = (item[name].norm(dim=0) * item["scale"] - truth[1] for name in ("mu", "zero_filled"))
        assert mu.norm() <= 1.1 * zero_filled.norm()


def test_a_true_reference_beside_zeros_is_kept(tmp_path: Path) -> None:
    full = simulated_kspace(1, 64, 64)
    write_kspace(
        tmp_path / "a.h5",
        full * torch.from_numpy(LINES),
        recon_size=(64, 64),
        reconstruction=ifft2c(full).abs(),
    )
    dataset = KspaceSliceDataset(tmp_path / "a.h5")
    assert dataset.volumes[0].has_truth and torch.allclose(
        dataset[0]["reference"] * dataset[0]["scale"], ifft2c(full[0]).abs(), rtol=1e-4
    )


def test_zeros_at_both_ends_are_interpolation(tmp_path: Path) -> None:
    """48 of 64 columns around the centre: a fully sampled scan, of which no line outside may be sampled."""
    kspace = simulated_kspace(1, 64, 64)
    kspace[..., :8] = kspace[..., 56:] = 0
    write_kspace(tmp_path / "a.h5", kspace, recon_size=(64, 64))
    dataset = KspaceSliceDataset(tmp_path / "a.h5", acceleration=2)
    mask = dataset[0]["mask"][0]
    assert dataset.volumes[0].has_truth and mask[8:56].any() and not mask[:8].any() and not mask[56:].any()


def test_empty_slices_of_kspace_are_skipped(tmp_path: Path) -> None:
    kspace = simulated_kspace(3, 40, 40)
    kspace[1] = 0
    write_kspace(tmp_path / "a.h5", kspace, recon_size=(40, 40))
    dataset = KspaceSliceDataset(tmp_path / "a.h5")
    assert (dataset.volumes[0].slices, dataset.volumes[0].skipped) == ((0, 2), (1,))
    assert [dataset[i]["key"] for i in range(len(dataset))] == ["a:0", "a:2"]


def test_no_calibration_region_is_said(tmp_path: Path) -> None:
    mask = np.arange(64) % 4 == 0
    write_kspace(tmp_path / "a.h5", simulated_kspace(1, 64, 64, coils=2), recon_size=(64, 64), mask=mask)
    with pytest.raises(KspaceFileError, match=r"a\.h5: slice 0: .*fully sampled"):
        KspaceSliceDataset(tmp_path / "a.h5")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": "spiral"}, "mask is 'spiral'; accepted: random"),
        ({"axis": "slice"}, "axis is 'slice'; accepted: phase, frequency"),
        ({"mask_per": "study"}, "mask_per is 'study'; accepted: slice, volume"),
        ({"slices": 0}, "slices is 0"),
        ({"slices": "some"}, "slices is 'some'"),
        ({"noise_std": -1.0}, "noise_std is -1.0"),
        ({"acceleration": 0}, "acceleration is 0"),
        ({"acceleration": 51}, "acceleration is 51; accepted: 1 to the number of lines, 50"),
        ({"center_fraction": 0.5}, "center_fraction is 0.5"),
    ],
)
def test_arguments_out_of_range_fail_at_once(single: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KspaceSliceDataset(single, **arguments)


@pytest.mark.parametrize("arguments", [{"snr": 0.0}, {"coils": 0}])
def test_simulation_arguments_fail_at_once(arguments: dict) -> None:
    with pytest.raises(ValueError, match="accepted"):
        KspaceSliceDataset(bundled_epi_path(), **arguments)


@pytest.mark.skipif("D3GM_DATA" not in os.environ, reason="D3GM_DATA does not name the folder of real data")
def test_real_volumes() -> None:
    folder = Path(os.environ["D3GM_DATA"]) / "mri"
    inputs = [folder / "ds002748" / "sub-22_T1w.nii.gz", folder / "open_ms" / "patient03_study1_FLAIR.nii.gz"]
    t1w, flair = (dataset := KspaceSliceDataset(inputs, slices=1)).volumes
    assert t1w.kept_band == (1.0, 1.0) and len(t1w.skipped) > 0
    # Nearly empty beyond roughly 0.6 to 0.8 of Nyquist along the first axis.
    assert 0.6 < flair.kept_band[0] < 0.8
    for index in range(2):
        item = dataset[index]
        error = (item["zero_filled"].norm(dim=0) - item["reference"]).square().mean()
        assert 20 < 10 * float(torch.log10(item["reference"].max() ** 2 / error)) < 32
