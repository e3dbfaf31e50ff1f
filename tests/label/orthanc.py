"""A real Orthanc on the loopback interface, with users, behind TLS.

TLS ends in a small relay here: the Orthanc 1.10.1 of Debian 12 crashes at its first answer over TLS of its own.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from label_server import free_port

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
USER, PASSWORD = "alice", "a secret"

needs_orthanc = pytest.mark.skipif(
    ORTHANC is None or not PLUGIN.exists(), reason="orthanc and orthanc-dicomweb are not installed"
)


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc."""

    address: str
    authority: Path
    process: subprocess.Popen[bytes]

    @property
    def dicom_web(self) -> str:
        return f"{self.address}/dicom-web"

    @property
    def variables(self) -> dict[str, str]:
        """What lets our client in."""
        return {
            "D3GM_DICOMWEB_USER": USER,
            "D3GM_DICOMWEB_PASSWORD": PASSWORD,
            "D3GM_DICOMWEB_CA": str(self.authority),
        }

    def ask(self, method: str, path: str, **options: Any) -> Any:
        options |= {"auth": (USER, PASSWORD), "verify": str(self.authority)}
        reply = requests.request(method, f"{self.address}{path}", **options)
        reply.raise_for_status()
        return reply

    def send(self, files: Sequence[Path]) -> None:
        for file in files:
            self.ask("POST", "/instances", data=file.read_bytes())

    def clear(self) -> None:
        for patient in self.ask("GET", "/patients").json():
            self.ask("DELETE", f"/patients/{patient}")

    def series(self) -> dict[str, dict[str, Any]]:
        """The tags of all series, by their UIDs, with the ids of their instances."""
        found = self.ask("GET", "/series?expand").json()
        return {one["MainDicomTags"]["SeriesInstanceUID"]: one for one in found}

    def files(self, uid: str, folder: Path) -> list[Path]:
        """The instances of a series as Orthanc has them."""
        folder.mkdir(parents=True)
        paths = []
        for instance in self.series()[uid]["Instances"]:
            paths.append(folder / f"{instance}.dcm")
            paths[-1].write_bytes(self.ask("GET", f"/instances/{instance}/file").content)
        return paths


def relay(port: int, certificate: Path, key: Path) -> int:
    """Answer with TLS on a port of its own for what answers without on another; it ends with this process."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listening = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(1 << 16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def serve(plain: socket.socket) -> None:
        try:
            with context.wrap_socket(plain, server_side=True) as outside:
                with socket.create_connection(("127.0.0.1", port)) as inside:
                    back = threading.Thread(target=pass_on, args=(inside, outside), daemon=True)
                    back.start()
                    pass_on(outside, inside)
                    back.join(60)
        except OSError:  # a client that does not trust the certificate, or went away
            pass

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(listening.getsockname()[1])


def start_orthanc(folder: Path) -> Orthanc:
    """Start it with an empty store and a certificate of its own, and wait until it answers."""
    port = free_port()
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    config = {
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    assert ORTHANC is not None
    log = folder / "orthanc.log"
    with log.open("wb") as file:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=file, stderr=file)
    started = Orthanc(f"https://127.0.0.1:{relay(port, certificate, key)}", certificate, process)
    for _ in range(240):
        try:
            started.ask("GET", "/system")
            return started
        except requests.RequestException:
            if process.poll() is not None:
                break
            time.sleep(0.5)
    process.kill()
    pytest.fail(f"Orthanc does not answer:\n{log.read_text()}")
