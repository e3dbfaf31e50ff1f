"""A client of the server: MONAI Label's REST interface as a few functions.

>>> from monai_d3gm.label import client
>>> server = "http://127.0.0.1:8000"
>>> result = client.restore(server, "mri_sr", "restored.nii.gz", image="sub-01_T2w")  # doctest: +SKIP
>>> client.download(server, "std.nii.gz", **result.details["std"])  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from monai_d3gm.files import atomic_path

__all__ = [
    "Restoration",
    "ServerError",
    "cancel",
    "download",
    "fetch",
    "info",
    "job",
    "log_in",
    "restore",
    "submit",
    "upload",
    "wait",
]

_TIMEOUT = 3600.0
"""Seconds without an answer after which a request is given up."""


class ServerError(RuntimeError):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        reason: the server's message.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Restoration:
    """A restored image, and the server's report on it.

    Attributes:
        path: the file that was written here.
        details: parameters, warnings, figures where a truth is known, and where the datastore has the standard
            deviation (``std``) and the restored volume (``stored``), None where it has not.
    """

    path: Path
    details: Mapping[str, Any]


def log_in(server: str, user: str, password: str) -> str:
    """The token of a user, where the server asks for one.

    Args:
        server: its address.
        user: the user's name.
        password: the user's password.

    Raises:
        ServerError: user and password are refused.
    """
    form = {"username": user, "password": password}
    return str(_checked(requests.post(f"{server}/auth/token", data=form, timeout=_TIMEOUT)).json()["access_token"])


def info(server: str, *, token: str | None = None) -> dict[str, Any]:
    """The server's offer: models with their parameters and defaults, and counts of the datastore.

    Args:
        server: its address, such as ``http://127.0.0.1:8000``.
        token: of `log_in`, here and below, where the server asks for one.

    Raises:
        ServerError: it does not answer as MONAI Label does.
    """
    return dict(_checked(requests.get(f"{server}/info/", timeout=_TIMEOUT, headers=_as(token))).json())


def upload(
    server: str,
    path: str | os.PathLike[str],
    image: str | None = None,
    *,
    overwrite: bool = False,
    token: str | None = None,
) -> str:
    """Put a file that can be restored, or a zip of a DICOM series, into the datastore, and return its id there.

    Args:
        server: its address.
        path: the file.
        image: the id; the file's name without suffix if None. A series has its UID.
        overwrite: replace an image of that id, with all that is stored with it.
        token: of `log_in`.

    Raises:
        ServerError: the server refused it; 409 where the id is taken.
    """
    query = {"overwrite": str(overwrite).lower()} | ({} if image is None else {"image": image})
    with Path(path).open("rb") as file:
        files = {"file": (Path(path).name, file)}
        address = f"{server}/datastore/image"
        reply = requests.put(address, params=query, files=files, timeout=_TIMEOUT, headers=_as(token))
    return str(_checked(reply).json()["image"])


def restore(
    server: str,
    model: str,
    path: str | os.PathLike[str],
    *,
    image: str | None = None,
    file: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    token: str | None = None,
) -> Restoration:
    """Restore an image of the datastore or a file of one's own, and wait for it.

    Args:
        server: its address.
        model: name of a bundle that it serves.
        path: where the result is written; for DICOM it is a zip, unless ``format`` is ``nifti``.
        image: id in the datastore.
        file: a file that is sent instead: a volume, a photograph, k-space, a zip of DICOM series.
        parameters: of the request, such as ``{"num_samples": 8, "seed": 1}``.
        overwrite: replace a file that is there.
        token: of `log_in`.

    Raises:
        ValueError: not exactly one of ``image`` and ``file`` is given.
        OutputError: ``path`` cannot be written.
        ServerError: the server refused the request.
    """
    with contextlib.ExitStack() as opened:
        target = opened.enter_context(atomic_path(path, overwrite=overwrite))
        parts = _parts(_asked(server, model, image, file, parameters, token))
        target.write_bytes(parts["image"])
    return Restoration(Path(path), json.loads(parts["params"]))


def submit(
    server: str,
    model: str,
    *,
    image: str | None = None,
    file: str | os.PathLike[str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> str:
    """Ask for a restoration as `restore` does, and return the id of its job at once.

    Raises:
        ValueError: not exactly one of ``image`` and ``file`` is given.
        ServerError: the server refused the request.
    """
    return str(_asked(server, model, image, file, parameters, token, wait="false").json()["job"])


def job(server: str, name: str, *, token: str | None = None) -> dict[str, Any]:
    """The state of a job.

    ``state`` is waiting, running, done, failed or cancelled; ``progress`` runs from 0 to 1; ``before`` is how many wait
    before it; at the end there are ``details`` and ``results``, or ``error``.

    Raises:
        ServerError: there is no such job.
    """
    return dict(_checked(requests.get(f"{server}/jobs/{name}", timeout=_TIMEOUT, headers=_as(token))).json())


def wait(
    server: str,
    name: str,
    *,
    progress: Callable[[float], None] | None = None,
    seconds: float = 0.5,
    token: str | None = None,
) -> dict[str, Any]:
    """Wait for a job and return its report.

    Args:
        server: its address.
        name: of the job.
        progress: called with the share that is done.
        seconds: between two questions.
        token: of `log_in`.

    Raises:
        ServerError: the job failed or was cancelled.
    """
    while True:
        told = job(server, name, token=token)
        if progress is not None:
            progress(float(told["progress"]))
        if told["state"] == "done":
            return dict(told["details"])
        if told["state"] in ("failed", "cancelled"):
            error = told.get("error", {"status": 409, "detail": "the job was cancelled."})
            raise ServerError(error["status"], error["detail"])
        time.sleep(seconds)


def fetch(
    server: str,
    name: str,
    path: str | os.PathLike[str],
    output: str = "restored",
    *,
    overwrite: bool = False,
    token: str | None = None,
) -> Path:
    """Write a result of a job that is done.

    Args:
        server: its address.
        name: of the job.
        path: where to.
        output: ``restored``, ``std``, ``interval``, ``panel``, or ``all`` for a zip.
        overwrite: replace a file that is there.
        token: of `log_in`.

    Raises:
        OutputError: ``path`` cannot be written.
        ServerError: there is no such job or result.
    """
    with atomic_path(path, overwrite=overwrite) as target:
        _write(target, f"{server}/jobs/{name}/results/{output}", {}, token)
    return Path(path)


def cancel(server: str, name: str, *, token: str | None = None) -> None:
    """Cancel a job, or remove its results.

    Raises:
        ServerError: there is no such job.
    """
    _checked(requests.delete(f"{server}/jobs/{name}", timeout=_TIMEOUT, headers=_as(token)))


def download(
    server: str,
    path: str | os.PathLike[str],
    image: str,
    tag: str | None = None,
    *,
    overwrite: bool = False,
    token: str | None = None,
) -> Path:
    """Write a file of the datastore: an image, or the file stored with it under a tag.

    Args:
        server: its address.
        path: where to.
        image: id in the datastore.
        tag: such as ``std``; None for the image itself.
        overwrite: replace a file that is there.
        token: of `log_in`.

    Raises:
        OutputError: ``path`` cannot be written.
        ServerError: there is no such image or tag.
    """
    query = {"image": image} if tag is None else {"label": image, "tag": tag}
    with atomic_path(path, overwrite=overwrite) as target:
        _write(target, f"{server}/datastore/{'image' if tag is None else 'label'}", query, token)
    return Path(path)


def _asked(
    server: str,
    model: str,
    image: str | None,
    file: str | os.PathLike[str] | None,
    parameters: Mapping[str, Any] | None,
    token: str | None,
    **query: str,
) -> requests.Response:
    """The answer to a request for a restoration."""
    if (image is None) == (file is None):
        raise ValueError(f"image is {image!r} and file is {file!r}; accepted: one of them.")
    with contextlib.ExitStack() as opened:
        files = None if file is None else {"file": (Path(file).name, opened.enter_context(Path(file).open("rb")))}
        reply = requests.post(
            f"{server}/infer/{model}",
            params=query | ({} if image is None else {"image": image}),
            data={"params": json.dumps(dict(parameters or {}))},
            files=files,
            timeout=_TIMEOUT,
            headers=_as(token),
        )
    return _checked(reply)


def _write(target: Path, address: str, query: Mapping[str, str], token: str | None) -> None:
    """Write the server's answer, block by block."""
    with (
        requests.get(address, query, timeout=_TIMEOUT, headers=_as(token), stream=True) as reply,
        target.open("wb") as to,
    ):
        for block in _checked(reply).iter_content(1 << 20):
            to.write(block)


def _as(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def _checked(reply: requests.Response) -> requests.Response:
    if reply.ok:
        return reply
    try:
        reason = str(reply.json()["detail"])
    except (ValueError, KeyError, TypeError):
        reason = reply.text or str(reply.reason)
    raise ServerError(reply.status_code, reason)


def _parts(reply: requests.Response) -> dict[str, bytes]:
    """The parts of a multipart answer by their names."""
    boundary = reply.headers["content-type"].partition("boundary=")[2].strip('"').encode()
    parts = {}
    for part in (b"\r\n" + reply.content).split(b"\r\n--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[; ]name="([^"]*)"', head)
        parts[name[1].decode() if name else ""] = content
    return parts
