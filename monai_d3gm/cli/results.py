"""The results of many units in one folder: each unit's whole or not at all, with a record of their origin.

A unit is made in its own folder, and its files are moved into place when all exist. Their origin is recorded in the
folder ``.d3gm``. From this record an interrupted run resumes, and a run replaces no other files. An interrupted run
leaves the same bytes in the end. One run at a time writes into a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_d3gm.data.formats.sidecar import DESCRIPTION
from monai_d3gm.data.restoration.derivatives import BIDS_IGNORE
from monai_d3gm.data.restoration.units import InputUnit
from monai_d3gm.files import OutputError, atomic_path, load_json, locked, writable_folder

__all__ = ["ResultFolder"]

_SUMMARY = "summary.json"


class ResultFolder:
    """A folder for the results of units, which mirrors the tree of the inputs.

    An origin is everything that determines a unit's results, in plain containers: equal origins give equal bytes.

    Args:
        folder: where the results go.
        overwrite: replace results of another origin.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        self.folder = folder
        self.overwrite = overwrite
        self._own = f"{os.getpid():x}-{secrets.token_hex(4)}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder in the block.

        Raises:
            OutputError: another run writes into it, or it cannot be written.
        """
        message = f"another run writes into {self.folder}; wait for its end, or choose another folder."
        with locked(writable_folder(self.folder / ".d3gm") / "lock", message):
            yield

    def place(self, unit: InputUnit) -> Path:
        """The folder of a unit's results."""
        return self.folder / unit.relative.parent

    def staging(self, unit: InputUnit) -> Path:
        """The folder in which a unit's results are made."""
        return self._scratch(unit) / "results"

    def report(self, unit: InputUnit) -> str:
        """The name of a unit's report."""
        return f"{unit.relative.name}_metrics.json"

    def fingerprint(self, unit: InputUnit) -> str:
        """The SHA-256 of a file's bytes; of a series, that of its files' SHA-256 in order."""
        digests = [_sha256(path) for path in unit.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def made(self, unit: InputUnit, origin: Mapping[str, Any]) -> list[str] | None:
        """The names of a unit's results, or None if they are still to be made.

        Raises:
            OutputError: there are results of another origin, and they are not to be overwritten.
        """
        record, place = self._record(unit), self.place(unit)
        there = [name for name in record["outputs"] if (place / name).exists()]
        if record["origin"] == origin:
            complete = there == record["outputs"] and not self._begun(unit)
            return there if complete else None
        if there and not self.overwrite:
            changed = ", ".join(_differences(record["origin"], origin))
            raise OutputError(f"{place / there[0]} exists and was made with other {changed}; allow overwriting.")
        self._refuse_foreign(place, [self.report(unit)], there)
        return None

    @contextmanager
    def make(self, unit: InputUnit, origin: Mapping[str, Any]) -> Iterator[Path]:
        """Yield an empty folder, whose content becomes the unit's results when the block ends without an error.

        Raises:
            OutputError: a file is there that is not the unit's, and it is not to be overwritten; the folder cannot be
                written; or there is no report.
        """
        before = self._begun(unit)
        staged = writable_folder(self.staging(unit))
        try:
            yield staged
            self._publish(unit, origin, staged)
            for scratch in before:  # of killed runs: until now they marked the results as not whole
                shutil.rmtree(scratch, ignore_errors=True)
        finally:
            shutil.rmtree(self._scratch(unit), ignore_errors=True)

    def check(self) -> None:
        """Refuse, before anything is made, a folder that cannot be written or holds a summary of something else.

        Raises:
            OutputError: naming the folder or the file.
        """
        existing = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        writable_folder(existing)
        summary = self.folder / _SUMMARY
        if summary.exists() and not self.overwrite and not {"counts", "inputs"} <= _read(summary).keys():
            raise OutputError(f"{summary} exists and is not of d3gm restore; choose another folder.")

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``.

        Raises:
            OutputError: it cannot be written.
        """
        self._write_whole({_SUMMARY: _as_json(summary)})

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Make the folder a derivative BIDS data set: write its description, and list the files outside the standard.

        Raises:
            OutputError: another program's description is there and is not to be replaced, or it cannot be written.
        """
        there = self.folder / DESCRIPTION
        if there.exists() and not self.overwrite and _read(there) != description:
            raise OutputError(f"{there} exists and is not of this run; choose another folder, or allow overwriting.")
        self._write_whole({DESCRIPTION: _as_json(description), ".bidsignore": BIDS_IGNORE})

    def _write_whole(self, texts: Mapping[str, str]) -> None:
        """Write files of the folder itself, each whole or not at all."""
        for left in (self.folder / ".d3gm").glob("summary.*partial"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = writable_folder(self.folder / ".d3gm" / f"summary.{self._own}.partial")
        try:
            for name, text in texts.items():
                _write(self.folder / name, text, scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _publish(self, unit: InputUnit, origin: Mapping[str, Any], staged: Path) -> None:
        """Move the results into place. Until the last one is there, the scratch folder marks them as not whole."""
        earlier = self._record(unit)["outputs"]
        names = sorted(path.name for path in staged.iterdir())
        if self.report(unit) not in names:
            raise OutputError(f"the bundle wrote no report {self.report(unit)}.")
        place = writable_folder(self.place(unit))
        self._refuse_foreign(place, names, earlier)
        for name in {*earlier, *names}:
            _remove(place / name)
        record = {"unit": unit.relative.as_posix(), "origin": origin, "outputs": names}
        _write(self._record_path(unit), _as_json(record), staged.parent)
        for name in names:
            os.replace(staged / name, place / name)

    def _refuse_foreign(self, place: Path, names: Sequence[str], own: Sequence[str]) -> None:
        for name in names:
            if name not in own and (place / name).exists() and not self.overwrite:
                raise OutputError(f"{place / name} exists and is not of this run; allow overwriting.")

    def _record(self, unit: InputUnit) -> dict[str, Any]:
        return {"origin": None, "outputs": []} | _read(self._record_path(unit))

    def _record_path(self, unit: InputUnit) -> Path:
        return self.folder / ".d3gm" / f"{self._key(unit)}.json"

    def _scratch(self, unit: InputUnit) -> Path:
        return self.folder / ".d3gm" / f"{self._key(unit)}.{self._own}.partial"

    def _begun(self, unit: InputUnit) -> list[Path]:
        """The scratch folders of the unit that another process left behind."""
        return sorted((self.folder / ".d3gm").glob(f"{self._key(unit)}.*partial"))

    def _key(self, unit: InputUnit) -> str:
        return hashlib.sha256(unit.relative.as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file holds none."""
    try:
        content = load_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _write(target: Path, text: str, scratch: Path) -> None:
    """Write a file whole or not at all; a kill leaves its remains in the scratch folder."""
    with atomic_path(scratch / target.name) as temporary:
        temporary.write_text(text, encoding="utf-8")
    os.replace(scratch / target.name, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _differences(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """The names of the differences between two origins."""
    names: list[str] = []
    before = old or {}
    for key in sorted({*before, *new}):
        first, second = before.get(key), new.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            names += _differences(first, second)
        elif first != second:
            names.append(key)
    return names
