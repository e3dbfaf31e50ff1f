"""The server that most tests share: it is started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_series import head, write_classic
from label_server import Server, start, stop
from small_bundle import Run, magnitude, make_bundle, write_nifti


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies, and two bundles beside it: one of another name, one for photographs."""
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    studies.mkdir()
    write_nifti(studies / "sub-01_T1w.nii.gz", magnitude())
    write_nifti(studies / "sub-02_T2w.nii.gz", magnitude(32, 44, 2))
    for number in (5, 6):
        write_classic(studies / "patient" / "study", head((24 + 2 * number, 20, 5)), number=number)
    make_bundle(folder / "own_bundle", "mri_sr")
    make_bundle(folder / "derain", "derain")
    return folder


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    bundles = f"mri_sr,mri_recon,{home / 'own_bundle'},{home / 'derain'}"
    started = start(home, "bundles", bundles, "device", "cpu", "workers", "2", "queue", "24")
    yield started
    stop(started)


@pytest.fixture
def run_bundle(monai_bundle: Callable[..., Run], tmp_path: Path) -> Callable[..., Path]:
    """``python -m monai.bundle run`` of a bundle on a file; returns the folder of its results."""

    def run(root: Path, source: Path, **settings: Any) -> Path:
        output = tmp_path / "run"
        options = {"dataset_dir": source, "output_dir": output, "device": "cpu", "progress": False, **settings}
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        done = monai_bundle("run", "--config_file", root / "configs" / "inference.json", *arguments)
        assert done.status == 0, done.err
        return output

    return run
