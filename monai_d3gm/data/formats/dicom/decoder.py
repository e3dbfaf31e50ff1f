"""Decodes compressed pixels in a process of its own: a decoder that crashes on a damaged file ends that process alone.

Run as a program it imports pydicom and the decoders, and nothing of this package, so that it starts in a moment. It
reads the names of files from stdin, each ended by a zero byte, and answers each on stdout with the size of a NumPy file
and that file, or with a negative size and the text of an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

__all__ = ["Decoder", "DecoderError", "decode"]

_SIZE = struct.Struct("<q")
_PATIENCE = 120.0
"""Seconds that a file may take."""


class DecoderError(Exception):
    """The pixels of a file cannot be decoded."""


def decode(path: str | os.PathLike[str]) -> NDArray[np.generic]:
    """Stored values of a file, (rows, columns) or (frames, rows, columns).

    Raises:
        Exception: of any kind that the decoders raise.
    """
    dataset = pydicom.dcmread(path, force=True)
    if not getattr(dataset, "file_meta", None):
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    pixels: NDArray[np.generic] = dataset.pixel_array
    return pixels


class Decoder:
    """The process, started with the first file and again after a crash; closed at the end of the block.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> with Decoder() as decoder:
        ...     decoder.decode(Path(get_testdata_file("MR_small_RLE.dcm")), 2**20).shape
        (64, 64)
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def decode(self, path: Path, most: int) -> NDArray[np.generic]:
        """Stored values of a file.

        Args:
            path: the file.
            most: bytes that it may have.

        Raises:
            DecoderError: the decoder raised, crashed, or took longer than two minutes.
        """
        if self._process is None:
            command = [sys.executable, "-I", "-W", "ignore", __file__]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        deadline = time.monotonic() + _PATIENCE
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(os.fsencode(path.absolute()) + b"\0")
            (size,) = _SIZE.unpack(self._read(_SIZE.size, deadline))
            if size > most + 4096:
                raise DecoderError(f"{size} bytes of pixels where {most} are described.")
            content = self._read(abs(size), deadline)
        except DecoderError:
            self._stop()
            raise
        except OSError as error:
            self._stop()
            raise DecoderError("the decoder ended before it had the file.") from error
        if size < 0:
            raise DecoderError(content.decode("utf-8", errors="replace"))
        return np.load(io.BytesIO(content), allow_pickle=False)

    def _read(self, count: int, deadline: float) -> bytes:
        """``count`` bytes of the answer."""
        assert self._process is not None and self._process.stdout is not None
        parts, file = [], self._process.stdout
        while count > 0:
            if sys.platform != "win32" and not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise DecoderError(f"the decoder took longer than {_PATIENCE:g} s.")
            part = file.read(min(count, 1 << 20))
            if not part:
                status = self._process.wait()
                raise DecoderError(f"the decoder crashed (exit status {status}): the pixels are damaged.")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _names() -> Iterator[str]:
    """The names on stdin."""
    name = b""
    while character := sys.stdin.buffer.read(1):
        if character != b"\0":
            name += character
            continue
        yield os.fsdecode(name)
        name = b""


def _answer() -> None:
    output = sys.stdout.buffer
    with contextlib.redirect_stdout(sys.stderr):
        for name in _names():
            buffer = io.BytesIO()
            try:
                np.save(buffer, decode(name), allow_pickle=False)
                content, sign = buffer.getvalue(), 1
            except Exception as error:  # each decoder raises its own kinds
                content, sign = (" ".join(str(error).split()) or type(error).__name__).encode()[:2000], -1
            output.write(_SIZE.pack(sign * len(content)) + content)
            output.flush()


if __name__ == "__main__":
    _answer()
