"""Finding pairs of degraded and clean photographs: folders, patterns of names, and the layouts of known data sets.

A pattern is a path below the root with ``{id}`` once, such as ``rain/rain-{id}.png``; without a suffix, ``input/{id}``,
it takes any of the suffixes of photographs. Numbers match whatever their leading zeros. The folder ``manifests/``
describes the known data sets: their usual patterns, and the split into training and test of arXiv 2406.13652.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_d3gm.data.formats.images import SUFFIXES

__all__ = ["PAIR_LAYOUTS", "PHOTOGRAPH_SETS", "ImagePair", "PairError", "find_pairs", "match_pairs", "read_manifest"]

PHOTOGRAPH_SETS = ("rain100h", "rain100l", "rain200h", "rain200l", "o-haze", "dense-haze")
"""Names of the known data sets."""

PAIR_LAYOUTS = (
    ("input/{id}", "target/{id}"),
    ("LQ/{id}", "GT/{id}"),
    ("rain/{id}", "norain/{id}"),
    ("rainy/{id}", "clean/{id}"),
    ("hazy/{id}", "GT/{id}"),
    ("hazy/{id}", "clear/{id}"),
    ("degraded/{id}", "clean/{id}"),
)
"""Patterns (degraded, clean) that are tried by default."""

_ANY_SUFFIX = "(?:" + "|".join(re.escape(suffix) for suffix in SUFFIXES) + ")"
_MANIFESTS = Path(__file__).parent / "manifests"


class PairError(ValueError):
    """A picture has no partner, is missing, or there are no pairs; the message names it."""


@dataclass(frozen=True)
class ImagePair:
    """A degraded photograph and the clean one.

    Attributes:
        id: the common part of both names.
        degraded: the file.
        clean: the file.
    """

    id: str
    degraded: Path
    clean: Path


def match_pairs(root: str | os.PathLike[str], degraded: str, clean: str) -> list[ImagePair]:
    """Pair the files of two patterns that have the same ``{id}``, in the order of the ids.

    Args:
        root: folder that the patterns are below.
        degraded: pattern of the degraded photographs, relative or absolute.
        clean: pattern of the clean ones.

    Raises:
        PairError: there is no file, or one has no partner or two; all such are named.
        ValueError: a pattern without ``{id}``, or with several.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("rain-001.png", "norain-1.png"):
        ...     (folder / name).touch()
        >>> match_pairs(folder, "rain-{id}.png", "norain-{id}.png")[0].clean.name
        'norain-1.png'
    """
    files = {name: _files(Path(root), pattern) for name, pattern in (("degraded", degraded), ("clean", clean))}
    alone = [
        f"{file} has no partner {pattern}"
        for name, other, pattern in (("degraded", "clean", clean), ("clean", "degraded", degraded))
        for key, file in files[name].items()
        if key not in files[other]
    ]
    if alone:
        raise PairError(f"{root}: {len(alone)} unmatched: " + "; ".join(alone))
    if not files["degraded"]:
        raise PairError(f"{root}: no files {degraded} and {clean}.")
    ordered = sorted(files["degraded"], key=lambda key: (isinstance(key, str), key))
    return [ImagePair(str(key), files["degraded"][key], files["clean"][key]) for key in ordered]


def find_pairs(
    root: str | os.PathLike[str],
    degraded: str | None = None,
    clean: str | None = None,
    dataset: str | None = None,
    split: str = "test",
) -> list[ImagePair]:
    """Find pairs below a folder: by two patterns, as a known data set, or by the first of `PAIR_LAYOUTS` that is there.

    Args:
        root: the folder.
        degraded: pattern of the degraded photographs; given with ``clean``.
        clean: pattern of the clean ones.
        dataset: one of `PHOTOGRAPH_SETS`; its manifest has the names of the files and the ``split``.
        split: ``train`` or ``test``, of a known data set.

    Raises:
        PairError: there are no pairs, a file has no partner, or one of the manifest's is missing; all are named.
        ValueError: ``dataset`` or ``split`` is unknown, or one pattern is given without the other.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("input", "target"):
        ...     (folder / name).mkdir()
        ...     (folder / name / "7.jpg").touch()
        >>> [pair.id for pair in find_pairs(folder)]
        ['7']
    """
    if not Path(root).is_dir():
        raise PairError(f"{root}: no such folder.")
    if (degraded is None) != (clean is None):
        raise ValueError(f"degraded is {degraded!r} and clean {clean!r}; accepted: both patterns, or neither.")
    if dataset is not None:
        return _manifest_pairs(Path(root), read_manifest(dataset), split)
    if degraded is not None and clean is not None:
        return match_pairs(root, degraded, clean)
    for one, other in PAIR_LAYOUTS:
        if Path(root, one).parent.is_dir() and Path(root, other).parent.is_dir():
            return match_pairs(root, one, other)
    tried = ", ".join(f"{one} with {other}" for one, other in PAIR_LAYOUTS)
    raise PairError(f"{root}: no pairs found; tried: {tried}. Give both patterns, or the name of a known data set.")


def read_manifest(dataset: str) -> Mapping[str, Any]:
    """The manifest of a known data set: ``name``, ``source`` and, by split, numbers ``first`` to ``last`` and layouts.

    Raises:
        ValueError: there is none of this name.

    Example:
        >>> read_manifest("O-HAZE")["splits"]["test"]["first"]
        41
    """
    if dataset.lower() not in PHOTOGRAPH_SETS:
        raise ValueError(f"dataset is {dataset!r}; accepted: {', '.join(PHOTOGRAPH_SETS)}.")
    manifest: Mapping[str, Any] = json.loads((_MANIFESTS / f"{dataset.lower()}.json").read_text(encoding="utf-8"))
    return manifest


def _manifest_pairs(root: Path, manifest: Mapping[str, Any], split: str) -> list[ImagePair]:
    if split not in manifest["splits"]:
        raise ValueError(f"split is {split!r}; accepted: {', '.join(manifest['splits'])}.")
    part = manifest["splits"][split]
    wanted = range(part["first"], part["last"] + 1)
    layouts: Sequence[Sequence[str]] = part["layouts"]
    for degraded, clean in layouts:
        found = _files(root, degraded)
        if not found:
            continue
        missing = [number for number in wanted if number not in found]
        partners = _files(root, clean)
        alone = [str(found[number]) for number in wanted if number in found and number not in partners]
        if missing or alone:
            raise PairError(
                f"{root}: {manifest['name']}, {split}, as {degraded} with {clean}: "
                f"missing: {', '.join(map(str, missing)) or 'none'}; "
                f"without a clean partner: {', '.join(alone) or 'none'}."
            )
        return [ImagePair(str(number), found[number], partners[number]) for number in wanted]
    tried = ", ".join(degraded for degraded, _ in layouts)
    raise PairError(f"{root}: no picture of {manifest['name']}, {split}; tried: {tried}.")


def _files(root: Path, pattern: str) -> dict[int | str, Path]:
    """The files of a pattern by their ``{id}``, as a number where it is one."""
    if pattern.count("{id}") != 1:
        raise ValueError(f"pattern is {pattern!r}; accepted: a path with {{id}} once, such as 'input/{{id}}'.")
    path = root / pattern
    if "{id}" not in path.name:
        raise ValueError(f"pattern is {pattern!r}; accepted: {{id}} in the name of the file.")
    before, after = path.name.split("{id}")
    suffix = "" if Path(after).suffix.lower() in SUFFIXES or after.lower() in SUFFIXES else _ANY_SUFFIX
    name = re.compile(re.escape(before) + "(.+?)" + re.escape(after) + suffix, re.IGNORECASE)
    found: dict[int | str, Path] = {}
    for file in sorted(path.parent.iterdir()) if path.parent.is_dir() else []:
        match = name.fullmatch(file.name)
        if match is None or file.name.startswith(".") or not file.is_file():
            continue
        key: int | str = int(match[1]) if match[1].isdecimal() else match[1]
        if key in found:
            raise PairError(f"{file} and {found[key]} are the same picture {match[1]} of {pattern}.")
        found[key] = file
    return found
