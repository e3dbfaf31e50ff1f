"""Routes of restoration: a request that is waited for, and one that is a job.

MONAI Label's own route for inference runs the model in the server's only event loop, so that nothing else is answered
meanwhile, and answers errors without their reason. The one here has its address, arguments and answers, waits without
holding a thread, cancels requests that nobody waits for any more, and names the fault.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from monai_d3gm.label.app.app import RestorationApp
from monai_d3gm.label.app.received import parsed, received
from monai_d3gm.label.app.task import Result
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.jobs import Cancelled, Job

__all__ = ["infer_routes", "job_routes", "the_app"]

_LOOK = 0.5
"""Seconds after which it is looked whether somebody still waits."""

_GONE = 499
"""The status of a request that nobody waits for; nobody sees it."""

_user = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
infer_routes = APIRouter(prefix="/infer", tags=["Infer"], dependencies=[_user])
job_routes = APIRouter(prefix="/jobs", tags=["Jobs"], dependencies=[_user])


@infer_routes.post("/{model}")
async def infer(
    request: Request,
    model: str,
    image: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all"] = "all",
    wait: bool = True,
) -> Response:
    """Restore an image of the datastore, or a file that is sent: a volume, a photograph, k-space, or a zip of DICOM
    series. Answer with the result's file (`image`), with the facts about it (`json`), or with both. With
    `wait=false` answer at once with a job."""
    job = await run_in_threadpool(_submit, model, image, params, file)
    app = the_app()
    if not wait:
        return JSONResponse(_told(app, job), 202, {"Location": f"jobs/{job.id}"})
    done = asyncio.wrap_future(job.future)
    try:
        while not (await asyncio.wait([done], timeout=_LOOK))[0]:
            if await request.is_disconnected():
                done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody else asks
                return Response(status_code=_GONE)
        result: Result = await done
        path = await run_in_threadpool(result.path, result.wanted)
    except Cancelled as error:
        raise RequestError(409, "the job was cancelled.") from error
    finally:
        if not (done.done() and not done.cancelled() and done.exception() is None) or output == "json":
            await run_in_threadpool(app.jobs.remove, job)
    if output == "json":
        return JSONResponse(result.details)
    forget = BackgroundTask(app.jobs.remove, job)
    if output == "image":
        return FileResponse(path, media_type=get_mime_type(str(path)), filename=path.name, background=forget)
    fields = {
        "params": (None, json.dumps(result.details), "application/json"),
        "image": (path.name, path.open("rb"), get_mime_type(str(path))),
    }
    multipart = MultipartEncoder(fields=fields)
    return StreamingResponse(_blocks(multipart), media_type=multipart.content_type, background=forget)


def _blocks(stream: Any) -> Iterator[bytes]:
    while block := stream.read(1 << 20):
        yield block


def the_app() -> RestorationApp:
    """The app that is served."""
    return cast(RestorationApp, app_instance())


def _submit(model: str, image: str, params: str, file: UploadFile | None) -> Job:
    app = the_app()
    given = parsed("params", params)
    if (file is None) == (not image):
        raise RequestError(400, "no input, or two; accepted: the id of an image, or a file.")
    folder = app.new_folder()
    try:
        source = image if file is None else received(file, folder / "input")
        return app.submit(model, source, given, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _told(app: RestorationApp, job: Job) -> dict[str, Any]:
    """The report on a job."""
    told: dict[str, Any] = {
        "job": job.id,
        **job.about,
        "state": job.state,
        "progress": round(job.progress, 4),
        "before": app.jobs.before(job),
    }
    if job.state == "failed":
        error = job.future.exception()
        known = isinstance(error, RequestError)
        told["error"] = {
            "status": error.status if known else 500,  # type: ignore[union-attr]
            "detail": str(error) if known else f"{type(error).__name__}; the server's log has more.",
        }
    if job.state == "done":
        result: Result = job.future.result()
        told["details"] = result.details
        told["results"] = {name: f"jobs/{job.id}/results/{name}" for name in result.details["outputs"]}
    return told


@job_routes.get("/")
def jobs() -> list[dict[str, Any]]:
    """The jobs that wait, run, or ended not long ago."""
    app = the_app()
    return [_told(app, job) for job in app.jobs.all()]


@job_routes.get("/{name}")
def job_state(name: str) -> dict[str, Any]:
    """The state and progress of a job; when it is done, its report and the addresses of its results."""
    app = the_app()
    return _told(app, app.jobs.get(name))


@job_routes.delete("/{name}")
def cancel(name: str) -> dict[str, Any]:
    """Cancel a job, or remove its results."""
    app = the_app()
    job = app.jobs.get(name)
    app.jobs.remove(job)
    return {"job": name}


@job_routes.get("/{name}/results/{output}")
def job_result(name: str, output: str) -> FileResponse:
    """A file that a job made: restored, std, interval, panel, or a zip of all."""
    job = the_app().jobs.get(name)
    if job.state != "done":
        raise RequestError(409, f"the job is {job.state}; it has no results.")
    path: Path = job.future.result().path(output)
    return FileResponse(path, media_type=get_mime_type(str(path)), filename=path.name)
