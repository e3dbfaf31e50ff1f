"""A folder for the files of running requests; the next start removes those of a killed server."""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["scratch_folder"]

logger = logging.getLogger(__name__)

_PREFIX = "d3gm-label-"
_LOCK = "lock"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new folder among the temporary files, where all temporary files go meanwhile, and remove it.

    A server holds a lock in its folder, which the system takes back when the server is gone, however it ended: a folder
    without one is left over.
    """
    home = Path(tempfile.gettempdir())
    for place in sorted(home.glob(f"{_PREFIX}*")):
        if _is_left_over(place):
            shutil.rmtree(place, ignore_errors=True)
            logger.info("removed %s, which a server that was killed had left", place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(place: Path) -> bool:
    try:
        with (place / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # another's, or held
        return False
