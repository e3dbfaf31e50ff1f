"""The slices of DICOM files, with the attributes that they are sorted by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset

from monai_d3gm.data.formats.dicom.geometry import Plane
from monai_d3gm.data.formats.dicom.headers import MULTI_FRAME, DicomError, FrameHeader
from monai_d3gm.files import one_line

Kind = Literal["classic", "enhanced", "mosaic"]

_COMPONENTS = {"P": "phase", "PHASE": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary"}
_GE_COMPONENTS = ("magnitude", "phase", "real", "imaginary")


@dataclass(frozen=True)
class Frame:
    """One slice: a file, the index of the frame in it from 0, and where the slice lies."""

    path: Path
    number: int
    plane: Plane


@dataclass(frozen=True)
class Slice:
    """A frame while the scan sorts it: with the attributes that it is sorted by."""

    frame: Frame
    header: FrameHeader
    kind: Kind
    component: str

    @property
    def number(self) -> int:
        return int(self.header.number("SeriesNumber"))

    @property
    def uid(self) -> str:
        return str(self.header.get("SeriesInstanceUID", ""))

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.header.get("Columns")), int(self.header.get("Rows"))

    @cached_property
    def echo_time(self) -> float:
        return round(self.header.number("EffectiveEchoTime", self.header.number("EchoTime")), 4)

    @property
    def echo_number(self) -> int:
        return int(np.atleast_1d(self.header.get("EchoNumbers", 0))[0])

    @property
    def image_type(self) -> tuple[str, ...]:
        return tuple(str(v) for v in np.atleast_1d(self.header.get("FrameType", self.header.get("ImageType", ""))))

    @property
    def place(self) -> tuple[float, ...]:
        """The position, equal for slices at one place."""
        return tuple(round(v, 2) + 0.0 for v in self.frame.plane.position)

    @cached_property
    def series(self) -> tuple[str, str, str]:
        """Slices that differ in this have nothing to do with one another."""
        study, patient = (str(self.header.get(keyword, "")) for keyword in ("StudyInstanceUID", "PatientID"))
        return self.uid, study, patient

    @cached_property
    def group(self) -> tuple[Any, ...]:
        """Slices that differ in this belong to different series; it also sorts the series."""
        stack = str(self.header.get("StackID", ""))
        spacing = tuple(round(v, 4) for v in self.frame.plane.spacing)
        echo = (self.echo_number, self.echo_time)
        return self.number, self.uid, echo, self.component, self.kind, stack, self.image_type, self.shape, spacing

    @property
    def acquired(self) -> tuple[float, int, str, int]:
        """The order of acquisition."""
        instance = int(self.header.number("InstanceNumber"))
        return self.header.number("AcquisitionNumber"), instance, str(self.frame.path), self.frame.number


def slices_of(path: Path, dataset: Dataset) -> list[Slice]:
    """The frames of a file.

    Raises:
        DicomError: one of them has no usable geometry, or their number is wrong.
    """
    count, kind = 1, "classic"
    if dataset.SOPClassUID in MULTI_FRAME:
        count, kind = int(dataset.get("NumberOfFrames") or 1), "enhanced"
        groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
        if len(groups) != count:
            raise DicomError(path, f"functional groups for {len(groups)} of {count} frames; no geometry without them.")
    elif "MOSAIC" in dataset.get("ImageType", ()):
        kind = "mosaic"
    try:
        slices = [_slice(path, FrameHeader(dataset, number), number, kind) for number in range(count)]
        for item in slices:
            hash((item.group, item.acquired, item.series, item.place))
        return slices
    except DicomError:
        raise
    except Exception as error:  # as above
        raise DicomError(path, f"damaged header: {one_line(error)}") from error


def _slice(path: Path, header: FrameHeader, number: int, kind: Any) -> Slice:
    attributes = (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2))
    values = [header.floats(keyword, count) for keyword, count in attributes]
    for (keyword, count), value in zip(attributes, values, strict=True):
        if value is None:
            stated = header.get(keyword, "missing")
            raise DicomError(path, f"no geometry: {keyword} is {stated}; accepted: {count} numbers.")
    plane = Plane(*values)  # type: ignore[arg-type]  # none of them is None
    if not plane.is_valid:
        raise DicomError(
            path,
            f"ImageOrientationPatient {plane.orientation}, PixelSpacing {plane.spacing}; "
            "accepted: perpendicular unit vectors, positive spacing.",
        )
    return Slice(Frame(path, number, plane), header, kind, _component(header))


def _component(header: FrameHeader) -> str:
    """magnitude, phase, real or imaginary: PS3.3 C.8.13.3.1.1, else the vendors' values of ImageType."""
    stated = str(header.get("ComplexImageComponent", ""))
    if stated in _COMPONENTS:
        return _COMPONENTS[stated]
    for value in np.atleast_1d(header.get("FrameType", header.get("ImageType", ""))).tolist()[2:]:
        # "P", "PHASE MAP" and, from Philips, "P_FFE", "R_IR"
        first_word = re.split(r"[ _]", value.upper())[0]
        if first_word in _COMPONENTS:
            return _COMPONENTS[first_word]
    raw_type = header.private("GEMS_PARM_01", 0x0043, 0x2F)
    return _GE_COMPONENTS[raw_type] if raw_type in (1, 2, 3) else "magnitude"
