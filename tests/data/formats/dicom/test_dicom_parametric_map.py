"""Parametric maps: values, geometry, references, and that nothing but the input decides their bytes."""

from __future__ import annotations

import builtins
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_series import head, oblique_affine, write_classic, write_enhanced, write_mosaic

from monai_d3gm.data.formats.dicom import DicomError, DicomVolume, find_series, read_series, write_parametric_map
from monai_d3gm.files import OutputError

pytest.importorskip("highdicom", reason="highdicom (extra dicom) cannot be imported", exc_type=ImportError)

PROVENANCE = {"bundle": "mri_sr", "weights_sha256": "0" * 64}
DCIODVFY = shutil.which("dciodvfy")


def source(folder: Path, kind: str = "classic") -> DicomVolume:
    if kind == "classic":
        write_classic(folder, head())
    elif kind == "enhanced":
        write_enhanced(folder / "x", [head(), head(peak=900)])
    else:
        write_mosaic(folder / "x", head())
    return read_series(find_series(folder)[0][0])


def frames(dataset: pydicom.Dataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values (X, Y, Z) and positions of a map, by its own functional groups, sorted along the normal."""
    pixels = np.frombuffer(dataset.FloatPixelData, dtype="<f4")
    values = pixels.reshape(dataset.NumberOfFrames, dataset.Rows, dataset.Columns).transpose(2, 1, 0)
    groups = dataset.PerFrameFunctionalGroupsSequence
    positions = np.array([list(map(float, g.PlanePositionSequence[0].ImagePositionPatient)) for g in groups])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    order = np.argsort(positions @ np.cross(cosines[:3], cosines[3:]))
    return values[:, :, order], positions[order]


@pytest.mark.parametrize("kind", ["classic", "enhanced", "mosaic"])
@pytest.mark.parametrize("fine", [(1, 1, 1), (2, 2, 1), (1, 1, 2)])
def test_values_and_geometry(tmp_path: Path, kind: str, fine: tuple[int, int, int]) -> None:
    volume = source(tmp_path / "in", kind)
    affine = volume.affine @ np.diag([1 / f for f in fine] + [1])
    std = (volume.data / 7).repeat(fine[0], 0).repeat(fine[1], 1).repeat(fine[2], 2)
    write_parametric_map(tmp_path / "std.dcm", std, affine, volume, provenance=PROVENANCE)
    dataset = pydicom.dcmread(tmp_path / "std.dcm")
    values, positions = frames(dataset)
    np.testing.assert_array_equal(values, std)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    np.testing.assert_allclose(positions, lps[:3, 3] + np.outer(range(std.shape[2]), lps[:3, 2]), atol=1e-9)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert measures.PixelSpacing == pytest.approx([1.1 / fine[1], 0.9 / fine[0]])
    assert measures.SpacingBetweenSlices == pytest.approx(3 / fine[2])
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    np.testing.assert_allclose(orientation.T, lps[:3, :2] / np.linalg.norm(lps[:3, :2], axis=0), atol=1e-9)
    if DCIODVFY is not None:
        result = subprocess.run([DCIODVFY, str(tmp_path / "std.dcm")], capture_output=True, text=True, check=False)
        assert "Error" not in result.stdout + result.stderr


def test_what_a_map_says(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    write_parametric_map(tmp_path / "std.dcm", volume.data, volume.affine, volume, provenance=PROVENANCE)
    dataset = pydicom.dcmread(tmp_path / "std.dcm")
    original = volume.datasets[0]
    assert dataset.SOPClassUID.name == "Parametric Map Storage"
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "ContentDate"):
        assert dataset[keyword] == original[keyword]
    assert dataset.SeriesInstanceUID.startswith("2.25.") and dataset.SeriesInstanceUID != original.SeriesInstanceUID
    assert dataset.SeriesDescription == "T1W standard deviation, research use only"
    assert dataset.ContentDescription == "standard deviation, research use only"
    mapping = dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
    referenced = {
        item.ReferencedSOPInstanceUID
        for series in dataset.ReferencedSeriesSequence
        for item in series.ReferencedInstanceSequence
    }
    assert referenced == {d.SOPInstanceUID for d in volume.datasets}
    models = [item.get("ManufacturerModelName") for item in dataset.ContributingEquipmentSequence]
    names_itself = not version("highdicom").startswith("0.22.")  # the last for pydicom 2
    assert models == ["Scanner", "monai_d3gm", *(["highdicom"] if names_itself else [])]
    assert "0" * 64 in dataset.ContributingEquipmentSequence[1].ContributionDescription


def test_same_input_same_bytes(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")

    def write(name: str, **options: Any) -> bytes:
        arguments = {"provenance": PROVENANCE, **options}
        write_parametric_map(tmp_path / name, volume.data, volume.affine, volume, **arguments)
        return (tmp_path / name).read_bytes()

    first = write("a.dcm")
    assert write("b.dcm") == first
    write("c.dcm", provenance={"bundle": "other"})
    write("d.dcm", label="bias")
    uids = {pydicom.dcmread(tmp_path / f"{name}.dcm").SOPInstanceUID for name in "abcd"}
    assert len(uids) == 3


def test_a_source_of_uneven_slices_without_personal_data(tmp_path: Path) -> None:
    missing = ("PatientID", "PatientName", "PatientSex", "AccessionNumber", "SliceThickness", "FrameOfReferenceUID")
    extra = {**dict.fromkeys((*missing, "ContentDate", "ContentTime", "StudyDate", "Manufacturer", "BodyPartExamined"))}
    write_classic(tmp_path / "in", head((24, 20, 7)), oblique_affine(tilt=8), skip=(3,), extra=extra)
    volume = read_series(find_series(tmp_path / "in")[0][0])
    write_parametric_map(tmp_path / "std.dcm", volume.data, volume.affine, volume, provenance=PROVENANCE)
    _, positions = frames(pydicom.dcmread(tmp_path / "std.dcm"))
    np.testing.assert_allclose(positions, [f.plane.position for f in volume.source.frames], atol=1e-9)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    path = tmp_path / "std.dcm"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write_parametric_map(path, volume.data, volume.affine, volume, provenance=PROVENANCE)
    assert path.read_text() == "mine"
    write_parametric_map(path, volume.data, volume.affine, volume, provenance=PROVENANCE, overwrite=True)
    assert pydicom.dcmread(path).NumberOfFrames == 5


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = source(tmp_path / "in")
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "highdicom":
            raise ImportError("No module named 'highdicom'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DicomError, match=r"install monai_d3gm\[dicom\]"):
        write_parametric_map(tmp_path / "std.dcm", volume.data, volume.affine, volume, provenance=PROVENANCE)
