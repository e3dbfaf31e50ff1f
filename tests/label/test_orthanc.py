"""A round trip through a real Orthanc: found, retrieved, restored, stored, and at the same place."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_series import head, write_classic
from label_server import FAST, Server, needs_monai_label, start, stop
from orthanc import Orthanc, needs_orthanc, start_orthanc
from small_bundle import make_bundle

from monai_d3gm.cli.main import main
from monai_d3gm.data.formats.dicom import find_series, read_series
from monai_d3gm.data.formats.dicom.web import DicomWeb, DicomWebError, parse_address
from monai_d3gm.label import client

pytestmark = needs_orthanc

STUDY = "1.2.826.0.1.3680043.8.498.2"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    started = start_orthanc(tmp_path_factory.mktemp("orthanc"))
    yield started
    started.process.terminate()
    started.process.wait(60)


@pytest.fixture
def filled(pacs: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Orthanc:
    """Orthanc with one study of two MR series, and our client let in."""
    pacs.clear()
    for number in (5, 6):
        pacs.send(write_classic(tmp_path / "source" / str(number), head((24, 20, 3 + number)), number=number))
    for name, value in pacs.variables.items():
        monkeypatch.setenv(name, value)
    return pacs


def dciodvfy(file: Path) -> list[str]:
    """The errors that dicom3tools finds in a file."""
    run = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    return [line for line in run.stderr.splitlines() if line.startswith("Error")]


def by_dcm2niix(folder: Path, out: Path) -> nibabel.Nifti1Image:
    out.mkdir(parents=True)
    command = ["dcm2niix", "-z", "n", "-f", "volume", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (volume,) = out.glob("*.nii")
    return nibabel.load(volume)


def assert_at_the_same_place(source: Path, derived: Path, out: Path) -> None:
    """The derived series is the source on a grid twice as fine in plane: by position, by dcm2niix and by dciodvfy.

    k-space truncation keeps the centre of the first voxel (rows, columns), and the slices lie where they lay.
    """
    before, after = (read_series(find_series(folder)[0][0]) for folder in (source, derived))
    assert np.allclose(after.affine, before.affine @ np.diag([0.5, 0.5, 1, 1]), atol=1e-4)
    headers = [[pydicom.dcmread(path) for path in folder.iterdir()] for folder in (source, derived)]
    places = [sorted(tuple(map(float, header.ImagePositionPatient)) for header in each) for each in headers]
    assert np.allclose(places[0], places[1], atol=1e-4)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert headers[1][0][keyword] == headers[0][0][keyword]
    if shutil.which("dcm2niix"):
        volumes = [by_dcm2niix(folder, out / name) for folder, name in ((source, "source"), (derived, "derived"))]
        assert volumes[1].shape == (*(2 * n for n in volumes[0].shape[:2]), volumes[0].shape[2])
        # dcm2niix turns the order of rows around; slice k, row j and column i of the source are k, 2 j and 2 i
        columns, rows, slices = volumes[0].shape
        index = np.array(np.meshgrid([0, columns - 1], [0, rows - 1], [0, slices - 1])).reshape(3, -1).T
        coarse = nibabel.affines.apply_affine(volumes[0].affine, np.abs(index - [0, rows - 1, 0]))
        fine = nibabel.affines.apply_affine(volumes[1].affine, np.abs(index * [2, 2, 1] - [0, 2 * rows - 1, 0]))
        assert np.allclose(coarse, fine, atol=1e-3)
    if shutil.which("dciodvfy"):
        for path in derived.iterdir():
            assert dciodvfy(path) == [], path


def made(pacs: Orthanc, before: dict[str, Any], folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """What was stored since: folders of MR series by the source's number, and parametric maps."""
    series, maps = {}, []
    for number, uid in enumerate(set(pacs.series()) - set(before)):
        files = pacs.files(uid, folder / str(number))
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        if header.Modality == "MR" and "Parametric" not in header.SOPClassUID.name:
            series[int(header.SeriesNumber) % 1000] = folder / str(number)
        else:
            maps += files
    return series, maps


def source_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir())).SeriesInstanceUID)


def test_the_command_restores_a_study_and_stores_it_back(
    filled: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "own_bundle", "mri_sr")
    before = filled.series()
    address = f"dicomweb+{filled.dicom_web}?StudyInstanceUID={STUDY}"
    options = ["--steps", "2", "--samples", "2", "--device", "cpu", "--json"]
    assert main(["restore", str(bundle), address, *options]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["counts"]["restored"] == 2
    series, maps = made(filled, before, tmp_path / "made")
    assert set(series) == {5, 6} and len(maps) == 2
    for number, folder in series.items():
        assert_at_the_same_place(tmp_path / "source" / str(number), folder, tmp_path / f"nifti-{number}")
    if shutil.which("dciodvfy"):
        assert [dciodvfy(path) for path in maps] == [[], []]
    # once more: the same objects, and what was restored is not restored again
    stored = filled.series()
    assert main(["restore", str(bundle), address, *options]) == 0
    assert set(filled.series()) == set(stored)


def test_the_command_writes_into_a_folder_where_one_is_given(
    filled: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "own_bundle", "mri_sr")
    before = filled.series()
    uid = source_of(tmp_path / "source" / "5")
    address = f"dicomweb+{filled.dicom_web}?StudyInstanceUID={STUDY}&SeriesInstanceUID={uid}"
    options = ["--steps", "1", "--samples", "2", "--device", "cpu"]
    assert main(["restore", str(bundle), address, str(tmp_path / "out"), *options]) == 0
    assert len(list((tmp_path / "out").rglob("*_restored/*.dcm"))) == 8
    assert set(filled.series()) == set(before)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("StudyInstanceUID=9.9.9", "no MR series"),
        ("Modality=MR", "the query selects nothing"),
        ("StudyUID=1.2", "StudyUID=1.2 is no query"),
    ],
)
def test_a_query_that_finds_nothing_is_refused(
    filled: Orthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str, words: str
) -> None:
    bundle = make_bundle(tmp_path / "own_bundle", "mri_sr")
    assert main(["restore", str(bundle), f"dicomweb+{filled.dicom_web}?{query}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("d3gm: error: ") and words in error


def test_users_and_certificates_are_asked_for(filled: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(DicomWeb(filled.dicom_web, 10**9).find({"StudyInstanceUID": STUDY})) == 2
    monkeypatch.setenv("D3GM_DICOMWEB_PASSWORD", "wrong")
    with pytest.raises(DicomWebError, match="answered 401 to the query"):
        DicomWeb(filled.dicom_web, 10**9).find({})
    monkeypatch.delenv("D3GM_DICOMWEB_CA")
    with pytest.raises(DicomWebError, match="cannot be reached"):
        DicomWeb(filled.dicom_web, 10**9).find({})
    monkeypatch.setenv("D3GM_DICOMWEB_CA", "/no/such/file")
    with pytest.raises(DicomWebError, match="D3GM_DICOMWEB_CA is '/no/such/file'"):
        DicomWeb(filled.dicom_web, 10**9)
    monkeypatch.delenv("D3GM_DICOMWEB_CA")
    with pytest.raises(DicomWebError, match="the address holds a user"):
        DicomWeb("http://alice:secret@127.0.0.1/dicom-web", 10**9)


def test_a_series_comes_as_it_is_stored_and_not_if_it_is_too_large(filled: Orthanc, tmp_path: Path) -> None:
    web = DicomWeb(filled.dicom_web, 10**9)
    (series,) = web.find({"SeriesInstanceUID": source_of(tmp_path / "source" / "5")})
    assert series.study == STUDY and series.about["PatientID"] == "T1"
    (tmp_path / "got").mkdir()
    got = read_series(find_series(tmp_path / "got")[0][0]) if web.retrieve(series, tmp_path / "got") else None
    sent = read_series(find_series(tmp_path / "source" / "5")[0][0])
    assert got is not None and np.array_equal(got.data, sent.data) and np.array_equal(got.affine, sent.affine)
    (tmp_path / "little").mkdir()
    with pytest.raises(DicomWebError, match="up to 1e-06 GB"):
        DicomWeb(filled.dicom_web, 1000).retrieve(series, tmp_path / "little")


@pytest.fixture
def served(filled: Orthanc, tmp_path: Path) -> Iterator[Server]:
    bundle = make_bundle(tmp_path / "own_bundle", "mri_sr")
    started = start(
        tmp_path,
        *("bundles", str(bundle), "device", "cpu"),
        studies=filled.dicom_web,
        variables=filled.variables,
    )
    yield started
    stop(started)


@needs_monai_label
def test_the_server_serves_a_pacs_and_stores_what_it_restored(served: Server, filled: Orthanc, tmp_path: Path) -> None:
    before = filled.series()
    uid = source_of(tmp_path / "source" / "5")
    assert client.info(served.address)["datastore"]["total"] == 2
    result = served.restore("own_bundle", tmp_path / "a.zip", image=uid, parameters=FAST)
    with zipfile.ZipFile(result.path) as archive:
        assert sum(name.endswith(".dcm") for name in archive.namelist()) == 9
    assert result.details["stored"] is None and set(filled.series()) == set(before)
    parameters = FAST | {"store": True}
    stored = served.restore("own_bundle", tmp_path / "b.zip", image=uid, parameters=parameters).details["stored"]
    series, maps = made(filled, before, tmp_path / "made")
    assert set(series) == {5} and len(maps) == 1 and source_of(series[5]) == stored
    assert_at_the_same_place(tmp_path / "source" / "5", series[5], tmp_path / "nifti")
    for name, options, status in (
        ("absent.zip", {"image": "1.2.3"}, 404),
        ("refused.nii.gz", {"image": uid, "parameters": {"store": True, "format": "nifti"}}, 400),
    ):
        with pytest.raises(client.ServerError) as refused:
            served.restore("own_bundle", tmp_path / name, **options)
        assert refused.value.status == status
    with pytest.raises(client.ServerError, match="403: the studies are those of"):
        client.upload(served.address, next((tmp_path / "source" / "5").iterdir()), "x")
    assert "a secret" not in served.log.read_text()


def test_addresses_are_told_from_paths() -> None:
    address, query = parse_address("dicomweb+https://host:8443/a/dicom-web?StudyInstanceUID=1.2&Modality=MR")
    assert address == "https://host:8443/a/dicom-web" and query == {"StudyInstanceUID": "1.2", "Modality": "MR"}
    for text in ("http://host?StudyInstanceUID=1", "dicomweb+ftp://host?StudyInstanceUID=1", "dicomweb+http://"):
        with pytest.raises(DicomWebError, match="is no address"):
            parse_address(text)
