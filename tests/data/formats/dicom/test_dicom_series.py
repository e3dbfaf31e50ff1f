"""Finding series: what belongs together, what is refused, what is reported. Expected values are those written."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_series import head, oblique_affine, write_classic, write_enhanced, write_mosaic
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_d3gm.data.formats.dicom import DicomError, acquired_fraction, find_series, is_dicom, read_series
from monai_d3gm.data.formats.dicom.headers import FrameHeader

DATA = os.environ.get("D3GM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="D3GM_DATA is not set")


def edit(path: Path, **values: Any) -> None:
    """Set attributes of a file."""
    dataset = pydicom.dcmread(path)
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)


def store(path: Path, keyword: str, vr: str, text: str) -> None:
    """Put text in the place of a decimal string, with another type of value if asked for."""
    content, value = path.read_bytes(), text.encode() + b" " * (len(text) % 2)
    tag = Tag(keyword).group.to_bytes(2, "little") + Tag(keyword).element.to_bytes(2, "little")
    start = content.index(tag + b"DS")
    end = start + 8 + int.from_bytes(content[start + 6 : start + 8], "little")
    size = b"\0\0" + len(value).to_bytes(4, "little") if vr == "UT" else len(value).to_bytes(2, "little")
    path.write_bytes(content[:start] + tag + vr.encode() + size + value + content[end:])


def test_slices_are_sorted_by_geometry(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, head(), slope=1)
    (series,), refused = find_series(tmp_path)
    assert series.files == tuple(paths) and list(paths) != sorted(paths)
    assert (series.kind, series.shape, series.echo, series.name) == ("classic", (24, 20, 5), 1, "s005_T1W_e1")
    assert not refused and not series.warnings
    np.testing.assert_allclose(series.affine, oblique_affine(), atol=1e-9)


def test_series_echoes_and_components_are_told_apart(tmp_path: Path) -> None:
    write_classic(tmp_path, head(), number=2, description="T2/TSE <p2>", echo=1, echo_time=20)
    write_classic(tmp_path, head(), number=2, description="T2/TSE <p2>", echo=2, echo_time=80)
    write_classic(tmp_path, head(), number=3, image_type=("ORIGINAL", "PRIMARY", "M"))
    write_classic(tmp_path, head(), number=3, image_type=("ORIGINAL", "PRIMARY", "P"), instance=10)
    write_classic(tmp_path, head((30, 20, 5)), number=3, instance=20)
    (tmp_path / "notes.txt").write_text("no DICOM")
    series, refused = find_series(tmp_path)
    assert [(s.name, s.echo, s.shape) for s in series] == [
        ("s002_T2_TSE_p2_e1", 1, (24, 20, 5)),
        ("s002_T2_TSE_p2_e2", 2, (24, 20, 5)),
        ("s003_T1W_e1", 1, (24, 20, 5)),
        ("s003_T1W_e1_2", 1, (30, 20, 5)),
    ]
    assert len(refused) == 5 and {r.reason for r in refused} == {
        "5 slices of the phase part; accepted: magnitude images."
    }


@pytest.mark.parametrize("image_type", ["PHASE MAP", "P_FFE", "R", "IMAGINARY"])
def test_what_is_no_magnitude_is_refused(tmp_path: Path, image_type: str) -> None:
    write_classic(tmp_path, head(), image_type=("ORIGINAL", "PRIMARY", image_type))
    series, refused = find_series(tmp_path)
    assert not series and "accepted: magnitude images" in refused[0].reason


def test_echoes_without_numbers_are_numbered_by_time(tmp_path: Path) -> None:
    for number, time in enumerate((40.0, 10.0)):
        write_classic(tmp_path, head(), echo=0, echo_time=time, instance=10 * number, extra={"EchoNumbers": None})
    series, _ = find_series(tmp_path)
    assert [s.name for s in series] == ["s005_T1W_e1", "s005_T1W_e2"]


def test_a_localiser_of_mixed_orientations_is_refused_and_the_rest_is_not(tmp_path: Path) -> None:
    straight = oblique_affine((1, 1, 1))
    turned = straight @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    write_classic(tmp_path, head((24, 24, 3)), straight, number=1, description="localizer")
    write_classic(tmp_path, head((24, 24, 3)), turned, number=1, description="localizer", instance=3)
    write_classic(tmp_path, head())
    series, refused = find_series(tmp_path)
    assert [s.name for s in series] == ["s005_T1W_e1"]
    assert len(refused) == 6 and "2 orientations" in refused[0].reason


def test_one_stray_orientation_leaves_the_parallel_slices(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, head((24, 24, 4)))
    edit(paths[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    (series,), (refusal,) = find_series(tmp_path)
    assert series.files == tuple(paths[:3]) and refusal.path == paths[3]
    assert refusal.reason == "of another orientation than 3 parallel slices of its series."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"EchoTime": "10.013", "EchoNumbers": None}, "EchoTime (10 to 10.013)"),
        ({"EchoTime": "40"}, "EchoTime (10 to 40)"),
        ({"EchoNumbers": 2}, "EchoNumbers (1 to 2)"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}, "ImageType"),
        ({"PixelSpacing": ["1.1001", "0.9"]}, "PixelSpacing"),
        ({"SeriesNumber": 6}, "SeriesNumber (5 to 6)"),
        ({"StackID": "2"}, "StackID"),
    ],
)
def test_parts_that_complement_each_other_are_one_volume(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Every second slice has another value; all lie 3 mm apart, as `oblique_affine` says."""
    paths = write_classic(tmp_path, head((24, 20, 6)))
    for path in paths[1::2]:
        edit(path, **change)
    if "EchoNumbers" in change:
        for path in paths[::2]:
            edit(path, EchoNumbers=1 if change["EchoNumbers"] else None)
    (series,), refused = find_series(tmp_path)
    assert not refused and series.files == tuple(paths)
    np.testing.assert_allclose(series.affine, oblique_affine(), atol=1e-9)
    assert series.warnings == (f"the slices of this volume differ in {words}.",)


def test_an_attribute_may_differ_in_every_slice_of_every_echo(tmp_path: Path) -> None:
    """Two echoes whose echo times all differ: near ones are one volume, in which a missing slice stays missing."""
    echoes = [
        write_classic(tmp_path, head((24, 20, 6)), echo=0, echo_time=time, instance=9 * n, extra={"EchoNumbers": None})
        for n, time in enumerate((20.0, 60.0))
    ]
    for paths, time in zip(echoes, (20.0, 60.0), strict=True):
        for number, path in enumerate(paths):
            edit(path, EchoTime=f"{time + 0.01 * (5 * number % 6):.3f}")
        paths.pop(3).unlink()
    series, refused = find_series(tmp_path)
    assert not refused and [(s.echo, s.files) for s in series] == [(1, tuple(echoes[0])), (2, tuple(echoes[1]))]
    assert all("EchoTime" in s.warnings[0] and "1 slice is missing" in s.warnings[1] for s in series)


def test_parts_that_stay_apart_name_each_other(tmp_path: Path) -> None:
    """Echo times far apart and, without slice 2, no equal steps: two volumes, each of which says so."""
    paths = write_classic(tmp_path, head((24, 20, 8)), skip=(2,))
    for path in paths[1::2]:
        edit(path, EchoTime="40")
    series, _ = find_series(tmp_path)
    assert len(series) == 2
    for each in series:
        assert "slices between these differ in EchoTime (10 to 40): another volume." in each.warnings


def test_a_series_in_several_folders_is_one(tmp_path: Path) -> None:
    paths = write_classic(tmp_path / "a", head((24, 20, 6)))
    (tmp_path / "b").mkdir()
    for path in paths[1::2]:
        path.rename(tmp_path / "b" / path.name)
    (series,), refused = find_series(tmp_path, recursive=True)
    assert not refused and not series.warnings and series.folder == tmp_path
    assert [path.name for path in series.files] == [path.name for path in paths]
    np.testing.assert_allclose(series.affine, oblique_affine(), atol=1e-9)
    # a slice of the other folder is there once more
    shutil.copy(tmp_path / "b" / paths[1].name, tmp_path / "a" / "copy")
    (series,), (refusal,) = find_series([tmp_path / "a", tmp_path / "b"])
    assert len(series.files) == 6 and refusal.reason == "the same instance as in another folder."


def test_copies_and_other_volumes_of_a_series_in_folders_stay_apart(tmp_path: Path) -> None:
    write_classic(tmp_path / "a", head())
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    write_classic(tmp_path / "later", head(), instance=20)
    patient = write_classic(tmp_path / "other", head((24, 20, 6)), skip=range(5), instance=40)
    edit(patient[0], PatientID="T2")  # the same UIDs, as a careless de-identification leaves them
    series, refused = find_series(tmp_path, recursive=True)
    assert not refused and sorted(s.folder.name for s in series) == ["a", "copy", "later", "other"]
    assert {s.name for s in series} == {"s005_T1W_e1"}


@pytest.mark.parametrize(
    ("between", "thickness", "expected", "warns"),
    [("0", "4", 4.0, False), ("-4.5", "4", 4.5, False), ("0", "0", 1.0, True), (None, None, 1.0, True)],
)
def test_the_step_of_one_slice(
    tmp_path: Path, between: str | None, thickness: str | None, expected: float, warns: bool
) -> None:
    extra = {"SpacingBetweenSlices": between, "SliceThickness": thickness}
    write_classic(tmp_path, head((24, 20, 1)), extra=extra)
    (series,), _ = find_series(tmp_path)
    assert np.linalg.norm(series.affine[:3, 2]) == pytest.approx(expected)
    assert series.warnings == (("no slice thickness; 1 mm is taken.",) if warns else ())


@pytest.mark.parametrize("between", ["0", "-3"])
def test_a_spacing_that_says_nothing_leaves_the_positions_to_speak(tmp_path: Path, between: str) -> None:
    write_classic(tmp_path, head(), extra={"SpacingBetweenSlices": between})
    (series,), refused = find_series(tmp_path)
    assert not refused and not series.warnings
    np.testing.assert_allclose(series.affine, oblique_affine(), atol=1e-9)


@pytest.mark.parametrize("vr", ["DS", "UT", "LO"])
@pytest.mark.parametrize("text", ["1,5\\1,25", "1.5\\1.25", " 1.5 \\1.25 "])
def test_numbers_are_read_from_text_with_a_comma_or_of_another_type(tmp_path: Path, vr: str, text: str) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    store(path, "PixelSpacing", vr, text)
    (series,), _ = find_series(path)
    assert np.linalg.norm(series.affine[:3, :2], axis=0) == pytest.approx([1.25, 1.5])  # columns, then rows


@pytest.mark.parametrize("keyword", ["PixelSpacing", "SliceThickness", "EchoTime"])
def test_what_is_no_number_is_named(tmp_path: Path, keyword: str) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    store(path, keyword, "DS", "about 1")
    series, (refusal,) = find_series(path)
    assert not series and refusal.reason.startswith(f"damaged header: {keyword} is 'about 1'; accepted: numbers")


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ((2,), "1 slice is missing after slice 2 of 6"),
        ((1, 2, 5), "3 slices are missing"),
    ],
)
def test_missing_slices_are_reported(tmp_path: Path, skip: tuple[int, ...], expected: str) -> None:
    write_classic(tmp_path, head((24, 20, 7)), skip=skip)
    (series,), _ = find_series(tmp_path)
    assert any(expected in warning for warning in series.warnings), series.warnings
    assert any("misplaces slices" in warning for warning in series.warnings)


def test_uneven_spacing_is_reported_with_how_far_the_affine_is_off(tmp_path: Path) -> None:
    paths = write_classic(tmp_path, head())
    normal = np.linalg.inv(np.diag([-1, -1, 1])) @ oblique_affine()[:3, 2] / 3
    position = np.array(pydicom.dcmread(paths[2]).ImagePositionPatient) + 0.9 * normal
    edit(paths[2], ImagePositionPatient=[f"{v:.9g}" for v in position])
    (series,), _ = find_series(tmp_path)
    assert series.warnings == (
        "the slices are unevenly spaced (gaps of 2.1 to 3.9 mm).",
        "the affine misplaces slices by up to 0.9 mm.",
    )


def test_gantry_tilt_is_reported_and_kept_in_the_affine(tmp_path: Path) -> None:
    affine = oblique_affine(tilt=12)
    write_classic(tmp_path, head(), affine)
    (series,), _ = find_series(tmp_path)
    assert series.warnings[0] == "gantry tilt: the slices are stacked at 12.00 degrees to their normal."
    np.testing.assert_allclose(series.affine, affine, atol=1e-9)


def test_positions_between_slices_that_contradict_the_header_are_reported(tmp_path: Path) -> None:
    write_classic(tmp_path, head((24, 20, 6)), skip=(1, 3, 5), extra={"SpacingBetweenSlices": "3"})
    (series,), _ = find_series(tmp_path)
    assert series.warnings == ("SpacingBetweenSlices is 3 mm, the slices lie 6 mm apart.",)


def test_time_points_of_a_classic_series_are_volumes(tmp_path: Path) -> None:
    for t in range(3):
        extra = {"TemporalPositionIdentifier": 3 - t}
        write_classic(tmp_path, head(peak=1000 + t), instance=5 * t, extra=extra)
    series, _ = find_series(tmp_path)
    assert [s.name for s in series] == ["s005_T1W_e1_v1", "s005_T1W_e1_v2", "s005_T1W_e1_v3"]
    assert [read_series(s).data.max() for s in series] == [1002, 1001, 1000]
    assert not series[0].warnings


def test_repeats_that_nothing_tells_apart_go_by_order_of_acquisition(tmp_path: Path) -> None:
    for t in range(2):
        write_classic(tmp_path, head(peak=1000 + t), instance=5 * t)
    series, _ = find_series(tmp_path)
    assert [read_series(s).data.max() for s in series] == [1000, 1001]
    assert "order of acquisition" in series[0].warnings[0]


def test_volumes_of_an_enhanced_file(tmp_path: Path) -> None:
    path = tmp_path / "enhanced"
    volumes = [head(peak=1000), head(peak=2000), head(peak=3000), head(peak=4000)]
    write_enhanced(path, volumes, components=["MAGNITUDE"] * 3 + ["PHASE"], echo_times=[10, 10, 30, 10])
    series, refused = find_series(path)
    assert [(s.name, s.kind, s.shape) for s in series] == [
        ("s008_multi_frame_e1_v1", "enhanced", (24, 20, 5)),
        ("s008_multi_frame_e1_v2", "enhanced", (24, 20, 5)),
        ("s008_multi_frame_e2", "enhanced", (24, 20, 5)),
    ]
    for item, volume in zip(series, volumes, strict=False):
        np.testing.assert_array_equal(read_series(item).data, volume)
        np.testing.assert_allclose(item.affine, oblique_affine(), atol=1e-9)
        assert item.files == (path,) and item.acquired_fraction == (1.0, 0.5)
    assert [r.reason for r in refused] == ["5 slices of the phase part; accepted: magnitude images."]


def test_stacks_of_an_enhanced_file_are_series(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "enhanced", [head(), head(peak=900)], stacks=["1", "2"])
    series, _ = find_series(tmp_path)
    assert [s.name for s in series] == ["s008_multi_frame_e1", "s008_multi_frame_e1_2"]


def test_a_mosaic_is_unpacked(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "mosaic", head())
    (series,), _ = find_series(tmp_path)
    assert (series.kind, series.shape) == ("mosaic", (24, 20, 5))
    np.testing.assert_allclose(series.affine, oblique_affine(), atol=1e-8)
    np.testing.assert_array_equal(read_series(series).data, head())


def test_a_mosaic_without_its_private_header_is_refused(tmp_path: Path) -> None:
    write_mosaic(tmp_path / "mosaic", head())
    dataset = pydicom.dcmread(tmp_path / "mosaic")
    dataset.remove_private_tags()
    dataset.save_as(tmp_path / "mosaic")
    series, refused = find_series(tmp_path)
    assert not series and "without the CSA header" in refused[0].reason


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "CT Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.2"}, "MR Spectroscopy Storage"),
        ({"SOPClassUID": None}, "no SOP class"),
        ({"Modality": "CT"}, "Modality is CT"),
        ({"ImagePositionPatient": None}, "no geometry: ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "accepted: perpendicular unit vectors"),
        ({"PixelSpacing": ["0", "1"]}, "positive spacing"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "3 samples per pixel, RGB"),
        ({"BitsStored": 17}, "17 stored"),
        ({"HighBit": 14}, "high bit 14"),
        ({"Rows": 65535, "Columns": 65535}, "bytes of pixels; accepted: up to"),
        ({"Rows": 2048}, "bytes of pixels are described; the whole file has"),
        ({"Rows": 0}, "0 rows"),
        ({"NumberOfFrames": 9}, "9 frames in a single-frame"),
        ({"ModalityLUTSequence": [Dataset()]}, "modality look-up table"),
    ],
)
def test_unusable_files_are_refused_with_the_reason(tmp_path: Path, values: dict[str, Any], expected: str) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    edit(path, **values)
    series, (refusal,) = find_series(path)
    assert not series and refusal.path == path and expected in refusal.reason


def test_pixels_that_are_not_there_are_missed(tmp_path: Path) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    assert find_series(path)[1][0].reason == "no pixel data."


def test_compressed_pixels_of_absurd_size_are_refused_before_decoding(tmp_path: Path) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)), syntax="1.2.840.10008.1.2.5")[0]
    edit(path, Rows=30000, Columns=30000)
    series, (refusal,) = find_series(path)
    assert not series and "takes 11.73 GiB of memory" in refusal.reason


def test_a_deflated_file_is_read_and_a_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    np.testing.assert_array_equal(read_series(find_series(path)[0][0]).data, head((24, 20, 1)))
    # 4 MB of zeros deflate to 4 kB; the limit is lowered so that they are too many
    compress = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    start = path.read_bytes()
    meta = 132 + 12 + int.from_bytes(start[140:144], "little")
    path.write_bytes(start[:meta] + compress.compress(bytes(2**22)) + compress.flush())
    monkeypatch.setattr("monai_d3gm.data.formats.dicom.headers.MAX_BYTES", 2**20)
    assert "inflates to more than 1048576 bytes" in find_series(path)[1][0].reason


def test_the_same_instance_twice_is_refused_once(tmp_path: Path) -> None:
    path = write_classic(tmp_path, head((24, 20, 1)))[0]
    shutil.copy(path, tmp_path / "zz_copy")
    series, (refusal,) = find_series(tmp_path)
    assert len(series) == 1 and refusal.reason == f"the same instance as {path.name}."


def test_damage_ends_in_a_refusal(tmp_path: Path) -> None:
    """Bytes of headers changed at random places, and files cut short: series, refusals or DicomError, nothing else."""
    paths = [write_classic(tmp_path / "c", head((24, 20, 1)))[0], tmp_path / "e", tmp_path / "m"]
    write_enhanced(paths[1], [head((24, 20, 2))], syntax="1.2.840.10008.1.2.5")
    write_mosaic(paths[2], head((24, 20, 2)))
    target, generator = tmp_path / "damaged", random.Random(0)
    for whole in [path.read_bytes() for path in paths]:
        for _ in range(60):
            damaged = bytearray(whole[: generator.choice([len(whole), generator.randrange(140, len(whole))])])
            for _ in range(generator.randrange(1, 6)):
                damaged[generator.randrange(132, min(len(damaged), 4000))] = generator.randrange(256)
            target.write_bytes(damaged)
            series, refused = find_series(target)
            assert series or refused
            for item in series:
                try:
                    read_series(item)
                except DicomError as error:
                    assert "\n" not in str(error)


def test_folders_are_entered_only_when_asked_for(tmp_path: Path) -> None:
    write_classic(tmp_path / "inner", head())
    write_classic(tmp_path / ".hidden", head(), number=6)
    assert find_series(tmp_path) == ([], [])
    assert [s.name for s in find_series(tmp_path, recursive=True)[0]] == ["s005_T1W_e1"]
    with pytest.raises(DicomError, match="no such file or folder"):
        find_series(tmp_path / "absent")


def test_dicom_is_told_by_content(tmp_path: Path) -> None:
    path = tmp_path / "no_preamble"
    start = Path(get_testdata_file("MR_small_implicit.dcm")).read_bytes()
    path.write_bytes(start[132 + 12 + int.from_bytes(start[140:144], "little") :])
    other = tmp_path / "scan.dcm"
    other.write_bytes(b"\x08\x00 but no DICOM")
    assert is_dicom(path) and not is_dicom(other) and not is_dicom(tmp_path) and not is_dicom(tmp_path / "absent")
    (series,), _ = find_series(path)
    assert read_series(series).data.shape == (64, 64, 1)
    assert find_series(other)[1][0].reason.startswith("no SOP class")


@pytest.mark.parametrize(
    ("values", "shape", "expected"),
    [
        ({}, (256, 256), (1.0, 1.0)),
        ({"AcquisitionMatrix": [256, 0, 0, 256]}, (256, 256), (1.0, 1.0)),
        # frequency along rows; then along columns
        ({"AcquisitionMatrix": [256, 0, 0, 192]}, (512, 512), (0.5, 0.375)),
        ({"AcquisitionMatrix": [0, 256, 192, 0], "InPlanePhaseEncodingDirection": "ROW"}, (512, 512), (0.375, 0.5)),
        # 75 % of 256 lines, which the matrix holds already, and which it does not
        ({"AcquisitionMatrix": [256, 0, 0, 192], "PercentSampling": "75"}, (256, 256), (1.0, 0.75)),
        ({"AcquisitionMatrix": [256, 0, 0, 256], "PercentSampling": "75"}, (256, 256), (1.0, 0.75)),
        # lines that are not measured without loss of resolution
        (
            {"AcquisitionMatrix": [256, 0, 0, 256], "PercentSampling": "75", "ScanOptions": "PFP"},
            (256, 256),
            (1.0, 1.0),
        ),
        (
            {"AcquisitionMatrix": [256, 0, 0, 256], "PercentSampling": "78.5", "MRAcquisitionType": "3D"},
            (256, 256),
            (1.0, 1.0),
        ),
        # a field of view of 3/4 in the phase direction, stored as such and padded to a square
        ({"AcquisitionMatrix": [256, 0, 0, 192], "PercentPhaseFieldOfView": "75"}, (512, 384), (0.5, 0.5)),
        ({"AcquisitionMatrix": [256, 0, 0, 192], "PercentPhaseFieldOfView": "75"}, (512, 512), (0.5, 0.5)),
        ({"AcquisitionMatrix": [256, 0, 0, 192], "ImageType": ["DERIVED", "SECONDARY", "MPR"]}, (512, 512), (1.0, 1.0)),
        ({"AcquisitionMatrix": [0, 0, 0, 0]}, (512, 512), (1.0, 1.0)),
    ],
)
def test_acquired_fraction(values: dict[str, Any], shape: tuple[int, int], expected: tuple[float, float]) -> None:
    dataset = Dataset()
    dataset.PixelSpacing = ["1", "1"]
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    assert acquired_fraction(FrameHeader(dataset), shape) == pytest.approx(expected)


def test_interpolation_is_reported(tmp_path: Path) -> None:
    write_classic(tmp_path, head(), extra={"AcquisitionMatrix": [12, 0, 0, 15]})
    (series,), _ = find_series(tmp_path)
    assert series.acquired_fraction == (0.5, 0.75)
    assert series.warnings == ("interpolated by the scanner: acquired 12 x 15, stored 24 x 20 (along row, column).",)


@needs_data
def test_every_file_of_the_development_data_is_read_or_refused() -> None:
    root = Path(str(DATA)) / "dicom"
    files = sorted(root.rglob("*.dcm"))
    usable = set()
    for path in files:
        series, refused = find_series(path)
        assert series or refused, path
        for item in series:
            try:
                read_series(item)
                usable.add(path.stem)
            except DicomError as error:
                assert str(path) in str(error) or item.name in str(error)
    # the MR images among them: mosaics, XA10 and Philips enhanced, and five classic ones; emri_small has no geometry
    assert usable == {
        *"123456789",
        *("6_1", "6_2", "6_3", "6_4", "IM_0027_fMAP"),
        *("MR2_J2KI", "MR2_J2KR", "MR2_UNCI", "MR2_UNCR", "MR-SIEMENS-DICOM-WithOverlays"),
    }


@needs_data
def test_time_points_spread_over_enhanced_files() -> None:
    series, refused = find_series(Path(str(DATA)) / "dicom" / "dcm_qa_enh" / "In" / "Siemens" / "XA10")
    assert [(s.files[0].name, s.shape) for s in series] == [(f"6_{i}.dcm", (64, 64, 6)) for i in (1, 2, 3, 4)]
    assert not refused


@needs_data
def test_the_field_map_beside_a_magnitude_is_refused() -> None:
    (series,), (refusal,) = find_series(Path(str(DATA)) / "dicom" / "dcm_qa_enh" / "In" / "Philips")
    assert series.shape == (64, 64, 32) and "32 slices of the real part" in refusal.reason
