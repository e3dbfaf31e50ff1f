"""Inputs told apart by content, and trees of them."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from dicom_series import head, write_classic
from pydicom.data import get_testdata_file

from monai_d3gm.data.formats.base import FORMATS, stem_of
from monai_d3gm.data.formats.fastmri import write_kspace
from monai_d3gm.data.formats.nifti import read_magnitude
from monai_d3gm.data.formats.registry import format_of, recognise
from monai_d3gm.data.restoration.inputs import InputError, find_inputs
from monai_d3gm.data.restoration.units import find_units

VOLUME = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


def nifti(kind: type = nibabel.Nifti1Image) -> bytes:
    return bytes(kind(VOLUME, np.eye(4)).to_bytes())


def big_endian() -> bytes:
    header = nibabel.Nifti1Header(endianness=">")
    return bytes(nibabel.Nifti1Image(VOLUME, np.eye(4), header).to_bytes())


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
    return buffer.getvalue()


def raw_data(file: h5py.File) -> None:
    file["dataset/xml"] = b"<ismrmrdHeader/>"
    file["dataset/data"] = np.zeros(3)


CONTENTS: dict[str, tuple[bytes, str | None]] = {
    "nifti": (nifti(), "nifti"),
    "nifti of the other byte order": (big_endian(), "nifti"),
    "nifti 2": (nifti(nibabel.Nifti2Image), "nifti"),
    "compressed nifti": (gzip.compress(nifti()), "nifti"),
    "truncated compressed nifti": (gzip.compress(nifti() + os.urandom(4000))[:1500], "nifti"),
    "other compressed": (gzip.compress(b"text" * 1000), None),
    "damaged compressed": (b"\x1f\x8b no", None),
    "fastmri": (hdf5(lambda file: file.create_dataset("kspace", data=np.ones(3))), "fastmri"),
    "ismrmrd": (hdf5(raw_data), "ismrmrd"),
    "other hdf5": (hdf5(lambda file: file.create_dataset("image", data=np.ones(3))), None),
    "damaged hdf5": (b"\x89HDF\r\n\x1a\n damaged", "fastmri"),
    "dicom": (Path(get_testdata_file("MR_small.dcm")).read_bytes(), "dicom"),
    "png": (b"\x89PNG\r\n\x1a\n", "image"),
    "jpeg": (b"\xff\xd8\xff\xe0", "image"),
    "tiff": (b"II*\0", "image"),
    "other tiff": (b"MM\0*", "image"),
    "text": (b"text", None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("suffix", ["", ".nii.gz", ".h5", ".dcm", ".txt"])
def test_the_content_decides_whatever_the_name(name: str, suffix: str, tmp_path: Path) -> None:
    data, kind = CONTENTS[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    found, meant = recognise(path), format_of(path)
    assert (found and found.name) == kind
    claimed = {".nii.gz": "nifti", ".h5": "fastmri", ".dcm": "dicom"}.get(suffix)
    assert (meant and meant.name) == (kind or claimed)


@pytest.mark.parametrize("name", ["nifti", "nifti of the other byte order", "nifti 2", "compressed nifti"])
@pytest.mark.parametrize("suffix", ["", ".nii", ".nii.gz", ".h5", ".img"])
def test_volumes_are_read_whatever_their_name(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(CONTENTS[name][0])
    assert np.array_equal(read_magnitude(path).data, VOLUME)


def test_names_without_suffixes() -> None:
    stems = {"a/b.nii.gz": "b", "b.NII": "b", "b.c.h5": "b.c", "b.txt": "b.txt", ".nii": ".nii", "b.gz": "b.gz"}
    assert {name: stem_of(name) for name in stems} == stems


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Units in folders, made in an order that is not theirs; and what is passed over."""
    root = tmp_path / "tree"
    for name in ("z.nii", "a/y.nii.gz", "a/b/x.dat", "a/.hidden.nii", ".git/v.nii", "B/w.nii"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(nifti())
    (root / "a" / "readme").write_text("text")
    return root


def names(root: Path) -> list[str]:
    return [unit.relative.as_posix() for unit in find_units(root)[0]]


def test_a_tree_in_the_order_of_its_paths(tree: Path) -> None:
    units, problems = find_units(tree)
    assert [unit.relative.as_posix() for unit in units] == ["B/w", "a/b/x.dat", "a/y", "z"]
    assert [unit.files for unit in units][2] == (tree / "a" / "y.nii.gz",)
    assert [(p.path, p.reason, p.kind) for p in problems] == [(tree / "a" / "readme", "not an input", None)]


def test_a_folder_that_is_left_out_and_kinds_that_are_not_wanted(tree: Path) -> None:
    units, problems = find_units(tree, ["fastmri"], leave_out=tree / "a")
    assert not units
    assert [(p.path.name, p.kind) for p in problems] == [("w.nii", "nifti"), ("z.nii", "nifti")]
    assert problems[0].reason == f"NIfTI; accepted: {FORMATS['fastmri'].title}"


def test_links_that_lead_out_are_not_followed(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.nii").write_bytes(nifti())
    (tree / "out.nii").symlink_to(outside / "secret.nii")
    (tree / "folder").symlink_to(outside)
    (tree / "loop").symlink_to(tree)
    (tree / "in.nii").symlink_to(tree / ".git" / "v.nii")
    (tree / "broken.nii").symlink_to(tree / "nowhere")
    assert names(tree) == ["B/w", "a/b/x.dat", "a/y", "in", "z"]
    reasons = {p.path.name: p.reason for p in find_units(tree)[1]}
    assert reasons["out.nii"] == "a link that leads out of the folder"
    assert reasons["broken.nii"].startswith("cannot be read: ")
    assert [unit.relative.as_posix() for unit in find_units(tree / "out.nii")[0]] == ["out"]


def test_damaged_files_have_the_kind_that_their_name_claims(tree: Path) -> None:
    (tree / "a.h5").write_bytes(b"no")
    (tree / "c.JPG").write_bytes(b"no")
    problems = {p.path.name: p for p in find_units(tree)[1]}
    assert problems["a.h5"].kind == "fastmri" and problems["c.JPG"].kind == "image"
    assert problems["c.JPG"].reason == "the name ends in .JPG, the content is not PNG, JPEG or TIFF"


def test_files_whose_results_would_share_a_name(tree: Path) -> None:
    write_kspace(tree / "z.h5", np.ones((1, 8, 8), np.complex64), recon_size=(8, 8))
    units, problems = find_units(tree)
    assert [unit.files[0].name for unit in units if unit.relative.name == "z"] == ["z.h5"]
    (problem,) = (p for p in problems if p.kind)
    assert problem.path.name == "z.nii" and "z.h5" in problem.reason


def test_the_files_of_a_dicom_series_are_one_unit(tree: Path, tmp_path: Path) -> None:
    first = write_classic(tree / "a" / "series", head(), number=3)
    second = write_classic(tree / "a" / "series", head(), number=4, description="T2W")
    phase = write_classic(tree / "phase", head(), number=5, image_type=("ORIGINAL", "PRIMARY", "P"))
    units, problems = find_units(tree)
    series = [unit for unit in units if unit.kind == "dicom"]
    assert [set(unit.files) for unit in series] == [set(first), set(second)]
    assert [unit.relative.parent.as_posix() for unit in series] == ["a/series", "a/series"]
    assert len({unit.relative for unit in series}) == 2
    refused = [p for p in problems if p.kind == "dicom"]
    assert {p.path for p in refused} == set(phase) and "phase" in refused[0].reason
    (alone,) = find_units(first[0])[0]
    assert alone.files == (first[0],)
    outside = first[0].rename(tmp_path / "outside.dcm")
    first[0].symlink_to(outside)
    assert [set(unit.files) for unit in find_units(tree)[0] if unit.kind == "dicom"] == [set(second)]


def test_a_dicom_series_over_folders_is_one_unit_where_they_meet(tmp_path: Path) -> None:
    paths = write_classic(tmp_path / "study" / "DIR0", head((24, 20, 4)))
    (tmp_path / "study" / "DIR1").mkdir()
    for path in paths[1::2]:
        path.rename(tmp_path / "study" / "DIR1" / path.name)
    (unit,), problems = find_units(tmp_path)
    assert len(unit.files) == 4 and unit.relative.as_posix() == "study/s005_T1W_e1" and not problems


def test_other_objects_of_a_study_are_no_inputs(tmp_path: Path) -> None:
    write_classic(tmp_path / "mr", head())
    (other,) = write_classic(tmp_path / "ct", head((24, 20, 1)), number=9, extra={"Modality": "CT"})
    (unit,), (problem,) = find_units(tmp_path)
    assert unit.relative.parent.name == "mr" and problem.path == other
    assert problem.kind is None and problem.reason == "Modality is CT; accepted: MR."


def test_a_tree_with_links_pipes_and_closed_folders_is_finished(tree: Path) -> None:
    (tree / "self.nii").symlink_to("self.nii")
    (tree / "one").symlink_to("two")
    (tree / "two").symlink_to("one")
    os.mkfifo(tree / "pipe.nii")
    (tree / "to_pipe").symlink_to("pipe.nii")
    units, problems = find_units(tree)
    assert [unit.relative.as_posix() for unit in units] == ["B/w", "a/b/x.dat", "a/y", "z"]
    reasons = {p.path.name: (p.reason, p.failed) for p in problems}
    assert reasons["self.nii"] == ("cannot be read: too many levels of symbolic links", True)
    assert reasons["one"] == reasons["two"] == reasons["self.nii"]
    assert reasons["pipe.nii"] == ("a pipe or a device; accepted: files", True)
    assert reasons["to_pipe"] == ("a pipe or a device; accepted: files", False)
    assert reasons["readme"] == ("not an input", False)
    for alone in ("self.nii", "to_pipe"):
        units, (problem,) = find_units(tree / alone)
        assert not units and problem.failed


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nobody else's folder; root may read all, so the system's answer is put in its place."""
    real = os.scandir

    def closed(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    units, problems = find_units(tree)
    assert [unit.relative.as_posix() for unit in units] == ["B/w", "a/y", "z"]
    (problem,) = (p for p in problems if p.failed)
    assert problem.path == tree / "a" / "b" and problem.reason == "the folder cannot be read: permission denied"


def test_names_that_leave_no_room_for_results_are_refused(tree: Path) -> None:
    for length in (239, 240):
        (tree / f"{'n' * length}.nii").write_bytes(nifti())
    units, problems = find_units(tree)
    assert [len(unit.relative.name) for unit in units if unit.relative.name.startswith("n")] == [239]
    (problem,) = (p for p in problems if p.failed)
    assert problem.reason == "a name of 240 bytes leaves no room for those of its results; accepted: 239"


def test_a_pair_is_one_unit(tree: Path) -> None:
    for number in (1, 2):
        nibabel.save(nibabel.Nifti1Pair(VOLUME, np.eye(4)), tree / f"pair{number}.img")
    (tree / "pair2.img").unlink()
    units, problems = find_units(tree)
    (pair,) = (unit for unit in units if unit.relative.name == "pair1")
    assert pair.files == (tree / "pair1.hdr", tree / "pair1.img")
    assert [p.path.name for p in problems] == ["readme"]
    (alone,), problems = find_units(tree / "pair1.img")
    assert alone.files == pair.files and not problems
    assert find_inputs(list(pair.files)) == find_inputs(pair.files[1]) == [pair.files[0]]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        find_units(tmp_path / "nowhere")
    assert find_units(tmp_path) == ([], [])
