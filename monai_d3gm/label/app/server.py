"""The server: MONAI Label's routes for information and the next image, our own for the rest, and the page.

Routes that cannot work here (training, batches, the proxy, sessions) are left out.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import requests
import uvicorn
from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from monailabel.config import settings
from monailabel.endpoints import activelearning, info, login
from monailabel.endpoints.user.auth import get_current_user
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from monai_d3gm.bundle import BundleError
from monai_d3gm.data.formats.dicom.web import DicomWebError
from monai_d3gm.label.app.auth import current_user
from monai_d3gm.label.app.infer import infer_routes, job_routes
from monai_d3gm.label.app.limits import UploadLimit
from monai_d3gm.label.app.scratch import scratch_folder
from monai_d3gm.label.app.studies import studies_routes
from monai_d3gm.label.errors import RequestError

__all__ = ["application", "start"]

logger = logging.getLogger(__name__)

_PATIENCE = 60
"""Seconds that running requests have when the server is stopped."""

_PAGE = Path(__file__).parents[1] / "page"
"""The folder of the page's files."""


async def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestError)
    headers = {503: {"Retry-After": "10"}, 401: {"WWW-Authenticate": "Bearer"}}.get(error.status)
    return JSONResponse({"detail": error.reason}, error.status, headers)


async def _monailabel_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": getattr(error, "msg", str(error))}, 404)


async def _issuer_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the issuer of tokens refused user and password, or does not answer."}, 401)


async def _error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"{type(error).__name__}; the server's log has more."}, 500)


application = FastAPIOffline(title="monai_d3gm", redoc_url=None)
application.add_middleware(UploadLimit)
application.add_exception_handler(RequestError, _request_error)
application.add_exception_handler(MONAILabelException, _monailabel_error)
application.add_exception_handler(requests.RequestException, _issuer_error)
application.add_exception_handler(Exception, _error)
for _router in (info.router, activelearning.router, login.router, studies_routes, infer_routes, job_routes):
    application.include_router(_router, prefix=settings.MONAI_LABEL_API_STR)


if settings.MONAI_LABEL_AUTH_ENABLE:
    application.dependency_overrides[get_current_user] = current_user


@application.get(f"{settings.MONAI_LABEL_API_STR}/", include_in_schema=False)
def page() -> FileResponse:
    """The page."""
    return FileResponse(_PAGE / "index.html")


application.mount(f"{settings.MONAI_LABEL_API_STR}/page", StaticFiles(directory=_PAGE), name="page")


def start(studies: str, conf: Mapping[str, str], host: str, port: int) -> None:
    """Serve studies until the process is told to stop; requests that run then are answered.

    Args:
        studies: a folder, or the address of a DICOMweb server.
        conf: the app's settings.
        host: address to listen on.
        port: its port.

    Raises:
        BundleError: the address cannot be used, a setting is wrong, a bundle cannot be served, or the DICOMweb server
            does not answer.
    """
    _check_address(host, port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for name in ("monailabel", "ignite", "dicomweb_client", "highdicom", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("monai.bundle.workflows").addFilter(lambda record: "skipping logging" not in record.getMessage())
    settings.MONAI_LABEL_APP_DIR = str(Path(__file__).parent)
    settings.MONAI_LABEL_STUDIES = studies
    settings.MONAI_LABEL_APP_CONF = dict(conf)
    settings.MONAI_LABEL_SERVER_PORT = port
    settings.MONAI_LABEL_SESSIONS = False
    with scratch_folder():
        try:
            app = app_instance()
        except DicomWebError as error:
            raise BundleError(str(error)) from error
        UploadLimit.most_bytes = app.most_bytes
        logger.info("serving %s; studies: %s", ", ".join(app.info()["models"]), studies)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn ends, and raises the signal again
        try:
            uvicorn.run(application, host=host, port=port, log_config=None, timeout_graceful_shutdown=_PATIENCE)
        except KeyboardInterrupt:
            logger.info("stopped")
        finally:
            app.close()


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise BundleError(f"{host}:{port} cannot be listened on: {error}") from error
