"""A format added in one file: found, bounded, read, restored by a bundle, written and drawn, with no other change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_bundle import logging_kept, magnitude, make_bundle

from monai_d3gm.cli.main import main
from monai_d3gm.data.formats.base import FORMATS, VolumeFormat
from monai_d3gm.data.formats.registry import read_extent, recognise
from monai_d3gm.data.formats.volumes import Extent, InputVolume, MagnitudeVolume, Source
from monai_d3gm.files import atomic_path

MAGIC = b"TOY1"


class Toy(VolumeFormat):
    """MAGIC, three sizes as int32, and the values as float32; 1 mm along every axis."""

    name = "toy"
    title = "toy volumes"
    suffixes = (".toy",)

    def recognise(self, path: Path, start: bytes) -> bool:
        return start.startswith(MAGIC)

    def extent(self, path: Path) -> Extent:
        with path.open("rb") as file:
            rows, columns, slices = np.frombuffer(file.read(16), np.int32, offset=4).tolist()
        return Extent((rows, columns, slices))

    def read(self, source: Source, frame: int | None = None) -> MagnitudeVolume:
        values = np.frombuffer(source.path.read_bytes(), np.float32, offset=16)
        return MagnitudeVolume(values.reshape(self.extent(source.path).shape), np.eye(4))

    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        return {"restored": f"{volume.stem}_restored.toy", "std": f"{volume.stem}_std.toy"}

    def write(
        self,
        path: Path,
        what: str,
        slices: NDArray[np.float32],
        volume: InputVolume,
        *,
        provenance: Mapping[str, str],
        overwrite: bool,
    ) -> None:
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_bytes(encode(volume.as_volume(slices)))


def encode(values: NDArray[np.float32]) -> bytes:
    return MAGIC + np.int32(values.shape).tobytes() + values.astype(np.float32).tobytes()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    format = Toy()
    monkeypatch.setitem(FORMATS, format.name, format)
    return format


@pytest.mark.parametrize("form", ["same", "nifti"])
def test_a_new_format_is_restored(form: str, toy: Toy, tmp_path: Path) -> None:
    """By 2 in plane: twice as many rows and columns, and the restored volume is read again by the same class."""
    (tmp_path / "scans").mkdir()
    path = tmp_path / "scans" / "head.toy"
    path.write_bytes(encode(magnitude(24, 20, 2)))
    assert recognise(path) is toy and read_extent(path) == Extent((24, 20, 2))
    bundle = make_bundle(tmp_path / "bundle", "mri_sr")
    options = ["--samples", "2", "--steps", "1", "--device", "cpu", "--format", form]
    with logging_kept():
        assert main(["restore", str(bundle), str(tmp_path / "scans"), str(tmp_path / "out"), *options]) == 0
    suffix = ".toy" if form == "same" else ".nii.gz"
    written = {p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")}
    maps = {f"head_restored{suffix}", f"head_std{suffix}"}
    assert written == maps | {"head_panel.png", "head_metrics.json", "summary.json"}
    restored = recognise(tmp_path / "out" / f"head_restored{suffix}")
    assert isinstance(restored, VolumeFormat)
    (source,), _ = restored.find([tmp_path / "out" / f"head_restored{suffix}"])
    data = restored.read(source).data
    assert data.shape == (48, 40, 2) and np.isfinite(data).all() and data.any()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["inputs"][0]["kind"] == "toy"
