"""The reader of ISMRMRD raw data: on files that the package ismrmrd wrote, against the phantom that they encode."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import ismrmrd.xsd as xsd
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from small_bundle import Run, d3gm, full_kspace
from xsdata.models.datatype import XmlDate, XmlTime

from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.data import KspaceSliceDataset
from monai_d3gm.data.formats.dicom import find_series, read_series
from monai_d3gm.data.formats.fastmri import KspaceFileError, write_kspace
from monai_d3gm.data.formats.ismrmrd import IsmrmrdFile, is_ismrmrd, open_ismrmrd

ROWS, COLUMNS = 32, 24
READ, PHASE, NORMAL = np.array([[0.0, 0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, -0.8]])
CENTER = np.array([4.0, -7.0, 12.0])


def phantom(slices: int = 3, coils: int = 4, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """Complex images (slices, coils, rows, columns), different along every axis, with a phase, not symmetric."""
    s, c, x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in (slices, coils, rows, columns)), indexing="ij")
    body = ((x + 0.1) / 0.8) ** 2 + ((y - 0.1) / 0.7) ** 2 < 1
    body = body - 0.6 * (((x - 0.3) / 0.2) ** 2 + ((y + 0.2) / 0.3) ** 2 < 1)
    sensitivity = np.exp(-((x - c) ** 2) - (y + 0.5 * c) ** 2) * np.exp(1j * (c + x))
    return (body * sensitivity * (2 + s) * np.exp(1j * (0.5 * x - y))).astype(np.complex64)


def encode(image: np.ndarray, axis: int, size: int) -> np.ndarray:
    """S(k) = n^{-1/2} sum_x rho(x) exp(-2 pi i k x / n) for the ``size`` central k, by definition; x from -(n // 2)."""
    n = image.shape[axis]
    k, x = np.arange(size) - size // 2, np.arange(n) - n // 2
    kernel = np.exp(-2j * np.pi * np.outer(k, x) / n) / np.sqrt(n)
    return np.moveaxis(np.tensordot(kernel, image, (1, axis)), 0, axis).astype(np.complex64)


def oversampled(image: np.ndarray) -> np.ndarray:
    """Twice the field of view along the readout."""
    return np.pad(image, [(0, 0)] * (image.ndim - 2) + [(image.shape[-2] // 2,) * 2, (0, 0)])


def space(size: Iterable[int], extent: Iterable[float]) -> Any:
    matrix = dict(zip("xyz", size, strict=True))
    mm = dict(zip("xyz", map(float, extent), strict=True))
    return xsd.encodingSpaceType(matrixSize=xsd.matrixSizeType(**matrix), fieldOfView_mm=xsd.fieldOfViewMm(**mm))


IDENTITY: dict[str, Any] = {
    "subjectInformation": xsd.subjectInformationType(
        patientName="Test^Oern", patientID="T1", patientBirthdate=XmlDate(1970, 1, 2), patientGender="O"
    ),
    "studyInformation": xsd.studyInformationType(
        studyDate=XmlDate(2020, 1, 2), studyTime=XmlTime(3, 4, 5), studyID="S1", studyInstanceUID="1.2.826.0.1.5"
    ),
    "acquisitionSystemInformation": xsd.acquisitionSystemInformationType(
        systemVendor="ACME", systemModel="Scanner", systemFieldStrength_T=2.9
    ),
    "sequenceParameters": xsd.sequenceParametersType(TR=[500.0], TE=[90.0, 100.0], flipAngle_deg=[150.0]),
}


def header(
    encoded: tuple[int, int, int] = (2 * ROWS, COLUMNS, 1),
    recon: tuple[int, int, int] = (ROWS, COLUMNS, 1),
    encoded_mm: tuple[float, float, float] = (128, 72, 5),
    recon_mm: tuple[float, float, float] = (64, 72, 5),
    center: int | None = COLUMNS // 2,
    partition: int | None = None,
    trajectory: str = "cartesian",
    calibration: str | None = None,
    study: bool = False,
) -> str:
    limits = {
        f"kspace_encoding_step_{axis}": xsd.limitType(minimum=0, maximum=0, center=value)
        for axis, value in ((1, center), (2, partition))
        if value is not None
    }
    parallel = calibration and xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1),
        calibrationMode=xsd.calibrationModeType(calibration),
    )
    return xsd.ToXML(
        xsd.ismrmrdHeader(
            experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63870000),
            measurementInformation=xsd.measurementInformationType(
                patientPosition="HFS", protocolName="t2_tse", initialSeriesNumber=7, frameOfReferenceUID="1.2.3.4"
            ),
            **(IDENTITY if study else {}),
            encoding=[
                xsd.encodingType(
                    encodedSpace=space(encoded, encoded_mm),
                    reconSpace=space(recon, recon_mm),
                    encodingLimits=xsd.encodingLimitsType(**limits),
                    trajectory=xsd.trajectoryType(trajectory),
                    parallelImaging=parallel or None,
                )
            ],
        )
    )


def acquisition(data: np.ndarray, flags: Iterable[str] = (), **values: Any) -> Any:
    """A readout (coils, samples) with header values; those of ``idx`` have a counter's name."""
    values = {"center_sample": data.shape[1] // 2, **values}
    line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data, dtype=np.complex64))
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            getattr(line, name)[:] = value.tolist()
        else:
            setattr(line.idx if hasattr(line.idx, name) else line, name, value)
    for flag in flags:
        line.setFlag(getattr(ismrmrd, f"ACQ_IS_{flag}"))
    return line


def write(path: Path, xml: str | bytes, lines: Iterable[Any], group: str = "dataset") -> Path:
    with ismrmrd.Dataset(path, group) as file:
        file.write_xml_header(xml if isinstance(xml, bytes) else xml.encode())
        for line in lines:
            file.append_acquisition(line)
    return path


def place(index: int = 0, gap: float = 6.0) -> dict[str, np.ndarray]:
    return {"position": CENTER + gap * index * NORMAL, "read_dir": READ, "phase_dir": PHASE, "slice_dir": NORMAL}


def lines_of(kspace: np.ndarray, columns: Iterable[int] | None = None, **values: Any) -> list[Any]:
    """The readouts of (slices, coils, rows, columns), the slices interleaved."""
    return [
        acquisition(kspace[s, :, :, n], kspace_encode_step_1=n, slice=s, **{**place(s), **values})
        for n in (range(kspace.shape[-1]) if columns is None else columns)
        for s in (*range(0, len(kspace), 2), *range(1, len(kspace), 2))
    ]


def images(file: IsmrmrdFile) -> np.ndarray:
    """The images (slices, coils, h, w) in the final field of view."""
    stack = torch.stack([ifft2c(file.read_kspace(n)) for n in range(file.num_slices)]).numpy()
    stack = stack if file.coils else stack[:, None]
    (rows, columns), (h, w) = file.shape, file.crop
    top, left = (rows - h) // 2, (columns - w) // 2
    return stack[:, :, top : top + h, left : left + w]


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return phantom()


@pytest.fixture(scope="module")
def kspace(truth: np.ndarray) -> np.ndarray:
    return encode(encode(oversampled(truth), -1, COLUMNS), -2, 2 * ROWS)


def test_the_phantom_comes_back(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    """Complex: neither flipped nor conjugated, slices in order, without the oversampling of the readout."""
    path = write(tmp_path / "raw.h5", header(), lines_of(kspace))
    assert is_ismrmrd(path)
    file = open_ismrmrd(path)
    assert (file.num_slices, file.coils, file.shape, file.crop) == (3, 4, (2 * ROWS, COLUMNS), (ROWS, COLUMNS))
    assert file.mask is None and file.warnings == () and file.header.padding == (0, COLUMNS)
    assert file.attributes == {"acquisition": "t2_tse"} and file.read_reconstruction(0) is None
    np.testing.assert_allclose(images(file), truth, atol=1e-5)


def test_one_coil_has_no_coil_axis(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines_of(kspace[:, :1])))
    assert file.coils == 0 and file.read_kspace(0).shape == (2 * ROWS, COLUMNS)
    np.testing.assert_allclose(images(file), truth[:, :1], atol=1e-5)


def test_the_affine_is_that_of_the_positions(tmp_path: Path, kspace: np.ndarray) -> None:
    """The voxel at the centre of slice s is at the position in the file, LPS made RAS; the steps are the directions."""
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines_of(kspace)))
    flip = np.diag([-1.0, -1.0, 1.0])
    for s in range(3):
        center = file.affine @ [ROWS // 2, COLUMNS // 2, s, 1]
        np.testing.assert_allclose(center[:3], flip @ (CENTER + 6 * s * NORMAL), atol=1e-5)
    np.testing.assert_allclose(file.affine[:3, 0], flip @ READ * 2, atol=1e-5)
    np.testing.assert_allclose(file.affine[:3, 1], flip @ PHASE * 3, atol=1e-5)
    assert file.header.spacing == pytest.approx((2, 3, 6))


def test_slices_are_sorted_by_their_place(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    lines = lines_of(kspace)
    for line in lines:
        line.position[:] = (CENTER - 6 * line.idx.slice * NORMAL).tolist()
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))
    np.testing.assert_allclose(images(file), truth[::-1], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"read_dir": np.zeros(3)}, "no directions"), ({"position": CENTER}, "share a position")],
)
def test_without_positions_the_spacing_is_left(
    tmp_path: Path, kspace: np.ndarray, change: dict[str, np.ndarray], message: str
) -> None:
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines_of(kspace, **change)))
    assert message in " ".join(file.warnings)
    np.testing.assert_allclose(file.affine, np.diag([2, 3, 5, 1]))


def test_uneven_gaps_are_told(tmp_path: Path, kspace: np.ndarray) -> None:
    lines = lines_of(kspace)
    for line in lines:
        line.position[:] = (CENTER + 6 * line.idx.slice**2 * NORMAL).tolist()
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))
    assert file.warnings == ("slices are 6 to 18 mm apart; the volume has them evenly spaced",)


def test_undersampled_with_calibration_lines(tmp_path: Path, kspace: np.ndarray) -> None:
    sampled = sorted({*range(0, COLUMNS, 4), *range(9, 15)})
    lines = lines_of(kspace, sampled)
    for line in lines:
        if line.idx.kspace_encode_step_1 in range(9, 15):
            both = line.idx.kspace_encode_step_1 % 4 == 0
            line.setFlag(getattr(ismrmrd, f"ACQ_IS_PARALLEL_CALIBRATION{'_AND_IMAGING' if both else ''}"))
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(calibration="embedded"), lines))
    expected = np.isin(np.arange(COLUMNS), sampled)
    assert file.mask is not None and np.array_equal(file.mask, expected)
    np.testing.assert_allclose(file.read_kspace(1).numpy(), kspace[1] * expected, atol=1e-6)
    file = open_ismrmrd(write(tmp_path / "separate.h5", header(calibration="separate"), lines))
    assert file.mask is not None and np.array_equal(np.flatnonzero(file.mask), range(0, COLUMNS, 4))


def test_lines_that_are_no_image_are_left_out(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    others = ("NAVIGATION_DATA", "PHASECORR_DATA", "DUMMYSCAN_DATA", "HPFEEDBACK_DATA", "RTFEEDBACK_DATA")
    junk = [acquisition(np.full((4, 9), 1e6), [flag], **place(), kspace_encode_step_1=3) for flag in others]
    junk.append(acquisition(np.full((4, 9), 1e6), **place(), encoding_space_ref=1))
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), [*junk, *lines_of(kspace)]))
    np.testing.assert_allclose(images(file), truth, atol=1e-5)
    assert file.warnings == ("several encoding spaces; the first is used",)


def test_reversed_lines_are_turned_round(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    lines = lines_of(kspace)
    for line in lines:
        if line.idx.kspace_encode_step_1 % 2:
            line.data[:] = line.data[:, ::-1].copy()
            line.setFlag(ismrmrd.ACQ_IS_REVERSE)
    np.testing.assert_allclose(images(open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))), truth, atol=1e-5)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_partial_echo_lies_off_the_centre(tmp_path: Path, kspace: np.ndarray, backwards: bool) -> None:
    """Samples 12 to 63 of 64 around the one at 32, and three at the start and two at the end to discard."""
    lines = []
    for n in range(COLUMNS):
        data = np.pad(kspace[0, :, 12:, n], ((0, 0), (3, 2)), constant_values=1e6)
        values: dict[str, Any] = {"center_sample": 23, "discard_pre": 3, "discard_post": 2}
        if backwards:
            values = {"center_sample": data.shape[1] - 23, "discard_pre": 2, "discard_post": 3}
            data = data[:, ::-1]
        flags = ["REVERSE"] if backwards else []
        lines.append(acquisition(data, flags, kspace_encode_step_1=n, **values, **place()))
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))
    expected = kspace[0].copy()
    expected[:, :12] = 0
    np.testing.assert_allclose(file.read_kspace(0).numpy(), expected, atol=1e-6)
    assert file.mask is None


def test_averages_are_averaged_and_of_repetitions_the_first_is_used(tmp_path: Path, kspace: np.ndarray) -> None:
    lines = [
        line
        for repetition in (0, 1)
        for average in (0, 1)
        for line in lines_of(kspace * (1 + repetition) * (0.5 + average), average=average, repetition=repetition)
    ]
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))
    np.testing.assert_allclose(file.read_kspace(2).numpy(), kspace[2], atol=1e-5)
    assert file.warnings == ("2 values of repetition; the first is used",)


def test_noise_scans_decorrelate_the_coils(tmp_path: Path, kspace: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    mixing = (rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))) * np.array([[1], [2], [3], [4]])

    def noise(samples: int) -> np.ndarray:
        return mixing @ (rng.standard_normal((4, samples)) + 1j * rng.standard_normal((4, samples)))

    scans = [acquisition(noise(2 * ROWS), ["NOISE_MEASUREMENT"]) for _ in range(40)]
    image = noise(2 * ROWS * COLUMNS).reshape(1, 4, 2 * ROWS, COLUMNS)
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), [*scans, *lines_of(image)]))
    white = file.read_kspace(0).numpy().reshape(4, -1)
    covariance = white @ white.conj().T / white.shape[1]
    level = np.trace(mixing @ mixing.conj().T).real * 2 / 4  # the mean power over coils is kept
    np.testing.assert_allclose(covariance / level, np.eye(4), atol=0.15)


@pytest.mark.parametrize("scan", [np.ones((4, 100)), np.ones((4, 3)), np.ones((2, 100))])
def test_noise_scans_that_tell_nothing(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray, scan: np.ndarray) -> None:
    lines = [acquisition(scan, ["NOISE_MEASUREMENT"]), *lines_of(kspace)]
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(), lines))
    assert "not decorrelated" in file.warnings[0]
    np.testing.assert_allclose(images(file), truth, atol=1e-5)


def test_a_finer_image_is_filled_with_zeros(tmp_path: Path, kspace: np.ndarray) -> None:
    """An image of 64 x 48 voxels over the field of view of 32 x 24: the same k-space with zeros around it."""
    xml = header(recon=(2 * ROWS, 2 * COLUMNS, 1))
    file = open_ismrmrd(write(tmp_path / "raw.h5", xml, lines_of(kspace)))
    assert (file.shape, file.crop) == ((4 * ROWS, 2 * COLUMNS), (2 * ROWS, 2 * COLUMNS))
    expected = np.pad(kspace[0], ((0, 0), (ROWS, ROWS), (COLUMNS // 2, COLUMNS // 2)))
    np.testing.assert_allclose(file.read_kspace(0).numpy(), expected, atol=1e-6)
    assert file.mask is None and file.header.padding == (COLUMNS // 2, 3 * COLUMNS // 2)
    assert file.header.spacing == pytest.approx((1, 1.5, 6))
    center = file.affine @ [ROWS, COLUMNS, 0, 1]
    np.testing.assert_allclose(center[:3], CENTER * [-1, -1, 1], atol=1e-5)


def test_phase_oversampling_is_cut_off(tmp_path: Path, truth: np.ndarray, kspace: np.ndarray) -> None:
    xml = header(recon=(ROWS, COLUMNS - 7, 1), recon_mm=(64, 3 * (COLUMNS - 7), 5))
    file = open_ismrmrd(write(tmp_path / "raw.h5", xml, lines_of(kspace)))
    assert file.crop == (ROWS, COLUMNS - 7)
    np.testing.assert_allclose(images(file), truth[..., 3 : COLUMNS - 4], atol=1e-5)  # fastMRI's centre: from 7 // 2
    center = file.affine @ [ROWS // 2, COLUMNS // 2 - 3, 0, 1]
    np.testing.assert_allclose(center[:3], CENTER * [-1, -1, 1], atol=1e-5)


def test_partial_fourier_is_undersampling(tmp_path: Path, kspace: np.ndarray) -> None:
    """Line 0 of 18 is the column 6 of 24, since line 6 is the central one, 12."""
    lines = lines_of(kspace, range(6, COLUMNS))
    for line in lines:
        line.idx.kspace_encode_step_1 -= 6
    file = open_ismrmrd(write(tmp_path / "raw.h5", header(center=6), lines))
    assert file.mask is not None and np.array_equal(np.flatnonzero(file.mask), range(6, COLUMNS))
    np.testing.assert_allclose(file.read_kspace(0).numpy(), kspace[0] * file.mask, atol=1e-6)


def volume_lines(kspace: np.ndarray, partitions: Iterable[int]) -> list[Any]:
    """The readouts of one slab, (partitions, coils, rows, columns)."""
    return [
        acquisition(kspace[p, :, :, n], kspace_encode_step_1=n, kspace_encode_step_2=p, **place())
        for p in partitions
        for n in range(kspace.shape[-1])
    ]


def volume_header(partitions: int, kept: int) -> str:
    return header(
        (2 * ROWS, COLUMNS, partitions),
        (ROWS, COLUMNS, kept),
        (128, 72, 5 * partitions),
        (64, 72, 5 * kept),
        partition=partitions // 2,
    )


def test_a_volume_becomes_slices(tmp_path: Path) -> None:
    """Of 8 partitions the outer two are oversampling; the middle of the slab is partition 4, slice 3."""
    truth = phantom(slices=8)
    kspace = encode(encode(encode(oversampled(truth), -1, COLUMNS), -2, 2 * ROWS), 0, 8)
    path = write(tmp_path / "raw.h5", volume_header(8, 6), volume_lines(kspace, range(8)))
    file = open_ismrmrd(path)
    assert (file.num_slices, file.mask, file.header.recon_size) == (6, None, (ROWS, COLUMNS, 6))
    np.testing.assert_allclose(images(file), truth[1:7], atol=1e-5)
    center = file.affine @ [ROWS // 2, COLUMNS // 2, 3, 1]
    np.testing.assert_allclose(center[:3], CENTER * [-1, -1, 1], atol=1e-5)
    np.testing.assert_allclose(file.affine[:3, 2], 5 * NORMAL * [-1, -1, 1], atol=1e-5)

    missing = write(tmp_path / "missing.h5", volume_header(8, 6), volume_lines(kspace, (0, 2, 4, 6)))
    with pytest.raises(KspaceFileError, match="missing.h5: 4 of 8 partitions are sampled"):
        open_ismrmrd(missing)
    elliptic = volume_lines(kspace, range(8))[1:]
    with pytest.raises(KspaceFileError, match="partition 1 has other lines than partition 0"):
        open_ismrmrd(write(tmp_path / "elliptic.h5", volume_header(8, 6), elliptic))
    slabs = volume_lines(kspace, range(8)) + [acquisition(kspace[0, :, :, 0], slice=1, **place(1))]
    with pytest.raises(KspaceFileError, match="2 slabs"):
        open_ismrmrd(write(tmp_path / "slabs.h5", volume_header(8, 6), slabs))


@pytest.mark.parametrize("trajectory", ["radial", "spiral", "epi", "goldenangle", "other"])
def test_other_trajectories_are_refused_by_name(tmp_path: Path, kspace: np.ndarray, trajectory: str) -> None:
    path = write(tmp_path / "raw.h5", header(trajectory=trajectory), lines_of(kspace[:1]))
    with pytest.raises(KspaceFileError, match=f"raw.h5: the trajectory is '{trajectory}'; accepted: 'cartesian'"):
        open_ismrmrd(path)


def entities() -> bytes:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    return header().replace("?>\n", f"?>\n{bomb}", 1).encode()


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (b"no xml", "header cannot be read"),
        (b"<a/>", "header cannot be read"),
        (b"\xff\xfe<\x01", "header cannot be read"),
        (entities(), "declares entities"),
        (b"<a>" + b" " * 2**22 + b"</a>", "longer than"),
        (header(encoded=(2 * ROWS, 10**6, 1)), "accepted: 1 to 4096"),
        (header(recon_mm=(64, 0, 5)), "above 0 mm"),
        (header(recon_mm=(64, float("nan"), 5)), "above 0 mm"),
        (header(recon_mm=(64, 1e-3, 5)), "voxels are too small"),
        (header(center=10**9), "the centre along y"),
        (header(encoded=(2 * ROWS, 20, 1), recon=(ROWS, 20, 1)), "lines -2 to 21"),
        (header(encoded=(20, COLUMNS, 1), recon=(10, COLUMNS, 1)), "samples -22"),
        (header().replace(f"<y>{COLUMNS}</y>", "<y>many</y>"), "header cannot be read"),
    ],
)
def test_bad_headers(tmp_path: Path, kspace: np.ndarray, xml: str | bytes, message: str) -> None:
    path = write(tmp_path / "raw.h5", xml, lines_of(kspace[:1]))
    with pytest.raises(KspaceFileError, match=f"raw.h5: .*{message}") as caught:
        open_ismrmrd(path)
    assert "\n" not in str(caught.value)


def different_coils(lines: list[Any]) -> None:
    lines.append(acquisition(np.ones((2, 2 * ROWS)), **place()))


def missing_line(lines: list[Any]) -> None:
    lines.pop(0)


def localiser(lines: list[Any]) -> None:
    for line in lines:
        if line.idx.slice == 1:
            line.read_dir[:], line.slice_dir[:] = NORMAL.tolist(), READ.tolist()


def only_noise(lines: list[Any]) -> None:
    for line in lines:
        line.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)


def no_samples(lines: list[Any]) -> None:
    lines[2].discard_pre = 2 * ROWS


def partition(lines: list[Any]) -> None:
    lines[2].idx.kspace_encode_step_2 = 3


def lost_place(lines: list[Any]) -> None:
    lines[0].position[0] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (different_coils, r"acquisitions have \[2, 4\] coils"),
        (missing_line, "slice 1 has other lines than slice 0"),
        (localiser, "different directions"),
        (only_noise, "none of 72 acquisitions"),
        (no_samples, "acquisition 2: all samples are discarded"),
        (partition, "partitions up to 3"),
        (lost_place, "positions or directions"),
    ],
)
def test_acquisitions_that_do_not_fit(
    tmp_path: Path, kspace: np.ndarray, spoil: Callable[[list[Any]], None], message: str
) -> None:
    lines = lines_of(kspace)
    spoil(lines)
    path = write(tmp_path / "raw.h5", header(), lines)
    with pytest.raises(KspaceFileError, match=f"raw.h5: .*{message}"):
        open_ismrmrd(path)


def test_bad_samples_are_found_when_they_are_read(tmp_path: Path, kspace: np.ndarray) -> None:
    lines = lines_of(kspace[:1])
    lines[5].data[0, 0] = np.nan
    path = write(tmp_path / "raw.h5", header(), lines)
    with pytest.raises(KspaceFileError, match="raw.h5: acquisition 5 holds NaN"):
        open_ismrmrd(path).read_kspace(0)
    with h5py.File(path, "r+") as file:
        row = file["dataset/data"][3]
        row["data"] = row["data"][:-2]
        file["dataset/data"][3] = row
    with pytest.raises(KspaceFileError, match="raw.h5: acquisition 3: 510 values; accepted: 512"):
        open_ismrmrd(path).read_kspace(0)
    with pytest.raises(KspaceFileError, match="raw.h5: slice 1: accepted: 0 to 0"):
        open_ismrmrd(path).read_kspace(1)
    path = write(tmp_path / "zero.h5", header(), lines_of(0 * kspace[:1]))
    with pytest.raises(KspaceFileError, match="zero everywhere"):
        open_ismrmrd(path).read_kspace(0)


def test_damaged_files(tmp_path: Path, kspace: np.ndarray) -> None:
    content = write(tmp_path / "raw.h5", header(), lines_of(kspace[:1])).read_bytes()
    for share in (0.3, 0.9, 0.999):
        (tmp_path / "cut.h5").write_bytes(content[: int(share * len(content))])
        assert not is_ismrmrd(tmp_path / "cut.h5")
        with pytest.raises(KspaceFileError, match="cut.h5: not an HDF5 file, or damaged"):
            open_ismrmrd(tmp_path / "cut.h5")
    damaged = 0
    for start in range(len(content) // 40, len(content), len(content) // 40):
        (tmp_path / "bad.h5").write_bytes(content[:start] + b"\xa5" * 64 + content[start + 64 :])
        try:
            open_ismrmrd(tmp_path / "bad.h5").read_kspace(0)
        except KspaceFileError as error:
            assert str(error).startswith(str(tmp_path / "bad.h5")) and "\n" not in str(error)
            damaged += 1
    assert damaged
    with pytest.raises(KspaceFileError, match="no such file"):
        open_ismrmrd(tmp_path / "none.h5")


def test_data_in_other_files_are_not_read(tmp_path: Path, kspace: np.ndarray) -> None:
    other = write(tmp_path / "other.h5", header(), lines_of(kspace[:1]))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["dataset/xml"] = np.array([header().encode()], dtype=h5py.special_dtype(vlen=bytes))
        file["dataset/data"] = h5py.ExternalLink(other.name, "dataset/data")
    assert is_ismrmrd(tmp_path / "link.h5")
    with pytest.raises(KspaceFileError, match="link.h5: data is a link"):
        open_ismrmrd(tmp_path / "link.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["dataset"] = h5py.ExternalLink(other.name, "dataset")
    assert not is_ismrmrd(tmp_path / "group.h5")


def test_what_is_no_raw_data(tmp_path: Path, kspace: np.ndarray) -> None:
    write_kspace(tmp_path / "fastmri.h5", kspace[:, 0], recon_size=(ROWS, COLUMNS))
    (tmp_path / "text.h5").write_text("text")
    for name in ("fastmri.h5", "text.h5", "none.h5"):
        assert not is_ismrmrd(tmp_path / name)
    path = write(tmp_path / "raw.h5", header(), lines_of(kspace[:1]), group="first")
    write(path, header(), lines_of(kspace[:1]), group="second")
    with pytest.raises(KspaceFileError, match=r"raw.h5: the measurements are first, second; choose one: measurement"):
        open_ismrmrd(path)
    assert open_ismrmrd(path, "second").num_slices == 1
    with pytest.raises(KspaceFileError, match="measurement is 'third'; the file has first, second"):
        open_ismrmrd(path, "third")
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["dataset/xml"] = np.array([header().encode()], dtype=h5py.special_dtype(vlen=bytes))
        file["dataset/data"] = np.zeros(3)
    with pytest.raises(KspaceFileError, match="table.h5: .*accepted: a table of ISMRMRD acquisitions"):
        open_ismrmrd(tmp_path / "table.h5")
    head = ismrmrd.hdf5.acquisition_header_dtype
    kinds = {"other headers": [("head", "f4"), ("data", "f4")], "float32": [("head", head), ("data", "f4")]}
    for message, kind in kinds.items():
        with h5py.File(tmp_path / "table.h5", "r+") as file:
            del file["dataset/data"]
            file["dataset/data"] = np.zeros(3, kind)
        with pytest.raises(KspaceFileError, match=f"table.h5: .*{message}"):
            open_ismrmrd(tmp_path / "table.h5")


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, kspace: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "raw.h5", header(), lines_of(kspace[:1]))
    for name in [name for name in sys.modules if name.split(".")[0] == "ismrmrd"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert is_ismrmrd(path)
    with pytest.raises(KspaceFileError, match=r"raw.h5: .*pip install 'monai_d3gm\[ismrmrd\]'"):
        open_ismrmrd(path)


def test_fully_sampled_raw_data_are_undersampled_and_compared(tmp_path: Path, kspace: np.ndarray) -> None:
    """The reference, times what leads back to the scan's own coils, is their root sum of squares by definition."""
    noise = 1e-3 * np.random.default_rng(0).normal(size=(2, *kspace.shape))
    measured = kspace + noise[0] + 1j * noise[1]
    path = write(tmp_path / "raw.h5", header(), lines_of(measured))
    dataset = KspaceSliceDataset(path, acceleration=2, center_fraction=0.4)
    volume = dataset.volumes[0]
    assert (volume.format.name, volume.shape, volume.coils, volume.has_truth) == (
        "ismrmrd",
        (ROWS, COLUMNS, 3),
        4,
        True,
    )
    item = dataset[1]
    assert item["kspace"].shape == (4, ROWS, COLUMNS) and item["mask"].float().mean() < 0.7
    shifted = np.fft.ifft2(np.fft.ifftshift(measured[1], (-2, -1)), norm="ortho")
    expected = np.sqrt((np.abs(np.fft.fftshift(shifted, (-2, -1))) ** 2).sum(axis=0))[ROWS // 2 : -ROWS // 2]
    own = item["reference"] * item["scale"] * item["intensity"]
    np.testing.assert_allclose(own.numpy(), expected, rtol=1e-5, atol=1e-4)


def test_empty_slices_of_raw_data_are_skipped(tmp_path: Path, kspace: np.ndarray, bundle: Path) -> None:
    emptied = kspace + 1e-3 * np.random.default_rng(0).normal(size=kspace.shape)
    emptied[1] = 0
    path = write(tmp_path / "raw.h5", header(), lines_of(emptied))
    volume = KspaceSliceDataset(path).volumes[0]
    assert volume.skipped == (1,) and volume.slices == (0, 2)
    run = d3gm("restore", bundle, path, tmp_path / "out", "--quick", "--no-baseline", "--no-progress")
    assert run.status == 0, run.err
    restored = nibabel.load(tmp_path / "out" / "raw_restored.nii.gz").get_fdata()
    assert not restored[..., 1].any() and restored[..., 0].any() and restored[..., 2].any()
    with pytest.raises(KspaceFileError, match="kspace is zero everywhere"):
        open_ismrmrd(write(tmp_path / "none.h5", header(), lines_of(0 * kspace)))


def test_raw_data_are_restored_as_dicom_where_the_header_allows_it(
    tmp_path: Path, kspace: np.ndarray, bundle: Path
) -> None:
    """The series has the header's study and place, and the values of the NIfTI volume to half a step of 16 bit."""
    pytest.importorskip("highdicom", reason="highdicom (extra dicom) cannot be imported", exc_type=ImportError)
    (tmp_path / "in").mkdir()
    noise = 1e-3 * np.random.default_rng(0).normal(size=(2, *kspace.shape))
    write(tmp_path / "in" / "raw.h5", header(study=True), lines_of(kspace + noise[0] + 1j * noise[1]))

    for format in ("dicom", "same"):
        options = ("--format", format, "--steps", 1, "--samples", 2, "--no-baseline", "--no-progress")
        run = d3gm("restore", bundle, tmp_path / "in", tmp_path / format, *options)
        assert run.status == 0, run.err
    found, refused = find_series(tmp_path / "dicom" / "raw_restored")
    volume = read_series(found[0])
    nifti = nibabel.load(tmp_path / "same" / "raw_restored.nii.gz")
    expected = nifti.get_fdata()
    assert not refused and len(found) == 1
    np.testing.assert_allclose(volume.data, expected, atol=1.01 * np.ptp(expected) / 131070)
    np.testing.assert_allclose(volume.affine, nifti.affine, atol=1e-4)
    image = volume.datasets[0]
    assert (image.StudyInstanceUID, image.FrameOfReferenceUID, image.SeriesNumber) == ("1.2.826.0.1.5", "1.2.3.4", 7)
    assert (str(image.PatientName), image.PatientID, image.PatientBirthDate) == ("Test^Oern", "T1", "19700102")
    assert (image.StudyDate, image.StudyTime[:6], image.EchoTime, image.RepetitionTime) == (
        "20200102",
        "030405",
        90,
        500,
    )
    assert image.ImageType[:2] == ["ORIGINAL", "PRIMARY"] and image.SeriesDescription.endswith("research use only")
    std = pydicom.dcmread(tmp_path / "dicom" / "raw_std.dcm")
    assert std.SOPClassUID.name == "Parametric Map Storage" and std.StudyInstanceUID == image.StudyInstanceUID
    if dciodvfy := shutil.which("dciodvfy"):
        said = subprocess.run([dciodvfy, found[0].files[0]], capture_output=True, text=True).stderr
        assert "Error" not in said, said


@pytest.mark.parametrize(
    ("xml", "values", "message"),
    [
        (header(), {}, "gives '' for StudyInstanceUID; accepted: raw data that do"),
        (header(study=True), {"read_dir": 0 * READ}, "gives no place and directions of the slices; accepted"),
    ],
)
def test_raw_data_that_say_too_little_are_not_written_as_dicom(
    xml: str,
    values: dict[str, Any],
    message: str,
    tmp_path: Path,
    kspace: np.ndarray,
    bundle: Path,
) -> None:
    write(tmp_path / "raw.h5", xml, lines_of(kspace, **values))
    run = d3gm("restore", bundle, tmp_path / "raw.h5", tmp_path / "out", "--format", "dicom", "--no-progress")
    assert run.status == 1 and message in run.err and not list((tmp_path / "out").glob("raw*"))


def test_a_fastmri_file_says_too_little_for_dicom(tmp_path: Path, bundle: Path) -> None:
    write_kspace(tmp_path / "a.h5", full_kspace(), recon_size=(32, 24))
    run = d3gm("restore", bundle, tmp_path / "a.h5", tmp_path / "out", "--format", "dicom", "--no-progress")
    assert run.status == 1 and "a.h5: the header gives no place" in run.err


@pytest.mark.parametrize("interpolated", [1, 2])
def test_the_noise_of_raw_data_is_that_of_their_edges(tmp_path: Path, interpolated: int) -> None:
    """Sharp edges fill the corners of k-space with signal; beside the field of view there is noise alone, 2e-3 per
    part. The covariance of at least 160 samples of 4 coils is known to 5 %."""
    clean = encode(encode(oversampled(phantom(1, rows=64, columns=96)), 2, 128), 3, 96)
    noise = 2e-3 * np.random.default_rng(1).normal(size=(2, *clean.shape))
    encoded = ((128, 96, 1), (64 * interpolated, 96, 1), (256, 192, 5), (128, 192, 5))
    path = write(tmp_path / "raw.h5", header(*encoded, center=48), lines_of(clean + noise[0] + 1j * noise[1]))
    item = KspaceSliceDataset(path)[0]
    assert item["noise_std"] * float(item["scale"]) == pytest.approx(2e-3, rel=0.1)


@pytest.mark.parametrize("coils", [1, 4])
def test_the_bundle_restores_raw_data(
    tmp_path: Path, truth: np.ndarray, kspace: np.ndarray, bundle: Path, monai_bundle: Callable[..., Run], coils: int
) -> None:
    """One evaluation of an untrained network with consistency is close to zero-filling: the same object and place."""
    sampled = sorted({*range(0, COLUMNS, 2), *range(8, 16)})
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).normal(size=(2, *kspace.shape)) * 1e-3
    lines = lines_of((kspace + noise[0] + 1j * noise[1])[:, :coils], sampled)
    path = write(tmp_path / "in" / "raw.h5", header(), lines)
    options = ["--dataset_dir", path.parent, "--output_dir", tmp_path / "out", "--num_inference_steps", 1]
    ended = monai_bundle("run", "--config_file", bundle / "configs" / "inference.json", *options)
    assert ended.status == 0, ended.err
    restored = nibabel.load(tmp_path / "out" / "raw_restored.nii.gz")
    assert restored.shape == (ROWS, COLUMNS, 3)
    np.testing.assert_allclose(restored.affine, open_ismrmrd(path).affine, atol=1e-4)
    magnitude = np.sqrt((np.abs(truth[:, :coils]) ** 2).sum(axis=1))
    assert np.corrcoef(np.moveaxis(restored.get_fdata(), -1, 0).ravel(), magnitude.ravel())[0, 1] > 0.9
    entry = json.loads((tmp_path / "out" / "metrics.json").read_text())["inputs"]["raw"]
    assert "undersampled as acquired" in entry["protocol"]["data"]
