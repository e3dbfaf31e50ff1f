"""The ground that readers and writers stand on: files are written whole or not at all, and memory is bounded."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY_VARIABLE = "D3GM_MAX_MEMORY"
"""The environment variable that holds the limit of `check_memory` in GiB."""

DEFAULT_MEMORY = 3.0
"""The limit in GiB where the variable is not set."""


_LONGEST_JSON = 1 << 25


class OutputError(ValueError):
    """An output file or folder cannot be written."""


class TooLargeError(ValueError):
    """An input or its result would take more memory than is allowed; the message has both sizes."""


def memory_limit() -> int:
    """The most bytes that one decoded input and its results may take at once.

    Raises:
        ValueError: the environment variable ``D3GM_MAX_MEMORY`` is no number of GiB above 0.

    Example:
        >>> memory_limit() > 0
        True
    """
    text = os.environ.get(MEMORY_VARIABLE, str(DEFAULT_MEMORY))
    try:
        limit = float(text)
        if not 0 < limit < 2**30:
            raise ValueError
    except ValueError:
        raise ValueError(f"{MEMORY_VARIABLE} is {text!r}; accepted: a number of GiB above 0.") from None
    return int(limit * 2**30)


def check_memory(subject: object, what: str, size: int) -> None:
    """Refuse what would take too much memory, before any is taken.

    Args:
        subject: the file, which begins the message.
        what: what would take it.
        size: in bytes.

    Raises:
        TooLargeError: ``size`` is above `memory_limit`.

    Example:
        >>> check_memory("a.nii", "a volume of 512 x 512 x 2000000 voxels", 2**41)
        Traceback (most recent call last):
        ...
        monai_d3gm.files.TooLargeError: a.nii: a volume of 512 x 512 x 2000000 voxels takes 2048 GiB of memory; ...
    """
    limit = memory_limit()
    if size > limit:
        raise TooLargeError(
            f"{subject}: {what} takes {size / 2**30:.4g} GiB of memory; accepted: up to {limit / 2**30:.4g} GiB, which "
            f"--max-memory and the variable {MEMORY_VARIABLE} set."
        )


def load_json(path: str | os.PathLike[str]) -> Any:
    """Read an untrusted JSON file: size and depth are bounded; NaN and infinity are refused, since JSON lacks them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such JSON.

    Example:
        >>> file = Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"a": [1, NaN]}')
        >>> load_json(file)
        Traceback (most recent call last):
        ...
        ValueError: NaN is no JSON number
    """

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is no JSON number")

    with Path(path).open("rb") as file:
        content = file.read(_LONGEST_JSON + 1)
    if len(content) > _LONGEST_JSON:
        raise ValueError(f"more than {_LONGEST_JSON} bytes of JSON")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=refuse)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def one_line(error: BaseException) -> str:
    """The error's message on one line, or its kind where it has none.

    Example:
        >>> one_line(ValueError("a\\n  b")), one_line(KeyError())
        ('a b', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: object) -> str:
    """Text for a terminal or a title: control characters and bytes of a name that are no UTF-8 are escaped.

    Example:
        >>> printable("a\\x1b[2Jb\\udcff")
        'a\\\\x1b[2Jb\\\\xff'
    """
    return "".join(
        character
        if character.isprintable()
        else f"\\x{ord(character) - 0xDC00:02x}"
        if 0xDC80 <= ord(character) <= 0xDCFF
        else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


@contextmanager
def locked(path: str | os.PathLike[str], message: str) -> Iterator[None]:
    """Hold a lock file in the block and remove it afterwards; the file of a killed process locks nothing.

    Where the system has no such locks the block runs without one.

    Args:
        path: the file; its folder exists.
        message: of the error.

    Raises:
        OutputError: another process holds it, or it cannot be made.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder / "lock", "in use"):
        ...     (folder / "lock").exists()
        True
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    target = Path(path)
    try:
        while True:
            file = target.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise OutputError(message) from None
            if target.exists() and os.path.samestat(os.fstat(file.fileno()), target.stat()):
                break
            file.close()  # its holder removed it in the meantime
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    with file:
        try:
            yield
        finally:
            target.unlink(missing_ok=True)


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """Make ``folder`` where it is missing and return it; nothing is left behind in it.

    Raises:
        OutputError: it cannot be made, is no folder, or no file can be written into it.

    Example:
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

    Example:
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
