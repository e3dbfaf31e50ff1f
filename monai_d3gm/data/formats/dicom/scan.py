"""Writing a reconstruction of raw data as a series of MR images (MR Image Storage, PS3.3 A.4).

There are no images to refer to: patient, study, place and acquisition come from the raw data's header.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID

from monai_d3gm import __version__
from monai_d3gm.data.formats.dicom.derived import (
    MANUFACTURER,
    MODEL_NAME,
    RESEARCH_USE_ONLY,
    code_item,
    decimal,
    derivation,
    file_meta,
    plain_grid,
)
from monai_d3gm.data.formats.dicom.headers import MR_IMAGE, DicomError, quiet
from monai_d3gm.data.formats.dicom.uids import derived_uid
from monai_d3gm.data.formats.dicom.writer import (
    MAY_BE_EMPTY,
    display_window,
    new_folder,
    place_image,
    scaled_pixels,
    set_pixels,
)

__all__ = ["check_scan", "write_scan"]

_SCANNER = ("Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "DeviceSerialNumber")
_NUMBERS = (
    *("PatientWeight", "PatientSize", "MagneticFieldStrength"),
    *("RepetitionTime", "EchoTime", "InversionTime", "FlipAngle"),
)
_SEXES = ("M", "F", "O")


def check_scan(name: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
    """Refuse raw data whose header does not allow a DICOM series: it has to name the study and say where slices lie.

    Args:
        name: of the raw data, for messages.
        identity: values of the header, by DICOM keyword.

    Raises:
        DicomError: a value is missing; the message names it.

    Example:
        >>> check_scan("a.h5", {"StudyInstanceUID": "1.2", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]})
        >>> check_scan("a.h5", {"StudyInstanceUID": "1.2"})
        Traceback (most recent call last):
        ...
        monai_d3gm.data.formats.dicom.headers.DicomError: a.h5: the header gives no place and directions of ...
    """
    accepted = "accepted: raw data that do, or results in another format than DICOM."
    if "ImageOrientationPatient" not in identity:
        raise DicomError(name, f"the header gives no place and directions of the slices; {accepted}")
    uid = str(identity.get("StudyInstanceUID", ""))
    if not UID(uid).is_valid:
        raise DicomError(name, f"the header gives {uid!r} for StudyInstanceUID; {accepted}")


@quiet()
def write_scan(
    folder: str | os.PathLike[str],
    data: NDArray[np.floating],
    affine: NDArray[np.floating],
    identity: Mapping[str, Any],
    *,
    provenance: Mapping[str, str],
    overwrite: bool = False,
) -> list[Path]:
    """Write a reconstruction of raw data as a series of one file a slice, all of them or none.

    ImageType is ORIGINAL/PRIMARY: the images are made from the measurement, not from other images. Values are scaled to
    65535 steps between minimum and maximum. UIDs are functions of the study's UID, the values, ``provenance`` and the
    package's version; two calls give the same bytes.

    Args:
        folder: is made; its parent exists.
        data: (X, Y, Z), finite: column, row, slice.
        affine: (4, 4), from (column, row, slice) to RAS+ in mm.
        identity: values of the raw data's header, by DICOM keyword.
        provenance: how the images were made; only text.
        overwrite: replace a folder that holds nothing but such files.

    Returns:
        The files, in the order of the slices.

    Raises:
        DicomError: the header says too little, or ``data`` or ``affine`` cannot be written as DICOM.
        OutputError: the folder holds files and is not to be replaced, or cannot be written.

    Example:
        >>> import tempfile
        >>> identity = {"StudyInstanceUID": "1.2.3", "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "EchoTime": 90.0}
        >>> folder = Path(tempfile.mkdtemp()) / "restored"
        >>> write_scan(folder, np.eye(4)[..., None], np.eye(4), identity, provenance={"bundle": "mri_recon"})[0].name
        'restored_0001.dcm'
    """
    target = Path(folder)
    check_scan(target.name, identity)
    values = np.asarray(data, dtype=np.float64)
    grid = plain_grid(values, affine, target.name)
    stored, window = scaled_pixels(values), display_window(values)
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    series_uid = derived_uid(str(identity["StudyInstanceUID"]), digest, derivation(provenance), __version__)
    with new_folder(target, re.compile(r"restored_\d+\.dcm"), overwrite) as temporary:
        names = []
        for index in range(len(grid.planes)):
            dataset = _image(identity, provenance, series_uid, index)
            place_image(dataset, index, grid)
            set_pixels(dataset, stored, index)
            dataset.WindowCenter, dataset.WindowWidth = window
            for keyword in MAY_BE_EMPTY:
                if keyword not in dataset:
                    setattr(dataset, keyword, None)
            names.append(f"restored_{index + 1:04d}.dcm")
            dataset.save_as(temporary / names[-1])
    return [target / name for name in names]


def _image(identity: Mapping[str, Any], provenance: Mapping[str, str], series_uid: UID, index: int) -> FileDataset:
    """An image but for its place and pixels."""
    uid = derived_uid(series_uid, str(index))
    dataset = FileDataset("", {}, b"\0" * 128, file_meta(MR_IMAGE, uid), is_implicit_VR=False, is_little_endian=True)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    scanner = Dataset()
    for keyword, value in identity.items():
        if keyword != "ImageOrientationPatient":
            said = decimal(value) if keyword in _NUMBERS and isinstance(value, int | float) else str(value)
            setattr(scanner if keyword in _SCANNER else dataset, keyword, said)
    if dataset.get("PatientSex") not in _SEXES:
        dataset.PatientSex = None
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = MR_IMAGE, uid, "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"
    dataset.SeriesInstanceUID, dataset.InstanceNumber = series_uid, index + 1
    number = str(identity.get("SeriesNumber", "1"))
    dataset.SeriesNumber = int(number) if number.isdecimal() and int(number) < 2**31 else 1
    if not UID(str(identity.get("FrameOfReferenceUID", ""))).is_valid:
        dataset.FrameOfReferenceUID = derived_uid(str(identity["StudyInstanceUID"]), "frame of reference")
    if "BodyPartExamined" not in dataset:
        dataset.Laterality = ""
    described = str(identity.get("SeriesDescription", identity.get("ProtocolName", "")))
    dataset.SeriesDescription = f"{described[:35]} restored, {RESEARCH_USE_ONLY}".strip()
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    dataset.SoftwareVersions = __version__
    scanner.setdefault("Manufacturer", "unknown")
    scanner.PurposeOfReferenceCodeSequence = [code_item("AcquisitionEquipment")]
    package = Dataset()
    package.Manufacturer, package.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    package.SoftwareVersions = __version__
    package.PurposeOfReferenceCodeSequence = [code_item("ProcessingEquipment")]
    package.ContributionDescription = derivation(provenance)
    dataset.ContributingEquipmentSequence = [scanner, package]
    return dataset
