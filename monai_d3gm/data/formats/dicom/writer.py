"""Writing a restored volume as a derived series of classic MR images (MR Image Storage, PS3.3 A.4).

Classic, because every viewer reads it, also where the source is enhanced or a mosaic. highdicom builds no classic MR
images, so pydicom is used, and a series can be written where highdicom is not installed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from monai_d3gm import __version__
from monai_d3gm.data.formats.dicom.derived import (
    MANUFACTURER,
    MODEL_NAME,
    Grid,
    Reference,
    check_identity,
    code_item,
    contributing_equipment,
    copy_attributes,
    copy_body_part,
    decimal,
    derivation,
    file_meta,
    header_of,
    nearest_slices,
    object_uid,
    output_grid,
    references,
    series_description,
)
from monai_d3gm.data.formats.dicom.headers import MR_IMAGE, DicomError, FrameHeader, quiet
from monai_d3gm.data.formats.dicom.reader import DicomVolume
from monai_d3gm.data.formats.dicom.uids import derived_uid
from monai_d3gm.files import OutputError

_SERIES_OFFSET = 1000

PATIENT_AND_STUDY = (
    # Patient (PS3.3 C.7.1.1), General Study (C.7.2.1), Patient Study (C.7.2.2), Clinical Trial (C.7.1.3, C.7.2.3)
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "PatientName", "PatientID", "IssuerOfPatientID"),
    *("PatientBirthDate", "PatientSex", "OtherPatientIDs", "OtherPatientIDsSequence", "EthnicGroup"),
    *("PatientComments", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("QualityControlSubject", "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("IssuerOfAccessionNumberSequence", "StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
    *("ProcedureCodeSequence", "ReferencedStudySequence", "PatientAge", "PatientSize", "PatientWeight"),
    *("AdmittingDiagnosesDescription", "AdditionalPatientHistory", "Occupation", "PregnancyStatus"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID"),
    *("ClinicalTrialTimePointID", "ClinicalTrialTimePointDescription"),
)
SERIES_AND_ACQUISITION = (
    # General Series (C.7.3.1), Frame of Reference (C.7.4.1), the site of General Equipment (C.7.5.1), General
    # Acquisition (C.7.10.1), General Image (C.7.6.1), Contrast/Bolus (C.7.6.4)
    *("SeriesDate", "SeriesTime", "PatientPosition", "ProtocolName"),
    *("PerformingPhysicianName", "PerformedProcedureStepID", "PerformedProcedureStepStartDate"),
    *("PerformedProcedureStepStartTime", "PerformedProcedureStepDescription", "AnatomicalOrientationType"),
    *("FrameOfReferenceUID", "PositionReferenceIndicator", "InstitutionName", "InstitutionAddress"),
    *("InstitutionalDepartmentName", "AcquisitionNumber", "AcquisitionDate", "AcquisitionTime"),
    *("AcquisitionDateTime", "ContentDate", "ContentTime", "LossyImageCompression", "LossyImageCompressionRatio"),
    *("LossyImageCompressionMethod", "BurnedInAnnotation", "RecognizableVisualFeatures"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusRoute", "ContrastBolusVolume"),
    *("ContrastBolusStartTime", "ContrastBolusStopTime", "ContrastBolusTotalDose", "ContrastBolusIngredient"),
)
MR = (
    # MR Image (C.8.3.1)
    *("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime"),
    *("EchoTrainLength", "InversionTime", "TriggerTime", "SequenceName", "AngioFlag", "NumberOfAverages"),
    *("ImagingFrequency", "ImagedNucleus", "EchoNumbers", "MagneticFieldStrength", "NumberOfPhaseEncodingSteps"),
    *("PercentSampling", "PercentPhaseFieldOfView", "PixelBandwidth", "NominalInterval", "BeatRejectionFlag"),
    *("LowRRValue", "HighRRValue", "IntervalsAcquired", "IntervalsRejected", "PVCRejection", "SkipBeats"),
    *("HeartRate", "CardiacNumberOfImages", "TriggerWindow", "ReconstructionDiameter", "ReceiveCoilName"),
    *("TransmitCoilName", "AcquisitionMatrix", "InPlanePhaseEncodingDirection", "FlipAngle", "SAR"),
    *("VariableFlipAngleFlag", "dBdt", "TemporalPositionIdentifier", "NumberOfTemporalPositions"),
    *("TemporalResolution", "DiffusionBValue"),
)
# Type 2: present, empty where unknown.
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("ReferringPhysicianName", "AccessionNumber", "PositionReferenceIndicator", "ScanOptions", "MRAcquisitionType"),
    *("RepetitionTime", "EchoTime", "EchoTrainLength", "SliceThickness"),
)
# Attributes of enhanced images under other names (C.8.13).
_FROM_ENHANCED = {
    "EchoTime": "EffectiveEchoTime",
    "ImagingFrequency": "TransmitterFrequency",
    "ImagedNucleus": "ResonantNucleus",
    "InversionTime": "InversionTimes",
    "NumberOfPhaseEncodingSteps": "MRAcquisitionPhaseEncodingStepsInPlane",
}


@dataclass(frozen=True)
class StoredPixels:
    """Pixels to store: uint16 (X, Y, Z), value = stored * slope + intercept; no rescale where these are 1 and 0."""

    pixels: NDArray[np.uint16]
    slope: float
    intercept: float


@quiet()
def write_series(
    folder: str | os.PathLike[str],
    data: NDArray[np.floating],
    affine: NDArray[np.floating],
    volume: DicomVolume,
    *,
    provenance: Mapping[str, str],
    suffix: str = "restored",
    overwrite: bool = False,
) -> list[Path]:
    """Write a volume as a derived series of one file a slice, all of them or none.

    ImageType is DERIVED/SECONDARY; patient, study, frame of reference and the acquisition's attributes are those of the
    source, geometry is that of ``affine``; each image refers to the source images that it lies on or between. UIDs are
    functions of the source's UIDs, ``provenance``, the package's version and ``suffix``; two calls give the same bytes.

    Values are stored as unsigned 16-bit integers. The MR image of the standard has no rescale, so where the source has
    none and the values fit, they are rounded to whole numbers, which is the source's own precision. Else they are
    scaled to 65535 steps between minimum and maximum, with RescaleSlope and RescaleIntercept, as scanners do: the error
    is at most (maximum - minimum) / 131070.

    Args:
        folder: is made; its parent exists.
        data: (X, Y, Z), finite.
        affine: (4, 4), from (column, row, slice) to RAS+ in mm.
        volume: the source.
        provenance: how the images were made: bundle, version, SHA-256 of the weights, parameters; only text.
        suffix: name of the processing in the description and in the names of the files.
        overwrite: replace a folder that holds nothing but such files.

    Returns:
        The files, in the order of the slices.

    Raises:
        DicomError: ``data`` or ``affine`` cannot be written as DICOM, or the source lacks a UID.
        OutputError: the folder holds files and is not to be replaced, or cannot be written.

    Example:
        >>> import tempfile
        >>> from pydicom.data import get_testdata_file
        >>> from monai_d3gm.data.formats.dicom import find_series, read_series
        >>> source = read_series(find_series(get_testdata_file("MR_small.dcm"))[0][0])
        >>> folder = Path(tempfile.mkdtemp()) / "restored"
        >>> write_series(folder, source.data, source.affine, source, provenance={"bundle": "mri_sr"})[0].name
        'restored_0001.dcm'
        >>> copy = read_series(find_series(folder)[0][0])
        >>> bool(np.array_equal(copy.data, source.data)), copy.source.description
        (True, 'restored, research use only')
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", suffix):
        raise DicomError(volume.source.name, f"suffix is {suffix!r}; accepted: up to 32 letters, digits, _ and -.")
    check_identity(volume)
    grid = output_grid(data, affine, volume)
    stored = _store(np.asarray(data, dtype=np.float64), volume)
    window = display_window(np.asarray(data))
    series_uid = object_uid(volume, provenance, suffix)
    target = Path(folder)
    with new_folder(target, re.compile(rf"{suffix}_\d+\.dcm"), overwrite) as temporary:
        names = []
        for index in range(len(grid.planes)):
            dataset = _image(index, grid, stored, volume, provenance, series_uid)
            dataset.SeriesDescription = series_description(volume, suffix)
            dataset.WindowCenter, dataset.WindowWidth = window
            names.append(f"{suffix}_{index + 1:04d}.dcm")
            dataset.save_as(temporary / names[-1])
    return [target / name for name in names]


def _store(data: NDArray[np.float64], volume: DicomVolume) -> StoredPixels:
    low, high = float(data.min()), float(data.max())
    headers = [header_of(k, volume) for k in range(len(volume.source.frames))]
    whole = all(h.number("RescaleSlope", 1.0) == 1 and h.number("RescaleIntercept").is_integer() for h in headers)
    if whole and low > -0.5 and high < 65535.5:
        return StoredPixels(np.rint(data).astype(np.uint16), 1.0, 0.0)
    return scaled_pixels(data)


def scaled_pixels(data: NDArray[np.float64]) -> StoredPixels:
    """Values scaled to 65535 steps between minimum and maximum."""
    low, high = float(data.min()), float(data.max())
    slope, intercept = float(decimal((high - low) / 65535 or 1.0)), float(decimal(low))
    return StoredPixels(np.rint((data - intercept) / slope).clip(0, 65535).astype(np.uint16), slope, intercept)


def display_window(data: NDArray[np.floating]) -> tuple[str, str]:
    """Centre and width of a display window for all slices: from the 1st to the 99.5th percentile."""
    low, high = np.percentile(data, (1, 99.5))
    return decimal((low + high) / 2), decimal(max(high - low, 1e-3))


def _image(
    index: int, grid: Grid, stored: StoredPixels, volume: DicomVolume, provenance: Mapping[str, str], series_uid: UID
) -> FileDataset:
    """The image of one slice."""
    near = nearest_slices(grid.planes[index], volume)
    source = header_of(near[0], volume)
    uid = derived_uid(series_uid, str(index))
    meta = file_meta(MR_IMAGE, uid)
    dataset = FileDataset("", {}, b"\0" * 128, meta, is_implicit_VR=False, is_little_endian=True)
    copy_attributes(dataset, source, (*PATIENT_AND_STUDY, *SERIES_AND_ACQUISITION, *MR))
    copy_body_part(dataset, source)
    if volume.source.kind == "enhanced":
        _translate(dataset, source)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR_IMAGE, uid
    dataset.Modality = "MR"
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = int(source.number("SeriesNumber")) + _SERIES_OFFSET
    dataset.InstanceNumber = index + 1
    if "FrameOfReferenceUID" not in dataset:
        dataset.FrameOfReferenceUID = derived_uid(volume.source.series_uid, "frame of reference")
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    dataset.SoftwareVersions = __version__
    dataset.ContributingEquipmentSequence = contributing_equipment(source, provenance)
    dataset.DerivationDescription = derivation(provenance)
    if volume.data.shape != stored.pixels.shape:
        dataset.DerivationCodeSequence = [code_item("SpatialResampling")]
    _refer(dataset, references(near, volume))
    place_image(dataset, index, grid)
    set_pixels(dataset, stored, index)
    for keyword in MAY_BE_EMPTY:
        if keyword not in dataset:
            setattr(dataset, keyword, None)
    return dataset


def _translate(dataset: Dataset, source: FrameHeader) -> None:
    """Give an image the attributes of the MR Image module that an enhanced source has under other names."""
    for keyword, enhanced in _FROM_ENHANCED.items():
        value = source.get(enhanced)
        if value is not None and keyword not in dataset:
            first = np.atleast_1d(value)[0]
            whole = not isinstance(first, str) and float(first).is_integer()
            setattr(dataset, keyword, first if isinstance(first, str) else int(first) if whole else decimal(first))
    sequences = {"SPIN": ["SE"], "GRADIENT": ["GR"], "BOTH": ["SE", "GR"]}.get(source.get("EchoPulseSequence"), [])
    sequences += ["EP"] if source.get("EchoPlanarPulseSequence") == "YES" else []
    sequences += ["IR"] if source.get("InversionRecovery") == "YES" else []
    dataset.ScanningSequence, dataset.SequenceVariant = sequences or ["RM"], "NONE"
    if "IR" not in sequences and "InversionTime" in dataset:
        del dataset.InversionTime
    if dataset.get("InPlanePhaseEncodingDirection") not in ("ROW", None):
        dataset.InPlanePhaseEncodingDirection = "COL"


def _refer(dataset: Dataset, sources: list[Reference]) -> None:
    """Refer to the source images (PS3.3 C.7.6.1.1.4, C.12.2)."""
    dataset.SourceImageSequence = []
    instances = []
    for source in sources:
        item, instance = Dataset(), Dataset()
        for reference in (item, instance):
            reference.ReferencedSOPClassUID = source.dataset.SOPClassUID
            reference.ReferencedSOPInstanceUID = source.dataset.SOPInstanceUID
        if source.frames:
            item.ReferencedFrameNumber = list(source.frames)
        item.PurposeOfReferenceCodeSequence = [code_item("SourceImageForImageProcessingOperation")]
        dataset.SourceImageSequence.append(item)
        instances.append(instance)
    series = Dataset()
    series.SeriesInstanceUID = sources[0].dataset.SeriesInstanceUID
    series.ReferencedInstanceSequence = instances
    dataset.ReferencedSeriesSequence = [series]


def place_image(dataset: Dataset, index: int, grid: Grid) -> None:
    """Set the Image Plane module (PS3.3 C.7.6.2)."""
    plane = grid.planes[index]
    dataset.ImagePositionPatient = [decimal(v) for v in plane.position]
    dataset.ImageOrientationPatient = [decimal(v) for v in plane.orientation]
    dataset.PixelSpacing = [decimal(v) for v in plane.spacing]
    dataset.SpacingBetweenSlices = decimal(grid.distance)
    dataset.SliceThickness = None if grid.thickness is None else decimal(grid.thickness)


def set_pixels(dataset: Dataset, stored: StoredPixels, index: int) -> None:
    """Set the Image Pixel module (PS3.3 C.7.6.3) and, where values were scaled, the rescale (C.11.1)."""
    pixels = np.ascontiguousarray(stored.pixels[:, :, index].T)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    if (stored.slope, stored.intercept) != (1.0, 0.0):
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(stored.slope), decimal(stored.intercept)
        dataset.RescaleType = "US"
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"


@contextmanager
def new_folder(target: Path, replaceable: re.Pattern[str], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside ``target`` that takes its place when the block ends without an error."""
    temporary = target.with_name(f".{secrets.token_hex(8)}")
    old = temporary.with_suffix(".old")
    try:
        entries = sorted(path.name for path in target.iterdir()) if target.exists() else []
        others = [name for name in entries if not replaceable.fullmatch(name)]
        if others or (entries and not overwrite):
            reason = f"holds {others[0]}; give another folder." if others else "holds files; allow overwriting."
            raise OutputError(f"{target} {reason}")
        temporary.mkdir()
        yield temporary
        if target.exists():
            os.replace(target, old)
        os.replace(temporary, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
