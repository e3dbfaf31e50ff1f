"""The MONAI Label app: bundles as models, requests as jobs, results in the datastore."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, find_bundle_root
from monai_d3gm.data.formats.base import FORMATS, stem_of
from monai_d3gm.data.formats.registry import format_of, titles
from monai_d3gm.data.restoration.units import InputUnit, find_units
from monai_d3gm.label.app.datastore import Datastore
from monai_d3gm.label.app.task import Request, RestorationTask, Result
from monai_d3gm.label.archive import is_zip, unpack
from monai_d3gm.label.cost import physical_memory
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.jobs import Job, Jobs
from monai_d3gm.label.pacs import Pacs
from monai_d3gm.label.records import fingerprint
from monai_d3gm.label.studies import Folder, Image

__all__ = ["DEFAULTS", "RestorationApp"]

logger = logging.getLogger(__name__)

DEFAULTS: Mapping[str, str] = {
    "bundles": "mri_sr,mri_recon",
    "device": "",
    "workers": "1",
    "queue": "24",
    "memory": "",
    "upload": "4",
    "short": "2e7",
    "keep": "60",
}
"""The app's settings: names or folders of bundles, separated by commas; where networks run, the bundles' own choice if
empty; how many requests run at once, besides a short one; how many more may wait; the most GB that one may take, by
default half of the machine's memory shared by the workers; the most GB that may be sent, also after unpacking; how many
pixels go through the network in a request that is short; and for how many minutes the results of a job are kept."""

_MOST_PLACES = 1000
_TOLD = 20
"""Files that are named, when the server starts, as not to be served."""

_MAPS = ("std", "interval")
"""The maps that are stored with an image, each under its name as a tag; together they are of one restoration."""


class RestorationApp(MONAILabelApp):
    """Serves bundles.

    Args:
        app_dir: the app's folder.
        studies: the folder of the datastore, or the address of a DICOMweb server.
        conf: settings, see `DEFAULTS`.

    Attributes:
        jobs: the requests.
        images: the images, and the files stored with them.

    Raises:
        BundleError: a setting is unknown or out of range, or a bundle cannot be served.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str]) -> None:
        if unknown := sorted(set(conf) - set(DEFAULTS)):
            raise BundleError(f"unknown setting {unknown[0]!r}; accepted: {', '.join(DEFAULTS)}.")
        self.settings = {**DEFAULTS, **conf}
        workers, queue = self._whole_number("workers", 1), self._whole_number("queue", 0)
        if workers + queue > _MOST_PLACES:
            raise BundleError(f"workers and queue are {workers + queue} together; accepted: at most {_MOST_PLACES}.")
        self.most_bytes = int(self._number("upload") * 1e9)
        self._short = self._number("short")
        memory = self.settings["memory"]
        self._memory = int(self._number("memory") * 1e9) if memory else physical_memory() // (2 * (workers + 1))
        self._tasks = self._make_tasks()
        kinds = [kind for kind in FORMATS if any(kind in task.kinds for task in self._tasks.values())]
        self.images = self._open_studies(studies, kinds)
        self.jobs = Jobs(workers, queue, seconds=60 * self._number("keep"))
        super().__init__(
            app_dir,
            studies,
            dict(conf),
            name="monai_d3gm",
            description="Restoration of medical images with measure-preserving diffusion models. Research use only.",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """The studies, for MONAI Label."""
        return Datastore(self.images)

    def init_infers(self) -> dict[str, RestorationTask]:
        """A task for each bundle, by its folder's name."""
        return self._tasks

    def _make_tasks(self) -> dict[str, RestorationTask]:
        tasks: dict[str, RestorationTask] = {}
        for name in self.settings["bundles"].split(","):
            root = Path(find_bundle_root(name.strip())).absolute()
            if root.name in tasks:
                raise BundleError(f"bundles has two of the name {root.name}; rename one's folder.")
            tasks[root.name] = RestorationTask(root, self.settings["device"] or None, self._memory)
        return tasks

    def _open_studies(self, studies: str, kinds: list[str]) -> Folder | Pacs:
        """Open the studies, and say what there is and what cannot be served."""
        if studies.startswith(("http://", "https://")):
            pacs = Pacs(studies, self.most_bytes)
            logger.info("%s: %d MR series", studies, len(pacs.images()))
            return pacs
        folder = Folder(Path(studies), kinds, settings.MONAI_LABEL_DATASTORE_READ_ONLY)
        counts = Counter(titles([image.unit.kind]) for image in folder.images().values())
        found = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        logger.info("%s: %s", studies, found or "no images")
        for problem in folder.problems[:_TOLD]:
            logger.warning("not served: %s: %s", problem.path.relative_to(studies), problem.reason)
        if len(folder.problems) > _TOLD:
            logger.warning("not served: %d more files", len(folder.problems) - _TOLD)
        return folder

    def _whole_number(self, name: str, least: int) -> int:
        text = self.settings[name]
        if not text.isdecimal() or int(text) < least:
            raise BundleError(f"{name} is {text!r}; accepted: an integer of at least {least}.")
        return int(text)

    def _number(self, name: str) -> float:
        text = self.settings[name]
        try:
            number = float(text)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            what = {"memory": "a number of GB", "upload": "a number of GB", "keep": "a number of minutes"}
            raise BundleError(f"{name} is {text!r}; accepted: {what.get(name, 'a number')} above 0.")
        return number

    def close(self) -> None:
        """Cancel the requests that wait and run."""
        self.jobs.close()

    def new_folder(self) -> Path:
        """A folder for a request, which its job removes."""
        return Path(tempfile.mkdtemp(prefix="request-"))

    def submit(self, model: str, source: str | Path, given: Mapping[str, Any], folder: Path) -> Job:
        """Let a restoration wait for its turn; what can be refused is refused before.

        Args:
            model: name of a bundle.
            source: an id in the datastore, or a file that was sent, in ``folder``.
            given: the request's parameters.
            folder: of the request; the job removes it.

        Returns:
            The job; its result is a `Result`.

        Raises:
            RequestError: 400, 403, 404, 409, 413 or 503, with the reason.
        """
        task = self._tasks.get(model)
        if task is None:
            raise RequestError(404, f"no model {model[:80]!r}; there are: {', '.join(self._tasks)}.")
        parameters = task.check(given)
        if isinstance(source, str):
            image = self.images.image(source)
            request = Request(image.stem, [image.unit], {}, parameters, folder)
        else:
            image, name = None, source.stem if is_zip(source) else stem_of(source)
            request = Request(name, *self._sent(source, folder / "unpacked", task), parameters, folder)
        short = self._check_inputs(task, request)
        stored = self._stored_name(image, request)
        return self.jobs.submit(
            lambda job: self._restore(task, request, image, stored, job),
            {"model": model, "image": source if isinstance(source, str) else source.name},
            short=short,
            clean=lambda: shutil.rmtree(folder, ignore_errors=True),
        )

    def _sent(self, file: Path, folder: Path, task: RestorationTask) -> tuple[list[InputUnit], dict[str, str]]:
        """The inputs in a file that was sent, and what in it is none."""
        if not is_zip(file):
            format = format_of(file)
            if format is None or format.name not in task.kinds:
                kind = "no image or k-space" if format is None else format.title
                raise RequestError(
                    400, f"{file.name} is {kind}; bundle {task.root.name} accepts: {titles(task.kinds)}."
                )
            if format.name != "dicom":
                return [InputUnit(format.name, (file,), Path(stem_of(file)))], {}
        else:
            folder.mkdir()
            unpack(file, folder, self.most_bytes)
        place = folder if folder.is_dir() else file
        units, found = find_units(place, task.kinds)
        problems = {
            problem.path.relative_to(place if place.is_dir() else place.parent).as_posix(): problem.reason
            for problem in found
        }
        if not units:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in [*problems.items()][:5])
            raise RequestError(400, f"{file.name}: nothing in it can be restored: {reasons or 'it is empty'}.")
        return units, problems

    def _check_inputs(self, task: RestorationTask, request: Request) -> bool:
        """Refuse the only input by its headers; return whether the request is short."""
        units, parameters = request.units, request.parameters
        if not units[0].files:  # in a PACS
            return False
        pixels, refused = 0, None
        for unit in units:
            try:
                extents = task.check_input(unit, parameters)
                pixels += task.pixels(extents, parameters)
                if parameters.store and len(extents) > 1:
                    raise RequestError(400, f"store: {unit.relative.name} has {len(extents)} volumes; accepted: one.")
            except RequestError as error:
                refused = error
        if refused is not None and (len(units) == 1 or not pixels):
            raise refused
        return pixels <= self._short

    def _stored_name(self, image: Image | None, request: Request) -> str | None:
        """The id, or for a series the folder, under which the restored image is to be stored; None for not at all."""
        name, units, parameters = request.name, request.units, request.parameters
        if not parameters.store:
            return None
        if len(units) > 1:
            raise RequestError(400, f"store is true for {len(units)} inputs; accepted: one.")
        same = parameters.settings.get("format", "same") == "same"
        if isinstance(self.images, Pacs):
            if units[0].kind != "dicom" or not same:
                raise RequestError(
                    400, "store is true for a file that is no DICOM; accepted: DICOM, where studies are a PACS."
                )
            return name
        series = units[0].kind == "dicom" and same
        stored = f"{image.id if series and image is not None else name}_restored"
        self.images.check_new(stored)
        if series and (self.images.root / stored).exists():
            raise RequestError(409, f"{stored!r} is in the datastore; remove it.")
        return stored

    def _restore(
        self, task: RestorationTask, request: Request, image: Image | None, stored: str | None, job: Job
    ) -> Result:
        """Restore, and store the results that the request asks to store."""
        of = None
        if image is not None:
            place = request.folder / "fetched"
            place.mkdir()
            unit = self.images.fetch(image, place, lambda: job.report(0.0)).unit
            request, of = replace(request, units=[unit]), fingerprint(unit.files)
        try:
            result = task(request, job.report)
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if image is not None and isinstance(self.images, Folder) and self.images.fingerprint(image) != of:
            raise RequestError(409, f"image {image.id!r} was replaced while it was restored.")
        about = {
            "model": task.root.name,
            "of": image.id if image is not None else request.name,
            "weights": result.details["checkpoint"]["sha256"],
            "parameters": result.details["parameters"],
            "warnings": result.details["warnings"],
            "versions": result.details["versions"],
        }
        maps = {tag: path for tag in _MAPS if (path := result.single(tag)) is not None}
        home: dict[str, Any] = {"image": None, "tags": []}
        if stored is not None:
            restored = result.single("restored")
            assert restored is not None
            home = self.images.store_restored(stored, restored, maps, about)
        elif image is not None and maps and not self.images.read_only:
            self.images.save(image.id, maps, about, of=of, instead_of=_MAPS)
            home = {"image": image.id, "tags": [*maps]}
        result.details["stored"] = home["image"] if stored is not None else None
        for tag in _MAPS:
            result.details[tag] = {"image": home["image"], "tag": tag} if tag in home["tags"] else None
        return result
