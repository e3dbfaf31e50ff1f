"""Inputs to restore: which files and slices are taken."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from monai_d3gm.data.formats.base import FORMATS, Format, stem_of
from monai_d3gm.data.formats.registry import format_of, titles
from monai_d3gm.data.formats.volumes import Source

__all__ = ["InputError", "check_slices", "find_inputs", "find_sources", "spread"]

logger = logging.getLogger(__name__)

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, a folder, or several of them."""


class InputError(ValueError):
    """There is nothing to restore at a path; the message names it."""


_CENTRAL = re.compile(r"central:([1-9]\d*)")


def check_slices(slices: str | int) -> None:
    """Raise ValueError unless ``slices`` is "all", a number above 0, or "central:" and such a number.

    Example:
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

    Example:
        >>> spread(10, 2), spread(2, "all"), spread(2, 5), spread(10, "central:4")
        ([2, 7], [0, 1], [0, 1], [3, 4, 5, 6])
    """
    if isinstance(wanted, str):
        number = count if wanted == "all" else min(int(wanted.removeprefix("central:")), count)
        return list(range((count - number) // 2, (count - number) // 2 + number))
    number = min(wanted, count)
    return [int((i + 0.5) * count / number) for i in range(number)]


def find_inputs(inputs: Inputs, formats: Sequence[str] = tuple(FORMATS)) -> list[Path]:
    """Return the input files: those given, and of each folder given its files of some formats, by name.

    The content decides, and where it says nothing the suffix.

    Args:
        inputs: files and folders.
        formats: names of the formats that are accepted.

    Raises:
        InputError: a path does not exist, a folder has no such file, or two files share a name without suffix.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> len(find_inputs(bundled_epi_path()))
        1
    """
    files: list[Path] = []
    for entry in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        path = Path(entry)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            found = [p for p in found if (format := format_of(p)) is not None and format.name in formats]
            if not found:
                raise InputError(f"{path}: the folder has no input; accepted: {titles(formats)}.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder.")
    if not files:
        raise InputError("inputs is empty; accepted: files or folders.")
    files = list(dict.fromkeys(_first(path) for path in files))
    _refuse_equal([(stem_of(path), path) for path in files])
    return files


def find_sources(inputs: Inputs, formats: Sequence[str]) -> list[tuple[Format, Source]]:
    """Return what can be read among input files, each with its format: files, and volumes of series.

    A file that is in no source is named in the log.

    Args:
        inputs: as in `find_inputs`.
        formats: names of the formats that are accepted.

    Raises:
        InputError: as `find_inputs` does; a file has another format, or nothing can be read.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> [(format.name, source.name) for format, source in find_sources(bundled_epi_path(), ("nifti",))]
        [('nifti', 'example4d')]
    """
    by_format: dict[str, list[Path]] = {}
    for entry in [inputs] if isinstance(inputs, str | os.PathLike) else inputs:
        for path in find_inputs(entry, formats):
            format = format_of(path)
            if format is None or format.name not in formats:
                title = "not an input" if format is None else format.title
                raise InputError(f"{path}: {title}; accepted: {titles(formats)}.")
            by_format.setdefault(format.name, []).append(path)
    sources: list[tuple[Format, Source]] = []
    problems = []
    for name, paths in by_format.items():
        found, refused = FORMATS[name].find(list(dict.fromkeys(paths)))
        sources += [(FORMATS[name], source) for source in found]
        problems += refused
    for problem in problems:
        logger.warning("%s: not used: %s", problem.path, problem.reason)
    if not sources:
        raise InputError(
            f"{problems[0].path}: {problems[0].reason}" if problems else "inputs is empty; accepted: files or folders."
        )
    _refuse_equal([(source.name, source.path) for _, source in sources])
    return sources


def _first(path: Path) -> Path:
    """The file that stands for those that belong together."""
    format = format_of(path)
    return path if format is None else format.files_of(path)[0]


def _refuse_equal(names: Sequence[tuple[str, Path]]) -> None:
    """Refuse two inputs whose results would have one name."""
    seen: dict[str, Path] = {}
    for name, path in names:
        if seen.setdefault(name, path) is not path:
            raise InputError(f"{path} and {seen[name]} would be written to the same output; rename one.")
