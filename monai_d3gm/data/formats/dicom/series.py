"""Finding the MR series in a folder of DICOM files: headers only, told apart, sorted by geometry."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset

from monai_d3gm.data.formats.dicom.geometry import (
    LPS_TO_RAS,
    SAME_POSITION,
    Plane,
    distances,
    is_even,
    same_orientation,
    stack_affine,
)
from monai_d3gm.data.formats.dicom.headers import (
    MULTI_FRAME,
    DicomError,
    ForeignError,
    FrameHeader,
    is_dicom,
    one_line,
    quiet,
    read_header,
)
from monai_d3gm.data.formats.dicom.resolution import acquired_fraction
from monai_d3gm.files import TooLargeError, check_memory

if TYPE_CHECKING:
    from nibabel.nicom.dicomwrappers import MosaicWrapper

Kind = Literal["classic", "enhanced", "mosaic"]

_COMPONENTS = {"P": "phase", "PHASE": "phase", "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary"}
_GE_COMPONENTS = ("magnitude", "phase", "real", "imaginary")
_VOLUME_KEYS = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "AcquisitionNumber",
    "TriggerTime",
    "NominalCardiacTriggerDelayTime",
    "InversionTime",
    "FlipAngle",
)
_COPIES = 3
"""Arrays of float32 that a volume takes: the frames, the volume, and what is made of it."""
_NEAR_ECHO = 0.05
"""Echo times that differ by less than this share may be one that jitters from slice to slice."""
_NEAR_SPACING = 0.01
"""The same of pixel spacings."""


@dataclass(frozen=True)
class Refusal:
    """A file that is not used, or not all of it, and why.

    Attributes:
        path: the file.
        reason: why.
        is_input: False for what is sound and no MR image, such as a segmentation, another modality or a report.
    """

    path: Path
    reason: str
    is_input: bool = True


@dataclass(frozen=True)
class Frame:
    """One slice: a file, the index of the frame in it from 0, and where the slice lies."""

    path: Path
    number: int
    plane: Plane


@dataclass(frozen=True)
class DicomSeries:
    """One volume of an MR series.

    Attributes:
        name: unique among the series of a folder and fit for a file name: number, description and echo, and the
            number of the volume where the series has several.
        kind: "classic", one slice a file; "enhanced", multi-frame; "mosaic", the slices of a volume tiled in one image.
        description: SeriesDescription, or ProtocolName.
        series_uid: SeriesInstanceUID.
        echo: number of the echo, from 1.
        shape: columns, rows, slices.
        acquired_fraction: share of the band acquired along a row and along a column (`acquired_fraction`).
        frames: the slices, sorted along their normal; for a mosaic the one image.
        affine: (4, 4), from (column, row, slice) to RAS+ in mm.
        warnings: what is odd about it.
    """

    name: str
    kind: Kind
    description: str
    series_uid: str
    echo: int
    shape: tuple[int, int, int]
    acquired_fraction: tuple[float, float]
    frames: tuple[Frame, ...] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, each once, in the order of the slices."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def folder(self) -> Path:
        """The folder that holds all of the files, be it in its own folders."""
        return Path(os.path.commonpath([path.parent for path in self.files]))


@dataclass(frozen=True)
class _Slice:
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


@quiet()
def find_series(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, recursive: bool = False
) -> tuple[list[DicomSeries], list[Refusal]]:
    """Find the MR series in files and folders, reading headers only.

    Slices are told apart by series, echo, image type, stack, matrix and spacing. Where one of these jitters from slice
    to slice, the parts are joined again: no two of their slices lie at one position, and their echo times and spacings
    are near each other or all of them lie in equal steps; a warning says what differs. A series that was divided over
    folders is one as well, unless a folder holds a copy of it or other volumes at the same positions.

    A series of several volumes (time points, b-values, cardiac phases) becomes one `DicomSeries` each: by temporal
    position, b-value, acquisition number and the like where one or two of these separate them, else in the order of
    acquisition, with a warning. Phase, real and imaginary images are refused, and of slices of several orientations all
    but those that are parallel to more than half of them. Files in a folder that are no DICOM are passed over.

    Args:
        path: a file, a folder, or several of them.
        recursive: also look into the folders of the folder; hidden ones are passed over.

    Returns:
        The series, by number, and what is refused.

    Raises:
        DicomError: there is no such file or folder.

    >>> from pydicom.data import get_testdata_file
    >>> series, refused = find_series(get_testdata_file("MR_small.dcm"))
    >>> series[0].kind, series[0].shape, refused
    ('classic', (64, 64, 1), [])
    """
    paths = [path] if isinstance(path, str | os.PathLike) else path
    refusals: list[Refusal] = []
    slices: list[_Slice] = []
    instances: dict[tuple[Path, str], Path] = {}
    for file in dict.fromkeys(file for each in paths for file in _files(Path(each), recursive)):
        try:
            dataset = read_header(file)
            first = instances.setdefault((file.parent, str(dataset.get("SOPInstanceUID", file))), file)
            if first != file:
                raise DicomError(file, f"the same instance as {first.name}.")
            slices += _slices(file, dataset)
        except DicomError as error:
            refusals.append(Refusal(file, error.reason, not isinstance(error, ForeignError)))
    found: list[tuple[tuple[Any, ...], DicomSeries]] = []
    for whole, copies in _over_folders(slices):
        refusals += [Refusal(item.frame.path, "the same instance as in another folder.") for item in copies]
        groups = defaultdict(list)
        for item in whole:
            groups[item.group].append(item)
        joined = _join([groups[key] for key in sorted(groups)])
        for group, notes in joined:
            kept, strays = _parallel(group)
            for stray in strays:
                reason = f"of another orientation than {len(kept)} parallel slices of its series."
                refusals.append(Refusal(stray.frame.path, reason))
            try:
                found += [(kept[0].group, v) for v in _volumes(kept, [one[0] for one, _ in joined], notes)]
            except TooLargeError as error:
                refusals += [Refusal(p, str(error)) for p in dict.fromkeys(s.frame.path for s in kept)]
            except Exception as error:  # pydicom converts values when they are asked for
                reason = error.reason if isinstance(error, DicomError) else f"damaged header: {one_line(error)}"
                refusals += [Refusal(p, reason) for p in dict.fromkeys(s.frame.path for s in kept)]
    return _unique_names([volume for _, volume in sorted(found, key=lambda pair: pair[0])]), refusals


def _files(path: Path, recursive: bool) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DicomError(path, "no such file or folder.")
    found = (p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts))
    return sorted(p for p in (found if recursive else path.iterdir()) if not p.name.startswith(".") and is_dicom(p))


def _over_folders(slices: Sequence[_Slice]) -> list[tuple[list[_Slice], list[_Slice]]]:
    """The slices of each series, from all folders that belong together, and those that are in another of them too."""
    by_series: dict[tuple[str, ...], dict[Path, list[_Slice]]] = defaultdict(lambda: defaultdict(list))
    for item in slices:
        by_series[item.series][item.frame.path.parent].append(item)
    result: list[tuple[list[_Slice], list[_Slice]]] = []
    for folders in by_series.values():
        parts: list[tuple[list[_Slice], list[_Slice]]] = []
        for content in folders.values():
            for kept, copies in parts:
                there, here = _instances(kept), _instances(content)
                new = [item for number, item in here.items() if number not in there]
                taken = {(item.group, item.place) for item in kept}
                if new and not there.keys() <= here.keys() and not any((s.group, s.place) in taken for s in new):
                    kept += new
                    copies += [item for number, item in here.items() if number in there]
                    break
            else:
                parts.append((list(content), []))
        result += parts
    return result


def _instances(slices: Iterable[_Slice]) -> dict[tuple[str, int], _Slice]:
    """Slices by their instance and frame."""
    return {(str(s.header.get("SOPInstanceUID", s.frame.path)), s.frame.number): s for s in slices}


def _join(groups: Sequence[list[_Slice]]) -> list[tuple[list[_Slice], list[str]]]:
    """Join the groups of a series that an attribute tells apart which jitters, and say so.

    Near groups are joined where they have no position in common; then those that together lie in equal steps. Of groups
    that stay apart though their slices lie between one another, each says so.
    """
    clusters: list[list[list[_Slice]]] = []
    for group in groups:
        for cluster in clusters:
            if all(_near(group[0], other[0]) for other in cluster) and _complement([group, *cluster]):
                cluster.append(group)
                break
        else:
            clusters.append([group])
    whole: list[list[list[_Slice]]] = []
    for cluster in clusters:
        for other in whole:
            together = [*cluster, *other]
            planes = {item.place: item.frame.plane for group in together for item in group}
            if _alike(cluster[0][0], other[0][0]) and _complement(together) and is_even(list(planes.values())):
                other += cluster
                break
        else:
            whole.append(cluster)
    result = []
    for cluster in whole:
        notes = []
        if len(cluster) > 1:
            notes.append(f"the slices of this volume differ in {_differences(cluster)}.")
        for other in whole:
            if other is not cluster and _alike(cluster[0][0], other[0][0]) and _interleaved(cluster, other):
                notes.append(f"slices between these differ in {_differences([*cluster, *other])}: another volume.")
        result.append(([item for group in cluster for item in group], notes))
    return result


def _alike(first: _Slice, other: _Slice) -> bool:
    """Whether two slices can be of one volume at all."""
    planes = first.frame.plane, other.frame.plane
    return (first.component, first.kind, first.shape) == (other.component, other.kind, other.shape) and (
        first.kind != "mosaic" and same_orientation(*planes)
    )


def _near(first: _Slice, other: _Slice) -> bool:
    """Whether what tells two slices apart is small, or says little."""
    echoes, spacings = (first.echo_time, other.echo_time), (first.frame.plane.spacing, other.frame.plane.spacing)
    return (
        _alike(first, other)
        and str(first.header.get("StackID", "")) == str(other.header.get("StackID", ""))
        and abs(echoes[0] - echoes[1]) <= _NEAR_ECHO * max(echoes)
        and bool(np.allclose(*spacings, rtol=_NEAR_SPACING))
    )


def _complement(groups: Sequence[Sequence[_Slice]]) -> bool:
    """Whether no two groups, each of parallel slices, have a position in common."""
    places = [{item.place for item in group} for group in groups]
    parallel = all(same_orientation(groups[0][0].frame.plane, item.frame.plane) for group in groups for item in group)
    return parallel and len(set().union(*places)) == sum(map(len, places))


def _interleaved(first: Sequence[Sequence[_Slice]], other: Sequence[Sequence[_Slice]]) -> bool:
    """Whether two clusters have no position in common and slices of one lie between those of the other."""
    if not _complement([*first, *other]):
        return False
    origin = first[0][0].frame.plane
    spans = [
        np.array([s.frame.plane.position for group in each for s in group]) @ origin.normal for each in (first, other)
    ]
    return bool(spans[0].min() < spans[1].max() and spans[1].min() < spans[0].max())


def _differences(groups: Sequence[Sequence[_Slice]]) -> str:
    """What tells groups apart, with the values of numbers."""
    found = []
    for name, values in (
        ("SeriesNumber", {group[0].number for group in groups}),
        ("EchoNumbers", {group[0].echo_number for group in groups}),
        ("EchoTime", {group[0].echo_time for group in groups}),
        ("StackID", {str(group[0].header.get("StackID", "")) for group in groups}),
        ("ImageType", {group[0].image_type for group in groups}),
        ("PixelSpacing", {group[0].frame.plane.spacing for group in groups}),
    ):
        if len(values) > 1:
            numbers = all(isinstance(value, int | float) for value in values)
            found.append(f"{name} ({min(values):g} to {max(values):g})" if numbers else name)
    return ", ".join(found)


def _parallel(group: list[_Slice]) -> tuple[list[_Slice], list[_Slice]]:
    """The slices that are parallel to more than half of a group, and the strays; all where there are none."""
    for item in group:
        kept = [s for s in group if same_orientation(s.frame.plane, item.frame.plane)]
        if 2 * len(kept) > len(group):
            return kept, [s for s in group if not same_orientation(s.frame.plane, item.frame.plane)]
    return group, []


def _slices(path: Path, dataset: Dataset) -> list[_Slice]:
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


def _slice(path: Path, header: FrameHeader, number: int, kind: Any) -> _Slice:
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
    return _Slice(Frame(path, number, plane), header, kind, _component(header))


def _component(header: FrameHeader) -> str:
    """magnitude, phase, real or imaginary: PS3.3 C.8.13.3.1.1, else what the vendors write into ImageType."""
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


def _volumes(group: list[_Slice], firsts: Iterable[_Slice], remarks: Sequence[str]) -> list[DicomSeries]:
    """The volumes that a group of slices consists of.

    Args:
        group: the slices.
        firsts: the first slice of each group of the same series.
        remarks: warnings that hold for all of the group.

    Raises:
        DicomError: the group is not of magnitude images or not of parallel slices.
    """
    first = group[0]
    subject = _name(first, 1)
    if first.component != "magnitude":
        raise DicomError(subject, f"{len(group)} slices of the {first.component} part; accepted: magnitude images.")
    distinct: list[Plane] = []
    for item in group:
        if not any(same_orientation(item.frame.plane, plane) for plane in distinct):
            distinct.append(item.frame.plane)
    if len(distinct) > 1:
        raise DicomError(
            subject, f"{len(group)} slices in {len(distinct)} orientations, as of a localiser; accepted: parallel ones."
        )
    series = (first.uid, first.number, "magnitude")
    times = sorted({s.echo_time for s in firsts if (s.uid, s.number, s.component) == series} | {first.echo_time})
    echo = first.echo_number if first.echo_number > 0 else 1 + times.index(first.echo_time)
    parts, notes = _split(group)
    names = [_name(first, echo) + (f"_v{i + 1}" if len(parts) > 1 else "") for i in range(len(parts))]
    return [_describe(part, name, echo, [*remarks, *notes]) for part, name in zip(parts, names, strict=True)]


def _positions(slices: Sequence[_Slice]) -> NDArray[np.intp]:
    """A number for each slice, equal for slices at one position."""
    along = distances([s.frame.plane for s in slices])
    order = np.argsort(along, kind="stable")
    labels = np.empty(len(along), dtype=np.intp)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_POSITION)])
    return labels


def _split(group: list[_Slice]) -> tuple[list[list[_Slice]], list[str]]:
    """Divide slices into volumes in which no position occurs twice, and say how where it is a guess."""
    if group[0].kind == "mosaic":
        return [[s] for s in sorted(group, key=lambda s: s.acquired)], []
    labels = _positions(group)
    repeats = int(np.bincount(labels).max())
    if repeats == 1:
        return [group], []
    keys = {keyword: [_sortable(s.header.get(keyword)) for s in group] for keyword in _VOLUME_KEYS}
    keys["DimensionIndexValues"] = [_other_dimensions(s.header) for s in group]
    for size in (1, 2):
        for chosen in itertools.combinations(keys, size):
            values = list(zip(*(keys[keyword] for keyword in chosen), strict=True))
            distinct = len(set(zip(values, labels.tolist(), strict=True)))
            if len(set(values)) == repeats and distinct == len(group):
                parts = defaultdict(list)
                for value, item in zip(values, group, strict=True):
                    parts[value].append(item)
                return [parts[value] for value in sorted(parts)], []
    volumes: list[list[_Slice]] = [[] for _ in range(repeats)]
    seen: dict[int, int] = defaultdict(int)
    for label, item in sorted(zip(labels.tolist(), group, strict=True), key=lambda pair: pair[1].acquired):
        volumes[seen[label]].append(item)
        seen[label] += 1
    return volumes, [f"positions occur up to {repeats} times; the volumes are told apart by order of acquisition."]


def _sortable(value: Any) -> tuple[Any, ...]:
    return tuple(np.atleast_1d(value).astype(float)) if value is not None else ()


def _other_dimensions(header: FrameHeader) -> tuple[Any, ...]:
    """The dimension indices that are not those of the position."""
    where = {"StackID", "InStackPositionNumber", "ImagePositionPatient", "ImageOrientationPatient"}
    values = np.atleast_1d(header.get("DimensionIndexValues", []))
    dimensions = header.get("DimensionIndexSequence", [])
    pointers = [keyword_for_tag(dimension.get("DimensionIndexPointer", 0)) for dimension in dimensions]
    return tuple(int(v) for v, pointer in zip(values, pointers, strict=False) if pointer not in where)


def _describe(volume: list[_Slice], name: str, echo: int, notes: Sequence[str]) -> DicomSeries:
    """Sort a volume by geometry and collect what is odd about it."""
    along = distances([s.frame.plane for s in volume])
    volume = [volume[i] for i in np.argsort(along)]
    header, frames = volume[0].header, tuple(s.frame for s in volume)
    if volume[0].kind == "mosaic":
        shape, affine, odd = _unfold(frames[0].path, header)
    else:
        # nuclear medicine gives the spacing a sign; 0 says nothing
        between = abs(header.number("SpacingBetweenSlices"))
        step = between or abs(header.number("SliceThickness"))
        affine, odd = stack_affine([frame.plane for frame in frames], step or 1.0)
        shape = (*volume[0].shape, len(volume))
        spacing = float(np.linalg.norm(affine[:3, 2]))
        if not step and len(volume) == 1:
            odd.append("no slice thickness; 1 mm is taken.")
        elif between and abs(spacing / between - 1) > 0.01 and not odd:
            odd.append(f"SpacingBetweenSlices is {between:.6g} mm, the slices lie {spacing:.6g} mm apart.")
    check_memory(name, f"a volume of {shape} voxels", int(np.prod(shape, dtype=np.int64)) * 4 * _COPIES)
    fraction = acquired_fraction(header, shape[:2])
    return DicomSeries(
        name=name,
        kind=volume[0].kind,
        description=_description(header),
        series_uid=volume[0].uid,
        echo=echo,
        shape=shape,
        acquired_fraction=fraction,
        frames=frames,
        affine=affine,
        warnings=(*notes, *odd, *_notes(volume, shape, fraction)),
    )


def _notes(volume: Sequence[_Slice], shape: tuple[int, int, int], fraction: tuple[float, float]) -> list[str]:
    notes = []
    if min(fraction) < 1:
        acquired = " x ".join(f"{round(f * n)}" for f, n in zip(fraction, shape, strict=False))
        stored = f"{shape[0]} x {shape[1]}"
        notes.append(f"interpolated by the scanner: acquired {acquired}, stored {stored} (along row, column).")
    image_type = volume[0].image_type
    if "DERIVED" in image_type[:1] or "SECONDARY" in image_type[1:2]:
        notes.append(f"not an original image: {'/'.join(image_type)}.")
    for keyword, value, note in (
        ("LossyImageCompression", "01", "compressed with loss."),
        ("PhotometricInterpretation", "MONOCHROME1", "MONOCHROME1: inverted, so that bright is high."),
        ("BurnedInAnnotation", "YES", "has annotations burned into the pixels."),
    ):
        if any(s.header.get(keyword) == value for s in volume):
            notes.append(note)
    return notes


def _unfold(path: Path, header: FrameHeader) -> tuple[tuple[int, int, int], NDArray[np.float64], list[str]]:
    """Shape and affine of the volume in a mosaic."""
    wrapper = mosaic_wrapper(path, header.dataset)
    rows, columns, slices = wrapper.image_shape
    # nibabel indexes (row, column, slice) and works in LPS
    affine = LPS_TO_RAS @ wrapper.affine[:, [1, 0, 2, 3]]
    return (columns, rows, slices), affine, []


def mosaic_wrapper(path: Path, dataset: Dataset) -> MosaicWrapper:
    """Return nibabel's reader of a Siemens mosaic; it needs the private CSA header.

    Raises:
        DicomError: the CSA header is missing or does not say how many slices there are.
    """
    try:
        with quiet():  # nibabel calls the module experimental when it is imported
            from nibabel.nicom.dicomwrappers import wrapper_from_data

            wrapper = wrapper_from_data(dataset)
            usable = wrapper.is_mosaic and wrapper.affine is not None
    except Exception as error:  # nibabel raises many kinds for a damaged CSA header
        raise DicomError(path, f"the mosaic cannot be unpacked: {one_line(error)}") from error
    if not usable:
        raise DicomError(path, "a mosaic without the CSA header that says how many slices it holds.")
    return wrapper


def _description(header: FrameHeader) -> str:
    return str(header.get("SeriesDescription", header.get("ProtocolName", ""))).strip()


def _name(item: _Slice, echo: int) -> str:
    words = re.sub(r"[^A-Za-z0-9-]+", "_", _description(item.header)).strip("_-")[:40] or "MR"
    return f"s{item.number:03d}_{words}_e{echo}"


def _unique_names(series: list[DicomSeries]) -> list[DicomSeries]:
    """Number the series of a folder that would share a name."""
    taken: set[tuple[Path, str]] = set()
    unique = []
    for item in series:
        names = itertools.chain([item.name], (f"{item.name}_{i}" for i in itertools.count(2)))
        name = next(n for n in names if (item.folder, n.lower()) not in taken)
        taken.add((item.folder, name.lower()))
        unique.append(replace(item, name=name))
    return unique
