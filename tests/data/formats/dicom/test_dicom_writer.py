"""Derived series: where they lie, what they hold, what they refer to, and that they depend on nothing else.

dciodvfy (Debian's dicom3tools) checks them against the standard and dcm2niix reads them back, where these are there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_series import head, oblique_affine, write_classic, write_enhanced, write_mosaic

from monai_d3gm.data import read_magnitude, write_volume
from monai_d3gm.data.formats.dicom import (
    DicomError,
    DicomVolume,
    find_series,
    read_series,
    write_parametric_map,
    write_series,
)
from monai_d3gm.files import OutputError

try:
    import highdicom
except ImportError:  # not installed, or beside pydicom 2
    highdicom = None

DATA = os.environ.get("D3GM_DATA")
PROVENANCE = {
    "bundle": "mri_sr",
    "weights_sha256": "0" * 64,
    "parameters": '{"num_inference_steps": 5, "seed": 0}',
}
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
DCIODVFY, DCM2NIIX = shutil.which("dciodvfy", path=TOOLS), shutil.which("dcm2niix", path=TOOLS)
needs_dciodvfy = pytest.mark.skipif(DCIODVFY is None, reason="dciodvfy (dicom3tools) is not installed")
needs_dcm2niix = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

SOURCES: dict[str, Callable[[Path], Any]] = {
    "classic": lambda folder: write_classic(folder, head()),
    "rescaled": lambda folder: write_classic(folder, head(), slope=0.37, intercept=3.25),
    "enhanced": lambda folder: write_enhanced(folder / "x", [head(), head(peak=900)]),
    "mosaic": lambda folder: write_mosaic(folder / "x", head()),
}


def source(folder: Path, kind: str = "classic") -> DicomVolume:
    folder.mkdir(parents=True, exist_ok=True)
    SOURCES[kind](folder)
    return read_series(find_series(folder)[0][0])


def finer(volume: DicomVolume) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Twice the columns, three times the rows, one and a half times the slices; voxel 0 stays where it is."""
    x, y, z = volume.data.shape
    columns, rows = np.repeat(np.arange(x), 2), np.repeat(np.arange(y), 3)
    slices = np.round(np.linspace(0, z - 1, 2 * z - 1)).astype(int)
    return volume.data[np.ix_(columns, rows, slices)], volume.affine @ np.diag([1 / 2, 1 / 3, 1 / 2, 1])


def read(paths: list[Path]) -> DicomVolume:
    (series,), refused = find_series(paths[0].parent)
    assert not refused
    return read_series(series)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", SOURCES)
def test_round_trip_on_the_same_grid(tmp_path: Path, kind: str) -> None:
    volume = source(tmp_path / "in", kind)
    paths = write_series(tmp_path / "out", volume.data, volume.affine, volume, provenance=PROVENANCE)
    copy = read(paths)
    assert [p.name for p in paths] == [f"restored_{i + 1:04d}.dcm" for i in range(5)]
    np.testing.assert_allclose(copy.affine, volume.affine, atol=1e-9)
    tolerance = np.ptp(volume.data) / 131070 if kind == "rescaled" else 0
    assert np.abs(copy.data - volume.data).max() <= tolerance * 1.01
    assert copy.source.kind == "classic" and copy.source.files == tuple(paths)
    expected = volume.datasets[0].get("SliceThickness") or 3.0
    assert copy.datasets[0].SliceThickness == pytest.approx(expected)


@pytest.mark.parametrize("kind", SOURCES)
def test_a_finer_grid_lies_where_its_source_lay(tmp_path: Path, kind: str) -> None:
    volume = source(tmp_path / "in", kind)
    data, affine = finer(volume)
    copy = read(write_series(tmp_path / "out", data, affine, volume, provenance=PROVENANCE))
    np.testing.assert_allclose(copy.affine, affine, atol=1e-9)
    assert copy.spacing == pytest.approx((0.45, 1.1 / 3, 1.5)) and copy.data.shape == (48, 60, 9)
    assert np.abs(copy.data - data).max() <= np.ptp(data) / 131070 * 1.01
    header = copy.datasets[0]
    assert header.SpacingBetweenSlices == pytest.approx(1.5)
    assert header.DerivationCodeSequence[0].CodeMeaning == "Spatial resampling"


def test_round_trip_through_nifti(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    write_volume(tmp_path / "copy.nii.gz", volume.data, volume.affine)
    nifti = read_magnitude(tmp_path / "copy.nii.gz")
    # the affine of a NIfTI file is float32
    np.testing.assert_allclose(nifti.affine, volume.affine, atol=1e-5)
    copy = read(write_series(tmp_path / "out", nifti.data, nifti.affine, volume, provenance=PROVENANCE))
    np.testing.assert_allclose(copy.affine, volume.affine, atol=1e-5)
    np.testing.assert_array_equal(copy.data, head())


def test_what_a_derived_image_says(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    paths = write_series(tmp_path / "out", volume.data, volume.affine, volume, provenance=PROVENANCE)
    originals = volume.datasets
    series = {pydicom.dcmread(path).SeriesInstanceUID for path in paths}
    assert len(series) == 1 and originals[0].SeriesInstanceUID not in series
    for index, (path, original) in enumerate(zip(paths, originals, strict=True)):
        image = pydicom.dcmread(path)
        assert image.SOPClassUID.name == "MR Image Storage" and image.Modality == "MR"
        assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
        assert image.SOPInstanceUID.startswith("2.25.") and len(image.SOPInstanceUID) <= 64
        assert list(image.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert image.SeriesDescription == "T1W restored, research use only"
        assert image.InstanceNumber == index + 1 and image.SeriesNumber == 1005
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "EchoTime"):
            assert image[keyword] == original[keyword]
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == original.SOPClassUID
        (of_series,) = image.ReferencedSeriesSequence
        assert of_series.SeriesInstanceUID == original.SeriesInstanceUID
        assert of_series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
        scanner, package = image.ContributingEquipmentSequence
        assert (scanner.Manufacturer, scanner.DeviceSerialNumber) == ("ACME", "7")
        assert scanner.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Acquisition Equipment"
        assert package.ManufacturerModelName == image.ManufacturerModelName == "monai_d3gm"
        for text in (image.DerivationDescription, package.ContributionDescription):
            assert "research use only" in text and "0" * 64 in text and "num_inference_steps" in text
        assert "RescaleSlope" not in image and "DerivationCodeSequence" not in image
        assert not any(element.tag.is_private for element in image)
        assert image.AcquisitionMatrix == original.AcquisitionMatrix


def test_a_slice_between_two_refers_to_both(tmp_path: Path) -> None:
    for kind, files in (("classic", 2), ("enhanced", 1), ("mosaic", 1)):
        volume = source(tmp_path / kind, kind)
        data, affine = finer(volume)
        paths = write_series(tmp_path / f"out_{kind}", data, affine, volume, provenance=PROVENANCE)
        at, between = (pydicom.dcmread(paths[k]).SourceImageSequence for k in (2, 3))
        assert len(at) == 1 and len(between) == files
        if kind == "enhanced":
            # frames are stored from the last slice to the first, two volumes in turn
            assert at[0].ReferencedFrameNumber == 7 and list(between[0].ReferencedFrameNumber) == [5, 7]


def test_same_input_same_bytes_and_other_input_other_uids(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")

    def write(name: str, volume: DicomVolume = volume, **options: Any) -> dict[str, bytes]:
        arguments = {"provenance": PROVENANCE, **options}
        return contents(write_series(tmp_path / name, volume.data, volume.affine, volume, **arguments)[0].parent)

    first = write("a")
    assert write("b") == first
    uids = [
        pydicom.dcmread(tmp_path / name / path).SOPInstanceUID
        for name, written in [
            ("a", first),
            ("c", write("c", provenance={**PROVENANCE, "weights_sha256": "1" * 64})),
            ("d", write("d", suffix="denoised")),
            ("e", write("e", volume=source(tmp_path / "in2", "rescaled"))),
        ]
        for path in written
    ]
    # "rescaled" has the same instance UIDs as "classic": its source is the same to a reader of UIDs
    assert len(set(uids)) == 15


def test_values_that_do_not_fit_whole_numbers_are_rescaled(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    data = volume.data * 100 - 50
    copy = read(write_series(tmp_path / "out", data, volume.affine, volume, provenance=PROVENANCE))
    assert np.abs(copy.data - data).max() <= np.ptp(data) / 131070 * 1.01
    assert copy.datasets[0].RescaleIntercept == -50
    constant = np.full_like(data, -3.5)
    copy = read(write_series(tmp_path / "constant", constant, volume.affine, volume, provenance=PROVENANCE))
    np.testing.assert_array_equal(copy.data, constant)


def test_unevenly_spaced_and_tilted_slices_stay_where_they_are(tmp_path: Path) -> None:
    write_classic(tmp_path / "in", head((24, 20, 7)), oblique_affine(tilt=10), skip=(3,))
    volume = read_series(find_series(tmp_path / "in")[0][0])
    fine = volume.affine @ np.diag([0.5, 0.5, 1, 1])
    data = volume.data.repeat(2, 0).repeat(2, 1)
    copy = read(write_series(tmp_path / "out", data, fine, volume, provenance=PROVENANCE))
    before, after = ([f.plane.position for f in v.source.frames] for v in (volume, copy))
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert copy.source.warnings[:2] == volume.source.warnings[:2] and "missing" in copy.source.warnings[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data, affine: (data[..., 0], affine), "three axes"),
        (lambda data, affine: (np.where(data > 700, np.nan, data), affine), "finite"),
        (lambda data, affine: (data, affine[:3]), "affine is"),
        (lambda data, affine: (data, np.where(affine == 71.25, np.inf, affine)), "affine is"),
        (lambda data, affine: (data, affine @ np.diag([1, 1, 0, 1])), "affine is"),
        (lambda data, affine: (data, affine + 0.3 * affine[:, [1]] * [[1, 0, 0, 0]]), "not perpendicular"),
        (lambda data, affine: (data, affine[:, [0, 1, 0, 3]]), "in the plane of the slices"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, change: Any, expected: str) -> None:
    volume = source(tmp_path / "in")
    data, affine = change(volume.data, volume.affine)
    with pytest.raises(DicomError, match=expected):
        write_series(tmp_path / "out", data, affine, volume, provenance=PROVENANCE)
    with pytest.raises(DicomError, match=expected if highdicom else "need highdicom"):
        write_parametric_map(tmp_path / "map.dcm", data, affine, volume, provenance=PROVENANCE)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_nothing_of_the_user_is_overwritten_unasked(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    out = tmp_path / "out"

    def write(data: Any = volume.data, folder: Path = out, **options: Any) -> list[Path]:
        return write_series(folder, data, volume.affine, volume, provenance=PROVENANCE, **options)

    out.mkdir()
    write()
    before = contents(out)
    with pytest.raises(OutputError, match="holds files; allow overwriting"):
        write(volume.data + 1)
    assert contents(out) == before
    write(volume.data + 1, overwrite=True)
    assert contents(out) != before and len(contents(out)) == 5
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds notes.txt"):
        write(overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="cannot be written"):
        write(folder=tmp_path / "absent" / "out")
    with pytest.raises(OutputError, match="cannot be written"):
        write(folder=out / "notes.txt")
    with pytest.raises(DicomError, match="suffix"):
        write(folder=tmp_path / "other", suffix="../up")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = source(tmp_path / "in")
    save = pydicom.dataset.FileDataset.save_as

    def fail_at_the_third(self: Any, path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name.endswith("0003.dcm"):
            raise OSError(28, "No space left on device")
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(pydicom.dataset.FileDataset, "save_as", fail_at_the_third)
    with pytest.raises(OutputError, match="No space left"):
        write_series(tmp_path / "out", volume.data, volume.affine, volume, provenance=PROVENANCE)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_long_provenance_is_shortened_with_its_hash(tmp_path: Path) -> None:
    volume = source(tmp_path / "in")
    provenance = {"parameters": "x" * 5000, "µ": "ü"}
    image = pydicom.dcmread(
        write_series(tmp_path / "out", volume.data, volume.affine, volume, provenance=provenance)[0]
    )
    assert len(image.DerivationDescription) == 1024 and " ... SHA-256 " in image.DerivationDescription


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_a_source_without_a_uid_is_not_derived_from(tmp_path: Path, keyword: str) -> None:
    write_classic(tmp_path / "in", head(), extra={keyword: None})
    volume = read_series(find_series(tmp_path / "in")[0][0])
    with pytest.raises(DicomError, match=f"no {keyword}"):
        write_series(tmp_path / "out", volume.data, volume.affine, volume, provenance=PROVENANCE)


def _messages(path: Path) -> list[str]:
    """What dciodvfy has against a file."""
    assert DCIODVFY is not None
    result = subprocess.run([DCIODVFY, str(path)], capture_output=True, text=True, check=False)
    return [line for line in (result.stdout + result.stderr).splitlines() if line.startswith(("Error", "Warning"))]


@needs_dciodvfy
@pytest.mark.parametrize("kind", SOURCES)
def test_the_standard_is_kept(tmp_path: Path, kind: str) -> None:
    volume = source(tmp_path / "in", kind)
    data, affine = finer(volume)
    for path in write_series(tmp_path / "out", data, affine, volume, provenance=PROVENANCE):
        messages = _messages(path)
        # Rescaled values are an extension of the MR image, which dciodvfy warns of; scanners do the same.
        assert kind == "rescaled" or not messages
        assert not [m for m in messages if "Rescale" not in m and "standard DICOM IOD" not in m]


@needs_dcm2niix
@pytest.mark.parametrize("kind", SOURCES)
def test_dcm2niix_reads_the_same_volume(tmp_path: Path, kind: str) -> None:
    assert DCM2NIIX is not None
    volume = source(tmp_path / "in", kind)
    data, affine = finer(volume)
    write_series(tmp_path / "out", data, affine, volume, provenance=PROVENANCE)
    command = [DCM2NIIX, "-f", "x", "-b", "n", "-o", str(tmp_path), str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(tmp_path / "x.nii")
    to_voxels = np.linalg.inv(image.affine) @ affine
    corners = np.array(np.meshgrid(*((0, n - 1) for n in data.shape))).reshape(3, -1)
    voxels = to_voxels[:3, :3] @ corners + to_voxels[:3, 3:]
    # float32 affines of dcm2niix
    assert np.abs(voxels - voxels.round()).max() < 1e-4
    # dcm2niix turns axes round, rows always and columns of 3-D scans too, and nothing else
    signs = np.diag(to_voxels[:3, :3]).round().astype(int)
    np.testing.assert_allclose(to_voxels[:3, :3], np.diag(signs), atol=1e-5)
    turned = np.asarray(image.dataobj)[tuple(slice(None, None, sign) for sign in signs)]
    np.testing.assert_allclose(turned, data, atol=np.ptp(data) / 65535)


@pytest.mark.skipif(not DATA, reason="D3GM_DATA is not set")
@pytest.mark.parametrize("path", ["dcm_qa_ts/In/9.dcm", "dcm_qa_enh/In/Philips", "dcm_qa_enh/In/Siemens/XA10/6_2.dcm"])
def test_real_series_are_derived_from(tmp_path: Path, path: str) -> None:
    volume = read_series(find_series(Path(str(DATA)) / "dicom" / path)[0][0])
    data, affine = finer(volume)
    paths = write_series(tmp_path / "out", data, affine, volume, provenance=PROVENANCE)
    copy = read(paths)
    np.testing.assert_allclose(copy.affine, affine, atol=1e-5)
    assert np.abs(copy.data - data).max() <= np.ptp(data) / 131070 * 1.01
    written = [paths[0]]
    if highdicom is not None:
        written.append(tmp_path / "map.dcm")
        write_parametric_map(written[-1], data / 10, affine, volume, provenance=PROVENANCE)
    if DCIODVFY is not None:
        assert not [message for path in written for message in _messages(path) if message.startswith("Error")]
