"""Which slices make a volume: over folders, over attributes that jitter, and apart where positions occur again."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag

from monai_d3gm.data.formats.dicom.geometry import SAME_POSITION, distances, is_even, same_orientation
from monai_d3gm.data.formats.dicom.headers import FrameHeader
from monai_d3gm.data.formats.dicom.slices import Slice

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
_NEAR_ECHO = 0.05
"""Echo times that differ by less than this share may be one that jitters from slice to slice."""
_NEAR_SPACING = 0.01
"""The same of pixel spacings."""


def over_folders(slices: Sequence[Slice]) -> list[tuple[list[Slice], list[Slice]]]:
    """The slices of each series, from all folders that belong together, and those that are in another of them too."""
    by_series: dict[tuple[str, ...], dict[Path, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    for item in slices:
        by_series[item.series][item.frame.path.parent].append(item)
    result: list[tuple[list[Slice], list[Slice]]] = []
    for folders in by_series.values():
        parts: list[tuple[list[Slice], list[Slice]]] = []
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


def _instances(slices: Iterable[Slice]) -> dict[tuple[str, int], Slice]:
    """Slices by their instance and frame."""
    return {(str(s.header.get("SOPInstanceUID", s.frame.path)), s.frame.number): s for s in slices}


def join_groups(groups: Sequence[list[Slice]]) -> list[tuple[list[Slice], list[str]]]:
    """Join the groups of a series that an attribute tells apart which jitters, and say so.

    Near groups are joined where they have no position in common; then those that together lie in equal steps. Of groups
    that stay apart though their slices lie between one another, each says so.
    """
    clusters: list[list[list[Slice]]] = []
    for group in groups:
        for cluster in clusters:
            if all(_near(group[0], other[0]) for other in cluster) and _complement([group, *cluster]):
                cluster.append(group)
                break
        else:
            clusters.append([group])
    whole: list[list[list[Slice]]] = []
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


def _alike(first: Slice, other: Slice) -> bool:
    """Whether two slices can be of one volume at all."""
    planes = first.frame.plane, other.frame.plane
    return (first.component, first.kind, first.shape) == (other.component, other.kind, other.shape) and (
        first.kind != "mosaic" and same_orientation(*planes)
    )


def _near(first: Slice, other: Slice) -> bool:
    """Whether what tells two slices apart is small, or says little."""
    echoes, spacings = (first.echo_time, other.echo_time), (first.frame.plane.spacing, other.frame.plane.spacing)
    return (
        _alike(first, other)
        and str(first.header.get("StackID", "")) == str(other.header.get("StackID", ""))
        and abs(echoes[0] - echoes[1]) <= _NEAR_ECHO * max(echoes)
        and bool(np.allclose(*spacings, rtol=_NEAR_SPACING))
    )


def _complement(groups: Sequence[Sequence[Slice]]) -> bool:
    """Whether no two groups, each of parallel slices, have a position in common."""
    places = [{item.place for item in group} for group in groups]
    parallel = all(same_orientation(groups[0][0].frame.plane, item.frame.plane) for group in groups for item in group)
    return parallel and len(set().union(*places)) == sum(map(len, places))


def _interleaved(first: Sequence[Sequence[Slice]], other: Sequence[Sequence[Slice]]) -> bool:
    """Whether two clusters have no position in common and slices of one lie between those of the other."""
    if not _complement([*first, *other]):
        return False
    origin = first[0][0].frame.plane
    spans = [
        np.array([s.frame.plane.position for group in each for s in group]) @ origin.normal for each in (first, other)
    ]
    return bool(spans[0].min() < spans[1].max() and spans[1].min() < spans[0].max())


def _differences(groups: Sequence[Sequence[Slice]]) -> str:
    """The attributes that tell groups apart, with the values of numbers."""
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


def parallel_slices(group: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """The slices that are parallel to more than half of a group, and the strays; all where there are none."""
    for item in group:
        kept = [s for s in group if same_orientation(s.frame.plane, item.frame.plane)]
        if 2 * len(kept) > len(group):
            return kept, [s for s in group if not same_orientation(s.frame.plane, item.frame.plane)]
    return group, []


def _positions(slices: Sequence[Slice]) -> NDArray[np.intp]:
    """A number for each slice, equal for slices at one position."""
    along = distances([s.frame.plane for s in slices])
    order = np.argsort(along, kind="stable")
    labels = np.empty(len(along), dtype=np.intp)
    labels[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > SAME_POSITION)])
    return labels


def split_volumes(group: list[Slice]) -> tuple[list[list[Slice]], list[str]]:
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
    volumes: list[list[Slice]] = [[] for _ in range(repeats)]
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
