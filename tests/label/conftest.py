"""The server that most tests share: it is started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_series import head, write_classic
from label_server import Server, start, stop
from small_bundle import Run, magnitude, make_bundle, write_nifti

from monai_d3gm.networks.checkpoint import weights_hash
from monai_d3gm.trust.calibration import Calibration, CalibrationCondition, ContrastCalibration
from monai_d3gm.trust.conformal import Interval


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies, and bundles beside it: one of another name, one for photographs, and one that has
    intervals for a single sample."""
    folder = tmp_path_factory.mktemp("label")
    studies = folder / "studies"
    studies.mkdir()
    write_nifti(studies / "sub-01_T1w.nii.gz", magnitude())
    write_nifti(studies / "sub-02_T2w.nii.gz", magnitude(32, 44, 2))
    for number in (5, 6):
        write_classic(studies / "patient" / "study", head((24 + 2 * number, 20, 5)), number=number)
    make_bundle(folder / "own_bundle", "mri_sr")
    make_bundle(folder / "derain", "derain")
    weights = make_bundle(folder / "calibrated", "mri_sr") / "models" / "model.pt"
    interval = ContrastCalibration(Interval(q=2.0, s0=0.01, coverage=0.9, subjects=3, pixels=1000), {}, {})
    condition = CalibrationCondition({"num_samples": 1}, {"T1W": interval})
    Calibration(weights_hash(weights), (condition,)).save(weights.parent / "calibration.json")
    return folder


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    bundles = ",".join(["mri_sr", "mri_recon", *(str(home / name) for name in ("own_bundle", "derain", "calibrated"))])
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
