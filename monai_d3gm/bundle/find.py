"""Finds a bundle's folder and reads its files."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from monai_d3gm.bundle.command_line import command_line_options
from monai_d3gm.bundle.errors import BundleError

__all__ = ["find_bundle_root", "read_json"]

_CONFIG = "configs/inference.json"
_PACKAGE = Path(__file__).resolve().parents[1]


def find_bundle_root(name: str | PathLike[str]) -> str:
    """The folder of a bundle, which holds ``configs/inference.json``.

    In this order: the folder of the config file on MONAI's command line; ``name`` itself as a folder; the current
    folder, where it has this name; ``bundles/<name>`` in the current folder, then in the folder that the package was
    installed from, or in the installed package.

    Args:
        name: name or folder of a bundle.

    Raises:
        BundleError: there is none.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "configs").mkdir()
    >>> _ = (folder / "configs" / "inference.json").write_text("{}")
    >>> find_bundle_root(folder) == str(folder)
    True
    """
    here = Path.cwd()
    places = [Path(file).parent.parent for file in command_line_options().get("config_file", [])[:1]]
    places += [Path(name)]
    if not Path(name).is_absolute():
        places += [here] if here.name == str(name) else []
        places += [base / "bundles" / name for base in (here, _PACKAGE.parent, _PACKAGE)]
    for place in places:
        if (place / _CONFIG).is_file():
            return str(place)
    searched = ", ".join(str(place) for place in dict.fromkeys(places))
    raise BundleError(f"no bundle {str(name)!r}: none of {searched} has a file {_CONFIG}.")


def read_json(file: Path) -> dict[str, Any]:
    """A config file of a bundle.

    Raises:
        BundleError: it is missing, or no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file}: not a JSON object.")
    return content
