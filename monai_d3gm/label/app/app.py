"""The MONAI Label app: bundles as models, requests one after the other, results in the datastore."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, find_bundle_root
from monai_d3gm.data.formats.base import stem_of
from monai_d3gm.label.app.studies import Studies
from monai_d3gm.label.app.task import RestorationTask
from monai_d3gm.label.memory import physical_memory

__all__ = ["DEFAULTS", "RestorationApp"]

logger = logging.getLogger(__name__)

DEFAULTS: Mapping[str, str] = {
    "bundles": "mri_sr,mri_recon",
    "device": "",
    "workers": "1",
    "queue": "24",
    "memory": "",
}
"""The app's settings: names or folders of bundles, separated by commas; where networks run, the bundles' own choice if
empty; how many requests run at once; how many more may wait; and the most GB that one may take, by default half of the
machine's memory shared by the workers."""

_THREADS = 32
"""Requests that the server has threads for, running or waiting."""

_STD = "std"
"""The tag under which the standard deviation is stored."""


class RestorationApp(MONAILabelApp):
    """Serves bundles.

    Args:
        app_dir: the app's folder.
        studies: the folder of the datastore.
        conf: settings, see `DEFAULTS`.

    Raises:
        BundleError: a setting is unknown or out of range, or a bundle cannot be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        if unknown := sorted(set(conf) - set(DEFAULTS)):
            raise BundleError(f"unknown setting {unknown[0]!r}; accepted: {', '.join(DEFAULTS)}.")
        self.settings = {**DEFAULTS, **conf}
        self.workers = self._whole_number("workers", 1)
        self.places = self.workers + self._whole_number("queue", 0)
        if self.places > _THREADS:
            raise BundleError(f"workers and queue are {self.places} together; accepted: at most {_THREADS}.")
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="restoration")
        self._count = threading.Lock()
        self._inside = 0
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="monai_d3gm",
            description="Restoration of medical images with measure-preserving diffusion models. Research use only.",
            version=__version__,
        )

    def init_datastore(self) -> Studies:
        """The folder of studies."""
        return Studies(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, RestorationTask]:
        """A task for each bundle, by its folder's name."""
        tasks: dict[str, RestorationTask] = {}
        for name in self.settings["bundles"].split(","):
            root = Path(find_bundle_root(name.strip())).absolute()
            if root.name in tasks:
                raise BundleError(f"bundles has two of the name {root.name}; rename one's folder.")
            tasks[root.name] = RestorationTask(root, self.settings["device"] or None, self._memory())
        return tasks

    def _whole_number(self, name: str, least: int) -> int:
        text = self.settings[name]
        if not text.isdecimal() or int(text) < least:
            raise BundleError(f"{name} is {text!r}; accepted: an integer of at least {least}.")
        return int(text)

    def _memory(self) -> int:
        """Bytes that a request may take."""
        text = self.settings["memory"]
        if not text:
            return physical_memory() // (2 * self.workers)
        try:
            gigabytes = float(text)
        except ValueError:
            gigabytes = 0
        if not 0 < gigabytes < float("inf"):
            raise BundleError(f"memory is {text!r}; accepted: a number of GB above 0.")
        return int(gigabytes * 1e9)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder for a request, which is gone after it."""
        folder = Path(tempfile.mkdtemp(prefix="request-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Give up the requests that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def infer(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Restore an image.

        Args:
            request: ``model``; ``image``, an id in the datastore, or a path (a ``Path``) of the server's own making;
                ``folder`` for the results; and ``params``.
            datastore: unused: MONAI Label has none but the app's.

        Returns:
            ``file``, the result, and ``params``, what the client is told.

        Raises:
            HTTPException: 400, 404, 409, 413 or 503, with the reason.
        """
        task = self._infers.get(request["model"])
        if task is None:
            raise HTTPException(404, f"no model {request['model']!r}; there are: {', '.join(self._infers)}.")
        image = request["image"]
        path = image if isinstance(image, Path) else Path(self.datastore().get_image_uri(image))
        if not path.is_file():
            raise HTTPException(404, f"no image {image!r} in the datastore.")
        parameters = task.check(path, request["params"])
        stored = f"{stem_of(path)}_restored" if parameters.store else None
        if stored is not None:
            self._datastore.check_new(stored)
        with self._place():
            work = {"image": path, "folder": request["folder"], "parameters": parameters}
            file, details = self._pool.submit(task, work).result()
        files = details.pop("files")
        if stored is not None:
            self._datastore.add_new_image(stored, files["restored"], {"model": task.root.name, "of": path.name})
        home = stored or (None if isinstance(image, Path) else image)
        std = None
        if home is not None and _STD in files:
            about = {"model": task.root.name, "parameters": details["parameters"]}
            self._datastore.save_label(home, files[_STD], _STD, about)
            std = {"image": home, "tag": _STD}
        return {"file": file, "params": {**details, "stored": stored, "std": std}}

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places of requests that run or wait.

        Raises:
            HTTPException: 503, too many are waiting.
        """
        with self._count:
            if self._inside >= self.places:
                raise HTTPException(
                    503,
                    f"{self._inside} requests are running or waiting, and no more may (the server's settings workers "
                    "and queue); try again later.",
                    {"Retry-After": "10"},
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._count:
                self._inside -= 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
