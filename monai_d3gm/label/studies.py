"""A folder of studies: its images, and the files stored with them.

An image is whatever can be restored: a file, or a DICOM series. **One rule for ids**: a file's is its path in the
folder without suffix, a series' is its SeriesInstanceUID; an id that is taken is refused.

Each file that the server stores has a record. The record has the file's SHA-256 and, for a map, that of its image. The
server does not serve a map whose image has changed, or a file that differs from its record. So a map is never served
with another image, even if an image was replaced or the server was killed. The records are the datastore's index. Each
is written whole, before its file is put in place.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_d3gm.data.formats.base import stem_of
from monai_d3gm.data.formats.registry import format_of
from monai_d3gm.data.formats.volumes import Problem
from monai_d3gm.data.restoration.units import InputUnit, find_units
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.records import LABELS, Records, Thing, fingerprint

__all__ = ["Folder", "Image", "Stored", "check_name"]

logger = logging.getLogger(__name__)

_LONGEST = 200
"""Bytes of an id or a tag."""


@dataclass(frozen=True)
class Image:
    """An image: the files that are restored in one go.

    Attributes:
        id: its name in the datastore.
        unit: its files and their kind.
        about: facts from its source.
    """

    id: str
    unit: InputUnit
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """The first part of its results' names."""
        return self.unit.relative.name


@dataclass(frozen=True)
class Stored:
    """A file that is stored with an image.

    Attributes:
        path: the file.
        info: its origin.
    """

    path: Path
    info: Mapping[str, Any]


def check_name(argument: str, name: str, *, slashes: bool = False) -> str:
    """Return a name that can be an id or a tag: printable, of at most 200 bytes, and no way out of the folder.

    Args:
        argument: name of the argument, for the message.
        name: the name.
        slashes: whether it may lead into a folder of the folder.

    Raises:
        RequestError: 400, it is not that.

    Example:
        >>> check_name("image", "1.2.840.A")
        '1.2.840.A'
        >>> check_name("tag", "../std")
        Traceback (most recent call last):
        monai_d3gm.label.errors.RequestError: tag is '../std'; accepted: at most 200 printable bytes, ...
    """
    parts = name.split("/")
    good = all(part and part == part.strip() and not part.startswith(".") for part in parts) and name.isprintable()
    if not good or "\\" in name or len(name.encode()) > _LONGEST or (len(parts) > 1 and not slashes):
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise RequestError(
            400, f"{argument} is {shown!r}; accepted: at most {_LONGEST} printable bytes, no slash or first dot."
        )
    return name


class Folder:
    """A folder of studies, for several requests at once.

    Args:
        root: the folder; it exists.
        kinds: names of the formats that are served.
        read_only: nothing is stored in it.

    Attributes:
        problems: the files that cannot be served, and why, as of the last look.
    """

    def __init__(self, root: Path, kinds: Sequence[str], read_only: bool = False) -> None:
        self.root = root
        self.kinds = tuple(kinds)
        self.read_only = read_only
        self.problems: list[Problem] = []
        self._guard = threading.RLock()
        self._images: dict[str, Image] = {}
        self._seen: Any = None
        self._records = Records(root, read_only)
        if not read_only:
            self._clean()

    # images

    def images(self) -> dict[str, Image]:
        """The images by id, in the order of their paths; the folder is looked through where it changed."""
        with self._guard:
            seen = dict(self._walk())
            if seen != self._seen:
                self._images, self.problems = self._find()
                self._seen = seen
            return dict(self._images)

    def image(self, name: str) -> Image:
        """The image of that id.

        Raises:
            RequestError: 404, there is none.
        """
        found = self.images().get(name)
        if found is None:
            raise RequestError(404, f"no image {name[:_LONGEST]!r} in the datastore.")
        return found

    def fetch(self, image: Image, folder: Path, report: Callable[[], None] = lambda: None) -> Image:
        """The image with copies of its files in an empty folder, which stay as they are whoever replaces it meanwhile.

        Args:
            image: the image.
            folder: an empty folder.
            report: called after each file; an exception of it ends the copying.

        Raises:
            RequestError: 409, a file of it is gone.
        """
        copies = tuple(folder / path.relative_to(self.root) for path in image.unit.files)
        try:
            for path, copy in zip(image.unit.files, copies, strict=True):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                report()
        except FileNotFoundError as error:
            raise RequestError(409, f"image {image.id!r} was removed meanwhile.") from error
        return replace(image, unit=replace(image.unit, files=copies))

    def fingerprint(self, image: Image) -> str:
        """The SHA-256 of an image as it is now; of several files that of theirs.

        Raises:
            RequestError: 409, a file of it is gone.
        """
        try:
            with self._guard:
                return fingerprint(image.unit.files, self._records.hash)
        except OSError as error:
            raise RequestError(409, f"image {image.id!r} was removed meanwhile.") from error

    def add(self, name: str, content: Path, info: Mapping[str, Any], *, replace: bool = False) -> str:
        """Put a file into the folder as an image.

        Args:
            name: its id.
            content: the file; its suffix is kept.
            info: the facts to record.
            replace: whether an image of that id is replaced; the files stored with it go too.

        Returns:
            The id.

        Raises:
            RequestError: 400, the id is none or the file is no input; 403, nothing may be stored; 409, the id is taken.
        """
        check_name("image", name)
        format = format_of(content)
        if format is None or format.name not in self.kinds:
            raise RequestError(400, f"{content.name} is not what is served here.")
        suffix = content.name[len(stem_of(content)) :]
        if stem_of(f"{name}{suffix}") != name:
            raise RequestError(400, f"image is {name!r} for a file with the suffix {suffix!r}; accepted: one without.")
        with self._guard:
            self.check_new(name, replace=replace)
            earlier = self.images().get(name)
            target = self.root / f"{name}{suffix}"
            self._records.store([(target, content, self._records.place(name), {"image": name, "info": dict(info)})])
            if earlier is not None:
                for tag in self._records.tags(name):
                    self._records.drop(self._records.place(name, tag))
                for path in set(earlier.unit.files) - {target}:
                    path.unlink(missing_ok=True)
        return name

    def add_series(self, name: str, folder: Path) -> list[str]:
        """Put the DICOM series of a folder into a new folder of the studies, and return their ids.

        Args:
            name: of the new folder.
            folder: with the series; other files in it are left out.

        Raises:
            RequestError: 400, the name is none, or there is no series; 403; 409, the name or an id is taken.
        """
        check_name("image", name)
        units, problems = find_units(folder, ("dicom",))
        names = [_series_id(unit)[0] for unit in units]
        if not names or "dicom" not in self.kinds:
            reasons = dict.fromkeys(problem.reason for problem in problems)
            raise RequestError(400, f"{name} has no DICOM series that is served here: {'; '.join([*reasons][:3])}.")
        with self._guard:
            for taken in (name, *names):
                self.check_new(taken)
            if (self.root / name).exists():
                raise RequestError(409, f"{name!r} is in the datastore; remove it, or rename the archive.")
            files = {path.relative_to(folder).as_posix(): path for unit in units for path in unit.files}
            self._records.store([(self.root / name, files, None, {})])
        return sorted(names)

    def check_new(self, name: str, *, replace: bool = False) -> None:
        """Refuse an id that is taken, or a folder that nothing may be stored in.

        Raises:
            RequestError: 403 or 409.
        """
        self._check_writable()
        if not replace and name in self.images():
            raise RequestError(409, f"image {name!r} is in the datastore; remove it, rename the input, or replace it.")

    def remove(self, name: str) -> None:
        """Remove an image and the files stored with it.

        Raises:
            RequestError: 403; 404, there is none.
        """
        with self._guard:
            self._check_writable()
            image = self.image(name)
            for tag in self._records.tags(name):
                self._records.drop(self._records.place(name, tag))
            for path in image.unit.files:
                path.unlink(missing_ok=True)
            self._records.place(name).unlink(missing_ok=True)

    def info(self, image: Image) -> dict[str, Any]:
        """The facts about an image: its kind and files, and those recorded."""
        record = self._records.read(self._records.place(image.id))
        valid = record.get("sha256") == self.fingerprint(image) if "sha256" in record else True
        known = {"kind": image.unit.kind, "name": image.unit.files[0].name, "files": len(image.unit.files)}
        return {**image.about, **known, **(record.get("info", {}) if valid else {})}

    def update_info(self, name: str, info: Mapping[str, Any]) -> None:
        """Record more of an image.

        Raises:
            RequestError: 403; 404, there is none.
        """
        with self._guard:
            self._check_writable()
            image = self.image(name)
            place, now = self._records.place(name), self.fingerprint(image)
            record = self._records.read(place)
            known = record.get("info", {}) if record.get("sha256") == now else {}
            self._records.write(place, {"sha256": now, "image": name, "info": {**known, **info}})

    # files stored with images

    def stored(self, image: Image) -> dict[str, Stored]:
        """The files stored with an image as it is now, by tag.

        Raises:
            RequestError: 409, a file of the image is gone.
        """
        found = {tag: self._valid(image, tag) for tag in self._records.tags(image.id)}
        return {tag: stored for tag, stored in found.items() if stored is not None}

    def save(
        self,
        name: str,
        contents: Mapping[str, Path],
        info: Mapping[str, Any],
        *,
        of: str | None = None,
        instead_of: Iterable[str] = (),
    ) -> None:
        """Store files with an image, each under a tag; earlier ones are replaced.

        Args:
            name: the image's id.
            contents: the files by their tags.
            info: the facts to record with each.
            of: the image's fingerprint when the files were made; as it is now if None.
            instead_of: the files under these tags are removed too.

        Raises:
            RequestError: 400, a tag is none; 403; 404, there is no such image; 409, it was replaced meanwhile.
        """
        for tag in contents:
            check_name("tag", tag)
        with self._guard:
            self._check_writable()
            image = self.image(name)
            things = [self._label(image, tag, content, info, of) for tag, content in contents.items()]
            for tag in set(instead_of) - set(contents):
                self._records.drop(self._records.place(name, tag))
            self._records.store(things)

    def store_restored(
        self, name: str, content: Path, maps: Mapping[str, Path], info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store a restored image as an image of its own, and its maps with it; after a kill, those that are whole.

        Args:
            name: its id; of a DICOM series, the name of its folder.
            content: its file, or the folder of its series.
            maps: the files to store with it, by tag.
            info: what made it.

        Returns:
            The id, and the tags.

        Raises:
            RequestError: 400; 403; 409, the id is taken.
        """
        with self._guard:
            if content.is_dir():
                (name,) = self.add_series(name, content)
                self.update_info(name, info)
            else:
                self.add(name, content, info)
            image = self.image(name)
            self._records.store([self._label(image, tag, path, info, None) for tag, path in maps.items()])
        return {"image": name, "tags": sorted(maps)}

    def drop(self, name: str, tag: str) -> None:
        """Remove the file stored with an image under a tag.

        Raises:
            RequestError: 403; 404, there is nothing.
        """
        with self._guard:
            self._check_writable()
            if tag not in self.stored(self.image(name)):
                raise RequestError(404, f"nothing is stored with image {name!r} under the tag {tag[:80]!r}.")
            self._records.drop(self._records.place(name, tag))

    # files

    def _walk(self) -> Iterator[tuple[str, tuple[tuple[str, int, int], ...]]]:
        """The folders, each with the names, sizes and times of its files."""
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            folders[:] = sorted(n for n in folders if not n.startswith(".") and (here / n) != self.root / LABELS)
            files = []
            for name in sorted(names):
                try:
                    status = (here / name).stat()
                except OSError:  # gone meanwhile, or a link to nothing
                    continue
                files.append((name, status.st_size, status.st_mtime_ns))
            yield folder, tuple(files)

    def _find(self) -> tuple[dict[str, Image], list[Problem]]:
        units, problems = find_units(self.root, self.kinds, leave_out=self.root / LABELS)
        images: dict[str, Image] = {}
        for unit in units:
            try:
                name, about = _series_id(unit) if unit.kind == "dicom" else (unit.relative.as_posix(), {})
                check_name("the name", name, slashes=True)
            except RequestError as error:
                problems += [Problem(path, error.reason, unit.kind) for path in unit.files]
                continue
            first = images.setdefault(name, Image(name, unit, about)).unit
            if first is not unit:
                reason = f"its id {name} is in the datastore: that of {first.files[0].relative_to(self.root)}"
                problems += [Problem(path, reason, unit.kind) for path in unit.files]
        return images, sorted(problems, key=lambda problem: problem.path)

    def _label(self, image: Image, tag: str, content: Path, info: Mapping[str, Any], of: str | None) -> Thing:
        """A file to store with an image."""
        now = self.fingerprint(image)
        if of is not None and of != now:
            raise RequestError(409, f"image {image.id!r} was replaced meanwhile.")
        suffix = content.name[len(stem_of(content)) :] or content.suffix
        target = self.root / LABELS / tag / f"{image.id}{suffix}"
        earlier = self._records.read(self._records.place(image.id, tag)).get("file")
        if earlier is not None and earlier != target.relative_to(self.root).as_posix():
            self._records.drop(self._records.place(image.id, tag))
        about = {"image": image.id, "of": now, "info": dict(info)}
        return target, content, self._records.place(image.id, tag), about

    def _valid(self, image: Image, tag: str) -> Stored | None:
        """The file stored with an image. One that differs from its record, or of another image, is removed: None."""
        with self._guard:
            place = self._records.place(image.id, tag)
            record = self._records.read(place)
            path = self.root / str(record.get("file", ""))
            reason = ""
            if not path.is_file():
                reason = "is missing"
            elif record.get("sha256") != self._records.hash(path):
                reason = "is not the one that was recorded"
            elif record.get("of") != self.fingerprint(image):
                reason = f"was made of another image {image.id}"
            if not reason:
                return Stored(path, record.get("info", {}))
            logger.warning("%s %s; it is not served.", record.get("file", place.name), reason)
            if not self.read_only:
                self._records.drop(place)
            return None

    def _clean(self) -> None:
        """Remove the files of a killed server, and files whose image is gone."""
        self._records.clean()
        images = self.images()
        for place in self._records.of_labels():
            name = self._records.read(place).get("image")
            if name in images:
                self._valid(images[str(name)], place.parent.name)
            else:
                logger.warning(
                    "%s belongs to no image; it is removed.", self._records.read(place).get("file", place.name)
                )
                self._records.drop(place)
        for place in self._records.of_images():
            if self._records.read(place).get("image") not in images:
                place.unlink(missing_ok=True)

    def _check_writable(self) -> None:
        if self.read_only:
            raise RequestError(403, "the studies are read only here.")


def _series_id(unit: InputUnit) -> tuple[str, dict[str, Any]]:
    """The SeriesInstanceUID of a series, and what else tells it from others."""
    from monai_d3gm.data.formats.dicom.headers import read_header

    header = read_header(unit.files[0])
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate", "Modality", "SeriesDescription")
    about = {keyword: str(header.get(keyword, "")) for keyword in keywords}
    return about["SeriesInstanceUID"] or unit.relative.as_posix(), about
