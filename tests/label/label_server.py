"""A real server on a free loopback port, for the tests that speak to it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from monai_d3gm.label import client

needs_monai_label = pytest.mark.skipif(
    importlib.util.find_spec("monailabel") is None, reason="MONAI Label is not installed; .ci/label runs these tests"
)

FAST = {"num_inference_steps": 2, "num_samples": 2}
STARTUP = 600
"""Seconds within which a server must answer; importing MONAI Label alone takes many on a busy machine."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    address: str
    studies: Path
    process: subprocess.Popen[bytes]
    log: Path
    scratch: Path

    def restore(self, model: str, path: Path, **options: Any) -> client.Restoration:
        return client.restore(self.address, model, path, **options)

    def memory(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "MPLBACKEND": "Agg"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    folder: Path,
    *conf: str,
    studies: str | None = None,
    variables: Mapping[str, str] | None = None,
    token: str | None = None,
) -> Server:
    """Start a server with what is in ``folder / "studies"`` or elsewhere, and wait until it answers."""
    port = free_port()
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    log = folder / "server.log"
    arguments = ["label", "start", "--studies", studies or str(folder / "studies"), "--port", str(port)]
    for name, value in zip(conf[::2], conf[1::2], strict=True):
        arguments += ["--conf", name, value]
    command = [sys.executable, "-c", "from monai_d3gm.cli.main import main; raise SystemExit(main())", *arguments]
    with log.open("ab") as file:
        variables = {**environment(scratch), **(variables or {})}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=variables, cwd=folder)
    server = Server(f"http://127.0.0.1:{port}", folder / "studies", process, log, scratch)
    for _ in range(STARTUP * 2):
        if process.poll() is not None:
            break
        try:
            client.info(server.address, token=token)
            return server
        except requests.ConnectionError:
            time.sleep(0.5)
    process.kill()
    pytest.fail(f"the server does not answer:\n{log.read_text()}")


def stop(server: Server) -> None:
    """End a server; its stop is judged in a test of its own."""
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(120)
    finally:
        server.process.kill()
