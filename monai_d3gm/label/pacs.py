"""Studies in a DICOMweb server: its MR series are the images, and results are stored there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pydicom

from monai_d3gm.data.formats.dicom.web import DicomWeb, DicomWebError, WebSeries
from monai_d3gm.data.formats.volumes import Problem
from monai_d3gm.data.restoration.units import InputUnit, find_units
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.studies import Image, Stored

__all__ = ["Pacs"]

_FRESH = 10.0
"""Seconds for which the list of series is believed."""


class Pacs:
    """A DICOMweb server as a place of studies, with the methods of `monai_d3gm.label.studies.Folder`.

    An image's id is its SeriesInstanceUID. Nothing is kept here: a series is retrieved for each request, and restored
    ones are stored in the server where a request asks for it. Maps are series of their own there, so nothing is stored
    with an image, and images come and go by the server's own doors.

    Args:
        address: such as ``http://127.0.0.1:8042/dicom-web``.
        most_bytes: that a series may have.

    Raises:
        DicomWebError: the server does not answer.
    """

    read_only = True

    def __init__(self, address: str, most_bytes: int) -> None:
        self.root = address
        self.problems: list[Problem] = []
        self._web = DicomWeb(address, most_bytes)
        self._guard = threading.Lock()
        self._found: list[WebSeries] = self._web.find({})
        self._when = time.monotonic()

    def images(self) -> dict[str, Image]:
        """The MR series by their UIDs.

        Raises:
            RequestError: 502, the server does not answer.
        """
        with self._guard:
            if time.monotonic() - self._when > _FRESH:
                self._found = self._ask({})
                self._when = time.monotonic()
            return {series.uid: _image(series) for series in self._found}

    def image(self, name: str) -> Image:
        """The series of that UID.

        Raises:
            RequestError: 404, there is none; 502, the server does not answer.
        """
        known = self.images().get(name)
        if known is not None:
            return known
        found = self._ask({"SeriesInstanceUID": name}) if name.replace(".", "").isdecimal() and len(name) <= 64 else []
        if len(found) != 1 or found[0].uid != name:
            raise RequestError(404, f"no image {name[:200]!r} in the datastore.")
        return _image(found[0])

    def fetch(self, image: Image, folder: Path, report: Callable[[], None] = lambda: None) -> Image:
        """The image with its files, retrieved into an empty folder; ``report`` is called after each.

        Raises:
            RequestError: 400, the series cannot be restored; 502, the server does not answer.
        """
        series = WebSeries(image.about["StudyInstanceUID"], image.id, image.about)
        try:
            self._web.retrieve(series, folder, report)
        except DicomWebError as error:
            raise RequestError(502, str(error)) from error
        units, problems = find_units(folder, ("dicom",))
        if len(units) != 1:
            reasons = "; ".join(dict.fromkeys(problem.reason for problem in problems))
            raise RequestError(400, f"series {image.id} cannot be restored: {reasons or 'it has no image'}.")
        return replace(image, unit=units[0])

    def info(self, image: Image) -> dict[str, Any]:
        """The server's facts about a series."""
        return {"kind": "dicom", **image.about}

    def stored(self, image: Image) -> dict[str, Stored]:
        """Nothing: maps are series of their own."""
        return {}

    def store_restored(
        self, name: str, content: Path, maps: Mapping[str, Path], info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Store a restored series and its maps in the server, and return the series' id.

        Raises:
            RequestError: 502, the server refused them or does not answer.
        """
        files = sorted(content.iterdir())
        try:
            self._web.store([*files, *maps.values()])
        except DicomWebError as error:
            raise RequestError(502, str(error)) from error
        with self._guard:
            self._when = -_FRESH
        return {"image": str(pydicom.dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID), "tags": []}

    def add(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse.

        Raises:
            RequestError: 403.
        """
        raise RequestError(403, f"the studies are those of {self.root}; store, change and remove them there.")

    add_series = remove = update_info = save = drop = check_new = add

    def _ask(self, query: Mapping[str, str]) -> list[WebSeries]:
        try:
            return self._web.find(query)
        except DicomWebError as error:
            raise RequestError(502, str(error)) from error


def _image(series: WebSeries) -> Image:
    return Image(series.uid, InputUnit("dicom", (), Path(series.uid)), series.about)
