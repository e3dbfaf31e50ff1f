"""Writing files whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class OutputError(ValueError):
    """An output file or folder cannot be written."""


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """Make ``folder`` where it is missing and return it; nothing is left behind in it.

    Raises:
        OutputError: it cannot be made, is no folder, or no file can be written into it.

    >>> writable_folder(tempfile.mkdtemp()).is_dir()
    True
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(f"output folder {path} cannot be written: {error.strerror or error}.") from error
    return path


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` that becomes ``path`` when the block ends without an error.

    The temporary file has the same suffixes, so that writers which go by the name work. On an error it is removed
    and ``path`` stays as it was.

    Args:
        path: the file to write; its folder exists.
        overwrite: False refuses to replace a file.

    Raises:
        OutputError: the folder is missing or cannot be written, or the file is there and ``overwrite`` is False.

    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    if target.exists() and (not overwrite or target.is_dir()):
        raise OutputError(
            f"{target} exists; give another name" + ("." if target.is_dir() else " or allow overwriting.")
        )
    temporary = target.with_name(f".{secrets.token_hex(8)}{''.join(target.suffixes[-2:])}")
    try:
        temporary.open("xb").close()
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
