"""Finding the MR series in a folder of DICOM files: headers only, told apart, sorted by geometry."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from monai_d3gm.data.formats.dicom.geometry import LPS_TO_RAS, Plane, distances, same_orientation, stack_affine
from monai_d3gm.data.formats.dicom.grouping import join_groups, over_folders, parallel_slices, split_volumes
from monai_d3gm.data.formats.dicom.headers import (
    DicomError,
    ForeignError,
    FrameHeader,
    is_dicom,
    quiet,
    read_header,
)
from monai_d3gm.data.formats.dicom.resolution import acquired_fraction
from monai_d3gm.data.formats.dicom.slices import Frame, Kind, Slice, slices_of
from monai_d3gm.files import TooLargeError, check_memory, one_line

if TYPE_CHECKING:
    from nibabel.nicom.dicomwrappers import MosaicWrapper

_COPIES = 3
"""Arrays of float32 that a volume takes: its frames, itself, and its results."""


@dataclass(frozen=True)
class Refusal:
    """A file that is not used, or not all of it, and why.

    Attributes:
        path: the file.
        reason: why.
        is_input: False for a sound file that is no MR image: a segmentation, another modality, a report.
    """

    path: Path
    reason: str
    is_input: bool = True


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
        warnings: oddities of the volume.
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
        The series, by number, and the refused files.

    Raises:
        DicomError: there is no such file or folder.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> series, refused = find_series(get_testdata_file("MR_small.dcm"))
        >>> series[0].kind, series[0].shape, refused
        ('classic', (64, 64, 1), [])
    """
    paths = [path] if isinstance(path, str | os.PathLike) else path
    refusals: list[Refusal] = []
    slices: list[Slice] = []
    instances: dict[tuple[Path, str], Path] = {}
    for file in dict.fromkeys(file for each in paths for file in _files(Path(each), recursive)):
        try:
            dataset = read_header(file)
            first = instances.setdefault((file.parent, str(dataset.get("SOPInstanceUID", file))), file)
            if first != file:
                raise DicomError(file, f"the same instance as {first.name}.")
            slices += slices_of(file, dataset)
        except DicomError as error:
            refusals.append(Refusal(file, error.reason, not isinstance(error, ForeignError)))
    found: list[tuple[tuple[Any, ...], DicomSeries]] = []
    for whole, copies in over_folders(slices):
        refusals += [Refusal(item.frame.path, "the same instance as in another folder.") for item in copies]
        groups = defaultdict(list)
        for item in whole:
            groups[item.group].append(item)
        joined = join_groups([groups[key] for key in sorted(groups)])
        for group, notes in joined:
            kept, strays = parallel_slices(group)
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


def _volumes(group: list[Slice], firsts: Iterable[Slice], remarks: Sequence[str]) -> list[DicomSeries]:
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
    parts, notes = split_volumes(group)
    names = [_name(first, echo) + (f"_v{i + 1}" if len(parts) > 1 else "") for i in range(len(parts))]
    return [_describe(part, name, echo, [*remarks, *notes]) for part, name in zip(parts, names, strict=True)]


def _describe(volume: list[Slice], name: str, echo: int, notes: Sequence[str]) -> DicomSeries:
    """Sort a volume by geometry and collect its oddities."""
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


def _notes(volume: Sequence[Slice], shape: tuple[int, int, int], fraction: tuple[float, float]) -> list[str]:
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


def _name(item: Slice, echo: int) -> str:
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
