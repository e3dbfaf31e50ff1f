"""Jobs over HTTP: at once, with progress, cancelled, and never in the way of a short one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import nibabel
import numpy as np
import pytest
import requests
from label_server import FAST, Server, needs_monai_label, start, stop
from small_bundle import magnitude, make_bundle, write_nifti

from monai_d3gm.label import client

pytestmark = needs_monai_label

LONG = {"num_inference_steps": 100, "num_samples": 100}
"""Tens of millions of pixels through the network: minutes."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, besides that of short requests."""
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "studies").mkdir()
    write_nifti(folder / "studies" / "small.nii.gz", magnitude())
    bundle = make_bundle(folder / "own_bundle", "mri_sr")
    started = start(folder, "bundles", str(bundle), "device", "cpu", "queue", "8")
    yield started
    stop(started)


def until(server: Server, name: str, *states: str) -> dict:  # type: ignore[type-arg]
    for _ in range(1200):
        told = client.job(server.address, name)
        if told["state"] in states and (told["state"] != "running" or told["progress"] > 0):
            return told
        time.sleep(0.1)
    pytest.fail(f"job {name} is {told['state']} and not {states}:\n{server.log.read_text()}")


def left(server: Server) -> list[Path]:
    """The folders of requests, when what is cancelled has had time to end."""
    for _ in range(600):
        if not list(server.scratch.glob("d3gm-label-*/request-*")):
            break
        time.sleep(0.1)
    return list(server.scratch.glob("d3gm-label-*/request-*"))


def test_a_job_has_progress_and_all_results_of_one_restoration(own: Server, tmp_path: Path) -> None:
    waited = own.restore("own_bundle", tmp_path / "waited.nii.gz", image="small", parameters=FAST)
    name = client.submit(own.address, "own_bundle", image="small", parameters=FAST)
    seen: list[float] = []
    details = client.wait(own.address, name, progress=seen.append, seconds=0.02)
    assert seen == sorted(seen) and seen[-1] == 1.0 and all(0 <= share <= 1 for share in seen)
    assert details["parameters"] == waited.details["parameters"]
    told = client.job(own.address, name)
    assert set(told["results"]) == {"restored", "std", "panel", "all"}
    for output in ("restored", "std"):
        client.fetch(own.address, name, tmp_path / f"{output}.nii.gz", output)
    assert (tmp_path / "restored.nii.gz").read_bytes() == waited.path.read_bytes()
    stored = client.download(own.address, tmp_path / "stored.nii.gz", "small", "std")
    assert stored.read_bytes() == (tmp_path / "std.nii.gz").read_bytes()
    assert client.fetch(own.address, name, tmp_path / "panel.png", "panel").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(client.ServerError, match="404: output is 'interval', which was not made"):
        client.fetch(own.address, name, tmp_path / "interval.nii.gz", "interval")
    client.cancel(own.address, name)
    with pytest.raises(client.ServerError, match="404: no job"):
        client.job(own.address, name)
    assert not left(own)


def test_a_long_request_does_not_hold_up_a_short_one_and_can_be_cancelled(own: Server, tmp_path: Path) -> None:
    long = [client.submit(own.address, "own_bundle", image="small", parameters=LONG) for _ in range(2)]
    until(own, long[0], "running")
    short = own.restore("own_bundle", tmp_path / "short.nii.gz", image="small", parameters=FAST)
    assert nibabel.load(short.path).shape == (80, 72, 3)
    states = [client.job(own.address, name) for name in long]
    assert [told["state"] for told in states] == ["running", "waiting"]
    assert 0 < states[0]["progress"] < 1 and states[1]["before"] == 0
    assert {told["job"] for told in requests.get(f"{own.address}/jobs/").json()} >= set(long)
    began = time.monotonic()
    for name in long:
        client.cancel(own.address, name)
    assert not left(own)
    assert states[0]["progress"] < 0.5, "the job was nearly done before it was cancelled"
    print(f"cancelled within {time.monotonic() - began:.1f} s")


def test_a_request_whose_client_went_away_is_cancelled(own: Server, tmp_path: Path) -> None:
    place = urlsplit(own.address)
    body = "params=" + requests.utils.quote('{"num_inference_steps": 100, "num_samples": 100}')
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(
            f"POST /infer/own_bundle?image=small HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}".encode()
        )
        for _ in range(600):
            jobs = requests.get(f"{own.address}/jobs/").json()
            if jobs and jobs[-1]["state"] == "running" and jobs[-1]["progress"] > 0:
                break
            time.sleep(0.1)
        assert jobs[-1]["state"] == "running"
    for _ in range(600):
        if jobs[-1]["job"] not in {told["job"] for told in requests.get(f"{own.address}/jobs/").json()}:
            break
        time.sleep(0.1)
    assert not left(own)
    assert "Traceback" not in own.log.read_text()


def test_a_job_that_fails_says_why(own: Server, tmp_path: Path) -> None:
    write_nifti(tmp_path / "nan.nii.gz", magnitude() * np.float32("nan"))
    name = client.submit(own.address, "own_bundle", file=tmp_path / "nan.nii.gz", parameters=FAST)
    with pytest.raises(client.ServerError, match="NaN") as error:
        client.wait(own.address, name)
    assert error.value.status == 400
    assert client.job(own.address, name)["state"] == "failed"
    reply = requests.get(f"{own.address}/jobs/{name}/results/restored")
    assert reply.status_code == 409 and "the job is failed" in reply.json()["detail"]
    assert not left(own)


def test_what_can_be_refused_is_refused_at_once(own: Server) -> None:
    for parameters in ({"output": "interval"}, {"sead": 1}, {"factor": 3}, {"num_inference_steps": 0}):
        with pytest.raises(client.ServerError, match="400"):
            client.submit(own.address, "own_bundle", image="small", parameters=parameters)
    assert not left(own)
