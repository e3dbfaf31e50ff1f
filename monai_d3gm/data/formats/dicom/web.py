"""Series in a DICOMweb server (PS3.18): found by QIDO-RS, retrieved by WADO-RS, stored by STOW-RS.

Who asks, and how the connection is secured, is said by the environment, never by an address, which others can see:

| variable | what |
|---|---|
| ``D3GM_DICOMWEB_USER``, ``D3GM_DICOMWEB_PASSWORD`` | of HTTP's basic authentication |
| ``D3GM_DICOMWEB_TOKEN`` | a bearer token in their place |
| ``D3GM_DICOMWEB_CA`` | a file of certificates that the server's is checked against |
| ``D3GM_DICOMWEB_CERT``, ``D3GM_DICOMWEB_KEY`` | the client's own certificate and key |

Needs dicomweb-client, which the extras ``dicom`` and ``label`` bring.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import pydicom
import requests
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from monai_d3gm.data.formats.dicom.derived import MODEL_NAME
from monai_d3gm.data.formats.dicom.headers import quiet
from monai_d3gm.files import one_line

__all__ = ["SCHEME", "DicomWeb", "DicomWebError", "WebSeries", "parse_address"]

SCHEME = "dicomweb+"
"""The prefix of a query's address, before ``http://`` or ``https://``."""

_TIMEOUTS = (10.0, 300.0)
"""Seconds for a connection, and without a byte of an answer."""

_GROUP = 32 << 20
"""Bytes of the instances that are sent in one request."""

_UID = re.compile(r"[0-9.]{1,64}")
_ANSWERED = (
    *(
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "SeriesDescription",
        "SeriesNumber",
        "PatientID",
        "StudyDate",
    ),
    "NumberOfSeriesRelatedInstances",
)
_SELECTING = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber")


class DicomWebError(ValueError):
    """A DICOMweb server cannot be reached, or refused a request."""


@dataclass(frozen=True)
class WebSeries:
    """A series in a server.

    Attributes:
        study: StudyInstanceUID.
        uid: SeriesInstanceUID.
        about: its attributes, as text by keyword.
    """

    study: str
    uid: str
    about: Mapping[str, str]


def parse_address(text: str) -> tuple[str, dict[str, str]]:
    """The server's address and the query in ``dicomweb+http://host/dicom-web?StudyInstanceUID=1.2.3``.

    Raises:
        DicomWebError: it is no such address, a key of the query is no attribute of DICOM, or the query selects no
            study, series, patient or accession.

    Example:
        >>> parse_address("dicomweb+http://127.0.0.1:8042/dicom-web?StudyInstanceUID=1.2.3")
        ('http://127.0.0.1:8042/dicom-web', {'StudyInstanceUID': '1.2.3'})
    """
    parts = urlsplit(text.removeprefix(SCHEME))
    if not text.startswith(SCHEME) or parts.scheme not in ("http", "https") or not parts.hostname:
        raise DicomWebError(f"{text.partition('?')[0]!r} is no address; accepted: {SCHEME}http://HOST/PATH?KEY=VALUE.")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key, value in query.items():
        if tag_for_keyword(key) is None or not value:
            raise DicomWebError(f"{key}={value} is no query; accepted: keywords of DICOM, each with a value.")
    if not any(key in query for key in _SELECTING):
        raise DicomWebError(f"the query selects nothing; accepted: one of {', '.join(_SELECTING)}.")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")), query


class DicomWeb:
    """A DICOMweb server.

    Args:
        address: such as ``http://127.0.0.1:8042/dicom-web``.
        most_bytes: that a series may have.

    Raises:
        DicomWebError: the address holds a password, a file that the environment names is missing, or dicomweb-client
            is not installed.
    """

    def __init__(self, address: str, most_bytes: int) -> None:
        try:
            from dicomweb_client import DICOMwebClient
        except ImportError as error:
            raise DicomWebError(
                f"DICOMweb needs dicomweb-client, which cannot be imported ({error}): install monai_d3gm[dicom]."
            ) from error
        if "@" in urlsplit(address).netloc:
            raise DicomWebError("the address holds a user; accepted: D3GM_DICOMWEB_USER and D3GM_DICOMWEB_PASSWORD.")
        self.address = address.rstrip("/")
        self.most_bytes = most_bytes
        self._client = DICOMwebClient(self.address, session=_session())
        self._client.set_http_retry_params(retry=False)

    def find(self, query: Mapping[str, str]) -> list[WebSeries]:
        """The series that a query selects, of modality MR unless it says another, by study, number and UID.

        Raises:
            DicomWebError: the server cannot be reached, or does not answer as it should.
        """
        filters = {"Modality": "MR", **query}
        with self._asked("the query"):
            found = self._client.search_for_series(
                search_filters=filters, fields=list(_ANSWERED), get_remaining=True, limit=1000
            )
            answers = [Dataset.from_json(each) for each in found]
        series = []
        for answer in answers:
            about = {keyword: str(answer.get(keyword) or "") for keyword in _ANSWERED}
            uids = about["StudyInstanceUID"], about["SeriesInstanceUID"]
            if not all(_UID.fullmatch(uid) for uid in uids):
                raise DicomWebError(f"{self.address}: the UIDs {uids} of a series are none.")
            series.append(WebSeries(*uids, about))
        return sorted(series, key=lambda one: (one.study, one.about["SeriesNumber"].zfill(12), one.uid))

    @quiet()
    def retrieve(self, series: WebSeries, folder: Path, report: Callable[[], None] = lambda: None) -> list[Path]:
        """Write the instances of a series into a folder, as they are stored, and return their files.

        Args:
            series: what `find` found.
            folder: an empty folder.
            report: called after each; an exception of it ends the retrieval.

        Raises:
            DicomWebError: the server cannot be reached, or the series has more bytes than a series may have.
        """
        files: list[Path] = []
        left = self.most_bytes
        with self._asked(f"series {series.uid}"):
            instances: Iterator[Dataset] = self._client.iter_series(
                series.study, series.uid, media_types=(("application/dicom", "*"),)
            )
            for number, instance in enumerate(instances):
                file = folder / f"{number:06d}.dcm"
                instance.save_as(file)
                left -= file.stat().st_size
                if left < 0:
                    raise DicomWebError(
                        f"series {series.uid} is too large; accepted: up to {self.most_bytes / 1e9:.3g} GB."
                    )
                files.append(file)
                report()
        return files

    @quiet()
    def store(self, files: Sequence[Path]) -> None:
        """Store instances; those that are there already are replaced or left, as the server does.

        Raises:
            DicomWebError: the server cannot be reached, or refused one of them.
        """
        group: list[Dataset] = []
        size = 0
        for number, file in enumerate(files, 1):
            group.append(pydicom.dcmread(file))
            size += file.stat().st_size
            if size < _GROUP and number < len(files):
                continue
            with self._asked(f"{len(group)} instances to be stored"):
                answer = self._client.store_instances(group)
            failed = answer.get("FailedSOPSequence") or []
            if failed:
                reason = failed[0].get("FailureReason", "no reason")
                raise DicomWebError(f"{self.address} refused {len(failed)} of {len(group)} instances: {reason}.")
            group, size = [], 0

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Turn the client's exceptions into an error that names the server and the request."""
        try:
            yield
        except DicomWebError:
            raise
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else "an error"
            raise DicomWebError(f"{self.address} answered {status} to {what}.") from error
        except requests.RequestException as error:
            raise DicomWebError(f"{self.address} cannot be reached: {one_line(error)}") from error
        except (ValueError, KeyError, OSError) as error:
            raise DicomWebError(f"{self.address}: no good answer to {what}: {one_line(error)}") from error


def is_own(header: Dataset) -> bool:
    """Whether an instance was made by this package: it is not to be restored again.

    Example:
        >>> header = Dataset()
        >>> header.ManufacturerModelName = "monai_d3gm"
        >>> is_own(header)
        True
    """
    return bool(header.get("ManufacturerModelName") == MODEL_NAME)


class _Adapter(requests.adapters.HTTPAdapter):
    """Gives up where nothing comes, and checks certificates against a file of our own.

    ``requests`` prefers the file that ``REQUESTS_CA_BUNDLE`` names to that of a session.
    """

    def __init__(self, authority: str) -> None:
        self.authority = authority
        super().__init__()

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override]
        """Send with our timeouts and certificates."""
        ours = {"timeout": options.get("timeout") or _TIMEOUTS}
        if self.authority:
            ours["verify"] = self.authority
        return super().send(request, **{**options, **ours})


def _session() -> requests.Session:
    """A session as the environment says."""
    given = {name: os.environ.get(f"D3GM_DICOMWEB_{name}", "") for name in ("USER", "PASSWORD", "TOKEN")}
    files = {name: os.environ.get(f"D3GM_DICOMWEB_{name}", "") for name in ("CA", "CERT", "KEY")}
    for name, file in files.items():
        if file and not Path(file).is_file():
            raise DicomWebError(f"D3GM_DICOMWEB_{name} is {file!r}; accepted: a file that exists.")
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(files["CA"]))
    if given["USER"]:
        session.auth = (given["USER"], given["PASSWORD"])
    if given["TOKEN"]:
        session.headers["Authorization"] = f"Bearer {given['TOKEN']}"
    if files["CERT"]:
        session.cert = (files["CERT"], files["KEY"]) if files["KEY"] else files["CERT"]
    return session
