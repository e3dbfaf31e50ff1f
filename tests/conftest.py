"""What holds for every test: one thread, no window, the same examples in every run.

The number of threads is set before torch is imported: with torch's default, two busy cores are up to 50 times slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from small_bundle import Run

torch.set_num_threads(1)
hypothesis.settings.register_profile("d3gm", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("d3gm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``pytest -n 2``: a process takes whole files, whose tests share fixtures, in the order of their collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the short files, examples of docstrings, come last and fill the gap
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle mri_recon with a small network and untrained weights."""
    from small_bundle import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles") / "mri_recon")


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    """A folder with one small volume."""
    from small_bundle import magnitude, write_nifti

    folder = tmp_path / "volumes"
    folder.mkdir()
    write_nifti(folder / "sub-01_T1w.nii.gz", magnitude())
    return folder


@pytest.fixture
def monai_bundle(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """``python -m monai.bundle ARGUMENTS``, run in this process."""
    from small_bundle import monai_command

    return monai_command(monkeypatch, capfd)
