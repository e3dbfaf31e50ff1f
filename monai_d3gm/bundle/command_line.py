"""A stricter command line for MONAI: unknown keys are refused.

``python -m monai.bundle run`` accepts every key, and wraps each error in another that hides the cause. The bundles'
configs call `check_command_line`, which corrects both. It acts on MONAI's command line only, not on a
``ConfigWorkflow`` made in Python.
"""

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from monai_d3gm.bundle.errors import BundleError, did_you_mean, is_refusal, root_cause

__all__ = ["check_argument", "check_command_line", "command_line_options"]


def check_command_line() -> None:
    """Refuse wrong options of ``python -m monai.bundle run``, and let its errors end in their cause.

    A key is known if the config files have it at their top level, and a nested key (``a::b``) if the component ``a``
    has such an argument.
    Where the config has a number or a truth value, the command line must give one (Fire takes ``false`` for text, and
    text for true). From then on an error ends the program with its cause as the last line on stderr. Without such a
    command line the function does nothing.

    Raises:
        BundleError: an unknown key, or a value of another kind.

    Example:
        >>> check_command_line()
    """
    options = command_line_options()
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
            raise BundleError(f"unknown key --{key}; {did_you_mean(first, known, prefix='--')}")
        check_argument(config, key)
        if len(values) == 1:
            _check_kind(key, values[0], config.get(key))


def check_argument(config: Mapping[str, Any], key: str) -> None:
    """Refuse a nested key whose component has no such argument; others pass.

    Args:
        config: the components by name.
        key: such as ``sampler::eta``.

    Raises:
        BundleError: naming the accepted arguments.

    Example:
        >>> config = {"sampler": {"_target_": "monai_d3gm.sde.Sampler"}}
        >>> check_argument(config, "sampler::eta")
        >>> check_argument(config, "sampler::etta")
        Traceback (most recent call last):
        monai_d3gm.bundle.errors.BundleError: unknown key sampler::etta; did you mean eta?
    """
    *path, name = re.split("::|#", key)
    entry: Any = config
    for part in path:
        entry = entry.get(part) if isinstance(entry, Mapping) else None
    target = pydoc.locate(entry["_target_"]) if isinstance(entry, Mapping) and "_target_" in entry else None
    if not path or not callable(target) or name.startswith("_"):
        return
    arguments = inspect.signature(target).parameters
    if name not in arguments and all(each.kind is not each.VAR_KEYWORD for each in arguments.values()):
        raise BundleError(f"unknown key {key}; {did_you_mean(name, arguments)}")


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


def _run_parameters() -> set[str]:
    from monai.bundle import run

    return set(inspect.signature(run).parameters) - {"override"}


def command_line_options() -> dict[str, list[str]]:
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
