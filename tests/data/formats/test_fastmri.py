"""The reader and writer of fastMRI files: against fastMRI's own reader and MONAI's, and on malformed files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fastmri.data.mri_data import SliceDataset
from monai.apps.reconstruction.fastmri_reader import FastMRIReader

from monai_d3gm.data.formats.fastmri import (
    KspaceFileError,
    encoding_header_xml,
    open_kspace,
    write_kspace,
    write_submission,
)
from monai_d3gm.files import MEMORY_VARIABLE, OutputError, TooLargeError


def random_kspace(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.mark.parametrize("coils", [0, 3])
def test_fastmris_own_reader_agrees(tmp_path: Path, coils: int) -> None:
    shape = (2, coils, 40, 22) if coils else (2, 40, 22)
    kspace, truth = random_kspace(*shape), np.random.default_rng(1).random((2, 20, 18)).astype(np.float32)
    write_kspace(
        tmp_path / "file.h5",
        kspace,
        recon_size=(20, 18),
        reconstruction=truth,
        padding=(2, 19),
        spacing=(0.5, 0.6, 4.0),
        attributes={"acquisition": "AXFLAIR", "patient_id": "p0"},
    )
    theirs = SliceDataset(tmp_path, "multicoil" if coils else "singlecoil")
    ours = open_kspace(tmp_path / "file.h5")
    assert ours.num_slices == len(theirs) == 2
    for index in range(2):
        k, mask, target, attributes, name, number = theirs[index]
        assert np.array_equal(ours.read_kspace(index).numpy(), k) and np.array_equal(k, kspace[index])
        reference = ours.read_reconstruction(index)
        assert reference is not None and np.array_equal(reference.numpy(), target)
        assert mask is None and (name, number) == ("file.h5", index)
    assert ours.header is not None
    assert ours.header.padding == (attributes["padding_left"], attributes["padding_right"]) == (2, 19)
    assert ours.header.encoded_size == attributes["encoding_size"] == (40, 22, 1)
    assert ours.header.recon_size == attributes["recon_size"] == (20, 18, 1)
    assert ours.header.spacing == pytest.approx((0.5, 0.6, 4.0))
    assert ours.attributes["acquisition"] == attributes["acquisition"] == "AXFLAIR"
    assert ours.attributes["max"] == pytest.approx(float(truth.max()))
    assert ours.attributes["norm"] == pytest.approx(float(np.linalg.norm(truth)))
    assert (ours.coils, ours.shape, ours.crop) == (coils, (40, 22), (20, 18))


def test_monais_reader_reads_what_was_written(tmp_path: Path) -> None:
    kspace = random_kspace(2, 3, 16, 12)
    write_kspace(tmp_path / "file.h5", kspace, recon_size=(12, 12), reconstruction=np.ones((2, 12, 12)))
    reader = FastMRIReader()
    data, header = reader.get_data(reader.read(tmp_path / "file.h5"))
    assert np.array_equal(data, kspace)
    assert header["reconstruction_rss"].shape == (2, 12, 12) and header["filename"] == "file.h5"


def test_a_test_file_has_a_mask_and_no_truth(tmp_path: Path) -> None:
    mask = np.arange(12) % 4 == 0
    write_kspace(
        tmp_path / "test.h5",
        random_kspace(1, 16, 12) * mask,
        recon_size=(12, 12),
        mask=mask,
        attributes={"acceleration": 4, "num_low_frequency": 1},
    )
    file = open_kspace(tmp_path / "test.h5")
    assert file.mask is not None and np.array_equal(file.mask, mask)
    assert file.reconstruction is None and file.read_reconstruction(0) is None
    assert (file.attributes["acceleration"], file.attributes["num_low_frequency"]) == (4, 1)
    assert isinstance(file.attributes["acceleration"], int)


def test_header_is_valid_ismrmrd(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xsd = pytest.importorskip("ismrmrd").xsd
    header = xsd.CreateFromDocument(encoding_header_xml((640, 372), (320, 320), padding=(2, 370)))
    encoding = header.encoding[0]
    assert (encoding.encodedSpace.matrixSize.x, encoding.encodedSpace.matrixSize.y) == (640, 372)
    limits = encoding.encodingLimits.kspace_encoding_step_1
    assert (limits.minimum, limits.maximum, limits.center) == (0, 367, 184)


def test_images_narrower_than_asked_for_are_cropped_as_by_fastmri(tmp_path: Path) -> None:
    """FLAIR 203 of fastMRI: 213 columns, images of 320; ``UnetDataTransform`` crops to (213, 213)."""
    write_kspace(tmp_path / "file.h5", random_kspace(1, 40, 13), recon_size=(20, 20))
    assert open_kspace(tmp_path / "file.h5").crop == (13, 13)


def test_without_a_header_the_whole_image_is_kept(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["kspace"] = random_kspace(1, 8, 6)
    assert open_kspace(tmp_path / "file.h5").crop == (8, 6)


def test_a_mask_and_zeros_both_count(tmp_path: Path) -> None:
    """A mask that promises more than is there, and slices that lack different lines."""
    kspace, lines = random_kspace(2, 16, 12), np.arange(12) % 3 > 0
    write_kspace(tmp_path / "a.h5", kspace * lines, recon_size=(12, 12), mask=np.ones(12, bool))
    mask = open_kspace(tmp_path / "a.h5").mask
    assert mask is not None and np.array_equal(mask, lines)
    kspace[0] *= lines
    kspace[1] *= lines[::-1]
    with pytest.raises(KspaceFileError, match="slice 1 has zeros in other places than slice 0"):
        write_kspace(tmp_path / "b.h5", kspace, recon_size=(12, 12))
    write_kspace(tmp_path / "b.h5", kspace, recon_size=(12, 12), mask=lines)
    mask = open_kspace(tmp_path / "b.h5").mask
    assert mask is not None and np.array_equal(mask, lines)


def test_one_coil_may_have_an_axis(tmp_path: Path) -> None:
    kspace, truth = random_kspace(2, 1, 16, 12), np.ones((2, 12, 12), np.float32)
    for name in ("reconstruction_rss", "reconstruction_esc"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["kspace"], file[name] = kspace, truth
        opened = open_kspace(tmp_path / f"{name}.h5")
        assert (opened.coils, opened.reconstruction, opened.crop) == (0, name, (12, 12))
        assert np.array_equal(opened.read_kspace(1).numpy(), kspace[1, 0])


@pytest.mark.parametrize(("center", "maximum", "padding"), [(33, 63, (0, 63)), (31, 63, (1, 64)), (32, 90, (0, 64))])
def test_limits_that_leave_the_matrix_are_cut_to_it(center: int, maximum: int, padding: tuple, tmp_path: Path) -> None:
    """Line n lies at column 64 // 2 - center + n."""
    xml = encoding_header_xml((16, 64), (16, 64)).replace(b"<center>32<", b"<center>%d<" % center)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = random_kspace(1, 16, 64)
        file["ismrmrd_header"] = xml.replace(b"<maximum>63<", b"<maximum>%d<" % maximum)
    opened = open_kspace(tmp_path / "a.h5")
    assert opened.header is not None and opened.header.padding == opened.padding == padding


def test_a_header_may_lack_limits(tmp_path: Path) -> None:
    xml = encoding_header_xml((16, 12), (12, 10))
    start, end = xml.index(b"<kspace_encoding_step_1>"), xml.index(b"</encodingLimits>")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = random_kspace(1, 16, 12), xml[:start] + xml[end:]
    opened = open_kspace(tmp_path / "a.h5")
    assert opened.header is not None and opened.header.padding is None and opened.padding == (0, 12)
    assert opened.crop == (12, 10)


# --- malformed files -------------------------------------------------------------------------------------------


def no_hdf5(path: Path) -> None:
    path.write_bytes(b"not HDF5 at all" * 100)


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    write_kspace(path, random_kspace(4, 64, 64), recon_size=(32, 32))
    os.truncate(path, path.stat().st_size // 2)


def changed(**datasets: object) -> Callable[[Path], None]:
    """A valid file in which datasets are replaced, or left out where None is given."""

    def write(path: Path) -> None:
        write_kspace(path, random_kspace(2, 16, 12), recon_size=(12, 12))
        with h5py.File(path, "r+") as file:
            for name, value in datasets.items():
                if name in file:
                    del file[name]
                if value is not None:
                    file[name] = value

    return write


def external_link(path: Path) -> None:
    write_kspace(path.with_name("other.hdf"), random_kspace(2, 16, 12), recon_size=(12, 12))
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.ExternalLink("other.hdf", "/kspace")


def external_storage(path: Path) -> None:
    path.with_name("raw.bin").write_bytes(random_kspace(2, 16, 12).tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (2, 16, 12), np.complex64, external=[(str(path.with_name("raw.bin")), 0, 3072)])


def virtual(path: Path) -> None:
    write_kspace(path.with_name("other.hdf"), random_kspace(2, 16, 12), recon_size=(12, 12))
    layout = h5py.VirtualLayout((2, 16, 12), np.complex64)
    layout[:] = h5py.VirtualSource("other.hdf", "kspace", (2, 16, 12))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("kspace", layout)


def group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("kspace")


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">&a;</ismrmrdHeader>'

MALFORMED = {
    "no HDF5": (no_hdf5, "not an HDF5 file, or damaged"),
    "empty file": (empty, "not an HDF5 file, or damaged"),
    "truncated": (truncated, "not an HDF5 file, or damaged"),
    "missing kspace": (changed(kspace=None), "dataset kspace is missing"),
    "real kspace": (changed(kspace=np.ones((2, 16, 12), np.float32)), "kspace has dtype float32"),
    "text as kspace": (changed(kspace="text"), "kspace has dtype object"),
    "rank 2": (changed(kspace=random_kspace(16, 12)), r"kspace has shape \(16, 12\)"),
    "no slices": (changed(kspace=random_kspace(0, 16, 12)), r"kspace has shape \(0, 16, 12\)"),
    "external link": (external_link, "kspace is a link"),
    "soft link": (changed(kspace=h5py.SoftLink("/ismrmrd_header")), "kspace is a link"),
    "external storage": (external_storage, "kspace is stored in another file"),
    "virtual dataset": (virtual, "kspace is stored in another file"),
    "group": (group, "kspace is a group"),
    "mask too long": (changed(mask=np.ones(13, bool)), r"mask has shape \(13,\); accepted: \(12,\)"),
    "mask of two axes": (changed(mask=np.ones((16, 12), bool)), r"mask has shape \(16, 12\)"),
    "mask values": (changed(mask=np.full(12, 0.5)), "other values than 0 and 1"),
    "mask text": (changed(mask=np.array([b"x"] * 12)), "other values than 0 and 1"),
    "no sampled line": (changed(mask=np.zeros(12, bool)), "mask has no sampled line"),
    "mask linked": (changed(mask=h5py.ExternalLink("other.hdf", "/mask")), "mask is a link"),
    "header no XML": (changed(ismrmrd_header=b"<broken"), "ismrmrd_header cannot be read"),
    "header without sizes": (changed(ismrmrd_header=b"<ismrmrdHeader/>"), "ismrmrd_header cannot be read"),
    "header no text": (changed(ismrmrd_header=3), "ismrmrd_header is no text"),
    "header with entities": (changed(ismrmrd_header=BOMB), "declares entities"),
    "header of size 0": (
        changed(ismrmrd_header=encoding_header_xml((16, 12), (0, 12))),
        "accepted: 1 to 65536, and above 0 mm",
    ),
    "header of no line": (
        changed(ismrmrd_header=encoding_header_xml((16, 12), (12, 12)).replace(b"<center>6<", b"<center>600<")),
        "lines 0 to 11 around 600 of 12; accepted: some of them",
    ),
    "zero everywhere": (changed(kspace=np.zeros((2, 16, 12), np.complex64)), "kspace is zero everywhere"),
    "images larger than k-space": (changed(ismrmrd_header=encoding_header_xml((16, 12), (17, 12))), "do not fit"),
    "reference count": (
        changed(reconstruction_esc=np.ones((3, 12, 12))),
        r"reconstruction_esc has shape \(3, 12, 12\)",
    ),
    "complex reference": (changed(reconstruction_esc=random_kspace(2, 12, 12)), "dtype complex64"),
}


def unwritten(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (100_000, 640, 372), np.complex64, chunks=(1, 640, 372))


def inflated(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=np.ones((64, 256, 256), np.complex64), chunks=(64, 256, 256), compression=9)


def long_header(path: Path) -> None:
    changed(ismrmrd_header=None)(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset("ismrmrd_header", (2**20,), "S1000", chunks=(2**10,))


HOSTILE = {
    "unwritten": (unwritten, "kspace is described with 190464000000 bytes; the file has 0"),
    "inflated": (inflated, "kspace is described with 33554432 bytes; the file has"),
    "header": (long_header, "ismrmrd_header has 1048576000 bytes; accepted"),
    "mask": (changed(mask=np.zeros(2**23, bool)), "mask has 8388608 bytes; accepted"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_described_and_not_there_takes_no_memory(tmp_path: Path, name: str) -> None:
    make, message = HOSTILE[name]
    make(tmp_path / "a.h5")
    with pytest.raises(KspaceFileError, match=message):
        open_kspace(tmp_path / "a.h5")


def test_a_slice_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six arrays of complex64."""
    write_kspace(tmp_path / "a.h5", random_kspace(1, 16, 12), recon_size=(12, 12))
    monkeypatch.setenv(MEMORY_VARIABLE, repr(6 * 8 * 16 * 12 / 2**30 * 0.99))
    with pytest.raises(TooLargeError, match=r"a\.h5: a slice of k-space of \(16, 12\) samples takes"):
        open_kspace(tmp_path / "a.h5")


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused(tmp_path: Path, name: str) -> None:
    make, message = MALFORMED[name]
    path = tmp_path / "bad.h5"
    make(path)
    with pytest.raises(KspaceFileError, match=message) as caught:
        open_kspace(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KspaceFileError, match=r"none\.h5: no such file"):
        open_kspace(tmp_path / "none.h5")


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0, "zero")])
def test_bad_slices_are_named(tmp_path: Path, value: float, message: str) -> None:
    kspace = random_kspace(3, 16, 12)
    kspace[1] = 0 if value == 0 else kspace[1]
    kspace[1, 4, 4] = value
    write_kspace(tmp_path / "file.h5", kspace, recon_size=(12, 12))
    file = open_kspace(tmp_path / "file.h5")
    file.read_kspace(0)
    with pytest.raises(KspaceFileError, match=rf"file\.h5: slice 1: .*{message}"):
        file.read_kspace(1)
    with pytest.raises(KspaceFileError, match="slice 3: accepted: 0 to 2"):
        file.read_kspace(3)


def test_a_damaged_chunk_is_an_error_of_its_slice(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("kspace", data=random_kspace(2, 16, 12), chunks=(1, 16, 12), compression="gzip")
        chunk = data.id.get_chunk_info(1)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset)
        raw.write(b"\xff" * chunk.size)
    reader = open_kspace(path)
    assert reader.read_kspace(0).shape == (16, 12)
    with pytest.raises(KspaceFileError, match="slice 1: kspace cannot be read"):
        reader.read_kspace(1)


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file["kspace"] = random_kspace(1, 8, 8).astype(np.complex128)
    assert open_kspace(tmp_path / "file.h5").read_kspace(0).dtype == torch.complex64


# --- writing ---------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    write_kspace(path, random_kspace(1, 8, 8), recon_size=(8, 8))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        write_kspace(path, random_kspace(2, 8, 8), recon_size=(8, 8))
    with pytest.raises(OutputError, match="exists"):
        write_submission(path, np.ones((1, 8, 8)))
    assert path.read_bytes() == before
    write_kspace(path, random_kspace(2, 8, 8), recon_size=(8, 8), overwrite=True)
    assert open_kspace(path).num_slices == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"kspace": random_kspace(8, 8)},
        {"kspace": np.ones((1, 8, 8))},
        {"mask": np.ones(7, bool)},
        {"reconstruction": np.ones((2, 8, 8))},
        {"padding": (4, 9)},
    ],
)
def test_a_file_that_could_not_be_read_is_not_written(tmp_path: Path, arguments: dict) -> None:
    with pytest.raises(ValueError, match="accepted") as caught:
        write_kspace(tmp_path / "file.h5", **({"kspace": random_kspace(1, 8, 8), "recon_size": (8, 8)} | arguments))
    assert "padding" in arguments or str(caught.value).startswith(str(tmp_path / "file.h5"))
    assert list(tmp_path.iterdir()) == []


def test_submission_format(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).random((3, 8, 8))
    write_submission(tmp_path / "file.h5", volume)
    with h5py.File(tmp_path / "file.h5") as file:
        assert list(file) == ["reconstruction"]
        assert np.array_equal(file["reconstruction"][()], volume.astype(np.float32))
    for bad in (volume[0], np.full((1, 2, 2), np.nan)):
        with pytest.raises(ValueError, match="volume has shape"):
            write_submission(tmp_path / "bad.h5", bad)
    assert not (tmp_path / "bad.h5").exists()
