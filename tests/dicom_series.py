"""DICOM MR files made for tests from arrays: classic series, enhanced multi-frame, mosaics; nothing is stored."""

from __future__ import annotations

import hashlib
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ROOT = "1.2.826.0.1.3680043.8.498"


def oblique_affine(spacing: Sequence[float] = (0.9, 1.1, 3.0), tilt: float = 0.0) -> NDArray[np.float64]:
    """RAS+ affine of slices turned about two axes; ``tilt`` in degrees shears the stack as a gantry does."""
    a, b = np.radians(20), np.radians(-15)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    lps = np.eye(4)
    lps[:3, :3] = turn * np.asarray(spacing)
    lps[:3, 2] += np.tan(np.radians(tilt)) * spacing[2] * turn[:, 1]
    lps[:3, 3] = (-71.25, -33.5, -20.125)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def head(shape: Sequence[int] = (24, 20, 5), peak: int = 1500) -> NDArray[np.uint16]:
    """A volume (X, Y, Z) without symmetry, different in every slice, dark outside."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = np.clip(1.1 - (x / 0.8) ** 2 - (y / 0.9) ** 2, 0, 1) * (1 + 0.3 * z + 0.2 * x + 0.1 * np.sin(9 * y))
    return np.rint(peak * body / body.max()).astype(np.uint16)


def _uid(*parts: Any) -> UID:
    """A UID that is the same in every run."""
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return UID(f"{ROOT}.{int(digest[:16], 16) + 1}")


def _file(sop_class: str, instance: UID) -> FileDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = f"{ROOT}.1"
    dataset = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = f"{ROOT}.2", f"{ROOT}.3"
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Test^T", "T1", "", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200102", "030405", "1", ""
    dataset.SeriesDate, dataset.SeriesTime = "20200102", "031000"
    dataset.ContentDate, dataset.ContentTime = "20200102", "031500"
    dataset.ReferringPhysicianName, dataset.StudyDescription, dataset.PositionReferenceIndicator = "", "HEAD", ""
    dataset.Modality, dataset.BodyPartExamined, dataset.PatientPosition = "MR", "HEAD", "HFS"
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.DeviceSerialNumber = "ACME", "Scanner", "7"
    dataset.SoftwareVersions, dataset.InstitutionName, dataset.StationName = "V1", "Hospital", "MR1"
    return dataset


def _pixel_module(dataset: Dataset, rows: int, columns: int, bits: int, signed: bool, photometric: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelRepresentation = int(signed)


def _save(dataset: FileDataset, path: Path, syntax: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax is not None:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(path)


def write_classic(
    folder: Path,
    volume: NDArray[Any],
    affine: NDArray[np.float64] | None = None,
    *,
    number: int = 5,
    description: str = "T1W",
    echo: int = 1,
    echo_time: float = 10.0,
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "M"),
    bits: int = 12,
    signed: bool = False,
    photometric: str = "MONOCHROME2",
    slope: float | Sequence[float] | None = None,
    intercept: float = 0.0,
    skip: Sequence[int] = (),
    syntax: str | None = None,
    instance: int = 0,
    extra: dict[str, Any] | None = None,
) -> list[Path]:
    """Write one file a slice, in an order of names and instance numbers that is not that of the slices.

    ``volume`` (X, Y, Z) holds the stored values, ``affine`` is RAS+; ``skip`` leaves out slices; ``slope`` is one for
    all or one for each slice; ``instance`` is added to the instance numbers; ``extra`` sets further attributes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (oblique_affine() if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    count, paths = volume.shape[2], []
    for k in range(count):
        if k in skip:
            continue
        order = instance + (k * 7 + 3) % count if count % 7 else instance + count - 1 - k
        uid = _uid("instance", number, echo, order, image_type[-1], len(volume), photometric)
        dataset = _file(MR, uid)
        dataset.SeriesInstanceUID, dataset.SeriesNumber = _uid("series", number), number
        dataset.SeriesDescription, dataset.ProtocolName = description, description
        dataset.ImageType, dataset.InstanceNumber, dataset.AcquisitionNumber = list(image_type), order + 1, 1
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
        dataset.MRAcquisitionType, dataset.RepetitionTime, dataset.EchoTime = "2D", "500", f"{echo_time:g}"
        dataset.EchoTrainLength, dataset.EchoNumbers, dataset.FlipAngle = "1", echo, "90"
        dataset.MagneticFieldStrength, dataset.SliceThickness = "3", f"{0.8 * spacing[2]:.10g}"
        dataset.ImagePositionPatient = [f"{v:.12g}" for v in lps[:3, 3] + k * lps[:3, 2]]
        dataset.ImageOrientationPatient = [f"{v:.11f}" for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
        dataset.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
        dataset.AcquisitionMatrix = [volume.shape[0], 0, 0, volume.shape[1]]
        dataset.InPlanePhaseEncodingDirection = "COL"
        if slope is not None:
            dataset.RescaleSlope = f"{np.broadcast_to(slope, count)[k]:.10g}"
            dataset.RescaleIntercept, dataset.RescaleType = f"{intercept:.10g}", "US"
        _pixel_module(dataset, volume.shape[1], volume.shape[0], bits, signed, photometric)
        stored = volume[:, :, k].T.astype("<i2" if signed else "<u2")
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        for keyword, value in (extra or {}).items():
            setattr(dataset, keyword, value)
        paths.append(folder / f"n{number}_{echo}_{order:03d}_{uid[-6:]}")
        _save(dataset, paths[-1], syntax)
    return paths


def write_enhanced(
    path: Path,
    volumes: Sequence[NDArray[np.uint16]],
    affine: NDArray[np.float64] | None = None,
    *,
    number: int = 8,
    components: Sequence[str] | None = None,
    echo_times: Sequence[float] | None = None,
    stacks: Sequence[str] | None = None,
    slopes: Sequence[float] | None = None,
    syntax: str | None = None,
) -> None:
    """Write several volumes (X, Y, Z) of one grid, each a time point, as one enhanced MR image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(volumes)
    components = components or ["MAGNITUDE"] * count
    echo_times, stacks, slopes = echo_times or [20.0] * count, stacks or ["1"] * count, slopes or [1.0] * count
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (oblique_affine() if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = _file(ENHANCED_MR, _uid("enhanced", number, path.name))
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = _uid("series", number), number, 1
    dataset.SeriesDescription, dataset.ImageType = "multi frame", ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
    dataset.EchoPulseSequence, dataset.ResonantNucleus, dataset.MRAcquisitionType = "GRADIENT", "1H", "3D"
    dataset.AcquisitionDateTime, dataset.MagneticFieldStrength = "20200102031100", 3.0
    shared = Dataset()
    shared.MRFOVGeometrySequence = [Dataset()]
    fov = shared.MRFOVGeometrySequence[0]
    fov.InPlanePhaseEncodingDirection, fov.PercentSampling, fov.PercentPhaseFieldOfView = "COLUMN", "100", "100"
    fov.MRAcquisitionFrequencyEncodingSteps = volumes[0].shape[0]
    fov.MRAcquisitionPhaseEncodingStepsInPlane = volumes[0].shape[1] // 2
    shared.PixelMeasuresSequence = [Dataset()]
    measures = shared.PixelMeasuresSequence[0]
    measures.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    measures.SliceThickness, measures.SpacingBetweenSlices = f"{spacing[2]:.10g}", f"{spacing[2]:.10g}"
    shared.PlaneOrientationSequence = [Dataset()]
    orientation = [f"{v:.11f}" for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = orientation
    shared.MRTimingAndRelatedParametersSequence = [Dataset()]
    timing = shared.MRTimingAndRelatedParametersSequence[0]
    timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = "8", "9", "1"
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames, pixels = [], []
    for k in reversed(range(volumes[0].shape[2])):
        for v in range(count):
            frame = Dataset()
            frame.FrameContentSequence, frame.PlanePositionSequence = [Dataset()], [Dataset()]
            content = frame.FrameContentSequence[0]
            content.StackID, content.InStackPositionNumber = stacks[v], k + 1
            content.TemporalPositionIndex, content.DimensionIndexValues = v + 1, [1, k + 1, v + 1]
            position = [f"{c:.12g}" for c in lps[:3, 3] + k * lps[:3, 2]]
            frame.PlanePositionSequence[0].ImagePositionPatient = position
            frame.MREchoSequence, frame.MRImageFrameTypeSequence = [Dataset()], [Dataset()]
            frame.MREchoSequence[0].EffectiveEchoTime = echo_times[v]
            frame.MRImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
            frame.MRImageFrameTypeSequence[0].ComplexImageComponent = components[v]
            frame.PixelValueTransformationSequence = [Dataset()]
            transformation = frame.PixelValueTransformationSequence[0]
            transformation.RescaleSlope, transformation.RescaleIntercept = f"{slopes[v]:g}", "0"
            transformation.RescaleType = "US"
            frames.append(frame)
            pixels.append(volumes[v][:, :, k].T.astype("<u2"))
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = len(frames)
    _pixel_module(dataset, volumes[0].shape[1], volumes[0].shape[0], 12, False, "MONOCHROME2")
    dataset.PixelData = np.stack(pixels).tobytes()
    dataset["PixelData"].VR = "OW"
    _save(dataset, path, syntax)


def write_mosaic(path: Path, volume: NDArray[np.uint16], affine: NDArray[np.float64] | None = None) -> None:
    """Write a volume (X, Y, Z) as a Siemens mosaic with the three entries of the CSA header that are needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (oblique_affine() if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    columns, rows, slices = volume.shape
    tiles = int(np.ceil(np.sqrt(slices)))
    image = np.zeros((tiles * rows, tiles * columns), dtype="<u2")
    for k in range(slices):
        top, left = rows * (k // tiles), columns * (k % tiles)
        image[top : top + rows, left : left + columns] = volume[:, :, k].T
    # The position is that of a plane as large as the mosaic around the centre of the first slice.
    shift = (tiles - 1) / 2 * (columns * lps[:3, 0] + rows * lps[:3, 1])
    dataset = _file(MR, _uid("mosaic", path.name))
    dataset.SeriesInstanceUID, dataset.SeriesNumber, dataset.InstanceNumber = _uid("series mosaic"), 3, 1
    dataset.SeriesDescription, dataset.ImageType = "epi", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = "EP", "NONE", "2D"
    dataset.ImagePositionPatient = [f"{v:.12g}" for v in lps[:3, 3] - shift]
    dataset.ImageOrientationPatient = [f"{v:.11f}" for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    dataset.PixelSpacing = [f"{spacing[1]:.10g}", f"{spacing[0]:.10g}"]
    dataset.SpacingBetweenSlices, dataset.SliceThickness = f"{spacing[2]:.10g}", f"{spacing[2]:.10g}"
    normal = lps[:3, 2] / spacing[2]
    entries = {
        "AcquisitionMatrixText": ("SH", [f"{rows}*{columns}"]),
        "NumberOfImagesInMosaic": ("US", [str(slices)]),
        "SliceNormalVector": ("FD", [f"{v:.11f}" for v in normal]),
    }
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", _csa(entries))
    _pixel_module(dataset, *image.shape, 12, False, "MONOCHROME2")
    dataset.PixelData = image.tobytes()
    dataset["PixelData"].VR = "OW"
    _save(dataset, path, None)


def _csa(entries: dict[str, tuple[str, list[str]]]) -> bytes:
    """A CSA2 header: names, types and values as nibabel's documentation of the format describes them."""
    data = b"SV10\x04\x03\x02\x01" + struct.pack("<2I", len(entries), 77)
    for name, (vr, values) in entries.items():
        data += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 6, 6, 77)
        for index in range(6):
            value = (values[index].encode() + b"\0") if index < len(values) else b""
            data += struct.pack("<4i", len(value), len(value), 77, len(value)) + value + b"\0" * (-len(value) % 4)
    return data + b"\0" * (len(data) % 2)
