"""Pixels: every encoding of the same values gives these values. Expected values are those written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_series import head, oblique_affine, write_classic, write_enhanced

from monai_d3gm.data.formats.dicom import DicomError, DicomVolume, find_series, read_series

DATA = os.environ.get("D3GM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="D3GM_DATA is not set")


def read(path: Path) -> DicomVolume:
    (series,), _ = find_series(path)
    return read_series(series)


def test_values_and_positions(tmp_path: Path) -> None:
    write_classic(tmp_path, head())
    volume = read(tmp_path)
    assert volume.data.dtype == np.float32 and volume.data.flags.writeable
    np.testing.assert_array_equal(volume.data, head())
    np.testing.assert_allclose(volume.affine, oblique_affine(), atol=1e-9)
    assert volume.spacing == pytest.approx((0.9, 1.1, 3.0)) and volume.acquired_fraction == (1.0, 1.0)
    assert [d.SOPInstanceUID for d in volume.datasets] == [
        pydicom.dcmread(path).SOPInstanceUID for path in volume.source.files
    ]
    assert not any("PixelData" in dataset for dataset in volume.datasets)
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        (head(), {"slope": 0.25, "intercept": -2}, head() * 0.25 - 2),
        (head(), {"slope": (0.5, 1, 2, 3, 4)}, head() * np.array([0.5, 1, 2, 3, 4])),
        (head().astype(np.int32) - 700, {"signed": True, "bits": 12}, head().astype(np.int32) - 700),
        (head().astype(np.int32) - 700, {"signed": True, "bits": 16}, head().astype(np.int32) - 700),
        # overlays in the bits above the stored ones
        (head() | 0x8000, {}, head()),
        # bright is high: stored 4095 - v over 12 bits, -1 - v over 12 signed ones
        (4095 - head(), {"photometric": "MONOCHROME1"}, head()),
        (-1 - head().astype(np.int32), {"photometric": "MONOCHROME1", "signed": True}, head()),
        (4095 - head(), {"photometric": "MONOCHROME1", "slope": 2.0, "intercept": 5}, head() * 2.0 + 5),
    ],
)
def test_encodings_of_values(
    tmp_path: Path, stored: np.ndarray[Any, Any], options: dict[str, Any], expected: np.ndarray[Any, Any]
) -> None:
    write_classic(tmp_path, stored, **options)
    volume = read(tmp_path)
    np.testing.assert_allclose(volume.data, expected, rtol=1e-6)
    assert any("negative" in warning for warning in volume.warnings) == (expected.min() < 0)
    inverted = options.get("photometric") == "MONOCHROME1"
    assert ("MONOCHROME1: inverted, so that bright is high." in volume.warnings) == inverted


@pytest.mark.parametrize(
    ("syntax", "needs"),
    [
        ("1.2.840.10008.1.2.5", None),  # RLE, pydicom's own
        ("1.2.840.10008.1.2.4.80", "jpeg_ls"),
        ("1.2.840.10008.1.2.4.90", "openjpeg"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_lossless_transfer_syntaxes(tmp_path: Path, syntax: str, needs: str | None, signed: bool) -> None:
    if needs is not None:
        pytest.importorskip("pydicom.pixels", reason="pydicom 2 has no encoder for it")
        pytest.importorskip(needs)
    values = head((40, 36, 2))
    stored = values.astype(np.int32) - (700 if signed else 0)
    write_classic(tmp_path / "classic", stored, syntax=syntax, signed=signed)
    np.testing.assert_array_equal(read(tmp_path / "classic").data, stored)
    write_enhanced(tmp_path / "enhanced" / "x", [values], syntax=syntax, slopes=[2])
    np.testing.assert_array_equal(read(tmp_path / "enhanced").data, values * 2.0)


def test_a_syntax_that_nothing_decodes_is_named(tmp_path: Path) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)), syntax="1.2.840.10008.1.2.5")[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2
    dataset.save_as(path)
    with pytest.raises(DicomError, match=r"(?s)MPEG2.*monai_d3gm\[dicom\]"):
        read(path)


def test_a_file_that_changed_since_it_was_found_is_refused(tmp_path: Path) -> None:
    write_classic(tmp_path, head((24, 20, 1)))
    (series,), _ = find_series(tmp_path)
    write_classic(tmp_path, head((20, 24, 1)))
    series.files[0].write_bytes(next(p for p in tmp_path.iterdir() if p != series.files[0]).read_bytes())
    with pytest.raises(DicomError, match="did the file change"):
        read_series(series)
    series.files[0].unlink()
    with pytest.raises(DicomError, match=series.files[0].name):
        read_series(series)


def test_an_empty_volume_is_refused(tmp_path: Path) -> None:
    write_classic(tmp_path, np.zeros_like(head()))
    with pytest.raises(DicomError, match="zero everywhere"):
        read(tmp_path)


def test_headers_do_not_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A value out of the standard, which pydicom logs, may be personal."""
    write_classic(tmp_path, head((24, 20, 1)))
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"20200102", b"SECRET__"))
    assert read(path).data.any() and not caplog.records


@needs_data
@pytest.mark.parametrize("index", range(1, 10))
def test_mosaic_in_every_syntax_equals_its_reference(index: int) -> None:
    """The reference is dcm2niix's; its affine is float32, which is 1e-5 mm at 100 mm."""
    folder = Path(str(DATA)) / "dicom" / "dcm_qa_ts"
    reference = nibabel.load(folder / "Ref" / f"{index}.nii")
    volume = read(folder / "In" / f"{index}.dcm")
    to_reference = np.linalg.inv(reference.affine) @ volume.affine
    corners = np.array(np.meshgrid(*((0, n - 1) for n in volume.data.shape))).reshape(3, -1)
    voxels = to_reference[:3, :3] @ corners + to_reference[:3, 3:]
    assert np.abs(voxels - voxels.round()).max() * max(volume.spacing) < 2e-5
    # the reference's rows run the other way
    np.testing.assert_allclose(to_reference[:3, :3], np.diag([1, -1, 1]), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(reference.dataobj)[:, ::-1], volume.data)


@needs_data
def test_enhanced_values_equal_those_of_pydicom() -> None:
    path = Path(str(DATA)) / "dicom" / "dcm_qa_enh" / "In" / "Siemens" / "XA10" / "6_1.dcm"
    np.testing.assert_array_equal(read(path).data.transpose(2, 1, 0), pydicom.dcmread(path).pixel_array)
