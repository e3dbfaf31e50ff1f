"""Zip archives: unpacked within bounds, and packed so that equal files give equal bytes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from monai_d3gm.files import atomic_path, one_line
from monai_d3gm.label.errors import RequestError

__all__ = ["is_zip", "pack", "unpack"]

_MOST_FILES = 50_000
_BLOCK = 1 << 20
_PACKED = (".gz", ".png", ".jpg", ".zip")
"""Suffixes of files that are compressed already."""


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip archive, by its content.

    Example:
        >>> is_zip(__file__)
        False
    """
    with Path(path).open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def unpack(path: str | os.PathLike[str], folder: Path, most_bytes: int) -> None:
    """Unpack an archive into an empty folder.

    Args:
        path: the archive.
        folder: an empty folder.
        most_bytes: that its files may have together; the sizes that the archive states are not believed.

    Raises:
        RequestError: 400, it is damaged or encrypted, or a name leads out of the folder; 413, it is too large.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        ...     archive.writestr("../b", "text")
        >>> unpack(folder / "a.zip", folder, 100)
        Traceback (most recent call last):
        monai_d3gm.label.errors.RequestError: a.zip: the name '../b' leads out of the archive.
    """
    name = Path(path).name
    left = most_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > _MOST_FILES:
                raise RequestError(413, f"{name} has {len(entries)} files; accepted: at most {_MOST_FILES}.")
            for entry in entries:
                target = folder.joinpath(*_parts(name, entry))
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, target.open("xb") as written:
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise RequestError(
                                413, f"{name}: its files are too large; accepted: up to {most_bytes / 1e9:.3g} GB."
                            )
                        written.write(block)
    except RequestError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and bz2 have each their own
        raise RequestError(400, f"{name}: the archive cannot be unpacked: {one_line(error)}") from error


def _parts(name: str, entry: zipfile.ZipInfo) -> tuple[str, ...]:
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    if entry.flag_bits & 1:
        raise RequestError(400, f"{name}: the archive is encrypted.")
    if not parts or ".." in parts or parts[0] == "/" or ":" in parts[0] or not entry.filename.isprintable():
        raise RequestError(400, f"{name}: the name {entry.filename[:80]!r} leads out of the archive.")
    return parts


def pack(path: str | os.PathLike[str], files: Mapping[str, Path] | Iterable[tuple[str, Path]]) -> None:
    """Pack files, and folders with all below them, into an archive; equal files give equal bytes.

    Args:
        path: the archive, which is written whole or not at all.
        files: by their names in the archive.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.zip"
        >>> pack(target, {"code.py": Path(__file__)})
        >>> zipfile.ZipFile(target).namelist()
        ['code.py']
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, place in sorted(dict(files).items()):
            below = sorted(found for found in place.rglob("*") if found.is_file()) if place.is_dir() else [place]
            for file in below:
                inside = f"{name}/{file.relative_to(place).as_posix()}" if place.is_dir() else name
                entry = zipfile.ZipInfo(inside)  # of the year 1980
                packed = file.suffix.lower() in _PACKED
                entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
                with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as written:
                    while block := source.read(_BLOCK):
                        written.write(block)
