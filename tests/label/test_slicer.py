"""The module for 3D Slicer: its Python against the server, with stand-ins for what Slicer brings."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from label_server import FAST, Server, needs_monai_label
from small_bundle import magnitude, write_nifti

FILE = Path(__file__).resolve().parents[2] / "monai_d3gm" / "label" / "slicer" / "D3GMRestore.py"


class Signal:
    """A part of a panel: it has whatever attribute it is given, and calls what is connected."""

    def __init__(self, *arguments: Any) -> None:
        self.text = str(arguments[0]) if arguments else ""
        self.items: list[str] = []
        self.value, self.running, self.enabled, self.node = 0, False, True, None
        self.slots: dict[str, Callable[[], None]] = {}

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        self.slots[signal] = slot

    def click(self) -> None:
        self.slots["clicked()"]()

    def setText(self, text: str) -> None:
        self.text = text

    def setValue(self, value: int) -> None:
        self.value = value

    def addItems(self, items: list[str]) -> None:
        self.items += items

    @property
    def currentText(self) -> str:
        return self.items[0] if self.items else ""

    def currentNode(self) -> Any:
        return self.node

    def clear(self) -> None:
        self.items = []

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


class Node:
    """A volume node, which is a file here."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def GetName(self) -> str:
        return self.name


@pytest.fixture
def slicer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module loaded as Slicer loads it, with the scene that it loads into."""
    loaded: dict[str, Any] = {}

    def load(path: str, properties: dict[str, str]) -> Node:
        kept = tmp_path / f"{properties['name']}.nii.gz"
        shutil.copy(path, kept)
        loaded[properties["name"]] = nibabel.load(kept)
        return Node(properties["name"], kept)

    fake, qt, parts = ModuleType("slicer"), ModuleType("qt"), ModuleType("slicer.ScriptedLoadableModule")
    fake.qMRMLNodeComboBox, fake.mrmlScene = Signal, None  # type: ignore[attr-defined]
    fake.util = SimpleNamespace(  # type: ignore[attr-defined]
        saveNode=lambda node, path: bool(shutil.copy(node.path, path)),
        loadVolume=load,
        setSliceViewerLayers=lambda background: None,
    )
    for name in ("QLineEdit", "QComboBox", "QPushButton", "QProgressBar", "QLabel", "QFormLayout", "QTimer"):
        setattr(qt, name, type(name, (Signal,), {}))

    class Part:
        def __init__(self, parent: Any = None) -> None:
            self.parent, self.layout = parent, Signal()

        def setup(self) -> None:
            pass

    for name in ("ScriptedLoadableModule", "ScriptedLoadableModuleLogic", "ScriptedLoadableModuleWidget"):
        setattr(parts, name, Part)
    for name, module in {"slicer": fake, "qt": qt, "slicer.ScriptedLoadableModule": parts}.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("D3GMRestore", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield SimpleNamespace(module=module, loaded=loaded)


@pytest.fixture
def panel(slicer: Any, server: Server, tmp_path: Path) -> Any:
    """The panel, connected to the server, with a volume that is open."""
    widget = slicer.module.D3GMRestoreWidget()
    widget.setup()
    widget.server.text = server.address
    widget.connectButton.click()
    widget.model.items = ["own_bundle"]
    widget.volume.node = Node("sub 7: T1w", write_nifti(tmp_path / "open.nii.gz", magnitude(36, 30, 2)))
    widget.parameters.text = json.dumps(FAST)
    return widget


def end(panel: Any) -> None:
    """What Slicer's timer does."""
    for _ in range(1200):
        panel.look()
        if not panel.timer.running:
            return
        time.sleep(0.1)
    pytest.fail(f"it does not end: {panel.words.text}")


def test_it_is_python_that_slicer_runs_and_needs_nothing_installed() -> None:
    tree = ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 9))
    names = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"qt", "slicer"}


@needs_monai_label
def test_a_volume_is_restored_without_blocking_and_image_and_map_are_loaded(
    panel: Any, slicer: Any, server: Server, tmp_path: Path
) -> None:
    jobs = len(requests.get(f"{server.address}/jobs/").json())
    panel.startButton.click()
    assert panel.restoration is not None and not panel.restoration.done and panel.timer.running
    assert not panel.startButton.enabled and panel.cancelButton.enabled
    end(panel)
    assert set(slicer.loaded) == {"sub 7: T1w_restored", "sub 7: T1w_std"}
    sent = write_nifti(tmp_path / "sub_7__T1w.nii.gz", magnitude(36, 30, 2))  # the name keys the noise
    expected = server.restore("own_bundle", tmp_path / "expected.nii.gz", file=sent, parameters=FAST)
    restored = slicer.loaded["sub 7: T1w_restored"]
    assert np.array_equal(restored.get_fdata(), nibabel.load(expected.path).get_fdata())
    assert np.array_equal(restored.affine, nibabel.load(expected.path).affine)
    assert panel.bar.value == 100 and "loaded: restored, std" in panel.words.text
    assert expected.details["warnings"][0] in panel.words.text
    assert len(requests.get(f"{server.address}/jobs/").json()) == jobs
    assert panel.startButton.enabled and not panel.cancelButton.enabled


@needs_monai_label
def test_a_restoration_can_be_cancelled(panel: Any, slicer: Any, server: Server) -> None:
    panel.parameters.text = json.dumps({"num_inference_steps": 100, "num_samples": 100})
    panel.startButton.click()
    panel.cancelButton.click()
    end(panel)
    assert panel.words.text == "cancelled" and not slicer.loaded
    for _ in range(600):
        if not [job for job in requests.get(f"{server.address}/jobs/").json() if job["image"] == "sub_7__T1w.nii.gz"]:
            break
        time.sleep(0.1)
    assert not [job for job in requests.get(f"{server.address}/jobs/").json() if job["image"] == "sub_7__T1w.nii.gz"]


@needs_monai_label
@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("parameters", '{"sead": 1}', "400: unknown parameter 'sead'"),
        ("parameters", "{seed: 1}", "Expecting property name"),
        ("server", "http://127.0.0.1:9", "http://127.0.0.1:9 does not answer"),
    ],
)
def test_what_is_wrong_is_shown(panel: Any, slicer: Any, field: str, text: str, words: str) -> None:
    getattr(panel, field).text = text
    panel.startButton.click()
    end(panel)
    assert words in panel.words.text and not slicer.loaded
    panel.connectButton.click()
