"""K-space, maps and masks in NumPy, MATLAB and BART files, against the arrays that they were written from."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from small_bundle import content, d3gm, full_kspace, magnitude, write_nifti

from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.data import KspaceSliceDataset
from monai_d3gm.data.formats.array_kspace import open_kspace_array
from monai_d3gm.data.formats.arrays import open_array
from monai_d3gm.data.formats.fastmri import write_kspace
from monai_d3gm.data.formats.maps import open_maps, read_mask
from monai_d3gm.data.formats.registry import read_extent, recognise
from monai_d3gm.data.formats.volumes import KspaceFileError


def coils_of(kspace: np.ndarray, coils: int = 3) -> np.ndarray:
    """Slices (S, H, W) seen by coils of smooth sensitivity, with noise: (S, coils, H, W)."""
    image = ifft2c(torch.from_numpy(kspace)).numpy()
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in kspace.shape[-2:]), indexing="ij")
    maps = np.stack([np.exp(-((y - a) ** 2) - (x + 0.5 * a) ** 2) * np.exp(1j * a) for a in np.linspace(-1, 1, coils)])
    axes = (-2, -1)
    seen = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image[:, None] * maps, axes), norm="ortho"), axes)
    noise = np.random.default_rng(0).normal(size=(2, *seen.shape))
    return (seen + 0.1 * (noise[0] + 1j * noise[1])).astype(np.complex64)


@pytest.fixture(scope="module")
def stack() -> np.ndarray:
    """(slices, coils, read, phase)."""
    return coils_of(full_kspace())


def write_bart(path: Path, array: np.ndarray, **axes: int) -> Path:
    """``axes`` names the place in BART's order of each of the array's axes."""
    sizes = [1] * 16
    for size, place in zip(array.shape, axes.values(), strict=True):
        sizes[place] = size
    ordered = array.transpose(np.argsort(list(axes.values())))
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + "\n# Command\nphantom\n")
    path.write_bytes(np.asarray(ordered, np.complex64).tobytes(order="F"))
    return path


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def write_mat(path: Path, array: np.ndarray) -> Path:
    scipy.io.savemat(path, {"note": "a phantom", "kspace": array, "mask": np.ones(3)})
    return path


def write_mat73(path: Path, array: np.ndarray) -> Path:
    """As MATLAB writes it: HDF5 behind a text of 512 bytes, axes in reverse, complex numbers as pairs."""
    pairs = np.empty(array.T.shape, np.dtype([("real", "<f4"), ("imag", "<f4")]))
    pairs["real"], pairs["imag"] = array.T.real, array.T.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file["kspace"] = pairs
    with path.open("rb+") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Path], str | None]] = {
    "npy": ("a.npy", write_npy, "slice coil read phase"),
    "mat": ("a.mat", write_mat, "slice,coil,read,phase"),
    "mat73": ("a.mat", write_mat73, "slice coil read phase"),
    "cfl": ("a.cfl", lambda path, array: write_bart(path, array, slice=13, coil=3, read=0, phase=1), None),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_kind_of_file_holds_the_same_kspace(kind: str, tmp_path: Path, stack: np.ndarray) -> None:
    name, write, axes = WRITERS[kind]
    path = write(tmp_path / name, stack)
    assert recognise(path).name == "array"
    file = open_kspace_array(path, axes)
    assert (file.num_slices, file.coils, file.shape, file.mask) == (2, 3, (32, 24), None)
    for index in range(2):
        np.testing.assert_array_equal(file.read_kspace(index).numpy(), stack[index])
    assert read_extent(path).voxels * read_extent(path).coils == stack.size


def test_stated_axes_in_any_order(tmp_path: Path, stack: np.ndarray) -> None:
    path = write_npy(tmp_path / "a.npy", stack.transpose(3, 1, 0, 2))
    file = open_kspace_array(path, "phase coil slice read")
    np.testing.assert_array_equal(file.read_kspace(1).numpy(), stack[1])
    single = open_kspace_array(write_npy(tmp_path / "b.npy", stack[0, 0]), "read phase")
    assert single.coils == 0
    np.testing.assert_array_equal(single.read_kspace(0).numpy(), stack[0, 0])


def test_the_data_set_is_that_of_a_fastmri_file(tmp_path: Path, stack: np.ndarray) -> None:
    write_kspace(tmp_path / "a.h5", stack, recon_size=(32, 24))
    expected = KspaceSliceDataset(tmp_path / "a.h5", acceleration=2)[1]
    item = KspaceSliceDataset(write_npy(tmp_path / "a.npy", stack), acceleration=2, axes="slice coil read phase")[1]
    for key in ("kspace", "mu", "reference", "image"):
        torch.testing.assert_close(item[key], expected[key])


@pytest.mark.parametrize("kind", ["npy", "cfl"])
def test_a_volume_is_cut_across_its_readout(kind: str, tmp_path: Path) -> None:
    """The slices of a 3-D acquisition are those of its image along the readout, by numpy's transform."""
    image = magnitude(12, 20, 16).astype(np.complex64)
    axes = (0, 1, 2)
    kspace = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)
    kspace += np.random.default_rng(1).normal(size=kspace.shape).astype(np.float32)
    mask = np.random.default_rng(0).random((20, 16)) < 0.5
    mask[8:12, 6:10] = True
    if kind == "npy":
        file = open_kspace_array(write_npy(tmp_path / "a.npy", kspace * mask), "read phase partition")
    else:
        file = open_kspace_array(write_bart(tmp_path / "a.cfl", kspace * mask, read=0, phase=1, partition=2))
    assert (file.num_slices, file.shape) == (12, (20, 16))
    np.testing.assert_array_equal(file.mask, mask)
    full = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, 0), axis=0, norm="ortho"), 0)[5]
    np.testing.assert_allclose(file.read_kspace(5).numpy(), full * mask, atol=2e-3)  # of values up to 1500
    shown = ifft2c(torch.from_numpy(full.astype(np.complex64))).numpy()
    assert np.corrcoef(np.abs(shown).ravel(), np.abs(image[5]).ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (None, r"axes of an array of shape \(2, 3, 32, 24\) are not stated"),
        ("coil read phase", "axes are 'coil read phase' for an array of shape"),
        ("slice coil read read", "accepted: a name for each axis"),
        ("slice coil x phase", "accepted: a name for each axis, of slice, coil"),
        ("read coil partition slice", "3-D acquisition|two of read"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes: str | None, message: str, tmp_path: Path, stack: np.ndarray) -> None:
    with pytest.raises(KspaceFileError, match=message):
        open_kspace_array(write_npy(tmp_path / "a.npy", stack), axes)


def test_kspace_whose_centre_lies_in_the_corner_is_refused(tmp_path: Path, stack: np.ndarray) -> None:
    path = write_npy(tmp_path / "a.npy", np.fft.ifftshift(stack[0], (-2, -1)))
    with pytest.raises(KspaceFileError, match="accepted: the centre of k-space in the middle"):
        open_kspace_array(path, "coil read phase")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("objects.npy", np.array([{}, {}], dtype=object), "cannot be read"),
        ("text.npy", b"text", "no array"),
        ("real.npy", np.ones((8, 8)), "accepted: complex"),
        ("cut.cfl", b"12345678", "8 bytes; accepted: 8 for each"),
        ("cut.mat", b"MATLAB 5.0 MAT-file", "cannot be read"),
    ],
)
def test_damaged_arrays_are_refused_by_name(name: str, data: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        np.save(path, data, allow_pickle=True)
    path.with_suffix(".hdr").write_text("# Dimensions\n4 4\n")
    with pytest.raises(KspaceFileError, match=f"{name}: .*{message}"):
        open_kspace_array(path, "read phase")


def test_a_file_that_does_not_say_which_array_is_refused(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"first": np.ones((4, 4)), "second": np.ones((4, 4))})
    with pytest.raises(KspaceFileError, match="the arrays are first, second; accepted: one array, or one named kspace"):
        open_array(tmp_path / "a.mat", ["kspace"])


@pytest.mark.parametrize("kind", WRITERS)
def test_maps_in_each_kind_of_file(kind: str, tmp_path: Path, stack: np.ndarray) -> None:
    name, write, _ = WRITERS[kind]
    path = write(tmp_path / name, stack)
    if kind == "mat":
        scipy.io.savemat(path, {"sensitivity_maps": stack})
    maps = open_maps(path)
    np.testing.assert_array_equal(maps.of_slice(1, 3, (32, 24)).numpy(), stack[1])


def masks() -> dict[str, np.ndarray]:
    lines = np.arange(24) % 3 == 0
    lines[9:15] = True
    rows = np.arange(32) % 3 == 0
    rows[12:20] = True
    points = np.random.default_rng(0).random((32, 24)) < 0.4
    points[12:20, 9:15] = True
    return {"lines": lines, "rows": rows[:, None], "points": points}


@pytest.mark.parametrize("pattern", ["lines", "rows", "points"])
def test_a_mask_from_a_file_is_the_one_that_is_used(pattern: str, tmp_path: Path, stack: np.ndarray) -> None:
    """Measured k-space is zero outside it, and the truth is that of the whole k-space."""
    mask = masks()[pattern]
    np.save(tmp_path / "mask.npy", mask)
    write_kspace(tmp_path / "a.h5", stack[:, 0], recon_size=(32, 24))
    dataset = KspaceSliceDataset(tmp_path / "a.h5", mask_file=tmp_path / "mask.npy")
    volume, item = dataset.volumes[0], dataset[0]
    assert volume.has_truth and volume.origin.endswith(
        f"by the mask mask.npy, {24 * 32 / np.broadcast_to(mask, (32, 24)).sum():.3g}-fold"
    )
    taken = item["kspace"].mT if item["transposed"] else item["kspace"]
    assert item["transposed"] == (pattern == "rows")
    np.testing.assert_allclose(taken.numpy() * float(item["scale"]), stack[0, 0] * mask, atol=1e-4)
    truth = ifft2c(torch.from_numpy(stack[0, 0])).abs()
    reference = item["reference"].mT if item["transposed"] else item["reference"]
    torch.testing.assert_close(reference * item["scale"], truth, rtol=1e-4, atol=1e-3)


def test_of_undersampled_kspace_what_lies_in_the_mask_is_taken(tmp_path: Path, stack: np.ndarray) -> None:
    acquired, mask = np.arange(24) % 2 == 0, masks()["lines"]
    np.save(tmp_path / "mask.npy", mask)
    write_kspace(tmp_path / "a.h5", stack[:, 0] * acquired, recon_size=(32, 24), mask=acquired)
    dataset = KspaceSliceDataset(tmp_path / "a.h5", mask_file=tmp_path / "mask.npy")
    assert not dataset.volumes[0].has_truth
    np.testing.assert_array_equal(dataset[0]["mask"].numpy()[0], acquired & mask)


@pytest.mark.parametrize("pattern", ["lines", "rows", "points"])
def test_simulated_kspace_takes_the_mask_too(pattern: str, tmp_path: Path) -> None:
    mask = masks()[pattern]
    np.save(tmp_path / "mask.npy", mask)
    path = write_nifti(tmp_path / "a.nii", magnitude(32, 24))
    item = KspaceSliceDataset(path, mask_file=tmp_path / "mask.npy")[1]
    kspace = item["kspace"].mT if item["transposed"] else item["kspace"]
    np.testing.assert_array_equal((kspace != 0).numpy(), np.broadcast_to(mask, (32, 24)))


def test_masks_that_do_not_fit_are_refused(tmp_path: Path, stack: np.ndarray) -> None:
    write_kspace(tmp_path / "a.h5", stack, recon_size=(32, 24))
    for mask, message in (
        (np.ones(23), r"mask.npy has shape \(23,\); accepted: \(24,\), \(32, 1\) or \(32, 24\)"),
        (np.zeros(24), "the mask has no sampled line"),
        (np.ones((2, 3, 4)), "accepted: a mask"),
    ):
        np.save(tmp_path / "mask.npy", mask)
        with pytest.raises(KspaceFileError, match=message):
            KspaceSliceDataset(tmp_path / "a.h5", mask_file=tmp_path / "mask.npy")
    with pytest.raises(ValueError, match="axis is 'frequency' with mask_file"):
        np.save(tmp_path / "mask.npy", np.ones(24))
        KspaceSliceDataset(tmp_path / "a.h5", mask_file=tmp_path / "mask.npy", axis="frequency")


def test_bart_masks(tmp_path: Path) -> None:
    mask = masks()["points"]
    np.testing.assert_array_equal(read_mask(write_bart(tmp_path / "m.cfl", mask, phase=1, partition=2)), mask)
    np.testing.assert_array_equal(read_mask(write_bart(tmp_path / "n.cfl", mask, read=0, phase=1)), mask)


def test_the_command_restores_arrays_with_a_mask_in_two_dimensions(
    tmp_path: Path, stack: np.ndarray, bundle: Path
) -> None:
    """From the file to the restored volume: BART's files need no axes, the others the option; nothing else is taken."""
    (tmp_path / "in").mkdir()
    write_bart(tmp_path / "in" / "a.cfl", stack, slice=13, coil=3, read=0, phase=1)
    write_npy(tmp_path / "in" / "b.npy", stack)
    write_npy(tmp_path / "in" / "real.npy", np.ones((3, 3)))
    (tmp_path / "in" / "notes.hdr").write_bytes(gzip.compress(b"x"))
    np.save(tmp_path / "mask.npy", masks()["points"])
    options = ["--mask-file", tmp_path / "mask.npy", "--axes", "slice coil read phase", "--steps", 1, "--no-baseline"]
    run = d3gm("restore", bundle, tmp_path / "in", tmp_path / "out", *options)
    assert run.status == 0, run.err
    made = content(tmp_path / "out")
    assert made["a_restored.nii.gz"][20:] == made["b_restored.nii.gz"][20:]
    report = made["a_metrics.json"].decode()
    assert "undersampled by the mask mask.npy" in report
