"""What the page on the server shows runs as printed, against the server of the tests."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from dicom_series import head, write_classic
from label_server import Server, needs_monai_label
from small_bundle import full_kspace, magnitude, write_nifti

from monai_d3gm.data.formats.fastmri import write_kspace
from monai_d3gm.label import client
from monai_d3gm.label.archive import is_zip, pack

pytestmark = needs_monai_label

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "label.md"
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def here(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the page speaks of; what is stored by their names is removed at the end."""
    monkeypatch.chdir(tmp_path)
    write_nifti(tmp_path / "sub-01_T2w.nii.gz", magnitude(36, 30, 2))
    kspace = np.stack([full_kspace(64, 48, 1)] * 2, axis=1)
    write_kspace(tmp_path / "scan.h5", kspace.astype(np.complex64), recon_size=(64, 48))
    write_classic(tmp_path / "series", head((20, 24, 3)), number=41)
    pack(tmp_path / "study.zip", {"study": tmp_path / "series"})
    yield tmp_path
    for name in ("sub-01_T2w", "scan_restored"):
        requests.delete(f"{server.address}/datastore/image", params={"id": name})


def test_the_commands_run(server: Server, here: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
    assert len(lines) >= 10
    job, answers = "", {}
    for line in lines:
        command = line.partition("  #")[0]
        sent = command.replace(f"{ADDRESS}/jobs/ID", f"{ADDRESS}/jobs/{job}").replace(ADDRESS, server.address)
        sent = sent.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
        run = subprocess.run(["bash", "-c", sent], capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        answers[command.strip()] = run.stdout
        if "wait=false" in line:
            job = json.loads(run.stdout)["job"]
            client.wait(server.address, job)
    assert nibabel.load("restored.nii.gz").shape == (72, 60, 2) and nibabel.load("std.nii.gz").shape == (72, 60, 2)
    assert is_zip("restored.zip")
    stored = [json.loads(answer) for command, answer in answers.items() if '"store": true' in command]
    assert [each["stored"] for each in stored] == ["scan_restored"]
    with pytest.raises(client.ServerError, match="404: no job"):
        client.job(server.address, job)


def test_the_client_is_used_as_shown(server: Server, here: Path) -> None:
    names: dict[str, Any] = {}
    code = blocks("python")[0]
    assert f'server = "{ADDRESS}"' in code
    with contextlib.redirect_stdout(None):
        exec(compile(code.replace(ADDRESS, server.address), "label.md", "exec"), names)
    for name in ("restored", "std"):
        assert nibabel.load(f"{name}.nii.gz").shape == (72, 60, 2)
    for name in ("scan", "scan_std"):
        assert nibabel.load(f"{name}.nii.gz").shape == (64, 48, 1)
    assert names["report"]["protocol"]["data"].startswith("measured")
