"""Writing a map of real values as a DICOM Parametric Map (PS3.3 A.75)."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from monai_d3gm import __version__
from monai_d3gm.data.formats.dicom.derived import (
    MANUFACTURER,
    MODEL_NAME,
    RESEARCH_USE_ONLY,
    contributing_equipment,
    copy_body_part,
    decimal,
    file_meta,
    header_of,
    object_uid,
    output_grid,
    series_description,
)
from monai_d3gm.data.formats.dicom.headers import DicomError, FrameHeader, quiet
from monai_d3gm.data.formats.dicom.reader import DicomVolume
from monai_d3gm.data.formats.dicom.uids import derived_uid
from monai_d3gm.files import atomic_path, one_line

_SERIES_OFFSET = 2000
_CONTENT_LABEL = "UNCERTAINTY"
# The content's date and time must not be empty; the first of all stands for an unknown one, as no clock is read.
_NO_DATE, _NO_TIME = "19000101", "000000"
_REQUIRED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName", "Manufacturer"),
)


@quiet()
def write_parametric_map(
    path: str | os.PathLike[str],
    std: NDArray[np.floating],
    affine: NDArray[np.floating],
    volume: DicomVolume,
    *,
    provenance: Mapping[str, str],
    label: str = "standard deviation",
    overwrite: bool = False,
) -> None:
    """Write a map of float32 values, in the units of the source's values, as one multi-frame file.

    It belongs to the source's study and frame of reference and refers to its images. UIDs are functions of the source's
    UIDs, ``provenance``, the package's version and ``label``; dates and times are those of the source; two calls give
    the same bytes.

    Args:
        path: the file; its folder exists.
        std: (X, Y, Z), finite.
        affine: (4, 4), from (column, row, slice) to RAS+ in mm.
        volume: the source.
        provenance: how the map was made: bundle, version, SHA-256 of the weights, parameters; only text.
        label: name of the values in the descriptions.
        overwrite: replace the file where it exists.

    Raises:
        DicomError: ``std`` or ``affine`` cannot be written as DICOM, the source has no StudyInstanceUID, or highdicom
            is not installed.
        OutputError: the file cannot be written, or exists and is not to be replaced.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pydicom
        >>> from pydicom.data import get_testdata_file
        >>> from monai_d3gm.data.formats.dicom import find_series, read_series
        >>> source = read_series(find_series(get_testdata_file("MR_small.dcm"))[0][0])
        >>> path = Path(tempfile.mkdtemp()) / "std.dcm"
        >>> write_parametric_map(path, source.data / 10, source.affine, source, provenance={"bundle": "mri_sr"})
        >>> pydicom.dcmread(path).SOPClassUID.name
        'Parametric Map Storage'
    """
    from pydicom.sr.codedict import codes  # loads its dictionaries, which only writing needs

    highdicom = _highdicom(path)
    grid = output_grid(std, affine, volume)
    values = np.asarray(std, dtype=np.float32)
    source = header_of(0, volume)
    series_uid = object_uid(volume, provenance, f"parametric map: {label}")
    uid = derived_uid(series_uid, "instance")
    images = _source_images(volume)
    enhanced = volume.source.kind == "enhanced"
    low, high = (float(v) for v in np.percentile(values, (0, 100)))
    plane = grid.planes[0]
    # highdicom 0.22 does not shorten them
    spacing, distance = [float(decimal(value)) for value in plane.spacing], float(decimal(grid.distance))
    thickness = None if grid.thickness is None else float(decimal(grid.thickness))
    measures = highdicom.PixelMeasuresSequence(spacing, thickness, distance)
    orientation = highdicom.PlaneOrientationSequence("PATIENT", plane.orientation)
    try:
        dataset = highdicom.pm.ParametricMap(
            source_images=images[:1] if enhanced else images,
            **({"further_source_images": images[1:]} if enhanced and images[1:] else {}),  # unknown to highdicom 0.22
            pixel_array=np.ascontiguousarray(values.transpose(2, 1, 0)),
            series_instance_uid=series_uid,
            series_number=int(source.number("SeriesNumber")) + _SERIES_OFFSET,
            sop_instance_uid=uid,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL_NAME,
            software_versions=__version__,
            device_serial_number=__version__,
            contains_recognizable_visual_features=source.get("RecognizableVisualFeatures") == "YES",
            real_world_value_mappings=[
                highdicom.pm.RealWorldValueMapping(
                    lut_label=_CONTENT_LABEL,
                    lut_explanation=label,
                    unit=codes.UCUM.NoUnits,
                    value_range=(low, high),
                    slope=1.0,
                    intercept=0.0,
                    quantity_definition=codes.SCT.StandardDeviation,
                )
            ],
            window_center=(low + high) / 2,
            window_width=max(high - low, 1e-6),
            pixel_measures=measures,
            plane_orientation=orientation,
            plane_positions=[highdicom.PlanePositionSequence("PATIENT", p.position) for p in grid.planes],
            content_label=_CONTENT_LABEL,
            content_description=f"{label}, {RESEARCH_USE_ONLY}",
            series_description=series_description(volume, label),
        )
        # highdicom puts the source's in their place where the rows and columns alone agree.
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = measures, orientation
        shared.FrameVOILUTSequence[0].VOILUTFunction = "LINEAR_EXACT"
        copy_body_part(dataset, source)
        dataset.ContentDate = source.get("ContentDate", source.get("StudyDate", _NO_DATE))
        dataset.ContentTime = source.get("ContentTime", source.get("StudyTime", _NO_TIME))
        dataset.file_meta = file_meta(UID(dataset.SOPClassUID), uid)
        _replace_clock_and_chance(dataset, uid)
        dataset.ContributingEquipmentSequence = [
            *contributing_equipment(source, provenance),
            *(i for i in _equipment(dataset) if i.get("ManufacturerModelName") == "highdicom"),
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise DicomError(volume.source.name, f"no parametric map can be made of it: {one_line(error)}") from error
    with atomic_path(path, overwrite=overwrite) as temporary:
        dataset.save_as(temporary)


def _highdicom(path: str | os.PathLike[str]) -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise DicomError(
            path, f"parametric maps need highdicom, which cannot be imported ({error}): install monai_d3gm[dicom]."
        ) from error
    return highdicom


def _source_images(volume: DicomVolume) -> list[Dataset]:
    """The headers of the source as highdicom accepts them.

    What it asks for and files may lack is there, empty where unknown, and orientation and spacing, which it compares to
    the last digit and looks for in the shared functional groups only, are those of the first slice in all.
    """
    plane = volume.source.frames[0].plane
    images = []
    for header in volume.datasets:
        image = copy.copy(header)
        for keyword in _REQUIRED:
            if keyword not in image:
                setattr(image, keyword, "")
        if "StudyInstanceUID" not in image:
            raise DicomError(volume.source.name, "no StudyInstanceUID; accepted: a source that belongs to a study.")
        image.setdefault("FrameOfReferenceUID", derived_uid(volume.source.series_uid, "frame of reference"))
        measures, orientation = image, image
        if volume.source.kind == "enhanced":
            measures, orientation, shared = Dataset(), Dataset(), Dataset()
            shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
            image.SharedFunctionalGroupsSequence = [shared]
            image.PerFrameFunctionalGroupsSequence = [_placed(header, k) for k in range(int(header.NumberOfFrames))]
        orientation.ImageOrientationPatient = [decimal(v) for v in plane.orientation]
        measures.PixelSpacing = [decimal(v) for v in plane.spacing]
        measures.setdefault("SliceThickness", None)
        images.append(image)
    return images


def _equipment(dataset: Dataset) -> list[Dataset]:
    """highdicom's own name and version; 0.22 states none."""
    return list(dataset.get("ContributingEquipmentSequence", []))


def _placed(header: Dataset, number: int) -> Dataset:
    """The functional groups of a frame with its position alone, of the class that highdicom 0.22 compares."""
    from highdicom import PlanePositionSequence

    groups = Dataset()
    position = FrameHeader(header, number).floats("ImagePositionPatient", 3) or (0.0, 0.0, 0.0)
    groups.PlanePositionSequence = PlanePositionSequence("PATIENT", position)
    return groups


def _replace_clock_and_chance(dataset: Dataset, uid: UID) -> None:
    """Take out what highdicom puts in from the clock, and replace the UID that it draws at random."""
    for keyword in ("InstanceCreationDate", "InstanceCreationTime"):  # absent with highdicom 0.22
        dataset.pop(keyword, None)
    for item in _equipment(dataset):
        if item.get("ManufacturerModelName") == "highdicom":
            del item.ContributionDateTime
    organization = derived_uid(uid, "dimension organization")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
