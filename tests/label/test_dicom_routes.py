"""DICOM over HTTP: series of the folder and in archives; what comes back lies where the source lies."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import requests
from dicom_series import head, write_classic
from label_server import FAST, Server, needs_monai_label

from monai_d3gm.data.formats.dicom import find_series, read_series
from monai_d3gm.label import client
from monai_d3gm.label.archive import pack

pytestmark = needs_monai_label


def series_of(server: Server) -> dict[str, Any]:
    """The series of the folder that the tests made there, by id."""
    objects = requests.get(f"{server.address}/datastore/", {"output": "all"}).json()["objects"]
    infos = {name: entry["image"]["info"] for name, entry in objects.items()}
    return {name: info for name, info in infos.items() if info["kind"] == "dicom" and info["PatientID"] == "T1"}


def unzip(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def test_a_series_of_a_nested_folder_is_restored_as_by_monai_bundle_run(
    server: Server, home: Path, tmp_path: Path, run_bundle: Callable[..., Path]
) -> None:
    image = pydicom.dcmread(next((server.studies / "patient" / "study").glob("n5_*"))).SeriesInstanceUID
    assert image in series_of(server)
    only = tmp_path / "only"
    for path in (server.studies / "patient" / "study").glob("n5_*"):
        only.mkdir(exist_ok=True)
        (only / path.name).symlink_to(path)
    expected = run_bundle(home / "own_bundle", only, **FAST)
    result = server.restore("own_bundle", tmp_path / "served.zip", image=image, parameters=FAST)
    found = unzip(result.path, tmp_path / "served")
    files = sorted(path.relative_to(expected) for path in expected.rglob("*.dcm"))
    assert len(files) == 6 and sorted(path.relative_to(found) for path in found.rglob("*.dcm")) == files
    for file in files:
        assert (found / file).read_bytes() == (expected / file).read_bytes(), file
    assert result.details["std"] == {"image": image, "tag": "std"}
    std = client.download(server.address, tmp_path / "std.dcm", image, "std")
    assert pydicom.dcmread(std).SOPClassUID.name == "Parametric Map Storage"


def test_the_derived_series_lies_where_its_source_lies(server: Server, tmp_path: Path) -> None:
    """k-space truncation keeps the centre of the first voxel; the fine affine is the source's over the factor."""
    source = read_series(find_series(server.studies / "patient" / "study")[0][0])
    image = source.source.series_uid
    result = server.restore("own_bundle", tmp_path / "served.zip", image=image, parameters=FAST | {"factor": 2})
    found = unzip(result.path, tmp_path / "served")
    derived = read_series(find_series(next(found.glob("*_restored")))[0][0])
    fine = source.affine @ np.diag([0.5, 0.5, 1, 1])
    assert np.allclose(derived.affine, fine, atol=1e-4)
    assert derived.data.shape == (2 * source.data.shape[0], 2 * source.data.shape[1], source.data.shape[2])
    nifti = FAST | {"format": "nifti"}
    volume = nibabel.load(server.restore("own_bundle", tmp_path / "n.nii.gz", image=image, parameters=nifti).path)
    assert np.allclose(volume.affine, fine, atol=1e-4)
    # the series holds whole numbers, as its source does
    assert np.abs(volume.get_fdata() - derived.data).max() <= 0.5 + 1e-4


def test_a_zip_of_several_series_comes_back_as_one(server: Server, tmp_path: Path) -> None:
    write_classic(tmp_path / "sent" / "a", head((20, 24, 3)), number=21, description="T1W")
    write_classic(tmp_path / "sent" / "b", head((24, 20, 4)), number=22, description="T2W")
    write_classic(tmp_path / "sent" / "b", head((24, 20, 4)), number=23, image_type=("ORIGINAL", "PRIMARY", "P"))
    (tmp_path / "sent" / "readme.txt").write_text("no image")
    pack(tmp_path / "scans.zip", {"scans": tmp_path / "sent"})
    before = series_of(server)
    result = server.restore("own_bundle", tmp_path / "back.zip", file=tmp_path / "scans.zip", parameters=FAST)
    assert series_of(server) == before
    found = unzip(result.path, tmp_path / "back")
    names = sorted(path.relative_to(found).as_posix() for path in found.rglob("*_std.dcm"))
    assert names == ["scans/a/s021_T1W_e1_std.dcm", "scans/b/s022_T2W_e1_std.dcm"]
    assert len(list((found / "scans" / "b" / "s022_T2W_e1_restored").iterdir())) == 4
    assert set(result.details["inputs"]) == {"scans/a/s021_T1W_e1", "scans/b/s022_T2W_e1"}
    reasons = result.details["problems"]
    assert reasons.pop("scans/readme.txt") == "not an input"
    assert len(reasons) == 4 and all("phase part" in reason for reason in reasons.values())
    nifti = FAST | {"format": "nifti", "output": "restored"}
    back = server.restore("own_bundle", tmp_path / "nifti.zip", file=tmp_path / "scans.zip", parameters=nifti)
    with zipfile.ZipFile(back.path) as archive:
        assert sorted(archive.namelist()) == [
            "scans/a/s021_T1W_e1_restored.nii.gz",
            "scans/b/s022_T2W_e1_restored.nii.gz",
        ]


def test_a_restored_series_is_stored_as_an_image_with_its_map(server: Server, tmp_path: Path) -> None:
    write_classic(tmp_path / "sent", head((20, 24, 3)), number=31)
    pack(tmp_path / "stored.zip", {"s": tmp_path / "sent"})
    parameters = FAST | {"store": True}
    result = server.restore("own_bundle", tmp_path / "b.zip", file=tmp_path / "stored.zip", parameters=parameters)
    image = result.details["stored"]
    found = unzip(client.download(server.address, tmp_path / "image.zip", image), tmp_path / "image")
    headers = [pydicom.dcmread(path) for path in found.iterdir()]
    assert len(headers) == 3 and {header.SeriesInstanceUID for header in headers} == {image}
    assert result.details["std"] == {"image": image, "tag": "std"}
    info = requests.get(f"{server.address}/datastore/image/info", {"image": image}).json()
    assert info["model"] == "own_bundle" and info["weights"] == result.details["checkpoint"]["sha256"]
    with pytest.raises(client.ServerError, match="409"):
        server.restore("own_bundle", tmp_path / "c.zip", file=tmp_path / "stored.zip", parameters=parameters)


def test_archives_that_are_none_are_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no image")
    pack(tmp_path / "none.zip", {"text.txt": tmp_path / "text.txt"})
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../../out.nii", "x")
    whole = (tmp_path / "none.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-30])
    words = {"none": "nothing in it can be restored", "out": "leads out of the archive", "cut": "cannot be unpacked"}
    for name, reason in words.items():
        with pytest.raises(client.ServerError, match=reason) as refused:
            server.restore("own_bundle", tmp_path / "x", file=tmp_path / f"{name}.zip", parameters=FAST)
        assert refused.value.status == 400
    assert not list(server.scratch.glob("d3gm-label-*/request-*"))
