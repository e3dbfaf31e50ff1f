"""Bundles from outside and inside: finding their folder, and a command line that refuses what it does not know.

``python -m monai.bundle run`` accepts every key, wraps each error in one that does not say what is wrong, and takes
a bundle's paths from the current folder. The functions here, named in the bundles' configs, mend that. They act on
MONAI's command line only: a ``ConfigWorkflow`` made in Python is left alone.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import sys
import traceback
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["BundleError", "check_command_line", "find_bundle_root", "is_refusal", "root_cause"]

_CONFIG = "configs/inference.json"


class BundleError(ValueError):
    """A bundle cannot be found, or is given a key that it does not have."""


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
    package = Path(__file__).resolve().parent
    here = Path.cwd()
    places = [Path(file).parent.parent for file in _command_line_options().get("config_file", [])[:1]]
    places += [Path(name)]
    if not Path(name).is_absolute():
        places += [here] if here.name == str(name) else []
        places += [base / "bundles" / name for base in (here, package.parent, package)]
    for place in places:
        if (place / _CONFIG).is_file():
            return str(place)
    searched = ", ".join(str(place) for place in dict.fromkeys(places))
    raise BundleError(f"no bundle {str(name)!r}: none of {searched} has a file {_CONFIG}.")


def check_command_line() -> None:
    """Refuse what the command line ``python -m monai.bundle run`` gets wrong, and let its errors end in their cause.

    A key is known if the config files have it at their top level; of a nested key (``a::b``) the first part counts.
    Where the config has a number or a truth value, the command line must give one (Fire takes ``false`` for text, and
    text for true). From then on an error ends the program with its cause as the last line on stderr. Without such a
    command line nothing is done.

    Raises:
        BundleError: an unknown key, or a value of another kind.

    >>> check_command_line()
    """
    options = _command_line_options()
    if "config_file" not in options:
        return
    sys.excepthook = _print_cause
    from monai.bundle import ConfigParser

    config: dict[str, Any] = {"_meta_": {}}
    for file in options["config_file"]:
        config |= ConfigParser.load_config_file(file)
    known = {re.split("::|#", key)[0] for key in config}
    for key, values in options.items():
        first = re.split("::|#", key)[0]
        if first not in known and key not in _run_parameters():
            near = difflib.get_close_matches(first, known, n=3)
            hint = f"did you mean {' or '.join('--' + name for name in near)}?" if near else "see docs/README.md."
            raise BundleError(f"unknown key --{key}; {hint}")
        if len(values) == 1:
            _check_kind(key, values[0], config.get(key))


def _check_kind(key: str, value: Any, default: Any) -> None:
    """Refuse text for a number and all but True and False for a truth value; expressions pass."""
    if not isinstance(default, int | float) or str(value).startswith(("$", "@", "%")):
        return
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError):
        pass
    if isinstance(default, bool) and not isinstance(value, bool):
        raise BundleError(f"{key} is {value!r}; accepted: True or False.")
    if not isinstance(default, bool) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise BundleError(f"{key} is {value!r}; accepted: a number.")


def root_cause(error: BaseException) -> BaseException:
    """The exception inside those in which ``monai.bundle`` wraps what a component or an expression raises.

    >>> try:
    ...     raise RuntimeError("Failed to evaluate ...") from ValueError("seed is 'a'")
    ... except RuntimeError as error:
    ...     print(root_cause(error))
    seed is 'a'
    """
    while error.__cause__ is not None and str(error).startswith(("Failed to evaluate", "Failed to instantiate")):
        error = error.__cause__
    return error


def is_refusal(error: BaseException) -> bool:
    """Whether the package itself refuses something: a ValueError that it raised, whose message says all.

    >>> try:
    ...     find_bundle_root("no_such_bundle")
    ... except BundleError as error:
    ...     print(is_refusal(error), is_refusal(ValueError("of another package")))
    True False
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    package = Path(__file__).resolve().parent
    return isinstance(error, ValueError) and bool(frames) and package in Path(frames[-1][0].f_code.co_filename).parents


def _run_parameters() -> set[str]:
    from monai.bundle import run

    return set(inspect.signature(run).parameters) - {"override"}


def _command_line_options() -> dict[str, list[str]]:
    """Options of ``python -m monai.bundle run``, name -> values; those of its ``args_file`` too; empty elsewhere.

    ``config_file`` is given as the list of files.
    """
    program, *arguments = sys.argv or [""]
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or arguments[:1] != ["run"]:
        return {}
    options: dict[str, list[str]] = {}
    key = ""
    for argument in arguments[1:]:
        if match := re.match(r"--?([A-Za-z_][^=\s]*)(?:=(.*))?$", argument, re.DOTALL):
            key = match[1].replace("-", "_")
            options[key] = [] if match[2] is None else [match[2]]
        elif key:
            options[key].append(argument)
    if options.get("args_file"):
        from monai.bundle import ConfigParser

        content = ConfigParser.load_config_file(options["args_file"][0])
        options = {name: [value] for name, value in content.items()} | options
    if "config_file" in options:
        options["config_file"] = _as_files(options["config_file"])
    return options


def _as_files(values: Sequence[Any]) -> list[str]:
    """The config files of an option: one, a list as text (quoted as Fire reads it), or separated by commas."""
    files: list[str] = []
    for value in values:
        text = value if isinstance(value, str) else json.dumps(value)
        if Path(text).is_file():
            files.append(text)
            continue
        inside = text.strip().removeprefix("[").removesuffix("]").removeprefix("(").removesuffix(")")
        files += [part.strip().strip("'\"") for part in inside.split(",") if part.strip()]
    return files


def _print_cause(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a refusal as one line, and any other error with its traceback and its cause last."""
    cause = root_cause(error)
    if not is_refusal(cause):
        traceback.print_exception(kind, error, trace)
    print(f"error: {' '.join(str(cause).split()) or type(cause).__name__}", file=sys.stderr)
