"""Bad input to the bundle's command: an exit status, a last line on stderr that names what is wrong, no output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_bundle import Run, full_kspace, magnitude, save_untrained, write_nifti

Write = Callable[[Path], Any]


def h5_with(**datasets: Any) -> Write:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, data in datasets.items():
                file[name] = data

    return write


def truncated(path: Path) -> None:
    h5_with(kspace=full_kspace())(path)
    path.write_bytes(path.read_bytes()[:3000])


def changed_kspace(index: tuple[int, ...] | int, value: complex) -> Write:
    kspace = full_kspace()
    kspace[index] = value
    return h5_with(kspace=kspace)


BAD_FILES: dict[str, tuple[Write, list[str]]] = {
    "truncated.h5": (truncated, ["not an HDF5 file, or damaged"]),
    "text.h5": (lambda path: path.write_text("not k-space"), ["not an HDF5 file, or damaged"]),
    "other.h5": (h5_with(image=np.ones(3)), ["kspace is missing"]),
    "real.h5": (h5_with(kspace=np.ones((2, 32, 24))), ["dtype float64"]),
    "flat.h5": (h5_with(kspace=full_kspace()[0]), ["shape (32, 24)"]),
    "link.h5": (h5_with(kspace=h5py.ExternalLink("elsewhere.h5", "kspace")), ["link"]),
    "nan.h5": (changed_kspace((1, 3, 3), np.nan), ["slice 1", "NaN"]),
    "infinite.h5": (changed_kspace((1, 3, 3), np.inf), ["slice 1", "infinity"]),
    "mask.h5": (h5_with(kspace=full_kspace(), mask=np.ones(23)), ["mask has shape (23,)"]),
    "unsampled.h5": (h5_with(kspace=full_kspace(), mask=np.zeros(24)), ["no sampled line"]),
    "nan.nii": (lambda path: write_nifti(path, magnitude() * np.float32(np.nan)), ["NaN"]),
    "zero.nii": (lambda path: write_nifti(path, 0 * magnitude()), ["zero everywhere"]),
    "damaged.nii.gz": (lambda path: path.write_bytes(b"\x1f\x8b no volume"), ["cannot be read as NIfTI"]),
}


def refused(run: Run, output: Path, *words: str) -> None:
    """The run ended with an error whose last line has the words, and left nothing behind."""
    assert run.status == 1
    assert run.last_line.startswith("error: "), run.err[-2000:]
    for word in words:
        assert word in run.last_line
    assert not output.exists()


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    write, words = BAD_FILES[name]
    folder = tmp_path / "inputs"
    folder.mkdir()
    write(folder / name)
    config, output = bundle / "configs" / "inference.json", tmp_path / "results"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", folder, "--output_dir", output)
    refused(run, output, name, *words)


BAD_ARGUMENTS: dict[str, tuple[list[object], list[str]]] = {
    "unknown key": (["--num_step", 3], ["--num_step", "--num_samples"]),
    "unknown argument of a component": (["--network_def::widht", 3], ["widht"]),
    "no steps": (["--num_inference_steps", 0], ["steps is 0; accepted: an integer, at least 1"]),
    "half a sample": (["--num_samples", 1.5], ["num_samples is 1.5"]),
    "fidelity": (["--fidelity", 2], ["fidelity", "2.0"]),
    "order": (["--sampler::order", 4], ["order", "4"]),
    "eta": (["--sampler::eta", -1], ["eta", "-1"]),
    "acceleration": (["--acceleration", 0.5], ["acceleration", "0.5"]),
    "mask": (["--mask", "spiral"], ["mask is 'spiral'"]),
    "axis": (["--axis", "z"], ["axis is 'z'"]),
    "slices": (["--slices", 0], ["slices is 0"]),
    "snr": (["--snr", -3], ["snr", "-3"]),
    "seed": (["--seed", "tomorrow"], ["seed", "tomorrow"]),
    "batch": (["--batch_size", 0], ["batch_size is 0"]),
    "tile": (["--roi_size", -8], ["roi_size is -8"]),
    "text for a number": (["--fidelity", "high"], ["fidelity is 'high'", "a number"]),
    "text for a truth value": (["--overwrite", "false"], ["overwrite is 'false'", "True or False"]),
    "device": (["--device", "abacus"], ["device is 'abacus'"]),
    "absent weights": (["--weights", "/no/such/model.pt"], ["/no/such/model.pt", "no such checkpoint"]),
    "no folder": (["--dataset_dir", "/no/such/folder"], ["/no/such/folder", "no such file or folder"]),
    "another network": (["--network_def::in_channels", 6], ["model.pt", "intro.weight"]),
    "another depth": (["--network_def::middle_blocks", 2], ["model.pt", "middle.1"]),
    "process out of range": (["--process::tau", 30], ["model.pt", "off by -2.7081"]),  # ln(2 / 30)
    "another sigma_data": (["--scheduler::sigma_data", 0.5], ["model.pt", "sigma_data is 0.5"]),
    "another prediction": (["--scheduler::prediction_type", "sample"], ["model.pt", "prediction_type"]),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case: str, bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    arguments, words = BAD_ARGUMENTS[case]
    config, output = bundle / "configs" / "inference.json", tmp_path / "results"
    if "--dataset_dir" not in arguments:
        arguments = [*arguments, "--dataset_dir", nifti]
    run = monai_bundle("run", "--config_file", config, "--output_dir", output, *arguments)
    refused(run, output, *words)


def test_an_unknown_nested_key(bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    """MONAI itself refuses it, before anything of the config is evaluated."""
    config, output = bundle / "configs" / "inference.json", tmp_path / "results"
    run = monai_bundle("run", "--config_file", config, "--output_dir", output, "--infer::seed", 3)
    assert run.status == 1 and "infer" in run.last_line and not output.exists()


def test_an_empty_folder(bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    folder, output = tmp_path / "empty", tmp_path / "results"
    folder.mkdir()
    config = bundle / "configs" / "inference.json"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", folder, "--output_dir", output)
    refused(run, output, str(folder), "no input")


def test_a_file_for_weights_that_is_none(bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Any) -> None:
    weights, output = tmp_path / "weights.pt", tmp_path / "results"
    config = bundle / "configs" / "inference.json"
    for content in (b"", b"no weights"):
        weights.write_bytes(content)
        run = monai_bundle(
            "run", "--config_file", config, "--dataset_dir", nifti, "--output_dir", output, "--weights", weights
        )
        refused(run, output, str(weights), "not a checkpoint")


def test_weights_of_another_shape_are_named(bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Any) -> None:
    weights, output = tmp_path / "wide.pt", tmp_path / "results"
    save_untrained(weights, width=8)
    config = bundle / "configs" / "inference.json"
    run = monai_bundle(
        "run", "--config_file", config, "--dataset_dir", nifti, "--output_dir", output, "--weights", weights
    )
    refused(run, output, str(weights), "intro.weight (8, 4, 2, 2) for (4, 4, 2, 2)")


@pytest.mark.parametrize("below", ["", "deeper"])
def test_an_output_folder_that_is_a_file(
    below: str, bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    config = bundle / "configs" / "inference.json"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", nifti, "--output_dir", file / below)
    assert run.status == 1 and f"output_dir {file / below} cannot be written" in run.last_line
    assert file.read_text() == "mine"


def test_an_output_folder_on_a_file_system_that_takes_none(bundle: Path, nifti: Path, monai_bundle: Any) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc, which nobody can write to")
    config, output = bundle / "configs" / "inference.json", Path("/proc/results")
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", nifti, "--output_dir", output)
    refused(run, output, "output_dir /proc/results cannot be written")


@pytest.mark.parametrize("name", ["sub-01_T1w_restored.nii.gz", "sub-01_T1w_panel.png", "metrics.json"])
def test_results_that_are_there_are_kept(
    name: str, bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    output = tmp_path / "results"
    output.mkdir()
    (output / name).write_text("mine")
    config = bundle / "configs" / "inference.json"
    run = monai_bundle("run", "--config_file", config, "--dataset_dir", nifti, "--output_dir", output)
    assert run.status == 1 and name in run.last_line and "overwrite" in run.last_line
    assert [path.name for path in output.iterdir()] == [name] and (output / name).read_text() == "mine"


def test_a_bad_file_beside_a_good_one_leaves_whole_volumes_only(
    bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    folder, output = tmp_path / "inputs", tmp_path / "results"
    folder.mkdir()
    h5_with(kspace=full_kspace())(folder / "a.h5")
    changed_kspace((1, 3, 3), np.nan)(folder / "b.h5")
    config = bundle / "configs" / "inference.json"
    run = monai_bundle(
        "run", "--config_file", config, "--dataset_dir", folder, "--output_dir", output, "--num_inference_steps", 1
    )
    assert run.status == 1 and "b.h5: slice 1" in run.last_line
    assert sorted(path.name for path in output.iterdir()) == ["a_panel.png", "a_restored.nii.gz"]
