"""The XML header of ISMRMRD raw data: the axes of the encoding, and patient, study and scan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import one_line

__all__ = ["Axis", "RawHeader", "parse_header"]

_MAX_XML = 2**22
_MAX_SIZE = 4096
_LONGEST = 64

_IDENTITY = {
    "subjectInformation": {
        "patientName": "PatientName",
        "patientID": "PatientID",
        "patientBirthdate": "PatientBirthDate",
        "patientGender": "PatientSex",
        "patientWeight_kg": "PatientWeight",
        "patientHeight_m": "PatientSize",
    },
    "studyInformation": {
        "studyInstanceUID": "StudyInstanceUID",
        "studyDate": "StudyDate",
        "studyTime": "StudyTime",
        "studyID": "StudyID",
        "accessionNumber": "AccessionNumber",
        "referringPhysicianName": "ReferringPhysicianName",
        "studyDescription": "StudyDescription",
        "bodyPartExamined": "BodyPartExamined",
    },
    "measurementInformation": {
        "frameOfReferenceUID": "FrameOfReferenceUID",
        "seriesDate": "SeriesDate",
        "seriesTime": "SeriesTime",
        "patientPosition": "PatientPosition",
        "initialSeriesNumber": "SeriesNumber",
        "protocolName": "ProtocolName",
        "seriesDescription": "SeriesDescription",
        "sequenceName": "SequenceName",
    },
    "acquisitionSystemInformation": {
        "systemVendor": "Manufacturer",
        "systemModel": "ManufacturerModelName",
        "systemFieldStrength_T": "MagneticFieldStrength",
        "institutionName": "InstitutionName",
        "stationName": "StationName",
        "deviceSerialNumber": "DeviceSerialNumber",
    },
    "sequenceParameters": {
        "TR": "RepetitionTime",
        "TE": "EchoTime",
        "TI": "InversionTime",
        "flipAngle_deg": "FlipAngle",
    },
}
"""DICOM's keywords of the header's elements, by part; of lists the first value is taken."""


@dataclass(frozen=True)
class Axis:
    """One axis of the encoding.

    Attributes:
        size: samples of the grid that k-space is placed on: the encoded ones, or more where the image is interpolated.
        crop: voxels of the image that lie in the field of view asked for.
        spacing: of the voxels, in mm.
        center: number of the line at the centre of k-space.
        encoded: samples of the encoded matrix.
    """

    size: int
    crop: int
    spacing: float
    center: int
    encoded: int

    @property
    def start(self) -> int:
        """First voxel of the central crop, as in ``fastmri.data.transforms.center_crop``."""
        return (self.size - self.crop) // 2

    @property
    def origin(self) -> int:
        """Voxel of the crop at the centre of the field of view."""
        return self.size // 2 - self.start


@dataclass(frozen=True)
class RawHeader:
    """The parts of the XML header that are used.

    Attributes:
        axes: of readout, phase encoding and partition.
        separate_calibration: the calibration was scanned apart from the image.
        protocol: its name.
        identity: patient, study and scan, by DICOM keyword: text and numbers.
    """

    axes: tuple[Axis, Axis, Axis]
    separate_calibration: bool
    protocol: str
    identity: Mapping[str, str | float] = field(default_factory=dict)


def _axis(name: str, encoded: Any, recon: Any, limits: Any) -> Axis:
    """Compare the encoded matrix and field of view with those of the image along the axis ``name``."""
    counts = tuple(int(getattr(space.matrixSize, name)) for space in (encoded, recon))
    lengths = tuple(float(getattr(space.fieldOfView_mm, name)) for space in (encoded, recon))
    if not all(1 <= n <= _MAX_SIZE for n in counts) or not all(np.isfinite(mm) and mm > 0 for mm in lengths):
        raise ValueError(f"{counts} samples over {lengths} mm along {name}; accepted: 1 to {_MAX_SIZE}, above 0 mm")
    # voxels as small as the image's, but never fewer samples than were encoded
    size = max(counts[0], round(counts[1] * lengths[0] / lengths[1]))
    if size > _MAX_SIZE:
        raise ValueError(f"the image's voxels are too small for the encoded field of view along {name}")
    crop = min(size, max(1, round(size * lengths[1] / lengths[0])))
    center = counts[0] // 2 if limits is None else int(limits.center)
    if not 0 <= center <= _MAX_SIZE:
        raise ValueError(f"the centre along {name} is line {center}; accepted: 0 to {_MAX_SIZE}")
    return Axis(size, crop, lengths[0] / size, center, counts[0])


def parse_header(path: Path, xml: Any) -> RawHeader:
    """Read the header with ismrmrd's schema."""
    try:
        from ismrmrd.xsd import CreateFromDocument
    except ImportError as error:
        raise KspaceFileError(
            f"{path}: reading ISMRMRD raw data needs the package ismrmrd: pip install 'monai_d3gm[ismrmrd]'."
        ) from error
    if not isinstance(xml, bytes | str) or len(xml) > _MAX_XML:
        raise KspaceFileError(f"{path}: xml is no text or longer than {_MAX_XML} bytes; accepted: an ISMRMRD header.")
    text = xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise KspaceFileError(f"{path}: xml declares entities; accepted: a plain ISMRMRD header.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are not used; those that are used are checked below
            header = CreateFromDocument(text)
        encoding = header.encoding[0]
        trajectory = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        limits = (None, encoding.encodingLimits.kspace_encoding_step_1, encoding.encodingLimits.kspace_encoding_step_2)
        x, y, z = (
            _axis(name, encoding.encodedSpace, encoding.reconSpace, limit)
            for name, limit in zip("xyz", limits, strict=True)
        )
        mode = encoding.parallelImaging and encoding.parallelImaging.calibrationMode
        protocol = header.measurementInformation and header.measurementInformation.protocolName
    except Exception as error:  # xsdata, expat and missing parts raise many kinds for a damaged header
        raise KspaceFileError(f"{path}: the ISMRMRD header cannot be read: {one_line(error)}") from error
    if trajectory != "cartesian":
        raise KspaceFileError(f"{path}: the trajectory is {trajectory!r}; accepted: 'cartesian'.")
    separate = getattr(mode, "value", None) in ("separate", "external")
    return RawHeader((x, y, z), separate, str(protocol or "unknown"), _identity(header))


def _identity(header: Any) -> dict[str, str | float]:
    """Patient, study and scan of the header; values that no DICOM attribute can hold are left out."""
    found: dict[str, str | float] = {}
    for part, keywords in _IDENTITY.items():
        for name, keyword in keywords.items():
            value = getattr(getattr(header, part, None), name, None)
            value = next(iter(value), None) if isinstance(value, list) else value
            value = getattr(value, "value", value)  # of an enumeration
            if isinstance(value, int | float):
                if math.isfinite(value):
                    found[keyword] = value
            elif value is not None and (text := str(value).strip()):
                if keyword.endswith(("Date", "Time")) and part != "sequenceParameters":
                    text = text.replace("-", "").replace(":", "")
                if len(text) <= _LONGEST and text.isprintable() and "\\" not in text:
                    found[keyword] = text
    return found
