"""A small copy of the bundle with an untrained network, small inputs, and MONAI's command line run in this process."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_d3gm.networks.checkpoint import save_checkpoint
from monai_d3gm.networks.nets import ConditionalNAFNet

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
BUNDLE = BUNDLES / "mri_recon"
PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python")
SMALL = {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]}


def save_untrained(path: Path, name: str = "mri_recon", **changes: Any) -> None:
    """An untrained small network's checkpoint for the scheduler of a bundle's inference.json."""
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / name / "configs" / "inference.json"))
    definition = {k: v for k, v in parser.get("network_def").items() if k != "_target_"}
    torch.manual_seed(0)
    network = ConditionalNAFNet(**{**definition, **SMALL, **changes})
    save_checkpoint(path, network, parser.get_parsed_content("scheduler"), {}, {"steps": 0})


def make_bundle(root: Path, name: str = "mri_recon") -> Path:
    """A bundle's configs with a small network, and its untrained weights."""
    shutil.copytree(BUNDLES / name / "configs", root / "configs")
    file = root / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"].update(SMALL)
    config["progress"] = False
    file.write_text(json.dumps(config))
    (root / "models").mkdir()
    save_untrained(root / "models" / "model.pt", name)
    return root


def evaluation_files(root: Path) -> str:
    """The config files of an evaluation, as MONAI's command line takes a list."""
    return f"['{root}/configs/inference.json','{root}/configs/evaluate.json']"


def magnitude(rows: int = 40, columns: int = 36, slices: int = 3) -> np.ndarray:
    """A bright ellipsoid with a dark one inside: different along every axis."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (rows, columns, slices)), indexing="ij")
    volume = 1.0 * ((x / 0.8) ** 2 + (y / 0.6) ** 2 + (z / 3) ** 2 < 1)
    volume -= 0.6 * (((x - 0.3) / 0.2) ** 2 + ((y + 0.1) / 0.3) ** 2 < 1)
    return (100 * volume * (1 + 0.3 * np.sin(9 * x) * np.cos(7 * y))).clip(0).astype(np.float32)


def write_nifti(path: Path, data: np.ndarray) -> Path:
    """A NIfTI file with an oblique affine, 1 x 2 x 3 mm."""
    affine = np.array([[0, 2, 0, -30], [-1, 0, 0, 20], [0, 0.02, 3, 5], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def full_kspace(rows: int = 32, columns: int = 24, slices: int = 2) -> np.ndarray:
    """Fully sampled k-space of `magnitude`."""
    image = np.moveaxis(magnitude(rows, columns, slices), -1, 0).astype(np.complex64)
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        """What the user reads last."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@contextlib.contextmanager
def logging_kept() -> Iterator[None]:
    """Undo what a bundle's logging.conf does to the loggers of this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    disabled = {name: each.disabled for name, each in root.manager.loggerDict.items() if hasattr(each, "disabled")}
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        for name, state in disabled.items():
            logging.getLogger(name).disabled = state


def monai_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """``python -m monai.bundle ARGUMENTS`` as a function, without the seconds that a new process takes to import."""

    def command(*arguments: object) -> Run:
        monkeypatch.setattr(sys, "argv", ["monai.bundle", *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
        status = 0
        capfd.readouterr()
        with logging_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
            except Exception:
                status = 1
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        out, err = capfd.readouterr()
        return Run(status, out, err)

    return command


def d3gm(*arguments: object) -> Run:
    """The command in this process."""
    from monai_d3gm.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with logging_kept(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(argument) for argument in arguments])
    return Run(status, out.getvalue(), err.getvalue())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TRAINED = "-- the training is over --"
SEVERAL_COMMANDS = f"""
import json, os, runpy, sys, warnings
from monai_d3gm.cli.main import main
for number, (port, arguments) in enumerate(json.loads(sys.argv[1])):
    if number:  # torchrun gives one place to meet; each further command meets at its own
        os.environ |= {{"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}}
        if main(arguments):
            sys.exit(f"failed: {{arguments}}")
        continue
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    warnings.simplefilter("ignore")
    if os.environ["RANK"] == "0":
        print({TRAINED!r}, flush=True)
"""


def two_processes(training: Sequence[object], *commands: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """A training and commands of d3gm, one after another, in two processes that torchrun starts.

    Args:
        training: the arguments of ``python -m``.
        commands: the arguments of ``d3gm``.

    Returns:
        What all have printed, as ``stdout``; `TRAINED` stands behind what the training did.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in (training, *commands)]
        ports = [each.getsockname()[1] for each in sockets]
    listed = json.dumps([(port, [*map(str, each)]) for port, each in zip(ports, (training, *commands), strict=True)])
    command = [sys.executable, *PROCESSES, sys.executable, "-c", SEVERAL_COMMANDS, listed]
    printed = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command, **printed, env={**os.environ, "OMP_NUM_THREADS": "1"})  # type: ignore[call-overload]
