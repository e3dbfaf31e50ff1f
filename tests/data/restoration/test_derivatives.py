"""BIDS data sets: what sidecars say is used, and results are a derivative data set."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from small_bundle import Run, content, d3gm, magnitude, make_bundle, write_nifti

from monai_d3gm.data import KspaceSliceDataset, LowResolutionSliceDataset
from monai_d3gm.data.formats.nifti import VolumeFileError
from monai_d3gm.data.formats.sidecar import bids_root, read_sidecar, sidecar_acquired
from monai_d3gm.trust.intervals import contrast_of_input


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two subjects with anatomical images, a functional one, a phase part, and another pipeline's derivative."""
    root = tmp_path / "raw"
    for name in (
        "sub-01/anat/sub-01_T1w",
        "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_T2w",
        "sub-02/ses-1/func/sub-02_ses-1_task-rest_bold",
        "sub-02/ses-1/anat/sub-02_ses-1_part-phase_T2w",
        "derivatives/other/sub-01_desc-clean_T1w",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(root / f"{name}.nii.gz", magnitude(24, 20, 2))
    description = {"Name": "Phantoms", "BIDSVersion": "1.9.0", "License": "CC0"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    (root / "T1w.json").write_text(json.dumps({"EchoTime": 0.003, "MagneticFieldStrength": 3, "PatientName": "x"}))
    (root / "sub-01" / "anat" / "sub-01_T1w.json").write_text(json.dumps({"EchoTime": 0.004}))
    return root


def restore(bundle: Path, source: Path, output: Path, *options: str) -> Run:
    command = ("restore", bundle, source, output, "--steps", "1", "--samples", "2", "--no-baseline", "--no-progress")
    return d3gm(*command, *options)


def test_results_are_a_derivative_data_set(dataset: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run = restore(bundle, dataset, output)
    assert run.status == 0, run.err
    restored = output / "sub-01" / "anat" / "sub-01_desc-restored_T1w.nii.gz"
    assert nibabel.load(restored).shape == (24, 20, 2)
    sidecar = json.loads(restored.with_name("sub-01_desc-restored_T1w.json").read_text())
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"]) == (0.004, 3) and "PatientName" not in sidecar
    assert restored.with_name("sub-01_desc-std_T1w.nii.gz").is_file()
    assert (output / "sub-02/ses-1/anat/sub-02_ses-1_acq-fast_desc-restored_T2w.nii.gz").is_file()
    description = json.loads((output / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["BIDSVersion"]) == ("derivative", "1.9.0")
    assert description["GeneratedBy"][0]["Name"] == "monai_d3gm" and description["License"] == "CC0"
    assert (output / description["DatasetLinks"]["raw"]).resolve() == dataset.resolve()
    assert "*_panel.png" in (output / ".bidsignore").read_text().split()
    summary = json.loads((output / "summary.json").read_text())
    assert summary["counts"]["restored"] == 2 and "failed" not in {key for key, n in summary["counts"].items() if n}
    reasons = {entry["input"]: entry["reason"] for entry in summary["inputs"] if entry["status"] == "skipped"}
    assert reasons["derivatives/other/sub-01_desc-clean_T1w.nii.gz"].startswith("in derivatives")
    assert "of the kind func" in reasons["sub-02/ses-1/func/sub-02_ses-1_task-rest_bold.nii.gz"]
    assert "magnitude" in reasons["sub-02/ses-1/anat/sub-02_ses-1_part-phase_T2w.nii.gz"]
    before = content(output)
    assert restore(bundle, dataset, output).status == 0 and content(output) == before


def test_anothers_description_is_kept(dataset: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset_description.json").write_text('{"Name": "other", "BIDSVersion": "1.0.0"}')
    assert restore(bundle, dataset, tmp_path / "out").status == 2
    assert [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")] == [
        "dataset_description.json"
    ]


def test_a_part_of_a_data_set_is_restored_as_any_folder(dataset: Path, bundle: Path, tmp_path: Path) -> None:
    assert restore(bundle, dataset / "sub-01", tmp_path / "out").status == 0
    assert (tmp_path / "out" / "anat" / "sub-01_T1w_restored.nii.gz").is_file()
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_the_nearer_sidecar_wins_and_others_do_not_hold(dataset: Path) -> None:
    anat = dataset / "sub-01" / "anat"
    (anat / "sub-01_acq-fast_T1w.json").write_text('{"EchoTime": 9}')
    (dataset / "T2w.json").write_text('{"EchoTime": 8}')
    assert read_sidecar(anat / "sub-01_T1w.nii.gz") == {
        "EchoTime": 0.004,
        "MagneticFieldStrength": 3,
        "PatientName": "x",
    }
    assert bids_root(anat) == dataset


def test_a_sidecar_says_the_contrast(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", magnitude(24, 20, 2))
    assert contrast_of_input(KspaceSliceDataset(path).volumes[0], None) is None
    (tmp_path / "a.json").write_text('{"SeriesDescription": "ax T2w tse", "ProtocolName": 7}')
    assert contrast_of_input(KspaceSliceDataset(path).volumes[0], None) == "T2W"


def test_a_sidecar_says_what_was_acquired(tmp_path: Path) -> None:
    """48 of 64 lines were acquired along the second axis: the volume is cropped to that band."""
    path = write_nifti(tmp_path / "a.nii", magnitude(48, 64, 2))
    (tmp_path / "a.json").write_text('{"AcquisitionMatrixPE": 48, "ReconMatrixPE": 64, "PhaseEncodingAxis": "j"}')
    assert LowResolutionSliceDataset(path).volumes[0].kept_band[1] == 48 / 64


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"AcquisitionMatrixPE": 48, "ReconMatrixPE": 32, "PhaseEncodingDirection": "j"},
        {"AcquisitionMatrixPE": 48, "ReconMatrixPE": 64, "PhaseEncodingDirection": "k"},
        {"AcquisitionMatrixPE": -1, "ReconMatrixPE": 64, "PhaseEncodingDirection": "j"},
        {"AcquisitionMatrixPE": "48", "ReconMatrixPE": 64, "PhaseEncodingDirection": ["j"]},
    ],
)
def test_what_a_sidecar_says_of_another_matrix_does_not_count(fields: dict) -> None:
    assert sidecar_acquired(fields, (64, 64, 2)) == (1.0, 1.0)


def test_a_phase_image_is_refused_and_a_damaged_sidecar_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_nifti(tmp_path / "a.nii", magnitude(24, 20, 2))
    (tmp_path / "a.json").write_text('{"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}')
    with pytest.raises(VolumeFileError, match="a.nii: the sidecar says .*; accepted: a magnitude image"):
        KspaceSliceDataset(path)
    (tmp_path / "a.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert len(KspaceSliceDataset(path)) == 2
    assert "a.json: the sidecar is not used" in caplog.text


def test_super_resolution_of_a_bids_data_set(dataset: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mri_sr", "mri_sr")
    assert restore(bundle, dataset, tmp_path / "out", "--simulate").status == 0
    assert np.prod(nibabel.load(tmp_path / "out/sub-01/anat/sub-01_desc-restored_T1w.nii.gz").shape) > 0
