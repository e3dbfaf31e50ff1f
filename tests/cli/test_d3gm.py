"""The console command d3gm, run in this process and, where the process itself matters, as it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import pytest
import torch
from small_bundle import logging_kept

from monai_d3gm import __version__
from monai_d3gm.cli import doctor
from monai_d3gm.cli.main import main
from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash


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
    said = capfd.readouterr().out.splitlines()
    assert (
        said[0].startswith("restored  sub-01_T1w.nii.gz: PSNR inside the object ") and " over zero-filled, " in said[0]
    )
    assert said[1:] == ["1 restored", f"Results: {output}"]
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
        (["--steps", "0"], "steps is 0; accepted: an integer, at least 1"),
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
    assert main(["info", "mri_reconn"]) == 2
    assert "; did you mean mri_recon or " in capsys.readouterr().err
    ends = {
        "": "required: COMMAND",
        "restore": "required: BUNDLE, INPUT",
        "restore a b c --stepz 3": "unrecognized arguments: --stepz 3; did you mean --steps?",
        "restore a b c --mask spiral": "magic, magic_fraction)",
        "mend": "diagnose, label)",
    }
    for line, end in ends.items():
        with pytest.raises(SystemExit, match="2"):
            main(line.split())
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("d3gm") and last.replace("'", "").endswith(end)


def test_help_of_a_bundle_has_its_options_and_defaults_alone(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for bundle in ("mri_recon", "mri_sr"):
        with pytest.raises(SystemExit, match="0"):
            main(["restore", bundle, "--help"])
        shown[bundle] = " ".join(capsys.readouterr().out.split())
    assert "--acceleration" in shown["mri_recon"] and "--factor" not in shown["mri_recon"]
    assert "--factor" in shown["mri_sr"] and "--acceleration" not in shown["mri_sr"]
    assert "(default: random)" in shown["mri_recon"]
    assert "d3gm restore mri_sr INPUT OUTPUT --factor 2 --plane through" in shown["mri_sr"]
    assert main(["restore", "no_such_bundle", "--help"]) == 2


def test_quick_is_one_evaluation(bundle: Path, nifti: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["restore", str(bundle), str(nifti), str(tmp_path / "results"), "--quick", "--no-progress"]
    assert main(command) == 0
    parameters = json.loads((tmp_path / "results" / "sub-01_T1w_metrics.json").read_text())["parameters"]
    assert (parameters["fidelity"], parameters["num_samples"]) == (1.0, 1)
    assert main([*command, "--samples", "2"]) == 2
    assert "--quick sets steps, samples and fidelity" in capsys.readouterr().err


def test_list_names_the_bundles_that_are_found(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "own").symlink_to(bundle)
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["dehaze", "derain", "mri_recon", "mri_sr", "own"]


def test_an_archive_holds_the_bundle_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    (copy / "output").mkdir()
    (copy / "output" / "scan_restored.nii.gz").write_bytes(b"result")
    for name in ("one.zip", "two.zip"):
        assert main(["bundle", "pack", str(copy), str(tmp_path / name)]) == 0
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    expected = {name: content for name, content in files(copy).items() if not name.startswith("output")}
    assert files(tmp_path / "unpacked" / "copy") == expected
    assert main(["bundle", "pack", str(copy), str(tmp_path / "one.zip")]) == 1
    (copy / "models" / "model.pt").unlink()
    assert main(["bundle", "pack", str(copy), str(tmp_path / "three.zip")]) == 1


def test_doctor_finds_a_bundle_that_computes_something_else(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "own"
    shutil.copytree(bundle, root)
    monkeypatch.setattr(doctor, "find_bundles", lambda: {"own": root})
    monkeypatch.setattr(doctor, "_EXTRAS", {"more": (("json", "no_such_module"), "nothing")})
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "own: not tried: it has no reference" in out
    assert "more: missing no_such_module; needed for nothing" in out
    assert main(["bundle", "finish", str(root)]) == 0
    capsys.readouterr()
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "own: as it should be, off by" in out
    assert f"monai_d3gm {__version__}, Python" in out and "threads for torch" in out
    noted = json.loads((root / "models" / "reference.json").read_text())
    noted["blocks"][1][2] += 0.01
    (root / "models" / "reference.json").write_text(json.dumps(noted))
    assert main(["doctor"]) == 1
    assert "own: NOT as it should be" in capsys.readouterr().out
    noted["weights"] = "of others"
    (root / "models" / "reference.json").write_text(json.dumps(noted))
    assert main(["doctor"]) == 1 and "of other weights" in capsys.readouterr().out


def test_new_weights_become_part_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    """Stored without tensors at the top level, with a file that has their hash."""
    root = tmp_path / "own"
    shutil.copytree(bundle, root)
    weights = root / "models" / "model.pt"
    content = read_checkpoint(weights)
    torch.save({"model": dict(content["model"]), "d3gm": content["d3gm"]}, weights)
    (root / "models" / "notes.json").write_text(json.dumps({"weights": weights_hash(weights)}))
    assert main(["bundle", "finish", str(root)]) == 0
    assert set(torch.load(weights, weights_only=True)) == {*content["model"], "model", "d3gm"}
    for name in ("notes", "reference"):
        assert json.loads((root / "models" / f"{name}.json").read_text())["weights"] == weights_hash(weights)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
