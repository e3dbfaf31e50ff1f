"""A scripted module of 3D Slicer: restore the volume that is open, by a monai_d3gm server.

Add this file's folder to Slicer's additional module paths (Edit, Application Settings, Modules) and restart. It needs
nothing installed: it speaks HTTP by Python's own library. A request is one job: restored volume and map come from the
same restoration. All that waits is done in a thread, and Slicer goes on meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

try:
    import qt
    import slicer
    from slicer.ScriptedLoadableModule import (
        ScriptedLoadableModule,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleWidget,
    )
except ImportError:  # outside Slicer: the client alone
    qt = slicer = None
    ScriptedLoadableModule = ScriptedLoadableModuleLogic = ScriptedLoadableModuleWidget = object

POLL_SECONDS = 0.5
MAPS = ("std", "interval")


class ServerError(RuntimeError):
    """The server refused something; the message is its reason."""


class Client:
    """A monai_d3gm server: its address, and a token where it asks for one."""

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        self.token = token or None

    def models(self) -> dict[str, Any]:
        """The models by name, with their parameters and defaults."""
        return self._json("GET", "/info/")["models"]

    def log_in(self, user: str, password: str) -> None:
        """Take a token by user and password."""
        form = urllib.parse.urlencode({"username": user, "password": password}).encode()
        kind = "application/x-www-form-urlencoded"
        self.token = self._json("POST", "/auth/token", form, kind)["access_token"]

    def submit(self, model: str, path: str, parameters: dict[str, Any]) -> str:
        """Send a file, and return the id of the job that restores it."""
        boundary = uuid.uuid4().hex
        with open(path, "rb") as file:
            content = file.read()
        name = os.path.basename(path).encode()
        mark = b"--" + boundary.encode()
        body = b"\r\n".join(
            [
                mark,
                b'Content-Disposition: form-data; name="params"',
                b"",
                json.dumps(parameters).encode(),
                mark,
                b'Content-Disposition: form-data; name="file"; filename="' + name + b'"',
                b"Content-Type: application/octet-stream",
                b"",
                content,
                mark + b"--",
                b"",
            ]
        )
        kind = "multipart/form-data; boundary=" + boundary
        return self._json("POST", "/infer/" + urllib.parse.quote(model) + "?wait=false", body, kind)["job"]

    def job(self, name: str) -> dict[str, Any]:
        """The state of a job."""
        return self._json("GET", "/jobs/" + name)

    def fetch(self, name: str, output: str, path: str) -> None:
        """Write a result of a job."""
        with self._open("GET", f"/jobs/{name}/results/{output}") as reply, open(path, "wb") as file:
            shutil.copyfileobj(reply, file)

    def cancel(self, name: str) -> None:
        """Cancel a job, or remove its results."""
        self._json("DELETE", "/jobs/" + name)

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> Any:
        with self._open(method, path, body, kind) as reply:
            return json.loads(reply.read().decode())

    def _open(self, method: str, path: str, body: bytes | None = None, kind: str | None = None) -> Any:
        request = urllib.request.Request(self.address + path, data=body, method=method)
        if kind:
            request.add_header("Content-Type", kind)
        if self.token:
            request.add_header("Authorization", "Bearer " + self.token)
        try:
            return urllib.request.urlopen(request, timeout=600)
        except urllib.error.HTTPError as error:
            try:
                reason = json.loads(error.read().decode())["detail"]
            except (ValueError, KeyError, TypeError):
                reason = error.reason
            raise ServerError(f"{error.code}: {reason}") from None
        except OSError as error:
            raise ServerError(f"{self.address} does not answer: {error}") from None


class Restoration:
    """One restoration, in a thread of its own; its attributes are read from Slicer's.

    Attributes:
        progress: the share that is done, 0 to 1.
        files: when it is done, the files of the results: "restored", and "std" and "interval" where there are.
        warnings: of the server.
        error: why it failed; empty where it did not.
        name: what its results are called by.
        folder: where its files are.
    """

    def __init__(self, client: Client, model: str, path: str, parameters: dict[str, Any], folder: str) -> None:
        self.progress, self.error = 0.0, ""
        self.files: dict[str, str] = {}
        self.warnings: list[str] = []
        self.name, self.folder = os.path.basename(path), folder
        self._arguments = client, model, path, parameters, folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """End it; the server cancels its job."""
        self._stop.set()

    def _run(self) -> None:
        client, model, path, parameters, folder = self._arguments
        name = None
        try:
            name = client.submit(model, path, parameters)
            told = client.job(name)
            while told["state"] in ("waiting", "running"):
                self.progress = told["progress"]
                if self._stop.wait(POLL_SECONDS):
                    raise ServerError("cancelled")
                told = client.job(name)
            if told["state"] != "done":
                raise ServerError(told.get("error", {}).get("detail", told["state"]))
            self.warnings = told["details"]["warnings"]
            files = {}
            for output in ("restored",) + MAPS:
                if output in told["results"]:
                    files[output] = os.path.join(folder, output + ".nii.gz")
                    client.fetch(name, output, files[output])
            self.files, self.progress = files, 1.0
        except Exception as error:  # shown to the user; a thread has nobody else to tell
            self.error = str(error)
        finally:
            if name is not None:
                try:
                    client.cancel(name)
                except ServerError:
                    pass  # it forgets the job by itself


class D3GMRestore(ScriptedLoadableModule):
    """The module's description in Slicer."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Restore (monai_d3gm)"
        self.parent.categories = ["Filtering"]
        self.parent.dependencies = []
        self.parent.contributors = ["The monai_d3gm contributors"]
        self.parent.helpText = "Restores a volume by a monai_d3gm server, with a map of the standard deviation."
        self.parent.acknowledgementText = "Research use only."


class D3GMRestoreLogic(ScriptedLoadableModuleLogic):
    """Sends a volume of the scene, and loads what comes back."""

    def start(self, client: Client, model: str, volume: Any, parameters: dict[str, Any]) -> Restoration:
        """Send a volume node; return its `Restoration`."""
        folder = tempfile.mkdtemp(prefix="d3gm-")
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in volume.GetName()).lstrip(".") or "volume"
        path = os.path.join(folder, name + ".nii.gz")
        if not slicer.util.saveNode(volume, path):
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError("the volume cannot be written as NIfTI")
        restoration = Restoration(client, model, path, parameters, folder)
        restoration.name = volume.GetName()
        return restoration

    def finish(self, restoration: Restoration) -> dict[str, Any]:
        """Load the results of a restoration that has ended, and return the nodes by output."""
        try:
            if restoration.error:
                raise ServerError(restoration.error)
            nodes = {}
            for output, path in restoration.files.items():
                nodes[output] = slicer.util.loadVolume(path, {"name": restoration.name + "_" + output})
            return nodes
        finally:
            shutil.rmtree(restoration.folder, ignore_errors=True)


class D3GMRestoreWidget(ScriptedLoadableModuleWidget):
    """The module's panel: server, model, volume, parameters, progress."""

    def setup(self) -> None:
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = D3GMRestoreLogic()
        self.restoration: Restoration | None = None
        self.server = qt.QLineEdit("http://127.0.0.1:8000")
        self.token = qt.QLineEdit()
        self.token.setPlaceholderText("only where the server asks for one")
        self.model = qt.QComboBox()
        self.connectButton = qt.QPushButton("Connect")
        self.volume = slicer.qMRMLNodeComboBox()
        self.volume.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.volume.addEnabled = self.volume.removeEnabled = False
        self.volume.setMRMLScene(slicer.mrmlScene)
        self.parameters = qt.QLineEdit('{"num_samples": 4}')
        self.startButton = qt.QPushButton("Restore")
        self.cancelButton = qt.QPushButton("Cancel")
        self.bar, self.words = qt.QProgressBar(), qt.QLabel("")
        self.bar.setRange(0, 100)
        self.words.setWordWrap(True)
        form = qt.QFormLayout()
        rows = {"Server": self.server, "Token": self.token, " ": self.connectButton, "Model": self.model}
        rows |= {"Volume": self.volume, "Parameters (JSON)": self.parameters, "  ": self.startButton}
        rows |= {"   ": self.cancelButton, "Progress": self.bar, "": self.words}
        for words, field in rows.items():
            form.addRow(words, field)
        self.layout.addLayout(form)
        self.layout.addStretch(1)
        self.timer = qt.QTimer()
        self.timer.setInterval(int(1000 * POLL_SECONDS))
        self.timer.connect("timeout()", self.look)
        self.connectButton.connect("clicked()", self.connectServer)
        self.startButton.connect("clicked()", self.start)
        self.cancelButton.connect("clicked()", self.cancel)
        self.show()

    def cleanup(self) -> None:
        """End what runs when the module is closed."""
        self.timer.stop()
        self.cancel()

    def client(self) -> Client:
        """The server that the panel names."""
        return Client(self.server.text, self.token.text)

    def connectServer(self) -> None:
        """Ask the server for its models."""
        try:
            names = sorted(self.client().models())
        except ServerError as error:
            self.words.setText(str(error))
            return
        self.model.clear()
        self.model.addItems(names)
        self.words.setText(f"{len(names)} models")

    def start(self) -> None:
        """Send the volume that is chosen."""
        volume = self.volume.currentNode()
        try:
            parameters = json.loads(self.parameters.text or "{}")
            if volume is None or not self.model.currentText:
                raise ServerError("connect, and choose a model and a volume")
            self.restoration = self.logic.start(self.client(), self.model.currentText, volume, parameters)
        except (ServerError, ValueError) as error:
            self.words.setText(str(error))
            return
        self.words.setText("")
        self.timer.start()
        self.show()

    def cancel(self) -> None:
        """End the restoration."""
        if self.restoration is not None:
            self.restoration.cancel()

    def look(self) -> None:
        """Show the progress, and load the results that are done."""
        if self.restoration is None:
            self.timer.stop()
            return
        self.bar.setValue(int(100 * self.restoration.progress))
        if not self.restoration.done:
            return
        self.timer.stop()
        restoration, self.restoration = self.restoration, None
        try:
            nodes = self.logic.finish(restoration)
            self.words.setText("\n".join(["loaded: " + ", ".join(nodes)] + restoration.warnings))
            slicer.util.setSliceViewerLayers(background=nodes["restored"])
        except ServerError as error:
            self.words.setText(str(error))
        self.show()

    def show(self) -> None:
        """Enable what can be done now."""
        self.startButton.enabled = self.restoration is None
        self.cancelButton.enabled = self.restoration is not None
