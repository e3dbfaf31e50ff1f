"""The console command d3gm, run in this process and, where the process itself matters, as it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import pytest
from small_bundle import logging_kept

from monai_d3gm import __version__
from monai_d3gm.cli.main import main
from monai_d3gm.networks.checkpoint import weights_hash


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    with logging_kept():
        yield


def test_restore_runs_the_bundles_workflow(
    bundle: Path, nifti: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results"
    options = "--steps 2 --samples 2 --fidelity 0.5 --order 1 --eta 0 --seed 3 --device cpu --roi 32 --batch 2"
    options += " --acceleration 2 --mask equispaced --axis phase --snr 40 --noise-std 0 --slices 2 --no-baseline"
    assert main(["restore", str(bundle), str(nifti / "sub-01_T1w.nii.gz"), str(output), *options.split()]) == 0
    assert "D3GM" in capfd.readouterr().out
    report = json.loads((output / "sub-01_T1w_metrics.json").read_text())
    expected = {"num_samples": 2, "fidelity": 0.5, "seed": 3}
    expected |= {"device": "cpu", "roi_size": 32, "batch_size": 2, "acceleration": 2.0, "mask": "equispaced"}
    expected |= {"axis": "phase", "snr": 40.0, "noise_std": 0.0, "slices": 2}
    assert expected.items() <= report["parameters"].items()
    assert {"steps": 2, "order": 1, "eta": 0.0}.items() <= report["parameters"]["sampler"].items()
    assert set(report["inputs"]["sub-01_T1w"]["figures"]) == {"zero-filled", "D3GM"}
    assert nibabel.load(output / "sub-01_T1w_std.nii.gz").shape == (40, 36, 3)


def test_restore_finds_a_bundle_by_name_and_keeps_its_defaults(
    bundle: Path, nifti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundles").symlink_to(bundle.parent)
    monkeypatch.chdir(tmp_path)
    assert main(["restore", "mri_recon", "volumes", "results", "--slices", "1"]) == 0
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    parameters = json.loads((tmp_path / "results" / "sub-01_T1w_metrics.json").read_text())["parameters"]
    for key in ("acceleration", "mask", "num_samples", "fidelity", "seed"):
        assert parameters[key] == config[key]
    assert parameters["sampler"]["steps"] == config["num_inference_steps"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "steps must be an integer, at least 1, got 0"),
        (["--device", "abacus"], "device is 'abacus'"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], words: str, bundle: Path, nifti: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", str(bundle), str(nifti), str(tmp_path / "results"), *arguments]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("d3gm: error: ") and words in last
    assert not (tmp_path / "results").exists()


def test_text_is_not_evaluated(bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """MONAI evaluates values that begin with $; a path is a path."""
    assert main(["restore", str(bundle), "$1 / 0", str(tmp_path / "results")]) == 2
    assert "$1 / 0: no such file or folder" in capfd.readouterr().err.splitlines()[-1]


def test_info_prints_what_the_model_is(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(bundle)]) == 0
    out = capsys.readouterr().out
    for words in ("D3GMProcess", "rho range", "v_prediction", "0.11", "steps 0", "Research use only"):
        assert words in out
    assert weights_hash(bundle / "models" / "model.pt") in out


def test_unknown_bundles_and_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "no_such_bundle"]) == 2
    assert "no bundle 'no_such_bundle'" in capsys.readouterr().err
    for line in ("", "restore", "restore a b c --stepz 3", "restore a b c --mask spiral", "mend"):
        with pytest.raises(SystemExit, match="2"):
            main(line.split())
        assert capsys.readouterr().err.splitlines()[-1].startswith("d3gm")


def test_help_and_version_come_without_torch() -> None:
    command = Path(sys.executable).with_name("d3gm")
    helped = subprocess.run([command, "restore", "--help"], capture_output=True, text=True, check=True)
    assert "--steps" in helped.stdout and "--overwrite" in helped.stdout
    code = (
        "import sys; from monai_d3gm.cli.main import main\n"
        "try: main(['--version'])\n"
        "finally: print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    )
    version = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert version.stdout.split("\n")[:2] == [f"d3gm {__version__}", "[]"]
