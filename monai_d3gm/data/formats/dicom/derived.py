"""The common parts of objects derived from a series: identity, geometry, references, equipment.

Nothing is taken from the clock: dates and times are those of the source.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from monai_d3gm import __version__
from monai_d3gm.data.formats.dicom.geometry import LPS_TO_RAS, SAME_ORIENTATION, SAME_POSITION, Plane, distances
from monai_d3gm.data.formats.dicom.headers import DicomError, FrameHeader
from monai_d3gm.data.formats.dicom.reader import DicomVolume
from monai_d3gm.data.formats.dicom.uids import IMPLEMENTATION_CLASS_UID, derived_uid

MANUFACTURER = "The monai_d3gm contributors"
MODEL_NAME = "monai_d3gm"
RESEARCH_USE_ONLY = "research use only"

_SHORT_TEXT = 1024
_LONG_STRING = 64


@dataclass(frozen=True)
class Grid:
    """Slices to write: their planes, distance and thickness in mm."""

    planes: tuple[Plane, ...]
    distance: float
    thickness: float | None


@dataclass(frozen=True)
class Reference:
    """A source file and, for a multi-frame one, the numbers of its frames from 1."""

    dataset: Dataset
    frames: tuple[int, ...]


def output_grid(data: NDArray[np.floating], affine: NDArray[np.floating], volume: DicomVolume) -> Grid:
    """Check the volume to write and return the places of its slices.

    Where number and step of the slices are those of the source, each lies exactly where its source lies, also in an
    unevenly spaced series. Else the thickness changes as the step does.

    Args:
        data: (X, Y, Z), finite.
        affine: (4, 4), from (column, row, slice) to RAS+ in mm, rows perpendicular to columns.
        volume: the source.

    Raises:
        DicomError: data or affine are not that.
    """
    lps = _checked(data, affine, volume.source.name)
    step, source = lps[:3, 2], LPS_TO_RAS @ volume.affine
    offsets = np.outer(np.arange(data.shape[2]), step)
    same_slices = data.shape[2] == volume.data.shape[2] and np.allclose(step, source[:3, 2], atol=1e-6)
    if same_slices and volume.source.kind != "mosaic":
        positions = np.array([frame.plane.position for frame in volume.source.frames])
        offsets = positions - positions[0]
    planes = _planes(lps, offsets)
    distance = abs(float(step @ planes[0].normal))
    thickness = FrameHeader(volume.datasets[0], volume.source.frames[0].number).number("SliceThickness")
    if not same_slices:
        thickness *= distance / abs(float(source[:3, 2] @ planes[0].normal))
    return Grid(planes, distance, thickness if thickness > 0 else None)


def plain_grid(data: NDArray[np.floating], affine: NDArray[np.floating], name: str) -> Grid:
    """Where the slices of a volume without a source lie: in equal steps, as thick as they are apart.

    Args:
        data: (X, Y, Z), finite.
        affine: as of `output_grid`.
        name: of the volume, for messages.

    Raises:
        DicomError: data or affine are not that.
    """
    lps = _checked(data, affine, name)
    planes = _planes(lps, np.outer(np.arange(data.shape[2]), lps[:3, 2]))
    distance = abs(float(lps[:3, 2] @ planes[0].normal))
    return Grid(planes, distance, distance)


def _checked(data: NDArray[np.floating], affine: NDArray[np.floating], name: str) -> NDArray[np.float64]:
    """The affine in LPS, if DICOM can hold such a volume."""
    if np.ndim(data) != 3 or not np.size(data) or not np.isfinite(data).all():
        raise DicomError(name, f"data of shape {np.shape(data)}; accepted: three axes of finite numbers.")
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not affine[:3, :3].any(axis=0).all():
        raise DicomError(name, f"affine is {affine.tolist()}; accepted: 4 x 4, from voxels to mm.")
    lps: NDArray[np.float64] = LPS_TO_RAS @ affine
    columns, rows, steps = (lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).T
    if abs(columns @ rows) > SAME_ORIENTATION:
        raise DicomError(name, "the first two axes of affine are not perpendicular; DICOM has no such images.")
    if abs(steps @ np.cross(columns, rows)) <= SAME_ORIENTATION:
        raise DicomError(name, "the third axis of affine lies in the plane of the slices.")
    return lps


def _planes(lps: NDArray[np.float64], offsets: NDArray[np.float64]) -> tuple[Plane, ...]:
    """Slices whose first voxels lie at these offsets, (slices, 3), from the affine's."""
    lengths = np.linalg.norm(lps[:3, :2], axis=0)
    orientation, spacing = tuple((lps[:3, :2] / lengths).T.ravel()), (lengths[1], lengths[0])
    return tuple(Plane(tuple(position), orientation, spacing) for position in lps[:3, 3] + offsets)


def check_identity(volume: DicomVolume) -> None:
    """Refuse a source that no derived object can refer to.

    Raises:
        DicomError: a file lacks the UID of its study, its series or its own.
    """
    for path, dataset in zip(volume.source.files, volume.datasets, strict=True):
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if not dataset.get(keyword):
                raise DicomError(
                    path, f"no {keyword}; accepted: files with one, or results in another format than DICOM."
                )


def source_planes(volume: DicomVolume) -> list[Plane]:
    """Where the slices of the source lie; of a mosaic they are not those of its one frame."""
    if volume.source.kind != "mosaic":
        return [frame.plane for frame in volume.source.frames]
    lps, plane = LPS_TO_RAS @ volume.affine, volume.source.frames[0].plane
    return [
        Plane(tuple(lps[:3, 3] + k * lps[:3, 2]), plane.orientation, plane.spacing) for k in range(volume.data.shape[2])
    ]


def nearest_slices(plane: Plane, volume: DicomVolume) -> list[int]:
    """Return the source's slices on both sides of a plane, the nearer first, or the one that lies in it."""
    planes = source_planes(volume)
    away = np.abs(distances(planes) - np.dot(plane.position, planes[0].normal))
    order = np.argsort(away, kind="stable")[:2].tolist()
    return order[:1] if len(order) == 1 or away[order[0]] < SAME_POSITION else order


def references(slices: Sequence[int], volume: DicomVolume) -> list[Reference]:
    """Return the files, with frames, that these slices of the source came from."""
    datasets = dict(zip(volume.source.files, volume.datasets, strict=True))
    if volume.source.kind != "enhanced":
        chosen = volume.source.frames if volume.source.kind == "mosaic" else [volume.source.frames[k] for k in slices]
        return [Reference(datasets[frame.path], ()) for frame in chosen]
    frames = defaultdict(list)
    for k in slices:
        frames[volume.source.frames[k].path].append(volume.source.frames[k].number + 1)
    return [Reference(datasets[path], tuple(sorted(numbers))) for path, numbers in frames.items()]


def header_of(index: int, volume: DicomVolume) -> FrameHeader:
    """Return the header of the source's slice ``index``."""
    frame = volume.source.frames[0 if volume.source.kind == "mosaic" else index]
    return FrameHeader(volume.datasets[volume.source.files.index(frame.path)], frame.number)


def object_uid(volume: DicomVolume, provenance: Mapping[str, str], what: str) -> UID:
    """Return the UID of an object made from ``volume``: a function of its instances, provenance and ``what``."""
    instances = {p: d.get("SOPInstanceUID", "") for p, d in zip(volume.source.files, volume.datasets, strict=True)}
    frames = [f"{instances[frame.path]}:{frame.number}" for frame in volume.source.frames]
    return derived_uid(*frames, json.dumps(dict(provenance), sort_keys=True), __version__, what)


def file_meta(sop_class: UID, sop_instance: UID) -> FileMetaDataset:
    """Return the file meta information (PS3.10 section 7.1) of an object in explicit VR little endian."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # pydicom fills it in
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"MONAI_D3GM_{__version__}"[:16]
    return meta


def copy_attributes(target: Dataset, source: FrameHeader, keywords: Sequence[str]) -> None:
    """Copy the attributes that ``source`` has."""
    for keyword in keywords:
        element = source.element(keyword)
        if element is not None:
            target.add(copy.deepcopy(element))


def copy_body_part(target: Dataset, source: FrameHeader) -> None:
    """Copy what part of the body was examined; where it is unknown, Laterality must be there (PS3.3 C.7.3.1)."""
    copy_attributes(target, source, ("BodyPartExamined", "Laterality"))
    if "BodyPartExamined" not in target:
        target.setdefault("Laterality", "")


def code_item(keyword: str) -> Dataset:
    """Return a code of the scheme DCM, by pydicom's keyword, as an item of a code sequence (PS3.3 section 8)."""
    from pydicom.sr.codedict import codes  # loads its dictionaries, which only writing needs

    code, item = getattr(codes.DCM, keyword), Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def contributing_equipment(source: FrameHeader, provenance: Mapping[str, str]) -> list[Dataset]:
    """Return items (PS3.3 C.12.1.1.5) for what contributed to the source, for its scanner, and for this package."""
    scanner, package = Dataset(), Dataset()
    copy_attributes(scanner, source, EQUIPMENT)
    scanner.setdefault("Manufacturer", "unknown")
    scanner.PurposeOfReferenceCodeSequence = [code_item("AcquisitionEquipment")]
    package.Manufacturer, package.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    package.SoftwareVersions = __version__
    package.PurposeOfReferenceCodeSequence = [code_item("ProcessingEquipment")]
    package.ContributionDescription = derivation(provenance)
    return [*copy.deepcopy(list(source.get("ContributingEquipmentSequence", []))), scanner, package]


def derivation(provenance: Mapping[str, str]) -> str:
    """Describe the processing in at most 1024 characters; a longer text ends in the SHA-256 of the whole."""
    details = json.dumps(dict(provenance), sort_keys=True)
    text = f"Restored by {MODEL_NAME} {__version__}, {RESEARCH_USE_ONLY}: {details}"
    if len(text) <= _SHORT_TEXT:
        return text
    end = f" ... SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
    return text[: _SHORT_TEXT - len(end)] + end


def series_description(volume: DicomVolume, what: str) -> str:
    """Return the source's description, shortened to make room for ``what`` and for the intended use."""
    end = f" {what}, {RESEARCH_USE_ONLY}"
    return (volume.source.description[: max(0, _LONG_STRING - len(end))].rstrip() + end).strip()[:_LONG_STRING]


def decimal(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters (PS3.5 6.2), 10 digits or more."""
    return str(format_number_as_ds(float(value)))


EQUIPMENT = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)
"""Attributes of the scanner (General Equipment, PS3.3 C.7.5.1)."""
