"""The parts of requests: files under their own names, and JSON of bounded size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import UploadFile

from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.studies import check_name

__all__ = ["parsed", "received"]

_LONGEST = 1 << 16
"""Characters of JSON in a form."""


def parsed(argument: str, text: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        argument: its name in the form.
        text: of the request.

    Raises:
        RequestError: 400, it is none, or too long or too deep.

    Example:
        >>> parsed("params", '{"seed": 1}')
        {'seed': 1}
        >>> parsed("params", "[" * 60000)
        Traceback (most recent call last):
        monai_d3gm.label.errors.RequestError: params is no JSON: too deep.
    """
    if len(text) > _LONGEST:
        raise RequestError(400, f"{argument} has {len(text)} characters; accepted: at most {_LONGEST}.")
    try:
        content = json.loads(text or "{}")
    except RecursionError as error:
        raise RequestError(400, f"{argument} is no JSON: too deep.") from error
    except ValueError as error:
        raise RequestError(400, f"{argument} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise RequestError(400, f"{argument} is {text[:80]!r}; accepted: a JSON object.")
    return content


def received(file: UploadFile, folder: Path) -> Path:
    """Write a file that was sent into a folder, under its own name: an image's noise is keyed by that.

    Raises:
        RequestError: 400, the name cannot be that of a file.
    """
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name
    check_name("the file's name", name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("xb") as target:
        shutil.copyfileobj(file.file, target, 1 << 20)
    return folder / name
