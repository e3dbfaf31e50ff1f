"""Whether the packages that are installed can run a MONAI Label server.

MONAI Label 0.8.5 starts with pydicom 2 and numpy 1.26 alone (pydicom-seg, which it imports), and needs ``distutils``,
which Python 3.12 no longer has: an environment of its own, made from ``constraints-label.txt``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from monai_d3gm.bundle import BundleError

__all__ = ["check_environment"]

# package -> the first version that does, the first that no longer does
_RANGES = {
    "monailabel": ((0, 8, 5), (0, 9)),
    "pydicom": ((2, 4), (3,)),
    "pynetdicom": ((2,), (3,)),
    "numpy": ((1, 26), (2,)),
}
_PYTHON = (3, 12)


def check_environment(
    installed: Callable[[str], str] = version, python: tuple[int, ...] = sys.version_info[:2]
) -> None:
    """Refuse an environment in which the server would not start.

    Args:
        installed: gives the version of a package, as ``importlib.metadata.version`` does.
        python: the version of Python.

    Raises:
        BundleError: naming every package that is missing or of another version, with the accepted versions.

    Example:
        >>> versions = {"monailabel": "0.8.5", "pydicom": "3.0.2", "pynetdicom": "2.1.1", "numpy": "1.26.4"}
        >>> check_environment(versions.__getitem__, python=(3, 11))
        Traceback (most recent call last):
        monai_d3gm.bundle.errors.BundleError: MONAI Label cannot run here: pydicom is 3.0.2, accepted: 2.4 to ...
    """
    problems = []
    if python >= _PYTHON:
        problems.append(f"Python is {_text(python)}, accepted: below {_text(_PYTHON)}")
    for name, (first, end) in _RANGES.items():
        try:
            found = installed(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed, accepted: {_text(first)} to below {_text(end)}")
            continue
        if not first <= _numbers(found) < end:
            problems.append(f"{name} is {found}, accepted: {_text(first)} to below {_text(end)}")
    if problems:
        raise BundleError(
            f"MONAI Label cannot run here: {'; '.join(problems)}. It needs an environment of its own; the README's "
            "section on MONAI Label has the command that makes it."
        )


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    Example:
        >>> _numbers("0.8.5rc1"), _numbers("2.13.0+cpu")
        ((0, 8, 5), (2, 13, 0))
    """
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in match[0].split(".")) if match else ()


def _text(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
