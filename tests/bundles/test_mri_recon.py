"""The bundle mri_recon, run as users run it: results, report, overrides, MONAI's own checks."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_metadata, verify_net_in_out
from PIL import Image
from small_bundle import BUNDLE, Run, evaluation_files, full_kspace, logging_kept, magnitude, write_nifti

from monai_d3gm.bundle import EVALUATION, INFERENCE
from monai_d3gm.data import write_kspace
from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

TRAINED = BUNDLE / "models" / "model.pt"


def run_in(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A new process, as a user would start it."""
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_from_the_root_and_from_inside_bit_identical(bundle: Path, nifti: Path, tmp_path: Path) -> None:
    common = ["--dataset_dir", nifti, "--num_samples", 2, "--num_inference_steps", 2, "--verbose", "True"]
    places = {
        "root": (bundle.parent.parent, f"{bundle.parent.name}/mri_recon/configs/inference.json"),
        "inside": (bundle, "configs/inference.json"),
    }
    for name, (folder, file) in places.items():
        run = run_in(folder, "--config_file", file, "--output_dir", tmp_path / name, *common)
        assert run.returncode == 0, run.stderr
        assert "D3GM" in run.stdout and "slice, whole" in run.stdout and "volume, foreground" in run.stdout
    first, second = (contents(tmp_path / name) for name in places)
    stem = "sub-01_T1w"
    assert set(first) == {f"{stem}_restored.nii.gz", f"{stem}_std.nii.gz", f"{stem}_panel.png", "metrics.json"}
    assert first == second


def test_an_unknown_key_in_a_new_process(bundle: Path, tmp_path: Path) -> None:
    run = run_in(bundle, "--config_file", "configs/inference.json", "--output_dirr", tmp_path / "results")
    assert run.returncode != 0
    assert run.stderr.splitlines()[-1] == "error: unknown key --output_dirr; did you mean --output_dir?"


@pytest.fixture
def results(bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> Callable[..., Path]:
    """Run the small bundle on the small volume, with more options; the folder of its results."""

    def run(*arguments: object, dataset: Path = nifti, output: str = "results") -> Path:
        folder = tmp_path / output
        options = ["--num_inference_steps", 1, "--output_dir", folder, "--dataset_dir", dataset, *arguments]
        ended = monai_bundle("run", "--config_file", bundle / "configs" / "inference.json", *options)
        assert ended.status == 0, ended.err
        return folder

    return run


def read(folder: Path, kind: str = "restored", stem: str = "sub-01_T1w") -> nibabel.Nifti1Image:
    return nibabel.load(folder / f"{stem}_{kind}.nii.gz")


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_geometry_and_scale_are_the_inputs(results: Callable[..., Path], nifti: Path) -> None:
    """One evaluation of an untrained network with consistency is close to zero-filling: the same object, same units."""
    truth = nibabel.load(nifti / "sub-01_T1w.nii.gz")
    image = read(results("--acceleration", 2, "--snr", 1000))
    np.testing.assert_allclose(image.affine, truth.affine, atol=1e-6)
    assert image.shape == truth.shape and image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units() == truth.header.get_xyzt_units()
    a, b = image.get_fdata().ravel(), truth.get_fdata().ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.9
    assert a @ b / (b @ b) == pytest.approx(1, abs=0.1)


def test_the_frequency_axis_is_turned_back(results: Callable[..., Path], nifti: Path) -> None:
    truth = nibabel.load(nifti / "sub-01_T1w.nii.gz").get_fdata()
    image = read(results("--axis", "frequency", "--acceleration", 2)).get_fdata()
    assert image.shape == truth.shape
    assert np.corrcoef(image.ravel(), truth.ravel())[0, 1] > 0.9


def test_the_report_tells_what_was_done(results: Callable[..., Path], bundle: Path, tmp_path: Path) -> None:
    folder = results("--acceleration", 8, "--mask", "equispaced", "--seed", 7, "--slices", 2)
    text = (folder / "metrics.json").read_text()
    assert str(tmp_path) not in text and str(bundle) not in text
    content = json.loads(text)
    entry = content["inputs"]["sub-01_T1w"]
    assert entry["file"] == "sub-01_T1w.nii.gz"
    assert entry["protocol"]["data"] == "simulated single-coil k-space from magnitude images"
    assert entry["protocol"]["slices"] == [0, 2]
    assert set(entry["figures"]) == {"zero-filled", "L1-wavelet", "D3GM"}
    kinds = (("psnr", "ssim", "nmse"), ("slice", "volume"), ("whole", "foreground"))
    names = {"/".join(kind) for kind in itertools.product(*kinds)}
    assert names <= set(entry["figures"]["D3GM"])
    assert any("slices 1" in warning for warning in entry["warnings"])
    chosen = {"acceleration": 8, "mask": "equispaced", "seed": 7, "slices": 2}
    assert chosen.items() <= content["parameters"].items()
    assert content["checkpoint"]["sha256"] == weights_hash(bundle / "models" / "model.pt")
    assert content["versions"]["torch"] == torch.__version__


def test_slices_without_signal_stay_zero(results: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "part"
    folder.mkdir()
    data = magnitude()
    data[:, :, 1] = 0
    write_nifti(folder / "part.nii.gz", data)
    output = results(dataset=folder)
    image = read(output, stem="part").get_fdata()
    assert not image[:, :, 1].any() and image[:, :, 0].any() and image[:, :, 2].any()
    assert any("zero everywhere" in warning for warning in report(output)["inputs"]["part"]["warnings"])


def test_measured_kspace_is_restored_in_its_crop_and_units(results: Callable[..., Path], tmp_path: Path) -> None:
    h5 = tmp_path / "kspace"
    h5.mkdir()
    write_kspace(h5 / "file1.h5", full_kspace(), recon_size=(20, 20))
    output = results("--save_h5", "True", "--acceleration", 2, dataset=h5)
    image = read(output, stem="file1").get_fdata()
    truth = np.moveaxis(magnitude(32, 24, 2)[6:26, 2:22], -1, 0)
    with h5py.File(output / "file1.h5") as file:
        submission = np.asarray(file["reconstruction"])
    assert submission.shape == (2, 20, 20)
    np.testing.assert_array_equal(np.moveaxis(image, -1, 0), submission)
    assert np.corrcoef(submission.ravel(), truth.ravel())[0, 1] > 0.9
    entry = report(output)["inputs"]["file1"]
    assert entry["protocol"]["data"] == "measured single-coil k-space, undersampled here"
    # the reference is the fully sampled image: zero-filling's NMSE against the known truth is the reported one
    assert 0 < entry["figures"]["zero-filled"]["nmse/volume/whole"] < 1


def test_several_coils_and_a_test_file_without_truth(results: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "coils"
    folder.mkdir()
    x = np.linspace(-1, 1, 24)
    coils = np.stack([np.exp(-((x - c) ** 2)) for c in (-1, 0, 1)]).astype(np.complex64)[:, None, :]
    axes = (-2, -1)
    image = np.moveaxis(magnitude(32, 24, 1), -1, 0)[:, None] * coils[None]
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)
    mask = np.zeros(24)
    mask[6:18] = mask[::3] = 1
    write_kspace(folder / "test.h5", kspace * mask.astype(np.float32), recon_size=(32, 24), mask=mask)
    output = results("--num_samples", 2, dataset=folder)
    assert {path.name for path in output.iterdir()} == {
        "test_restored.nii.gz",
        "test_std.nii.gz",
        "test_panel.png",
        "metrics.json",
    }
    entry = report(output)["inputs"]["test"]
    assert entry["figures"] == {} and any("no truth" in warning for warning in entry["warnings"])
    assert entry["protocol"]["data"] == "measured multi-coil k-space, undersampled as acquired, 1.5-fold"
    measurement = entry["measurement"]
    assert measurement["coils"][0]["coils"] == 3 and len(measurement["residual over noise"]) == 1


def test_the_panel_is_a_picture_with_a_part_for_each_image(results: Callable[..., Path]) -> None:
    with Image.open(results() / "sub-01_T1w_panel.png") as panel:
        width, height = panel.size
        panel.load()
    # zero-filled, D3GM, truth, error, and a part of each below; slices are 36 x 2 mm wide and 40 x 1 mm high
    assert 2 * height < width < 4 * height


def test_batches_do_not_change_the_result(results: Callable[..., Path]) -> None:
    one = read(results("--batch_size", 1, "--num_samples", 2, output="one")).get_fdata()
    many = read(results("--batch_size", 6, "--num_samples", 2, output="many")).get_fdata()
    np.testing.assert_allclose(one, many, atol=1e-5 * many.max())


def test_overwriting_when_asked_for_removes_what_is_stale(results: Callable[..., Path]) -> None:
    folder = results("--num_samples", 2)
    first = contents(folder)
    results("--num_samples", 1, "--overwrite", "--seed", 1)
    second = contents(folder)
    assert set(first) - set(second) == {"sub-01_T1w_std.nii.gz"}
    assert all(first[name] != second[name] for name in second)


def test_without_a_data_set_it_takes_the_slice_that_ships_with_the_package(
    bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    config, output = bundle / "configs" / "inference.json", tmp_path / "results"
    fast = ["--num_inference_steps", 1, "--num_samples", 1, "--baseline", "False"]
    run = monai_bundle("run", "--config_file", config, "--output_dir", output, *fast)
    assert run.status == 0, run.err
    assert run.out.startswith("brain_8coil_full.h5: PSNR inside the object ")
    protocol = report(output)["inputs"]["brain_8coil_full"]["protocol"]
    assert protocol["coils"] == 8 and protocol["data"] == "measured multi-coil k-space, undersampled here"
    assert nibabel.load(output / "brain_8coil_full_restored.nii.gz").shape == (232, 230, 1)


def test_evaluate_summarises_by_contrast_and_subject(
    bundle: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    folder, output = tmp_path / "volumes", tmp_path / "results"
    folder.mkdir()
    for name in ("sub-01_T1w", "sub-02_T1w", "patient03_study1_T2W", "patient03_study2_T2W", "other"):
        write_nifti(folder / f"{name}.nii.gz", magnitude(36 + len(name), 36, 2))
    options = ["--dataset_dir", folder, "--output_dir", output, "--slices", 1, "--num_inference_steps", 1]
    run = monai_bundle("run", "--config_file", evaluation_files(bundle), *options)
    assert run.status == 0, run.err
    assert [path.name for path in output.iterdir()] == ["metrics.json"]
    content = report(output)
    assert set(content["summary"]) == {"T1W", "T2W", "OTHER"}
    t1w = content["summary"]["T1W"]
    assert set(t1w["figures"]["D3GM"]["psnr/slice/whole"]["values"]) == {"sub-01", "sub-02"}
    name = "psnr/slice/whole"
    figures = {stem: entry["figures"] for stem, entry in content["inputs"].items()}
    for method in ("zero-filled", "L1-wavelet"):
        expected = np.mean([figures[s]["D3GM"][name] - figures[s][method][name] for s in ("sub-01_T1w", "sub-02_T1w")])
        assert t1w["differences"][f"D3GM - {method}"][name]["mean"] == pytest.approx(expected)
    patient = content["summary"]["T2W"]["figures"]["D3GM"][name]
    visits = [figures[f"patient03_study{i}_T2W"]["D3GM"][name] for i in (1, 2)]
    assert patient["values"] == {"patient03": pytest.approx(np.mean(visits))} and patient["interval"] is None
    assert "Differences within subjects" in run.out


def config(name: str) -> dict[str, Any]:
    return ConfigParser.load_config_file(BUNDLE / "configs" / f"{name}.json")


@pytest.mark.parametrize("name", ["mri_recon", "mri_sr", "derain", "dehaze"])
def test_the_evaluation_repeats_nothing_of_the_inference(name: str) -> None:
    """It is an overlay: network, process and sampler stand once, and each of its keys changes or adds something."""
    folder = BUNDLE.parent / name / "configs"
    inference, evaluate = (json.loads((folder / file).read_text()) for file in EVALUATION)
    once = ("network_def", "process", "scheduler", "sampler", "inferer", "record", "evaluator", "run")
    assert not set(once) & {key.partition("::")[0] for key in evaluate}
    assert all(key not in inference or value != inference[key] for key, value in evaluate.items())
    for key in ("imports", "parameters"):
        assert not any(entry in inference[key] for entry in evaluate.get(f"+{key}", ()))


def test_training_and_inference_have_one_network_and_process() -> None:
    inference, training = config("inference"), config("train")
    for key in ("network_def", "process", "scheduler"):
        assert inference[key] == training[key]


@pytest.mark.parametrize("configs", [INFERENCE, EVALUATION])
def test_monai_finds_its_properties(configs: tuple[str, ...], bundle: Path) -> None:
    with logging_kept():
        files = [str(bundle / "configs" / name) for name in configs]
        workflow = ConfigWorkflow(files, workflow_type="inference", logging_file=False, bundle_root=str(bundle))
        workflow.initialize()
        assert workflow.check_properties() == []
        assert workflow.inferer.num_samples == 1


def test_monai_loads_the_network_with_its_weights(bundle: Path) -> None:
    """Those of the folder that is named, not of a bundle of the same name elsewhere."""
    with logging_kept(), pytest.warns(UserWarning, match="parsing config_file"):
        network = load("mri_recon", bundle_dir=bundle.parent, workflow_type="inference", device="cpu")
    stored = read_checkpoint(bundle / "models" / "model.pt")["model"]
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["mri_recon", "mri_sr", "derain", "dehaze"])
def test_the_trained_weights_are_as_monai_loads_them(name: str) -> None:
    """A state_dict at the top of the file, with all that the package needs beside it."""
    file = BUNDLE.parent / name / "models" / "model.pt"
    if not (file.parent / "reference.json").exists():
        pytest.skip(f"d3gm bundle finish {name} has not been run yet")
    content = torch.load(file, weights_only=True)
    assert content["model"].keys() <= content.keys()  # where monai.bundle.load looks
    noted = json.loads((file.parent / "reference.json").read_text())
    assert noted["weights"] == weights_hash(file), f"new weights: d3gm bundle finish {name}"


def test_monai_verifies_the_networks_input_and_output() -> None:
    configs = BUNDLE / "configs"
    verify_net_in_out(
        "network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu", p=1, n=4
    )


def test_the_metadata_has_what_monais_schema_requires(tmp_path: Path) -> None:
    """The schema is not downloaded here: this one has what version 20240725 requires, as MONAI's documents state it."""
    text = {"type": "string"}
    tensor = {
        "type": "object",
        "required": "type format num_channels spatial_shape dtype value_range is_patch_data channel_def".split(),
        "properties": {"num_channels": {"type": "integer"}, "is_patch_data": {"type": "boolean"}},
    }
    tensors = {"type": "object", "additionalProperties": tensor, "minProperties": 1}
    required = ["version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"]
    required += ["task", "description", "authors", "copyright", "network_data_format", "changelog", "schema"]
    schema = {
        "type": "object",
        "required": required,
        "properties": {
            **dict.fromkeys(("version", "monai_version", "task", "description", "authors", "copyright"), text),
            "required_packages_version": {"type": "object", "additionalProperties": text},
            "changelog": {"type": "object", "additionalProperties": text},
            "network_data_format": {"type": "object", "properties": {"inputs": tensors, "outputs": tensors}},
        },
    }
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    with pytest.warns(UserWarning, match="No hash value"):
        verify_metadata(str(BUNDLE / "configs" / "metadata.json"), str(file))
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def test_a_bundle_at_any_place_uses_its_own_weights(
    bundle: Path, nifti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monai_bundle: Callable[..., Run]
) -> None:
    """The config file's folder decides, not the current folder or the bundle's name."""
    copy = tmp_path / "renamed"
    shutil.copytree(bundle, copy)
    (copy / "models" / "model.pt").unlink()
    monkeypatch.chdir(bundle.parent.parent)
    options = ["--dataset_dir", nifti, "--output_dir", tmp_path / "results"]
    run = monai_bundle("run", "--config_file", copy / "configs" / "inference.json", *options)
    assert run.status == 1 and f"{copy / 'models' / 'model.pt'}: no such checkpoint" in run.last_line


@pytest.mark.skipif(not TRAINED.is_file(), reason="models/model.pt is not there: nothing is trained yet")
def test_the_trained_model_is_better_than_zero_filling(tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    """On the slice that ships with the package, as the main command runs it, but for one sample in place of several."""
    options = ["--output_dir", tmp_path / "results", "--num_samples", 1, "--progress", "False"]
    run = monai_bundle("run", "--config_file", BUNDLE / "configs" / "inference.json", *options)
    assert run.status == 0, run.err
    figures = report(tmp_path / "results")["inputs"]["brain_8coil_full"]["figures"]
    for name in ("psnr/slice/whole", "ssim/slice/whole", "psnr/slice/foreground"):
        assert figures["D3GM"][name] > figures["zero-filled"][name]


def test_kspace_of_the_helpers_is_that_of_the_magnitude() -> None:
    """The expected images above rest on it."""
    axes = (-2, -1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(full_kspace(), axes), norm="ortho"), axes)
    np.testing.assert_allclose(np.abs(image), np.moveaxis(magnitude(32, 24, 2), -1, 0), atol=1e-3)
