"""Routes of the datastore, at MONAI Label's addresses.

MONAI Label's own cut a name at its first dot, so that two images become one, and store what is sent whatever it is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, UploadFile
from fastapi.responses import FileResponse, Response
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.utils.others.generic import get_mime_type
from starlette.background import BackgroundTask

from monai_d3gm.data.formats.base import stem_of
from monai_d3gm.data.formats.registry import read_extent
from monai_d3gm.label.app.app import RestorationApp
from monai_d3gm.label.app.infer import the_app
from monai_d3gm.label.app.received import parsed, received
from monai_d3gm.label.archive import is_zip, pack, unpack
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.studies import check_name

__all__ = ["studies_routes"]

_reader = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))]
_writer = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))]
_admin = [Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))]
studies_routes = APIRouter(prefix="/datastore", tags=["Datastore"])


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="upload-") as folder:
        yield Path(folder)


@studies_routes.get("/", dependencies=_reader)
def datastore(output: Literal["stats", "all", "train"] = "stats") -> Any:
    """Counts of the images and of the files stored with them, or lists of all."""
    app = the_app()
    if output == "train":
        return []
    return app.datastore().json() if output == "all" else app.datastore().status()


@studies_routes.put("/", dependencies=_writer, include_in_schema=False)  # where MONAI Label's own client sends images
@studies_routes.put("/image", dependencies=_writer)
def add_image(
    file: Annotated[UploadFile, File()],
    image: str = "",
    params: Annotated[str, Form()] = "{}",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Put an image into the datastore, or a zip of DICOM series. Its id is its name without suffix, that of a series
    its UID. An id that is taken is refused unless `overwrite` is true: then the files stored with the image go too."""
    app, info = the_app(), parsed("params", params)
    if image:
        check_name("image", image)
    with _scratch() as folder:
        path = received(file, folder / "input")
        if is_zip(path):
            unpack(path, _made(folder / "unpacked"), app.most_bytes)
            names = app.images.add_series(image or path.stem, folder / "unpacked")
            return {"image": names[0], "images": names}
        name = app.images.add(image or stem_of(path), _readable(path), info, replace=overwrite)
        return {"image": name, "images": [name]}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _readable(path: Path) -> Path:
    """The path of a file whose header can be read."""
    try:
        read_extent(path)
    except ValueError as error:
        raise RequestError(400, str(error).replace(f"{path.parent}/", "")) from error
    return path


@studies_routes.delete("/image", dependencies=_admin)
def remove_image(id: str) -> dict[str, Any]:
    """Remove an image and the files stored with it."""
    the_app().images.remove(id)
    return {}


@studies_routes.head("/image", dependencies=_reader)
def has_image(image: str) -> Response:
    """Whether there is an image."""
    the_app().images.image(image)
    return Response()


@studies_routes.get("/image", dependencies=_reader)
def get_image(image: str) -> FileResponse:
    """The file of an image, or a zip of the files of a series."""
    app = the_app()
    found = app.images.image(image)
    if len(found.unit.files) == 1 and found.unit.kind != "dicom":
        return _answer(found.unit.files[0])
    return _series(app, image)


def _series(app: RestorationApp, name: str) -> FileResponse:
    folder = app.new_folder()
    try:
        files = app.images.fetch(app.images.image(name), _made(folder / "files")).unit.files
        archive = folder / f"{name}.zip"
        pack(archive, {path.name: path for path in files})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return _answer(archive, BackgroundTask(shutil.rmtree, folder, ignore_errors=True))


def _answer(path: Path, background: BackgroundTask | None = None) -> FileResponse:
    return FileResponse(path, media_type=get_mime_type(str(path)), filename=path.name, background=background)


@studies_routes.get("/image/info", dependencies=_reader)
def image_info(image: str) -> dict[str, Any]:
    """The facts about an image: its kind, and for a stored result its origin."""
    images = the_app().images
    return images.info(images.image(image))


@studies_routes.put("/image/info", dependencies=_writer)
def update_image_info(image: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    """Record more of an image."""
    the_app().images.update_info(image, parsed("info", info))
    return {}


@studies_routes.put("/label", dependencies=_writer)
def save_label(
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = "final",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, Any]:
    """Store a file with an image under a tag; it goes when the image is replaced."""
    app, info = the_app(), parsed("params", params)
    check_name("tag", tag)
    with _scratch() as folder:
        app.images.save(image, {tag: received(label, folder / "input")}, info)
    return {"image": image, "label": image}


@studies_routes.delete("/label", dependencies=_admin)
def remove_label(id: str, tag: str) -> dict[str, Any]:
    """Remove the file stored with an image under a tag."""
    the_app().images.drop(id, tag)
    return {}


def _stored(name: str, tag: str) -> Any:
    images = the_app().images
    stored = images.stored(images.image(name)).get(tag)
    if stored is None:
        raise RequestError(404, f"nothing is stored with image {name[:200]!r} under the tag {tag[:80]!r}.")
    return stored


@studies_routes.head("/label", dependencies=_reader)
def has_label(label: str, tag: str) -> Response:
    """Whether something is stored with an image under a tag."""
    _stored(label, tag)
    return Response()


@studies_routes.get("/label", dependencies=_reader)
def get_label(label: str, tag: str) -> FileResponse:
    """The file stored with an image under a tag, such as the standard deviation under `std`."""
    return _answer(_stored(label, tag).path)


@studies_routes.get("/label/info", dependencies=_reader)
def label_info(label: str, tag: str) -> dict[str, Any]:
    """The origin of the file stored with an image under a tag."""
    return dict(_stored(label, tag).info)
