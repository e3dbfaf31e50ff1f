"""The HTTP side: MONAI Label's routes for information and the datastore, and one of our own for restoration.

MONAI Label's own route for inference runs the model in the server's only event loop, so that nothing else is answered
meanwhile, and answers errors without their reason. The one here has its address, arguments and answers, runs in a
thread, and says what is wrong. What cannot work here (training, batches, the proxy, sessions) is left out.
"""

from __future__ import annotations

import json
import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints import activelearning, datastore, info, login
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder

from monai_d3gm.bundle import BundleError

__all__ = ["application", "start"]

logger = logging.getLogger(__name__)

_PATIENCE = 60
"""Seconds that running requests have when the server is stopped."""

_router = APIRouter(prefix="/infer", tags=["Infer"])


@_router.post("/{model}", dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
def infer(
    model: str,
    image: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all"] = "all",
) -> Response:
    """Restore an image of the datastore, or a file that is sent; answer with the result's file (`image`), with what is
    to be said of it (`json`), or with both."""
    app = app_instance()
    parameters = _parsed(params)
    if file is None and not image:
        raise HTTPException(400, "no input; accepted: the id of an image, or a file.")
    with app.folder() as folder:
        source = image if file is None else _received(file, folder)
        request = {"model": model, "image": source, "params": parameters, "folder": folder}
        result = app.infer(request)
        details, path = result["params"], Path(result["file"])
        if output == "json":
            return JSONResponse(details)
        content, kind = path.read_bytes(), get_mime_type(path)
    if output == "image":
        name = {"Content-Disposition": f"attachment; filename*=utf-8''{quote(path.name)}"}
        return Response(content, media_type=kind, headers=name)
    fields = {"params": (None, json.dumps(details), "application/json"), "image": (path.name, content, kind)}
    multipart = MultipartEncoder(fields=fields)
    return Response(multipart.to_string(), media_type=multipart.content_type)


def _parsed(params: str) -> dict[str, Any]:
    try:
        parsed = json.loads(params or "{}")
    except ValueError as error:
        raise HTTPException(400, f"params is no JSON: {error}.") from error
    if not isinstance(parsed, dict):
        raise HTTPException(400, f"params is {params[:80]!r}; accepted: a JSON object.")
    return parsed


def _received(file: UploadFile, folder: Path) -> Path:
    """The file that was sent, under its own name: an image's noise is keyed by that."""
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name
    if not name or name.startswith(".") or "\0" in name or len(name.encode()) > 200:
        raise HTTPException(400, f"the file's name is {file.filename!r}; accepted: one that begins with no dot.")
    inputs = folder / "input"
    inputs.mkdir()
    with (inputs / name).open("xb") as target:
        shutil.copyfileobj(file.file, target)
    return inputs / name


async def _monailabel_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": getattr(error, "msg", str(error))}, 404)


async def _error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"{type(error).__name__}; the server's log has more."}, 500)


application = FastAPI(title="monai_d3gm", redoc_url="/docs", docs_url=None)
application.add_exception_handler(MONAILabelException, _monailabel_error)
application.add_exception_handler(Exception, _error)
for _part in (info, datastore, activelearning, *([login] if settings.MONAI_LABEL_AUTH_ENABLE else [])):
    application.include_router(_part.router, prefix=settings.MONAI_LABEL_API_STR)
application.include_router(_router, prefix=settings.MONAI_LABEL_API_STR)


def start(studies: Path, conf: Mapping[str, str], host: str, port: int) -> None:
    """Serve a folder of studies until the process is told to stop; requests that run then are answered.

    Args:
        studies: the folder.
        conf: the app's settings.
        host: address to listen on.
        port: its port.

    Raises:
        BundleError: the address cannot be used, a setting is wrong, or a bundle cannot be served.
    """
    _check_address(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("monailabel").setLevel(logging.WARNING)
    logging.getLogger("monai.bundle.workflows").addFilter(lambda record: "skipping logging" not in record.getMessage())
    settings.MONAI_LABEL_APP_DIR = str(Path(__file__).parent)
    settings.MONAI_LABEL_STUDIES = str(studies)
    settings.MONAI_LABEL_APP_CONF = dict(conf)
    settings.MONAI_LABEL_SERVER_PORT = port
    settings.MONAI_LABEL_SESSIONS = False
    app = app_instance()
    logger.info("serving %s; studies: %s", ", ".join(app.info()["models"]), studies)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn ends, and raises again what it was told
    with tempfile.TemporaryDirectory(prefix="d3gm-label-") as scratch:
        tempfile.tempdir = scratch  # MONAI Label leaves uploads that are refused in the folder of temporary files
        try:
            uvicorn.run(application, host=host, port=port, log_config=None, timeout_graceful_shutdown=_PATIENCE)
        except KeyboardInterrupt:
            logger.info("stopped")
        finally:
            app.close()
            tempfile.tempdir = None


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise BundleError(f"{host}:{port} cannot be listened on: {error}") from error
