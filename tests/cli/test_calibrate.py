"""``d3gm calibrate`` on a small bundle and small subjects, and what its calibration does to a restoration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_bundle import logging_kept, magnitude, make_bundle, save_untrained, write_nifti

from monai_d3gm.bundle import INFERENCE, make_workflow
from monai_d3gm.cli.main import main
from monai_d3gm.handlers.trust import TrustCheck
from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash, write_checkpoint
from monai_d3gm.trust.calibration import Calibration

FAST = ["--samples", "2", "--steps", "1", "--slices", "2", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with logging_kept():
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small bundle of this test's own: it is written into."""
    return make_bundle(tmp_path / "mri_recon")


@pytest.fixture
def subjects(tmp_path: Path) -> Path:
    """Nine T1w subjects and one with two FLAIR scans."""
    folder = tmp_path / "subjects"
    folder.mkdir()
    for number in range(9):
        write_nifti(folder / f"sub-{number:02}_T1w.nii.gz", magnitude() * (1 + number))
    for visit in (1, 2):
        write_nifti(folder / f"patient09_study{visit}_FLAIR.nii.gz", magnitude(44, 40))
    return folder


def test_calibrates_each_acceleration_and_contrast(
    root: Path, subjects: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["calibrate", str(root), str(subjects), *FAST, "--acceleration", "2", "--acceleration", "3"]
    assert main([*command, "--coverage", "0.8"]) == 0
    path = root / "models" / "calibration.json"
    calibration = Calibration.load(path)
    assert calibration.weights == weights_hash(root / "models" / "model.pt")
    assert [condition.parameters["acceleration"] for condition in calibration.conditions] == [2.0, 3.0]
    for condition in calibration.conditions:
        assert condition.parameters["num_samples"] == 2 and "seed" not in condition.parameters
        assert condition.residual is not None and condition.residual > 0
        assert {name: fitted.interval.subjects for name, fitted in condition.contrasts.items()} == {
            "FLAIR": 1,
            "T1W": 9,
        }
        t1w = condition.contrasts["T1W"]
        assert t1w.interval.coverage == 0.8 and set(t1w.bounds) == {"psnr", "ssim"} and len(t1w.leave_one_out) == 9
        assert np.mean(list(t1w.leave_one_out.values())) == pytest.approx(0.8, abs=0.1)
        assert not condition.contrasts["FLAIR"].bounds
    out = capsys.readouterr().out
    assert "contrast  subjects" in out and str(path) in out
    assert sorted(file.name for file in root.joinpath("models").iterdir()) == ["calibration.json", "model.pt"]

    before = path.read_bytes()
    assert main(command) != 0
    assert "calibration.json exists" in capsys.readouterr().err and path.read_bytes() == before


def test_the_calibration_is_found_by_a_restoration_with_the_same_parameters(root: Path, subjects: Path) -> None:
    files = [str(subjects / f"sub-0{number}_T1w.nii.gz") for number in range(3)]
    assert main(["calibrate", str(root), *files, *FAST]) == 0
    settings = {"dataset_dir": files[0], "num_samples": 2, "num_inference_steps": 1, "slices": 1, "device": "cpu"}
    hot = "calibrated for sampler.temperature 1.0, not 3.0; sampler.t_min 0.06, not 0.4"
    for changes, words in (
        ({}, None),
        ({"acceleration": 3}, "calibrated for acceleration 4, not 3"),
        ({"sampler::temperature": 3.0, "sampler::t_min": 0.4}, hot),
    ):
        workflow = make_workflow(root, INFERENCE, settings | {"handlers": [], "baseline": False} | changes)
        workflow.initialize()
        parsed = workflow.parser.get_parsed_content
        check = TrustCheck(parsed("weights"), parsed("record"), root / "models" / "calibration.json")
        check.attach(parsed("evaluator"))
        workflow.run()
        found = " ".join(check.warnings["sub-00_T1w"])
        assert ("no intervals" in found) == (words is not None) and (words or "") in found
        assert ("covered" in check.reports["sub-00_T1w"]) == (words is None)


def test_a_calibration_can_be_replaced_and_follows_the_weights(root: Path, subjects: Path) -> None:
    command = ["calibrate", str(root), str(subjects / "sub-00_T1w.nii.gz"), *FAST, "--overwrite", "--contrast", "t1"]
    assert main(command) == 0
    first = Calibration.load(root / "models" / "calibration.json")
    save_untrained(root / "models" / "model.pt", middle_blocks=1)
    content = read_checkpoint(root / "models" / "model.pt")
    write_checkpoint(root / "models" / "model.pt", content["model"], content["d3gm"] | {"training": {"steps": 1}})
    assert main(command) == 0
    second = Calibration.load(root / "models" / "calibration.json")
    assert first.weights != second.weights and first.conditions == second.conditions


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--coverage", "1.5"], "coverage is 1.5"),
        (["--factor", "2"], "has no option --factor"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line_and_writes_nothing(
    arguments: list[str], words: str, root: Path, subjects: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(root), str(subjects), *FAST, *arguments]) != 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("d3gm: error: ") and words in last
    assert not (root / "models" / "calibration.json").exists()


def test_an_input_without_a_contrast_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_nifti(tmp_path / "scan.nii.gz", magnitude())
    assert nibabel.load(path).shape == (40, 36, 3)
    assert main(["calibrate", str(root), str(path), *FAST]) != 0
    assert "its name says no contrast" in capsys.readouterr().err.splitlines()[-1]
