"""The errors of a bundle, and the causes of errors inside ``monai.bundle``."""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable
from pathlib import Path

__all__ = ["BundleError", "did_you_mean", "explain", "is_refusal", "root_cause"]

_PACKAGE = Path(__file__).resolve().parents[1]


DEBUG_VARIABLE = "D3GM_DEBUG"
"""The environment variable that keeps the traceback of an unexpected error."""


class BundleError(ValueError):
    """A bundle cannot be found, or is given a key that it does not have."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message on an unknown name: similar names, or else all.

    Example:
        >>> did_you_mean("sed", ["seed", "device"], prefix="--")
        'did you mean --seed?'
        >>> did_you_mean("x", ["seed", "device"])
        'accepted: device, seed.'
    """
    names = sorted(known)
    if near := difflib.get_close_matches(name, names, n=3):
        return f"did you mean {' or '.join(prefix + each for each in near)}?"
    return f"accepted: {', '.join(prefix + each for each in names)}."


def root_cause(error: BaseException) -> BaseException:
    """The innermost exception: ``monai.bundle`` wraps the exceptions of components and expressions.

    Example:
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
    """Whether the package itself raised the error: a ValueError whose message says all.

    Example:
        >>> from monai_d3gm.bundle import find_bundle_root
        >>> try:
        ...     find_bundle_root("no_such_bundle")
        ... except BundleError as error:
        ...     print(is_refusal(error), is_refusal(ValueError("of another package")))
        True False
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    return isinstance(error, ValueError) and bool(frames) and _PACKAGE in Path(frames[-1][0].f_code.co_filename).parents


def explain(error: Exception) -> str:
    """An error as one line. Its kind is named unless it is a refusal or the system's.

    The traceback of a bug is printed if the environment variable ``D3GM_DEBUG`` is set; ``--debug`` sets it.

    Example:
        >>> explain(FileNotFoundError("no such file"))
        'no such file'
    """
    cause = root_cause(error)
    text = " ".join(str(cause).split())
    if is_refusal(cause) or isinstance(cause, OSError):
        return text
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    return f"{type(cause).__name__}: {text}"
