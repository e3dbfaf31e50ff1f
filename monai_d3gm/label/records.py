"""The records of a folder of studies, and the files that they speak of.

A record is a JSON file in ``.d3gm``, of an image or of a file stored with one. It is written whole, before its file is
put in place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_d3gm.files import atomic_path
from monai_d3gm.label.errors import RequestError

__all__ = ["LABELS", "Content", "Records", "Thing", "fingerprint"]

logger = logging.getLogger(__name__)

LABELS = "labels"
"""The folder of the files stored with images, a folder for each tag; no images are searched in it."""

_OWN = ".d3gm"
"""The folder of records, and of files that are not in their places yet."""

Content = Path | Mapping[str, Path]
"""A file, or the files of a folder by their names."""

Thing = tuple[Path, Content, Path | None, dict[str, Any]]
"""A place, the content to put there, its record if it has one, and the record's entries."""


def fingerprint(files: Sequence[Path], digest: Callable[[Path], str] | None = None) -> str:
    """The SHA-256 of a file, or that of the sorted SHA-256 of several.

    Args:
        files: the files.
        digest: gives the SHA-256 of one.

    Raises:
        OSError: one of them cannot be read.
    """
    digests = sorted((digest or _sha256)(file) for file in files)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class Records:
    """The records of a folder, and the SHA-256 of its files.

    Args:
        root: the folder.
        read_only: nothing is written or removed.

    Example:
        >>> import tempfile
        >>> records = Records(Path(tempfile.mkdtemp()))
        >>> records.write(records.place("sub-01", "std"), {"file": "labels/std/sub-01.nii.gz"})
        >>> records.tags("sub-01"), records.read(records.place("sub-01", "std"))
        (['std'], {'file': 'labels/std/sub-01.nii.gz'})
    """

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only
        self._hashes: dict[Path, tuple[tuple[int, ...], str]] = {}

    def place(self, name: str, tag: str | None = None) -> Path:
        """The record of an image, or of a file stored with it."""
        key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return self.root / _OWN / ("images" if tag is None else f"labels/{tag}") / f"{key}.json"

    def tags(self, name: str) -> list[str]:
        """The tags under which a file is stored with an image."""
        places = sorted((self.root / _OWN / "labels").glob("*/"))
        return [place.name for place in places if self.place(name, place.name).exists()]

    def of_images(self) -> list[Path]:
        """The places of the images' records."""
        return sorted((self.root / _OWN / "images").glob("*.json"))

    def of_labels(self) -> list[Path]:
        """The places of the records of files stored with images."""
        return sorted((self.root / _OWN / "labels").glob("*/*.json"))

    def read(self, place: Path) -> dict[str, Any]:
        """A record; empty where there is none, or where it is damaged, which is said and mended."""
        try:
            record = json.loads(place.read_text(encoding="utf-8"))
            if isinstance(record, dict) and isinstance(record.get("info", {}), dict):
                return record
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            pass
        logger.warning("%s is damaged; its content is lost, and its file is not served.", place)
        if not self.read_only:
            place.unlink(missing_ok=True)
        return {}

    def write(self, place: Path, record: Mapping[str, Any]) -> None:
        """Write a record."""
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as temporary:
            temporary.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")

    def drop(self, record: Path) -> None:
        """Remove a file stored with an image, and then its record."""
        file = self.read(record).get("file")
        if isinstance(file, str) and file.startswith(f"{LABELS}/") and ".." not in file:
            (self.root / file).unlink(missing_ok=True)
        record.unlink(missing_ok=True)

    def store(self, things: Sequence[Thing]) -> None:
        """Put things in their places: first all are copied beside, then recorded, then moved.

        Raises:
            RequestError: 507, there is no space, or the folder cannot be written.
        """
        staging = self.root / _OWN / "staging" / secrets.token_hex(8)
        staging.mkdir(parents=True)
        try:
            for number, (target, content, record, about) in enumerate(things):
                staged = staging / str(number)
                files = [staged]
                if isinstance(content, Path):
                    _copy(content, staged)
                else:
                    files = [staged / name for name in content]
                    for name, file in content.items():
                        (staged / name).parent.mkdir(parents=True, exist_ok=True)
                        _copy(file, staged / name)
                if record is not None:
                    name = target.relative_to(self.root).as_posix()
                    self.write(record, {"file": name, "sha256": fingerprint(files), **about})
            for number, (target, *_) in enumerate(things):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(staging / str(number), target)
        except OSError as error:
            raise RequestError(507, f"nothing was stored: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def hash(self, path: Path) -> str:
        """The SHA-256 of a file, computed again where the file has changed."""
        status = path.stat()
        state = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
        if self._hashes.get(path, ((),))[0] != state:
            self._hashes[path] = (state, _sha256(path))
        return self._hashes[path][1]

    def clean(self) -> None:
        """Remove the unfinished files of a killed server."""
        shutil.rmtree(self.root / _OWN / "staging", ignore_errors=True)
        for place in sorted((self.root / _OWN).rglob(".*")):  # records that were being written
            place.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, and see it on the disk."""
    shutil.copyfile(source, target)
    with target.open("rb+") as written:
        os.fsync(written.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
