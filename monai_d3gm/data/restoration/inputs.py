"""Inputs to restore: which files and slices are taken, and what a writer of the restored volume needs to know."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nibabel
import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.nifti import files_of
from monai_d3gm.data.formats.registry import KINDS, Kind, kind_of, stem_of

if TYPE_CHECKING:
    from monai_d3gm.data.formats.dicom import DicomVolume

__all__ = ["InputVolume", "check_slices", "find_inputs", "spread"]


@dataclass(frozen=True)
class InputVolume:
    """One input file and what a writer of its restored volume needs.

    Attributes:
        path: the file.
        stem: its name without suffixes; the first part of each slice's key.
        kind: what the file is, and so in which format its restored volume is written.
        shape: rows, columns and slices of the volume to write, in the orientation of the file.
        slices: numbers of the slices that are restored.
        skipped: numbers of the slices of a magnitude volume that are zero everywhere.
        affine: (4, 4), from voxels of the volume to write to world in mm; spacing only for fastMRI files.
        header: the NIfTI header, or None.
        simulated: True where k-space is simulated.
        coils: number of coils; 0 where there is no k-space.
        has_truth: a reference image is known.
        kept_band: share of the band kept along rows and columns; below 1 where the input was interpolated.
        attributes: attributes of a fastMRI file.
        slice_axis: axis of the volume to write along which its slices lie.
        origin: what the data are, for the report.
        warnings: what a reader of the result must know.
        dicom: the series that the volume was read from, or None.
    """

    path: Path
    stem: str
    kind: Literal["kspace", "nifti", "dicom", "image"]
    shape: tuple[int, int, int]
    slices: tuple[int, ...]
    skipped: tuple[int, ...]
    affine: NDArray[np.float64]
    header: nibabel.Nifti1Header | None
    simulated: bool
    coils: int
    has_truth: bool
    kept_band: tuple[float, float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    slice_axis: int = 2
    origin: str = ""
    warnings: tuple[str, ...] = ()
    dicom: DicomVolume | None = None


_CENTRAL = re.compile(r"central:([1-9]\d*)")


def check_slices(slices: str | int) -> None:
    """Raise ValueError unless ``slices`` is "all", a number above 0, or "central:" and such a number.

    >>> check_slices("all"), check_slices("central:60")
    (None, None)
    """
    if isinstance(slices, str):
        accepted = slices == "all" or _CENTRAL.fullmatch(slices) is not None
    else:
        accepted = isinstance(slices, int) and not isinstance(slices, bool) and slices >= 1
    if not accepted:
        raise ValueError(f"slices is {slices!r}; accepted: 'all', a number above 0, or such as 'central:60'.")


def spread(count: int, wanted: str | int) -> list[int]:
    """Return which of ``count`` slices are taken: all, the middles of ``wanted`` equal parts, or the central ones.

    >>> spread(10, 2), spread(2, "all"), spread(2, 5), spread(10, "central:4")
    ([2, 7], [0, 1], [0, 1], [3, 4, 5, 6])
    """
    if isinstance(wanted, str):
        number = count if wanted == "all" else min(int(wanted.removeprefix("central:")), count)
        return list(range((count - number) // 2, (count - number) // 2 + number))
    number = min(wanted, count)
    return [int((i + 0.5) * count / number) for i in range(number)]


def find_inputs(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], kinds: Sequence[Kind] = tuple(KINDS)
) -> list[Path]:
    """Return the input files: those given, and of each folder given its files of some kinds, by name.

    The content decides, and where it says nothing the suffix.

    Raises:
        ValueError: a path does not exist, a folder has no such file, or two files share a name without suffix.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> len(find_inputs(bundled_epi_path()))
    1
    """
    files: list[Path] = []
    for entry in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        path = Path(entry)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            found = [p for p in found if kind_of(p) in kinds]
            if not found:
                accepted = ", ".join(KINDS[kind] for kind in kinds)
                raise ValueError(f"{path}: the folder has no input; accepted: {accepted}.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path}: no such file or folder.")
    files = [path for path in files if files_of(path)[0] == path or files_of(path)[0] not in files]  # halves of a pair
    if not files:
        raise ValueError("inputs is empty; accepted: files or folders.")
    seen: dict[str, Path] = {}
    for path in files:
        other = seen.setdefault(stem_of(path), path)
        if other is not path:
            raise ValueError(f"{path} and {other} would be written to the same output; rename one.")
    return files
