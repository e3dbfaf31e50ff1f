"""What a bundle refuses, and the causes of what goes wrong inside ``monai.bundle``."""

from __future__ import annotations

import traceback
from pathlib import Path

__all__ = ["BundleError", "explain", "is_refusal", "root_cause"]

_PACKAGE = Path(__file__).resolve().parents[1]


class BundleError(ValueError):
    """A bundle cannot be found, or is given a key that it does not have."""


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
    """An error as one line; where it is neither a refusal nor the system's, it is a bug: its traceback is printed.

    >>> explain(FileNotFoundError("no such file"))
    'no such file'
    """
    cause = root_cause(error)
    text = " ".join(str(cause).split())
    if is_refusal(cause) or isinstance(cause, OSError):
        return text
    traceback.print_exception(error)
    return f"{type(cause).__name__}: {text}"
