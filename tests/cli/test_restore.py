"""d3gm restore on trees of files: what is restored, what is not and why, and what a second run does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_bundle import Run, content, d3gm, full_kspace, magnitude, write_nifti

from monai_d3gm.cli import restore as module
from monai_d3gm.data import write_kspace

COMMAND = Path(sys.executable).with_name("d3gm")
FAST = ("--steps", "1", "--samples", "1", "--no-baseline", "--device", "cpu")
NAMES = ("metrics.json", "panel.png", "restored.nii.gz")


def results(folder: Path) -> set[str]:
    """Names of the files below a folder but for hidden ones."""
    return {name for name in content(folder) if not name.startswith(".")}


def outputs(*stems: str) -> set[str]:
    return {f"{stem}_{name}" for stem in stems for name in NAMES}


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    return {entry["input"]: entry["status"] for entry in summary["inputs"]}


def write_volumes(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(folder / name, magnitude(slices=2) * (number + 1))
    return folder


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds, some under a wrong name, some damaged, some no input."""
    root = write_volumes(tmp_path_factory.mktemp("inputs"), "b/volume.nii.gz", "a/renamed.nii")
    (root / "a" / "renamed.nii").rename(root / "a" / "renamed.dat")
    write_kspace(root / "kspace.h5", full_kspace(), recon_size=(32, 24))
    shutil.copy(root / "kspace.h5", root / "b" / "kspace.nii")
    whole = (root / "b" / "volume.nii.gz").read_bytes()
    (root / "a" / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "zero.nii").write_bytes(b"")
    (root / "a" / "notes.txt").write_text("notes")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (root / ".hidden").mkdir()
    shutil.copy(root / "kspace.h5", root / ".hidden" / "kspace.h5")
    return root


RESTORED = ("a/renamed.dat", "b/kspace", "b/volume", "kspace")


@pytest.fixture(scope="module")
def first(bundle: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A first run on the tree, and its results."""
    output = tmp_path_factory.mktemp("outputs") / "results"
    return d3gm("restore", bundle, tree, output, *FAST), output


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """One volume in a folder."""
    return write_volumes(tmp_path / "inputs", "sub/x.nii.gz") / "sub" / "x.nii.gz"


def test_a_tree_is_mirrored_and_what_failed_is_named(first: tuple[Run, Path]) -> None:
    run, output = first
    assert run.status == 1
    assert results(output) == outputs(*RESTORED) | {"summary.json"}
    assert run.last_line.startswith("d3gm: error: 2 of 6 inputs failed; the first: a/truncated.nii.gz: ")
    summary = json.loads((output / "summary.json").read_text())
    assert statuses(summary) == {
        "a/notes.txt": "skipped",
        "a/renamed.dat": "restored",
        "a/truncated.nii.gz": "failed",
        "a/zero.nii": "failed",
        "b/kspace.nii": "restored",
        "b/volume.nii.gz": "restored",
        "kspace.h5": "restored",
        "picture.png": "skipped",
    }
    assert summary["counts"] == {"failed": 2, "restored": 4, "skipped": 2}
    reasons = {entry["input"]: entry.get("reason", "") for entry in summary["inputs"]}
    assert reasons["a/truncated.nii.gz"].startswith("cannot be read as NIfTI: ")
    assert reasons["a/zero.nii"] == "the name ends in .nii, the content is not NIfTI"
    assert reasons["a/notes.txt"] == "not an input"
    assert reasons["picture.png"].startswith("PNG, JPEG or TIFF; accepted: ")
    for name, reason in reasons.items():
        assert not reason or (name in run.out and reason in run.out)
    assert str(output.parent) not in (output / "summary.json").read_text()
    assert ".d3gm" not in run.out + run.err


def test_the_results_are_those_of_the_bundle(
    first: tuple[Run, Path], bundle: Path, tree: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    config = bundle / "configs" / "inference.json"
    options = ["--num_inference_steps", 1, "--num_samples", 1, "--baseline", "False", "--device", "cpu"]
    run = monai_bundle(
        "run", "--config_file", config, "--dataset_dir", tree / "b", "--output_dir", tmp_path / "results", *options
    )
    assert run.status == 0
    for name in ("volume", "kspace"):
        for kind in ("restored.nii.gz", "panel.png"):
            expected = (tmp_path / "results" / f"{name}_{kind}").read_bytes()
            assert (first[1] / "b" / f"{name}_{kind}").read_bytes() == expected


def test_the_same_command_again_makes_nothing_again(
    first: tuple[Run, Path], bundle: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output = first
    before = content(output)
    made: list[Path] = []
    real = module.run_workflow

    def counted(root: Path, config: str, settings: Any) -> None:
        made.extend(settings["inputs"])
        real(root, config, settings)

    monkeypatch.setattr(module, "run_workflow", counted)
    again = d3gm("restore", bundle, tree, output, *FAST, "--no-progress")
    assert made == [tree / "a" / "truncated.nii.gz"]
    assert again.status == 1 and again.last_line == run.last_line
    assert content(output) == before


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    first: tuple[Run, Path], bundle: Path, tree: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    arguments = ["restore", bundle, tree]
    process = subprocess.Popen(
        [COMMAND, *arguments, killed, *FAST], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not (killed / "a" / "renamed.dat_metrics.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "summary.json").exists()
    assert not outputs("kspace") <= results(killed)
    assert d3gm(*arguments, killed, *FAST).status == 1
    assert content(killed) == content(first[1])


def test_what_a_kill_leaves_behind_is_cleared(bundle: Path, volume: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "output"
    assert d3gm("restore", bundle, volume, whole, *FAST).status == 0
    assert results(whole) == outputs("x") | {"summary.json"}
    shutil.copytree(whole, output)
    (record,) = (output / ".d3gm").glob("*.json")
    # killed in the middle of moving the results into place
    (output / "x_restored.nii.gz").unlink()
    partial = record.with_suffix(".partial") / "results"
    partial.mkdir(parents=True)
    (partial / ".0123.nii.gz").write_bytes(b"half")
    (output / ".d3gm" / "summary.partial").mkdir()
    assert d3gm("restore", bundle, volume, output, *FAST).status == 0
    assert content(output) == content(whole) and not list(output.rglob("*.partial"))


@pytest.mark.parametrize("change", ["parameters", "input", "weights"])
def test_results_of_another_run_are_kept_unless_told(change: str, bundle: Path, volume: Path, tmp_path: Path) -> None:
    output, words = tmp_path / "output", change
    options = list(FAST)
    local = shutil.copytree(bundle, tmp_path / "mri_recon")
    assert d3gm("restore", local, volume, output, *FAST, "--samples", "2").status == 0
    assert (output / "x_std.nii.gz").exists()
    if change == "parameters":
        words = "num_samples"
    else:
        options += ["--samples", "2"]
    if change == "input":
        write_nifti(volume, 2 * magnitude(slices=2))
    if change == "weights":
        config = json.loads((local / "configs" / "inference.json").read_text())
        (local / "models" / "model.pt").rename(local / "models" / "other.pt")
        config["weights"] = config["weights"].replace("model.pt", "other.pt")
        with (local / "models" / "other.pt").open("ab") as file:
            file.write(b"\0")
        (local / "configs" / "inference.json").write_text(json.dumps(config))
    before = content(output)
    run = d3gm("restore", local, volume, output, *options)
    assert run.status == 1 and "x_metrics.json exists and was made with other" in run.last_line
    assert words in run.last_line
    assert {n: d for n, d in content(output).items() if n != "summary.json"} == {
        n: d for n, d in before.items() if n != "summary.json"
    }
    if change == "parameters":
        assert d3gm("restore", local, volume, output, *options, "--overwrite").status == 0
        assert results(output) == outputs("x") | {"summary.json"}


@pytest.mark.parametrize("name", ["x_metrics.json", "x_restored.nii.gz", "summary.json"])
def test_files_of_others_are_kept_unless_told(name: str, bundle: Path, volume: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / name).write_text("mine")
    run = d3gm("restore", bundle, volume, output, *FAST)
    assert run.status == (2 if name == "summary.json" else 1) and name in run.last_line
    assert (output / name).read_text() == "mine"
    assert not outputs("x") & results(output) - {name}
    assert d3gm("restore", bundle, volume, output, *FAST, "--overwrite").status == 0
    assert results(output) == outputs("x") | {"summary.json"}


def test_a_dry_run_writes_nothing(first: tuple[Run, Path], bundle: Path, tree: Path, tmp_path: Path) -> None:
    before = content(tree)
    run = d3gm("restore", bundle, tree, tmp_path / "none", "--dry-run", "--json")
    assert run.status == 1 and not (tmp_path / "none").exists() and content(tree) == before
    summary = json.loads(run.out)
    assert summary["counts"] == {"failed": 1, "planned": 5, "skipped": 2}
    (planned,) = (entry for entry in summary["inputs"] if entry["input"] == "b/kspace.nii")
    assert planned["kind"] == "fastmri" and planned["outputs"] == ["b/kspace_*"]
    # where results are there, it says so
    before = content(first[1])
    run = d3gm("restore", bundle, tree, first[1], *FAST, "--dry-run", "--json")
    assert json.loads(run.out)["counts"] == {"failed": 1, "planned": 1, "restored": 4, "skipped": 2}
    run = d3gm("restore", bundle, tree, first[1], "--seed", 5, "--dry-run", "--json")
    assert json.loads(run.out)["counts"] == {"failed": 5, "planned": 1, "skipped": 2}
    assert content(first[1]) == before


def test_json_is_all_there_is_on_stdout_of_a_process(bundle: Path, volume: Path, tmp_path: Path) -> None:
    """Libraries that take hold of stdout when they are imported write to stderr."""
    command = [COMMAND, "restore", bundle, volume, tmp_path / "output", "--dry-run", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(process.stdout)["counts"] == {"planned": 1}


def test_json_is_the_summary(bundle: Path, volume: Path, tmp_path: Path) -> None:
    run = d3gm("restore", bundle, volume, tmp_path / "output", *FAST, "--json")
    assert run.status == 0
    assert json.loads(run.out) == json.loads((tmp_path / "output" / "summary.json").read_text())
    assert "PSNR" in run.err and "1 restored" in run.err


def test_an_interrupted_run_ends_with_130_and_keeps_what_is_done(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, output = write_volumes(tmp_path / "inputs", "x.nii", "y.nii"), tmp_path / "output"

    def interrupted(root: Path, config: str, settings: Any) -> None:
        if settings["inputs"] == [tree / "y.nii"]:
            raise KeyboardInterrupt
        real(root, config, settings)

    real = module.run_workflow
    monkeypatch.setattr(module, "run_workflow", interrupted)
    run = d3gm("restore", bundle, tree, output, *FAST)
    assert run.status == 130 and run.last_line.startswith("d3gm: error: interrupted")
    assert results(output) == outputs("x") and not list(output.rglob("*.partial"))


def test_a_bug_in_one_input_does_not_stop_the_rest(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, output = write_volumes(tmp_path / "inputs", "x.nii", "y.nii"), tmp_path / "output"

    def broken(root: Path, config: str, settings: Any) -> None:
        if settings["inputs"] == [tree / "x.nii"]:
            raise RuntimeError("no such luck")
        real(root, config, settings)

    real = module.run_workflow
    monkeypatch.setattr(module, "run_workflow", broken)
    monkeypatch.setenv("D3GM_DEBUG", "")
    run = d3gm("restore", bundle, tree, output, *FAST)
    assert run.status == 1 and run.last_line.endswith("1 of 2 inputs failed: x.nii: RuntimeError: no such luck")
    assert "Traceback" not in run.err
    assert "Traceback" in d3gm("restore", bundle, tree, output, *FAST, "--debug").err
    assert results(output) == outputs("y") | {"summary.json"}


def test_a_bundle_that_makes_nothing_has_failed(
    bundle: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "run_workflow", lambda root, config, settings: None)
    run = d3gm("restore", bundle, volume, tmp_path / "output", *FAST)
    assert run.status == 1 and run.last_line.endswith("x.nii.gz: the bundle wrote no report x_metrics.json.")


def test_names_are_not_evaluated(bundle: Path, tmp_path: Path) -> None:
    """MONAI evaluates text that begins with $ or %, and replaces @##key."""
    stem = "$1 + x @seed @##seed %seed#1::2 'x"
    tree = tmp_path / "inputs"
    tree.mkdir()
    write_nifti(tree / "x.nii", magnitude(slices=2)).rename(tree / f"{stem}.nii")
    run = d3gm("restore", bundle, tree, tmp_path / "output", *FAST)
    assert run.status == 0, run.err
    assert results(tmp_path / "output") == outputs(stem) | {"summary.json"}


def test_names_are_shown_escaped(bundle: Path, tmp_path: Path) -> None:
    """A name that is no UTF-8 and one that would clear the screen; the results have them as they are."""
    tree, output = tmp_path / "inputs", tmp_path / "output"
    tree.mkdir()
    for name in (b"caf\xe9.nii", b"x\x1b[2J.nii"):
        write_nifti(tree / "x.nii", magnitude(slices=2)).rename(os.fsdecode(os.fsencode(tree) + b"/" + name))
    (tree / os.fsdecode(b"no\xff")).write_text("input")
    run = d3gm("restore", bundle, tree, output, *FAST)
    assert run.status == 0 and "\x1b" not in run.out + run.err
    (run.out + run.err).encode("utf-8")
    summary = json.loads((output / "summary.json").read_text())
    assert statuses(summary) == {"caf\\xe9.nii": "restored", "x\\x1b[2J.nii": "restored", "no\\xff": "skipped"}
    assert (output / os.fsdecode(b"caf\xe9_restored.nii.gz")).exists()


def test_one_run_at_a_time_writes_into_a_folder(
    bundle: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, others = tmp_path / "output", []
    real = module.run_workflow

    def meanwhile(root: Path, config: str, settings: Any) -> None:
        command = [COMMAND, "restore", bundle, volume, output, *FAST]
        others.append(subprocess.run(command, capture_output=True, text=True))
        real(root, config, settings)

    monkeypatch.setattr(module, "run_workflow", meanwhile)
    assert d3gm("restore", bundle, volume, output, *FAST).status == 0
    (other,) = others
    assert other.returncode == 2 and f"another run writes into {output}; wait" in other.stderr.splitlines()[-1]
    assert results(output) == outputs("x") | {"summary.json"} and not (output / ".d3gm" / "lock").exists()
    # what a killed run left behind locks nothing
    (output / ".d3gm" / "lock").touch()
    assert d3gm("restore", bundle, volume, output, *FAST).status == 0


def test_results_that_another_program_took_are_not_called_restored(
    bundle: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = tmp_path / "output", os.replace

    def taken(source: Any, target: Any) -> None:
        real(source, target)
        if str(target).endswith("x_restored.nii.gz") and ".d3gm" not in str(target):
            os.unlink(target)

    monkeypatch.setattr("monai_d3gm.cli.results.os.replace", taken)
    run = d3gm("restore", bundle, volume, output, *FAST)
    assert run.status == 1 and "x.nii.gz: the results are gone" in run.last_line


def test_the_limit_of_memory_is_an_option(
    bundle: Path, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D3GM_MAX_MEMORY", "3")
    write_nifti(volume, magnitude(64, 64, 10))  # 16 bytes for each voxel, more than the weights take
    run = d3gm("restore", bundle, volume, tmp_path / "output", *FAST, "--max-memory", "4e-4")
    assert run.status == 1 and "x.nii.gz: a volume of" in run.last_line and "--max-memory" in run.last_line
    run = d3gm("restore", bundle, volume, tmp_path / "output", *FAST, "--max-memory", "0")
    assert run.status != 0 and "D3GM_MAX_MEMORY is '0.0'; accepted: a number of GiB above 0" in run.last_line


def test_places_that_cannot_be(bundle: Path, volume: Path, tmp_path: Path) -> None:
    folder = volume.parent
    run = d3gm("restore", bundle, folder, folder, *FAST)
    assert run.status == 2 and "choose another" in run.last_line
    (tmp_path / "file").write_text("mine")
    run = d3gm("restore", bundle, folder, tmp_path / "file", *FAST)
    assert run.status == 2 and str(tmp_path / "file") in run.last_line
    (tmp_path / "empty").mkdir()
    run = d3gm("restore", bundle, tmp_path / "empty", tmp_path / "output", *FAST)
    assert run.status == 2 and "no input" in run.last_line and not (tmp_path / "output").exists()


def test_results_inside_the_tree_are_no_inputs(bundle: Path, volume: Path) -> None:
    root = volume.parent.parent
    for _ in range(2):
        assert d3gm("restore", bundle, root, root / "results", *FAST).status == 0
    summary = json.loads((root / "results" / "summary.json").read_text())
    assert statuses(summary) == {"sub/x.nii.gz": "restored"}


def test_a_file_that_is_no_input_fails(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    run = d3gm("restore", bundle, tmp_path / "notes.txt", tmp_path / "output", *FAST)
    assert run.status == 1 and run.last_line == "d3gm: error: 1 of 1 inputs failed: notes.txt: not an input"


def test_options_that_the_bundle_does_not_have_are_refused(bundle: Path, volume: Path, tmp_path: Path) -> None:
    run = d3gm("restore", bundle, volume, tmp_path / "output", "--factor", "2")
    assert run.status == 2 and not (tmp_path / "output").exists()
    assert run.last_line.startswith("d3gm: error: bundle mri_recon has no option --factor; accepted: --steps, ")


def test_the_choices_on_the_command_line_are_those_of_the_package() -> None:
    from monai_d3gm.cli import options
    from monai_d3gm.data.restoration.kspace import AXES
    from monai_d3gm.data.restoration.low_resolution import PLANES
    from monai_d3gm.handlers.writer import FORMATS
    from monai_d3gm.transforms.kspace.functional import MASK_TYPES

    assert set(options.MASKS) == set(MASK_TYPES)
    assert set(options.PLANES) == set(PLANES)
    assert set(options.AXES) == set(AXES) and set(options.FORMATS) == set(FORMATS)


def test_evaluate_prints_tables_and_json(bundle: Path, volume: Path, tmp_path: Path) -> None:
    run = d3gm("evaluate", bundle, volume.parent, *FAST)
    assert run.status == 0 and "PSNR" in run.out and "Results" not in run.out
    run = d3gm("evaluate", bundle, volume.parent, tmp_path / "output", *FAST, "--json")
    assert run.status == 0 and "PSNR" in run.err
    assert json.loads(run.out) == json.loads((tmp_path / "output" / "metrics.json").read_text())
    run = d3gm("evaluate", bundle, volume.parent, tmp_path / "output", *FAST)
    assert run.status == 1 and "metrics.json exists" in run.last_line
    run = d3gm("evaluate", bundle, volume.parent, "--steps", "0")
    assert run.status == 2 and "steps is 0; accepted: an integer, at least 1" in run.last_line


def test_info_imports_nothing_that_a_configuration_names(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = shutil.copytree(bundle, tmp_path / "foreign")
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = json.loads((local / "configs" / "inference.json").read_text())
    config["dataset"]["_target_"] = "trap.Dataset"
    (local / "configs" / "inference.json").write_text(json.dumps(config))
    assert "DICOM" in json.loads(d3gm("info", local, "--json").out)["inputs"] and "trap" not in sys.modules


def test_info_as_json(bundle: Path, tmp_path: Path) -> None:
    local = shutil.copytree(bundle, tmp_path / "mri_recon")
    facts = json.loads(d3gm("info", local, "--json").out)
    assert set(facts["inputs"]) == {
        "fastMRI k-space",
        "ISMRMRD raw data",
        "k-space in NumPy, MATLAB or BART files",
        "NIfTI",
    }
    assert facts["defaults"]["num_inference_steps"] == 5 and facts["calibration"] == "none"
    fitted = {"T1W": {"interval": {"coverage": 0.9, "subjects": 6, "q": 2.0}}}
    calibration = {"weights": facts["sha256"], "conditions": [{"parameters": {"acceleration": 4}, "contrasts": fitted}]}
    (local / "models" / "calibration.json").write_text(json.dumps(calibration))
    assert "one setting T1W coverage 0.9, subjects 6" in d3gm("info", local).out
    (local / "models" / "calibration.json").write_text(json.dumps(calibration | {"weights": "ab12"}))
    assert "of other weights" in d3gm("info", local).out
