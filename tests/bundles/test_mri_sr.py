"""The bundle mri_sr, run as users run it: NIfTI and DICOM in and out, figures, training, MONAI's own checks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from dicom_series import head, oblique_affine, write_classic
from monai.bundle import ConfigParser, ConfigWorkflow, load, verify_net_in_out
from small_bundle import BUNDLES, SMALL, Run, evaluation_files, logging_kept, magnitude, make_bundle, write_nifti

from monai_d3gm.bundle import EVALUATION, INFERENCE
from monai_d3gm.data.formats.dicom import find_series, read_series
from monai_d3gm.networks.checkpoint import read_checkpoint

CONFIGS = BUNDLES / "mri_sr" / "configs"


@pytest.fixture(scope="module")
def mri_sr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with a small untrained network."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "mri_sr", "mri_sr")


@pytest.fixture
def restore(mri_sr: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> Callable[..., Path]:
    """Run a config of the small bundle with few evaluations; the folder of its results."""

    def run(*arguments: object, config: str = "inference", output: str = "results") -> Path:
        folder = tmp_path / output
        options = ["--num_inference_steps", 1, "--num_samples", 1, "--output_dir", folder, *arguments]
        files = evaluation_files(mri_sr) if config == "evaluate" else mri_sr / "configs" / f"{config}.json"
        ended = monai_bundle("run", "--config_file", files, *options)
        assert ended.status == 0, ended.err
        return folder

    return run


def entry_of(folder: Path, stem: str) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())["inputs"][stem]


def test_a_nifti_volume_lies_where_it_lay_on_a_finer_grid(restore: Callable[..., Path], tmp_path: Path) -> None:
    """Truncation keeps the centre of voxel 0: the affine times diag(1/f, 1/f, 1, 1)."""
    source = write_nifti(tmp_path / "sub-01_T1w.nii.gz", magnitude(24, 20, 3))
    folder = restore("--dataset_dir", source, "--factor", 2, "--num_samples", 2)
    low, image = nibabel.load(source), nibabel.load(folder / "sub-01_T1w_restored.nii.gz")
    assert image.shape == (48, 40, 3)
    np.testing.assert_allclose(image.affine, low.affine @ np.diag([0.5, 0.5, 1, 1]), atol=1e-5)
    assert image.header.get_xyzt_units() == low.header.get_xyzt_units()
    assert int(image.header["qform_code"]) == int(low.header["qform_code"])
    a, b = image.get_fdata()[::2, ::2].ravel(), low.get_fdata().ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98 and a @ b / (b @ b) == pytest.approx(1, abs=0.05)
    assert nibabel.load(folder / "sub-01_T1w_std.nii.gz").shape == image.shape
    entry = entry_of(folder, "sub-01_T1w")
    assert entry["figures"] == {} and any("no truth" in warning for warning in entry["warnings"])
    assert "coils" not in entry["protocol"]


def test_through_plane_raises_the_number_of_slices(restore: Callable[..., Path], tmp_path: Path) -> None:
    """Thick slices without gaps: the first of three fine slices lies a third of the spacing before the thick one's
    centre."""
    source = write_nifti(tmp_path / "thick.nii.gz", magnitude(24, 20, 8))
    folder = restore("--dataset_dir", source, "--plane", "through", "--factor", 3)
    low, image = nibabel.load(source), nibabel.load(folder / "thick_restored.nii.gz")
    assert image.shape == (24, 20, 24)
    centre = image.affine @ [3.0, 4.0, 3 * 5 + 1, 1]
    np.testing.assert_allclose(centre, low.affine @ [3.0, 4.0, 5.0, 1], atol=1e-5)
    a, b = image.get_fdata().reshape(24, 20, 8, 3).mean(-1).ravel(), low.get_fdata().ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98


def test_a_dicom_series_becomes_a_derived_series_and_maps(restore: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    affine = oblique_affine()
    write_classic(tmp_path / "study", head(), affine)
    folder = restore("--dataset_dir", tmp_path / "study", "--factor", 2, "--num_samples", 2)
    (source,), _ = find_series(tmp_path / "study")
    (derived,), refused = find_series(folder / f"{source.name}_restored")
    assert not refused and len(derived.files) == len(source.files)
    low, image = read_series(source), read_series(derived)
    assert image.data.shape == (48, 40, 5)
    np.testing.assert_allclose(image.affine, low.affine @ np.diag([0.5, 0.5, 1, 1]), atol=1e-5)
    a, b = image.data[::2, ::2].ravel(), low.data.ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.98 and a @ b / (b @ b) == pytest.approx(1, abs=0.05)
    assert (folder / f"{source.name}_std.dcm").is_file() and (folder / f"{source.name}_panel.png").is_file()


def test_dicom_in_and_nifti_out(restore: Callable[..., Path], tmp_path: Path) -> None:
    write_classic(tmp_path / "study", head(), oblique_affine())
    folder = restore("--dataset_dir", tmp_path / "study", "--format", "nifti")
    (source,), _ = find_series(tmp_path / "study")
    image = nibabel.load(folder / f"{source.name}_restored.nii.gz")
    np.testing.assert_allclose(image.affine, read_series(source).affine @ np.diag([0.5, 0.5, 1, 1]), atol=1e-5)


def test_without_a_data_set_it_degrades_the_volume_in_nibabels_wheel(restore: Callable[..., Path]) -> None:
    folder = restore("--slices", 1)
    entry = entry_of(folder, "example4d")
    assert set(entry["figures"]) == {"sinc", "bicubic", "D3GM"}
    assert entry["protocol"]["data"] == "simulated low resolution: 2 in plane by truncation at SNR 50"
    image = nibabel.load(folder / "example4d_restored.nii.gz")
    assert image.shape == (128, 96, 24)


@pytest.mark.parametrize("degradation", ["truncation", "kernel"])
def test_evaluate_compares_with_both_interpolations(
    restore: Callable[..., Path], tmp_path: Path, degradation: str
) -> None:
    (tmp_path / "volumes").mkdir()
    for subject in ("sub-01", "sub-02"):
        write_nifti(tmp_path / "volumes" / f"{subject}_T1w.nii.gz", magnitude(48, 40, 2))
    folder = restore("--dataset_dir", tmp_path / "volumes", "--degradation", degradation, config="evaluate")
    summary = json.loads((folder / "metrics.json").read_text())["summary"]["T1W"]
    assert set(summary["differences"]) == {"D3GM - sinc", "D3GM - bicubic"}
    assert not list(folder.glob("*.nii.gz"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--factor", 3], "factor is 3; accepted: 2, 4"),
        (["--plane", "across"], "plane is 'across'; accepted: in, through"),
        (["--noise_std", 0], "noise_std is 0; accepted: a number above 0"),
        (["--acceleration", 4], "unknown key --acceleration"),
        (["--format", "png"], "format is 'png'; accepted: same, nifti"),
    ],
)
def test_bad_options(
    mri_sr: Path, tmp_path: Path, monai_bundle: Callable[..., Run], arguments: list[object], message: str
) -> None:
    write_nifti(tmp_path / "a.nii", magnitude(24, 20, 2))
    options = ["--dataset_dir", tmp_path / "a.nii", "--output_dir", tmp_path / "out", *arguments]
    run = monai_bundle("run", "--config_file", mri_sr / "configs" / "inference.json", *options)
    assert run.status == 1 and message in run.last_line
    assert not (tmp_path / "out").exists()


def test_a_4d_file_is_refused_until_a_frame_is_chosen(
    mri_sr: Path, tmp_path: Path, monai_bundle: Callable[..., Run], restore: Callable[..., Path]
) -> None:
    data = np.stack([magnitude(24, 20, 2), 2 * magnitude(24, 20, 2)], axis=-1)
    source = write_nifti(tmp_path / "a.nii", data)
    options = ["--dataset_dir", source, "--output_dir", tmp_path / "out"]
    run = monai_bundle("run", "--config_file", mri_sr / "configs" / "inference.json", *options)
    assert run.status == 1 and "4-D file with 2 volumes; choose one: frame, 0 to 1" in run.last_line
    image = nibabel.load(restore("--dataset_dir", source, "--frame", 1) / "a_restored.nii.gz")
    assert image.get_fdata().max() > 150  # the second is twice as bright as the first, whose maximum is about 100


def test_training_validates_by_restoring_and_goes_on_from_where_it_was(
    tmp_path: Path, mri_sr: Path, monai_bundle: Callable[..., Run]
) -> None:
    source = write_nifti(tmp_path / "sub-01_T1w.nii.gz", magnitude(64, 56, 4))
    network = [word for k, v in SMALL.items() for word in (f"--network_def::{k}", v)]
    options = ["--volumes", f"$['{source}']", "--validation_inputs", source, "--output_dir", tmp_path / "run"]
    options += ["--batch_size", 2, "--epoch_length", 3, "--validation_interval", 1, "--amp", "$None", *network]
    options += ["--train_dataset::patch", 32, "--validation_factor", 2]
    options += ["--max_epochs", 2]
    for message in ("training starts from the beginning", "going on from"):
        run = monai_bundle("run", "--config_file", mri_sr / "configs" / "train.json", *options)
        assert run.status == 0 and message in run.out + run.err, run.err
    content = read_checkpoint(tmp_path / "run" / "model.pt")
    assert content["d3gm"]["training"]["metric"] == "psnr/slice/whole"
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["trainer"]["iteration"] == 6


def test_the_mean_path_is_trained_on_whole_slices(
    tmp_path: Path, mri_sr: Path, monai_bundle: Callable[..., Run]
) -> None:
    source = write_nifti(tmp_path / "sub-02_T1w.nii.gz", magnitude(64, 56, 4))
    network = [word for k, v in SMALL.items() for word in (f"--network_def::{k}", v)]
    files = [str(mri_sr / "configs" / f"{name}.json") for name in ("train", "train_mean_path")]
    options = ["--volumes", "[]", "--slices::paths", f"['{source}']", "--validation_inputs", source]
    options += ["--train_dataset::field", 48, "--epoch_length", 3, "--max_epochs", 1, "--validation_interval", 9]
    run = monai_bundle("run", "--config_file", files, "--output_dir", tmp_path, "--amp", "$None", *options, *network)
    assert run.status == 0, run.err
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["iteration"] == 3


def test_inference_and_training_have_one_network_and_process() -> None:
    train, inference = (ConfigParser.load_config_file(CONFIGS / f"{name}.json") for name in ("train", "inference"))
    assert all(inference[key] == train[key] for key in ("network_def", "process", "scheduler"))


@pytest.mark.parametrize("configs", [INFERENCE, EVALUATION])
def test_monai_finds_its_properties(configs: tuple[str, ...], mri_sr: Path) -> None:
    with logging_kept():
        files = [str(mri_sr / "configs" / name) for name in configs]
        workflow = ConfigWorkflow(files, workflow_type="inference", logging_file=False, bundle_root=str(mri_sr))
        workflow.initialize()
        assert workflow.check_properties() == []


def test_monai_loads_the_network_with_its_weights(mri_sr: Path) -> None:
    with logging_kept(), pytest.warns(UserWarning, match="parsing config_file"):
        network = load("mri_sr", bundle_dir=mri_sr.parent, workflow_type="inference", device="cpu")
    stored = read_checkpoint(mri_sr / "models" / "model.pt")["model"]
    assert all(torch.equal(value, stored[key]) for key, value in network.state_dict().items())


def test_monai_verifies_the_networks_input_and_output() -> None:
    verify_net_in_out(
        "network_def", str(CONFIGS / "metadata.json"), str(CONFIGS / "inference.json"), device="cpu", p=1, n=4
    )
