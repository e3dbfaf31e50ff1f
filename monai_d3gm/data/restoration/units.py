"""Finds what can be restored in a tree of files: units in a fixed order, and what is in none of them."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_d3gm.data.formats.dicom import DicomSeries, find_series
from monai_d3gm.data.formats.nifti import files_of
from monai_d3gm.data.formats.registry import KINDS, Kind, claimed, recognise, stem_of, suffix_of

__all__ = ["InputError", "InputUnit", "Problem", "find_units"]


_LONGEST_NAME = 255 - len("_interval.nii.gz")
"""Bytes of a name without suffix that leave room for those of the results on all common file systems."""


class InputError(ValueError):
    """There is nothing to restore at a path; the message names it."""


@dataclass(frozen=True)
class InputUnit:
    """What is restored in one go: a file, or the files of a DICOM series.

    Attributes:
        kind: what it is.
        files: its files.
        relative: its folder below the one that was searched, and its name without suffix.
    """

    kind: Kind
    files: tuple[Path, ...]
    relative: Path


@dataclass(frozen=True)
class Problem:
    """A file that is in no unit.

    Attributes:
        path: the file.
        reason: why.
        kind: what it is or, by its name, is meant to be; None for what is no input at all.
        failed: it is an input that was asked for, or it cannot be read and nobody knows; False for what is passed over.
    """

    path: Path
    reason: str
    kind: Kind | None = None
    failed: bool = False


def find_units(
    root: str | os.PathLike[str], kinds: Sequence[Kind] = tuple(KINDS), leave_out: str | os.PathLike[str] | None = None
) -> tuple[list[InputUnit], list[Problem]]:
    """Find all that can be restored in a file or a tree of folders.

    Hidden files and folders are passed over. Links to folders and links that lead out of the tree are not followed.

    Args:
        root: a file or a folder.
        kinds: those that are wanted.
        leave_out: a folder that is not searched, such as that of the results.

    Returns:
        The units, and the files that are in none of them with the reason; both in the order of their paths, the same
        on every machine.

    Raises:
        InputError: there is no such file or folder.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> units, problems = find_units(bundled_epi_path())
    >>> units[0].kind, str(units[0].relative), problems
    ('nifti', 'example4d', [])
    """
    root = Path(root)
    if not os.path.lexists(root):
        raise InputError(f"{root}: no such file or folder.")
    base = root if root.is_dir() else root.parent
    found: list[InputUnit] = []
    dicom: list[Path] = []
    paths, problems = _files(root, leave_out) if root.is_dir() else ([files_of(root)[0]], [])
    for path in paths:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                problems.append(Problem(path, "a pipe or a device; accepted: files", claimed(path)))
                continue
            if root.is_dir() and path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                problems.append(Problem(path, "a link that leads out of the folder"))
                continue
            kind = recognise(path)
        except OSError as error:
            problems.append(Problem(path, f"cannot be read: {_said(error)}", claimed(path), failed=True))
            continue
        if kind is None:
            problems.append(_unrecognised(path))
        elif kind not in kinds:
            accepted = ", ".join(KINDS[k] for k in kinds)
            problems.append(Problem(path, f"{KINDS[kind]}; accepted: {accepted}", kind))
        elif kind == "dicom":
            dicom.append(path)
        else:
            found.append(InputUnit(kind, files_of(path), path.parent.relative_to(base) / stem_of(path)))
    series, refused = _series(dicom, base)
    found += series
    problems += refused
    units: dict[Path, InputUnit] = {}
    for unit in sorted(found, key=lambda unit: (unit.relative, unit.files)):
        first = units.get(unit.relative)
        if first is not None:
            reason = f"its results would have the names of those of {first.files[0].name}; rename one"
        elif (size := len(os.fsencode(unit.relative.name))) > _LONGEST_NAME:
            reason = f"a name of {size} bytes leaves no room for those of its results; accepted: {_LONGEST_NAME}"
        else:
            units[unit.relative] = unit
            continue
        problems += [Problem(path, reason, unit.kind) for path in unit.files]
    taken = {
        path for unit in units.values() for path in unit.files
    }  # the voxels of a pair are recognised by its header
    judged = [
        replace(problem, failed=problem.failed or problem.kind in kinds or problem.path == root)
        for problem in problems
        if problem.path not in taken
    ]
    return list(units.values()), sorted(judged, key=lambda problem: problem.path)


def _said(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _files(root: Path, leave_out: str | os.PathLike[str] | None) -> tuple[list[Path], list[Problem]]:
    """The files of a tree, pipes and broken links included, and the folders that cannot be read."""
    left_out = None if leave_out is None else os.path.realpath(leave_out)
    files: list[Path] = []
    unread: list[Problem] = []

    def note(error: OSError) -> None:
        unread.append(Problem(Path(error.filename), f"the folder cannot be read: {_said(error)}", failed=True))

    for folder, folders, names in os.walk(root, onerror=note):
        here = Path(folder)
        folders[:] = [n for n in folders if not n.startswith(".") and os.path.realpath(here / n) != left_out]
        files += [here / name for name in names if not name.startswith(".")]
    return files, unread


def _unrecognised(path: Path) -> Problem:
    kind = claimed(path)
    if kind is None:
        return Problem(path, "not an input")
    return Problem(path, f"the name ends in {suffix_of(path.name)}, the content is not {KINDS[kind]}", kind)


def _series(files: Sequence[Path], base: Path) -> tuple[list[InputUnit], list[Problem]]:
    """The DICOM series among some files below a folder; the volumes of one series are one unit."""
    folders = list(dict.fromkeys(path.parent for path in files))
    series, refused = find_series(files if len(files) == 1 else folders)
    wanted = set(files)
    problems = [
        Problem(refusal.path, refusal.reason, "dicom" if refusal.is_input else None)
        for refusal in refused
        if refusal.path in wanted
    ]
    by_uid: dict[tuple[str, Path], list[DicomSeries]] = defaultdict(list)
    for volume in series:
        by_uid[volume.series_uid, volume.folder].append(volume)
    units = []
    for (_, folder), volumes in by_uid.items():
        paths = dict.fromkeys(path for volume in volumes for path in volume.files)
        if wanted.issuperset(paths):
            units.append(InputUnit("dicom", tuple(paths), folder.relative_to(base) / volumes[0].name))
        else:
            reason = "of a series with links that lead out of the folder"
            problems += [Problem(path, reason, "dicom") for path in paths if path in wanted]
    return units, problems
