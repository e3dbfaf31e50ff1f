"""A trained model as one object: the same images as the bundle's own run, its parts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from small_bundle import Run, full_kspace, logging_kept, make_bundle

import monai_d3gm
from monai_d3gm.bundle import BundleError
from monai_d3gm.data import write_kspace
from monai_d3gm.networks.checkpoint import CheckpointError, read_checkpoint


def test_restore_gives_what_the_bundles_own_run_writes(
    bundle: Path, nifti: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    settings = {"num_inference_steps": 2, "num_samples": 2, "slices": 2, "acceleration": 2}
    arguments = [text for key, value in settings.items() for text in (f"--{key}", value)]
    arguments += ["--dataset_dir", nifti, "--output_dir", tmp_path / "run"]
    assert monai_bundle("run", "--config_file", bundle / "configs" / "inference.json", *arguments).status == 0
    model = monai_d3gm.load(bundle, num_inference_steps=2)
    with logging_kept():
        result = model.restore(nifti / "sub-01_T1w.nii.gz", num_samples=2, slices=2, acceleration=2)
    written = nibabel.load(tmp_path / "run" / "sub-01_T1w_restored.nii.gz").get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(result.volume.source.as_volume(result.image), written)
    assert result.truth is not None and result.image.shape == result.truth.shape == (2, 40, 36)
    assert result.figures["D3GM"]["psnr/slice/foreground"] > 0 and result.interval is None
    assert "no intervals: the bundle has no calibration.json" in result.warnings
    result.plot(tmp_path / "panel.png")
    assert (tmp_path / "panel.png").read_bytes() == (tmp_path / "run" / "sub-01_T1w_panel.png").read_bytes()


def test_the_parts_are_the_bundles_and_the_network_in_use_is_the_objects(bundle: Path, tmp_path: Path) -> None:
    model = monai_d3gm.load(bundle, seed=3, num_samples=1)
    stored = read_checkpoint(bundle / "models" / "model.pt")
    assert all(torch.equal(value, stored["model"][name]) for name, value in model.network.state_dict().items())
    assert model.scheduler.rho_range == tuple(stored["d3gm"]["rho_range"]) and model.inferer.num_samples == 1
    assert model.calibration is None and not model.network.training
    write_kspace(tmp_path / "scan.h5", full_kspace(32, 24, 1), recon_size=(32, 24))
    with logging_kept():
        before = model.restore(tmp_path / "scan.h5", num_inference_steps=1).image
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.mul_(0.5)
        after = model.restore(tmp_path / "scan.h5", num_inference_steps=1).image
    assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()


def test_a_photograph_has_neither_measurement_nor_intervals(tmp_path: Path) -> None:
    from PIL import Image

    root = make_bundle(tmp_path / "derain", "derain")
    Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(tmp_path / "street.png")
    with logging_kept():
        result = monai_d3gm.load(root).restore(tmp_path / "street.png", num_inference_steps=1, num_samples=1)
    assert result.image.shape == (1, 32, 40, 3) and result.interval is None and result.figures == {}


def test_what_cannot_be_done_is_refused(bundle: Path, nifti: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle 'mri_recom'.*; did you mean mri_recon "):
        monai_d3gm.load("mri_recom")
    with pytest.raises(BundleError, match=r"no setting 'num_sample'; did you mean num_samples"):
        monai_d3gm.load(bundle, num_sample=3)
    with pytest.raises(ValueError, match="num_samples is 0"):
        monai_d3gm.load(bundle, num_samples=0)
    with pytest.raises(ValueError, match="device is 'abacus'"):
        monai_d3gm.load(bundle, device="abacus")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        monai_d3gm.load(bundle, weights=str(tmp_path / "absent.pt"))
    model = monai_d3gm.load(bundle)
    with pytest.raises(ValueError, match="no such file"):
        model.restore(tmp_path / "absent.h5")
    (nifti / "sub-02_T1w.nii.gz").write_bytes((nifti / "sub-01_T1w.nii.gz").read_bytes())
    with pytest.raises(BundleError, match="2 inputs; restore takes one"):
        model.restore(nifti)
