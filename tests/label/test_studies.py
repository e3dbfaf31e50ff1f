"""The folder of studies: its ids, and that a map never stands beside an image that it does not belong to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_series import head, write_classic
from hypothesis import given
from hypothesis import strategies as st
from small_bundle import magnitude, write_nifti

from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.records import fingerprint
from monai_d3gm.label.studies import Folder, Stored, check_name

KINDS = ("nifti", "dicom", "image", "fastmri")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "studies"
    made.mkdir()
    write_nifti(made / "small.nii.gz", magnitude())
    return made


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A volume that is another than `small`."""
    return write_nifti(tmp_path / "other.nii.gz", 2 * magnitude())


@pytest.fixture
def std(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "small_std.nii.gz", np.ones((40, 36, 3), np.float32))


def refused(status: int, call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(RequestError) as error:
        call(*arguments, **options)  # type: ignore[operator]
    assert error.value.status == status
    return error.value.reason


def test_dotted_names_have_ids_of_their_own_and_a_taken_one_is_refused(root: Path, other: Path) -> None:
    folder = Folder(root, KINDS)
    for name in ("1.2.840.A", "1.2.840.B"):
        assert folder.add(name, other, {}) == name
    assert list(folder.images()) == ["1.2.840.A", "1.2.840.B", "small"]
    before = (root / "1.2.840.A.nii.gz").read_bytes()
    assert "'1.2.840.A' is in the datastore" in refused(409, folder.add, "1.2.840.A", root / "small.nii.gz", {})
    assert (root / "1.2.840.A.nii.gz").read_bytes() == before


def stored(folder: Folder, name: str) -> dict[str, Stored]:
    return folder.stored(folder.image(name))


def test_a_map_goes_with_the_image_that_it_was_made_of(root: Path, other: Path, std: Path) -> None:
    folder = Folder(root, KINDS)
    folder.save("small", {"std": std}, {"seed": 0})
    assert stored(folder, "small")["std"].info == {"seed": 0}
    refused(409, folder.add, "small", other, {})
    folder.add("small", other, {}, replace=True)
    assert stored(folder, "small") == {}
    assert not list((root / "labels").rglob("*.nii.gz"))


def test_a_map_of_an_image_that_was_replaced_behind_the_server_is_not_served(
    root: Path, other: Path, std: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(root, KINDS)
    folder.save("small", {"std": std}, {})
    shutil.copy(other, root / "small.nii.gz")
    assert stored(folder, "small") == {}
    assert "labels/std/small.nii.gz was made of another image small; it is not served" in caplog.text
    assert stored(Folder(root, KINDS), "small") == {}


def test_a_map_of_an_image_that_was_replaced_while_it_was_made_is_not_stored(
    root: Path, other: Path, std: Path
) -> None:
    folder = Folder(root, KINDS)
    before = folder.fingerprint(folder.image("small"))
    folder.add("small", other, {}, replace=True)
    assert "was replaced meanwhile" in refused(409, folder.save, "small", {"std": std}, {}, of=before)
    assert stored(folder, "small") == {}


def test_what_is_restored_is_what_was_fetched_whoever_replaces_it(root: Path, other: Path, tmp_path: Path) -> None:
    """Replaced and replaced back, an image looks untouched: what was read between must not be of the other one."""
    folder = Folder(root, KINDS)
    image, before = folder.image("small"), (root / "small.nii.gz").read_bytes()
    fetched = folder.fetch(image, tmp_path / "fetched")
    shutil.copy(other, root / "small.nii.gz")
    assert fetched.unit.files[0].read_bytes() == before != other.read_bytes()
    assert fingerprint(fetched.unit.files) != folder.fingerprint(image)
    (root / "small.nii.gz").write_bytes(before)
    assert fingerprint(fetched.unit.files) == folder.fingerprint(image)
    (root / "small.nii.gz").unlink()
    assert "was removed meanwhile" in refused(409, folder.fetch, image, tmp_path / "gone")


def test_the_maps_of_an_image_are_of_one_restoration(root: Path, other: Path, std: Path) -> None:
    """The second restoration makes an interval alone: the standard deviation of the first does not stay beside it."""
    folder = Folder(root, KINDS)
    maps = ("std", "interval")
    folder.save("small", {"std": std, "interval": std, "seg": std}, {"seed": 0}, instead_of=maps)
    assert set(stored(folder, "small")) == {"std", "interval", "seg"}
    folder.save("small", {"interval": other}, {"seed": 1}, instead_of=maps)
    assert {tag: each.info["seed"] for tag, each in stored(folder, "small").items()} == {"interval": 1, "seg": 0}


def test_a_map_that_is_not_the_recorded_one_is_not_served(root: Path, other: Path, std: Path) -> None:
    folder = Folder(root, KINDS)
    folder.save("small", {"std": std}, {})
    shutil.copy(other, root / "labels" / "std" / "small.nii.gz")
    assert stored(Folder(root, KINDS), "small") == {}


def test_killed_at_any_step_of_a_store_nothing_is_mixed_up(
    root: Path, other: Path, std: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on the disk at each change of a file's name and of a copy is what a kill there would leave."""
    folder = Folder(root, KINDS)
    folder.save("small", {"std": std}, {"of": "the first"})
    left: list[Path] = []

    def snapshot() -> None:
        left.append(tmp_path / f"left-{len(left)}")
        shutil.copytree(root, left[-1])

    def replace(source: Any, target: Any) -> None:
        snapshot()
        os_replace(source, target)
        snapshot()

    os_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    folder.add("small", other, {"of": "the second"}, replace=True)
    folder.save("small", {"std": other}, {"of": "the second"})
    folder.store_restored("small_restored", other, {"std": std}, {"of": "the second"})
    monkeypatch.undo()
    assert len(left) == 16  # two for each of four things and their records
    seen = set()
    for place in left:
        after = Folder(place, KINDS)
        first = (place / "small.nii.gz").read_bytes() != other.read_bytes()
        for each in stored(after, "small").values():
            assert each.path.read_bytes() == (std if first else other).read_bytes()
            assert each.info == {"of": "the first" if first else "the second"}
            seen.add(first)
        if "small_restored" in after.images():
            assert after.info(after.image("small_restored"))["of"] == "the second"
        assert not list((place / ".d3gm").glob("staging/*"))
        assert not [path for path in place.rglob(".*") if path.is_file()]
    assert seen == {True, False}


def test_what_is_recorded_outlives_the_server(root: Path, other: Path, std: Path) -> None:
    made = {"model": "mri_sr", "weights": "abc", "parameters": {"seed": 3}, "warnings": ["far"]}
    Folder(root, KINDS).store_restored("small_restored", other, {"std": std}, made)
    again = Folder(root, KINDS)
    assert made.items() <= again.info(again.image("small_restored")).items()
    assert stored(again, "small_restored")["std"].info == made


def test_a_damaged_record_is_said_and_mended(
    root: Path, other: Path, std: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Folder(root, KINDS).store_restored("a", other, {"std": std}, {"model": "mri_sr"})
    for record in (root / ".d3gm").rglob("*.json"):
        record.write_text(record.read_text()[:20])
    folder = Folder(root, KINDS)
    assert "is damaged" in caplog.text
    assert sorted(folder.images()) == ["a", "small"] and stored(folder, "a") == {}
    assert "model" not in folder.info(folder.image("a"))
    caplog.clear()
    folder.save("a", {"std": std}, {"seed": 1})
    assert stored(Folder(root, KINDS), "a")["std"].info == {"seed": 1} and not caplog.text


def test_series_are_images_by_their_uid_wherever_they_lie(root: Path, tmp_path: Path) -> None:
    write_classic(root / "patient" / "study", head(), number=5)
    write_classic(root / "patient" / "study", head(), number=6)
    write_classic(root / "copy", head(), number=5)
    folder = Folder(root, KINDS)
    series = [image for image in folder.images().values() if image.unit.kind == "dicom"]
    assert len(series) == 2
    assert all(image.id == image.about["SeriesInstanceUID"] for image in series)
    assert series[0].about["PatientID"] == "T1" and folder.info(series[0])["files"] == 5
    assert all("its id" in problem.reason for problem in folder.problems) and len(folder.problems) == 5
    write_classic(tmp_path / "more", head(), number=7)
    (name,) = folder.add_series("sent", tmp_path / "more")
    assert folder.image(name).unit.files[0].parent == root / "sent"
    refused(409, folder.add_series, "again", tmp_path / "more")
    assert not (root / "again").exists()
    folder.remove(name)
    assert name not in folder.images()


def test_what_is_no_input_or_has_a_bad_name_leaves_no_file(root: Path, tmp_path: Path, other: Path) -> None:
    folder = Folder(root, KINDS)
    before = sorted(root.rglob("*"))
    (tmp_path / "text.txt").write_text("no image")
    refused(400, folder.add, "text", tmp_path / "text.txt", {})
    refused(400, folder.add_series, "text", tmp_path / "studies" / "..")
    for name in ("a\nb", "a\x00b", "../a", "a/b", ".a", "", "x" * 300, "a\\b", " a"):
        refused(400, folder.add, name, other, {})
        refused(400, folder.save, "small", {name: other}, {})
    refused(404, folder.save, "absent", {"std": other}, {})
    assert [path for path in sorted(root.rglob("*")) if path.is_file()] == [path for path in before if path.is_file()]


def test_a_folder_that_is_read_only_is_served_and_not_changed(root: Path, other: Path, std: Path) -> None:
    Folder(root, KINDS).save("small", {"std": std}, {})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    folder = Folder(root, KINDS, read_only=True)
    assert "std" in stored(folder, "small")
    refused(403, folder.add, "new", other, {})
    refused(403, folder.remove, "small")
    refused(403, folder.save, "small", {"std": other}, {})
    shutil.copy(other, root / "small.nii.gz")
    assert stored(folder, "small") == {}
    assert {path for path in root.rglob("*") if path.is_file()} == set(before)


def test_what_changes_in_the_folder_is_seen(root: Path, other: Path) -> None:
    folder = Folder(root, KINDS)
    assert list(folder.images()) == ["small"]
    (root / "sub").mkdir()
    shutil.copy(other, root / "sub" / "new.nii.gz")
    assert list(folder.images()) == ["small", "sub/new"]
    (root / "small.nii.gz").unlink()
    assert list(folder.images()) == ["sub/new"]
    (root / "bad.nii.gz").write_text("no volume")
    folder.images()
    assert [problem.path.name for problem in folder.problems] == ["bad.nii.gz"]


@given(st.text(max_size=250))
def test_a_name_that_passes_is_a_file_in_the_folder(name: str) -> None:
    try:
        check_name("image", name)
    except RequestError:
        return
    place = Path("/studies") / f"{name}.nii.gz"
    assert place.parent == Path("/studies") and os.path.normpath(place) == str(place)
    assert name.isprintable() and len(name.encode()) <= 200


def test_the_fingerprint_of_one_file_is_its_sha256_and_of_several_that_of_theirs_sorted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"b")
    # FIPS 180-2, appendix B.1
    assert fingerprint([tmp_path / "a"]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint([tmp_path / "a", tmp_path / "b"]) == fingerprint([tmp_path / "b", tmp_path / "a"])
