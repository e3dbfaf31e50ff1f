"""Archives: what is unpacked, what is refused, and equal bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from monai_d3gm.label.archive import is_zip, pack, unpack
from monai_d3gm.label.errors import RequestError


def made(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_tree_survives_packing_and_unpacking(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "series").mkdir(parents=True)
    (tree / "series" / "b").write_bytes(b"b" * 100)
    (tree / "series" / "a").write_bytes(b"a")
    (tree / "map.nii.gz").write_bytes(bytes(range(256)))
    for name in ("one.zip", "two.zip"):
        pack(tmp_path / name, {"made": tree / "series", "map.nii.gz": tree / "map.nii.gz"})
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert is_zip(tmp_path / "one.zip") and not is_zip(tree / "map.nii.gz")
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "one.zip", tmp_path / "out", 10_000)
    found = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.*")}
    assert found == {"map.nii.gz": bytes(range(256))}
    assert (tmp_path / "out" / "made" / "a").read_bytes() == b"a"


def test_an_archive_that_grows_when_unpacked_is_stopped_at_the_bound(tmp_path: Path) -> None:
    bomb = made(tmp_path / "bomb.zip", zeros=bytes(10_000_000))
    assert bomb.stat().st_size < 20_000
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="too large; accepted: up to 0.002 GB") as refused:
        unpack(bomb, tmp_path / "out", 2_000_000)
    assert refused.value.status == 413
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 2_000_000


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "..\\a", "C:\\a", "a\nb", "a\x1bb"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RequestError, match="leads out of the archive"):
        unpack(made(tmp_path / "a.zip", **{name: b"x"}), tmp_path / "out", 100)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "out"]


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    whole = made(tmp_path / "a.zip", a=bytes(range(256)) * 40).read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "changed": whole[:60] + b"????" + whole[64:]}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}-out").mkdir()
        with pytest.raises(RequestError, match=f"{name}: the archive") as refused:
            unpack(tmp_path / name, tmp_path / f"{name}-out", 100_000)
        assert refused.value.status == 400
