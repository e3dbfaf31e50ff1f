"""A bundle added as one folder: found by name, described, restored with and loaded, with no change of the code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_bundle import logging_kept, make_bundle

import monai_d3gm
from monai_d3gm.bundle import find_bundles
from monai_d3gm.cli.main import main
from monai_d3gm.data import write_image


def test_a_folder_is_all_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_bundle(tmp_path / "bundles" / "grain", "derain")
    file = root / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata |= {"version": "9.8.7", "task": "Grain off photographs"}
    file.write_text(json.dumps(metadata))
    monkeypatch.chdir(tmp_path)
    assert find_bundles()["grain"].resolve() == root
    write_image(tmp_path / "film.png", np.random.default_rng(0).random((3, 24, 32), dtype=np.float32))
    with logging_kept():
        assert main(["list"]) == 0
        listed = capsys.readouterr().out
        assert main(["restore", "grain", "film.png", "out", "--steps", "1", "--samples", "1", "--no-progress"]) == 0
        restored = monai_d3gm.load("grain", num_inference_steps=1, num_samples=1).restore(tmp_path / "film.png")
    assert "grain" in listed and "9.8.7" in listed and "Grain off photographs" in listed
    assert (tmp_path / "out" / "film_restored.png").is_file() and restored.image.shape == (1, 24, 32, 3)
