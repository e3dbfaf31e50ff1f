"""Finds the units of a tree of files that can be restored, in a fixed order, and the files in none of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_d3gm.data.formats.base import FORMATS, Format, claimed, suffix_of
from monai_d3gm.data.formats.registry import recognise, titles
from monai_d3gm.data.formats.volumes import Problem, Source
from monai_d3gm.data.restoration.inputs import InputError

__all__ = ["InputUnit", "find_units"]


_LONGEST_NAME = 255 - len("_interval.nii.gz")
"""The longest name without suffix, in bytes: the names of the results then fit all common file systems."""


@dataclass(frozen=True)
class InputUnit:
    """The unit of restoration: a file, or the files of a series.

    Attributes:
        kind: name of its format.
        files: its files.
        relative: its folder below the one that was searched, and its name without suffix.
    """

    kind: str
    files: tuple[Path, ...]
    relative: Path


def find_units(
    root: str | os.PathLike[str],
    kinds: Sequence[str] = tuple(FORMATS),
    leave_out: str | os.PathLike[str] | None = None,
) -> tuple[list[InputUnit], list[Problem]]:
    """Find all units in a file or a tree of folders.

    Hidden files and folders are skipped. Links to folders and links that lead out of the tree are not followed.

    Args:
        root: a file or a folder.
        kinds: names of the formats that are wanted.
        leave_out: a folder that is not searched, such as that of the results.

    Returns:
        The units, and the files that are in none of them with the reason; both in the order of their paths, the same
        on every machine.

    Raises:
        InputError: there is no such file or folder.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> units, problems = find_units(bundled_epi_path())
        >>> units[0].kind, str(units[0].relative), problems
        ('nifti', 'example4d', [])
    """
    root = Path(root)
    if not os.path.lexists(root):
        raise InputError(f"{root}: no such file or folder.")
    base = root if root.is_dir() else root.parent
    paths, problems = _files(root, leave_out) if root.is_dir() else ([root], [])
    files: dict[str, list[Path]] = {}
    for path in paths:
        meant = claimed(path)
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                name = None if meant is None else meant.name
                problems.append(Problem(path, "a pipe or a device; accepted: files", name))
                continue
            if root.is_dir() and path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
                problems.append(Problem(path, "a link that leads out of the folder"))
                continue
            format = recognise(path)
        except OSError as error:
            name = None if meant is None else meant.name
            problems.append(Problem(path, f"cannot be read: {_said(error)}", name, failed=True))
            continue
        if format is None:
            problems.append(_unrecognised(path))
        elif format.name not in kinds:
            problems.append(Problem(path, f"{format.title}; accepted: {titles(kinds)}", format.name))
        else:
            files.setdefault(format.name, []).append(path)
    found: list[InputUnit] = []
    for name, own in files.items():
        sources, refused = FORMATS[name].find(own)
        problems += refused
        if root.is_dir():
            outside = [source for source in sources if not set(own).issuperset(source.files)]
            sources = [source for source in sources if source not in outside]
            reason = "other files of its volume lead out of the folder"
            problems += [Problem(path, reason, name) for source in outside for path in source.files if path in own]
        found += _units(FORMATS[name], sources, base)
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
    judged = [
        replace(problem, failed=problem.failed or problem.kind in kinds or problem.path == root) for problem in problems
    ]
    return list(units.values()), sorted(judged, key=lambda problem: problem.path)


def _units(format: Format, sources: Sequence[Source], base: Path) -> list[InputUnit]:
    """The sources of one group in one folder are one unit."""
    groups: dict[tuple[str, Path], list[Source]] = {}
    for source in sources:
        groups.setdefault((source.group, source.folder), []).append(source)
    return [
        InputUnit(
            format.name,
            tuple(dict.fromkeys(file for source in group for file in source.files)),
            folder.relative_to(base) / group[0].name,
        )
        for (_, folder), group in groups.items()
    ]


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
    format = claimed(path)
    if format is None:
        return Problem(path, "not an input")
    return Problem(path, f"the name ends in {suffix_of(path)}, the content is not {format.title}", format.name)
