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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from monai_d3gm.files import atomic_path

__all__ = ["Restoration", "ServerError", "download", "info", "restore", "upload"]

_TIMEOUT = 3600.0
"""Seconds without an answer after which a request is given up."""


class ServerError(RuntimeError):
    """The server refused a request.

    Attributes:
        status: the HTTP status.
        reason: what the server said.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"the server answered {status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Restoration:
    """What the server made of an image.

    Attributes:
        path: the file that was written here.
        details: parameters, warnings, figures where a truth is known, and where the datastore has the standard
            deviation (``std``) and the restored volume (``stored``), None where it has not.
    """

    path: Path
    details: Mapping[str, Any]


def info(server: str) -> dict[str, Any]:
    """What the server offers: models with their parameters and defaults, and counts of the datastore.

    Args:
        server: its address, such as ``http://127.0.0.1:8000``.

    Raises:
        ServerError: it does not answer as MONAI Label does.
    """
    return dict(_checked(requests.get(f"{server}/info/", timeout=_TIMEOUT)).json())


def upload(server: str, path: str | os.PathLike[str], image: str | None = None) -> str:
    """Put a volume (NIfTI) or a photograph into the datastore, and return its id there.

    Args:
        server: its address.
        path: the file.
        image: the id; the file's name without suffix if None.

    Raises:
        ServerError: the server refused it.
    """
    query = {} if image is None else {"image": image}
    with Path(path).open("rb") as file:
        files = {"file": (Path(path).name, file)}
        reply = requests.put(f"{server}/datastore/image", params=query, files=files, timeout=_TIMEOUT)
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
) -> Restoration:
    """Restore an image of the datastore or a file of one's own: a volume, a photograph, k-space.

    Args:
        server: its address.
        model: name of a bundle that it serves.
        path: where the result is written.
        image: id in the datastore.
        file: a file that is sent instead.
        parameters: of the request, such as ``{"num_samples": 8, "seed": 1}``.
        overwrite: replace a file that is there.

    Raises:
        ValueError: not exactly one of ``image`` and ``file`` is given.
        OutputError: ``path`` cannot be written.
        ServerError: the server refused the request.
    """
    if (image is None) == (file is None):
        raise ValueError(f"image is {image!r} and file is {file!r}; accepted: one of them.")
    with contextlib.ExitStack() as opened:
        target = opened.enter_context(atomic_path(path, overwrite=overwrite))
        files = None if file is None else {"file": (Path(file).name, opened.enter_context(Path(file).open("rb")))}
        reply = requests.post(
            f"{server}/infer/{model}",
            params={} if image is None else {"image": image},
            data={"params": json.dumps(dict(parameters or {}))},
            files=files,
            timeout=_TIMEOUT,
        )
        parts = _parts(_checked(reply))
        target.write_bytes(parts["image"])
    return Restoration(Path(path), json.loads(parts["params"]))


def download(
    server: str, path: str | os.PathLike[str], image: str, tag: str | None = None, *, overwrite: bool = False
) -> Path:
    """Write a file of the datastore: an image, or what is stored with it under a tag.

    Args:
        server: its address.
        path: where to.
        image: id in the datastore.
        tag: such as ``std``; None for the image itself.
        overwrite: replace a file that is there.

    Raises:
        OutputError: ``path`` cannot be written.
        ServerError: there is no such image or tag.
    """
    query = {"image": image} if tag is None else {"label": image, "tag": tag}
    with atomic_path(path, overwrite=overwrite) as target:
        reply = requests.get(f"{server}/datastore/{'image' if tag is None else 'label'}", query, timeout=_TIMEOUT)
        target.write_bytes(_checked(reply).content)
    return Path(path)


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
