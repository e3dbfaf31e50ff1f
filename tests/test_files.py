"""Outputs are written whole or not at all; NIfTI volumes keep their geometry."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_d3gm.data import VolumeFileError, bundled_epi_path, read_magnitude, write_volume
from monai_d3gm.files import OutputError, atomic_path, writable_folder


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a.nii.gz"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz")
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "none" / "a.txt", tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(OutputError, match=target.name), atomic_path(target):
            pass
    with pytest.raises(OutputError, match="exists"), atomic_path(tmp_path / "file", overwrite=False):
        pass


def test_output_folders(tmp_path: Path) -> None:
    made = writable_folder(tmp_path / "a" / "b")
    assert made.is_dir() and not list(made.iterdir())
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError, match=f"output folder {folder} cannot be written"):
            writable_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        writable_folder(tmp_path)


# --- NIfTI -----------------------------------------------------------------------------------------------------


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def test_the_bundled_volume() -> None:
    """Its header: 128 x 96 x 24 voxels of 2 x 2 x 2.2 mm, two time points, oblique."""
    volume = read_magnitude(bundled_epi_path())
    reference = nibabel.load(bundled_epi_path())
    assert volume.data.shape == (128, 96, 24) and volume.data.dtype == np.float32
    assert np.array_equal(volume.data, np.asarray(reference.dataobj)[..., 0])
    assert np.array_equal(volume.affine, reference.affine)
    second = read_magnitude(bundled_epi_path(), volume_index=1)
    assert np.array_equal(second.data, np.asarray(reference.dataobj)[..., 1])
    with pytest.raises(VolumeFileError, match="volume_index is 2; the file has 2 volumes"):
        read_magnitude(bundled_epi_path(), volume_index=2)


def test_geometry_and_units_survive(tmp_path: Path) -> None:
    source = read_magnitude(bundled_epi_path())
    write_volume(tmp_path / "out.nii.gz", source.data, source.affine, source.header)
    result = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(np.asarray(result.dataobj), source.data)
    assert np.allclose(result.affine, source.affine, atol=1e-5)
    assert result.header.get_xyzt_units() == source.header.get_xyzt_units()
    for code in ("qform_code", "sform_code"):
        assert result.header[code] == source.header[code]
    assert np.allclose(result.header.get_zooms(), (2, 2, 2.2), atol=1e-5)


def test_a_volume_without_header_is_in_scanner_space(tmp_path: Path) -> None:
    write_volume(tmp_path / "out.nii", np.ones((4, 5, 6)), np.diag([1.0, 2, 3, 1]))
    header = nibabel.load(tmp_path / "out.nii").header
    assert header.get_xyzt_units()[0] == "mm" and header["qform_code"] == header["sform_code"] == 1


def test_two_dimensional_images_have_one_slice(tmp_path: Path) -> None:
    assert read_magnitude(save(tmp_path / "a.nii", np.ones((8, 9), np.float32))).data.shape == (8, 9, 1)


def test_scaled_integers_are_scaled(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 1.0)
    nibabel.save(image, tmp_path / "a.nii")
    expected = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    assert np.allclose(read_magnitude(tmp_path / "a.nii").data, expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((4, 4, 4), np.float32), "empty or zero everywhere"),
        (np.full((4, 4, 4), np.nan, np.float32), "NaN or infinity"),
        (np.full((4, 4, 4), np.inf, np.float32), "NaN or infinity"),
        (np.full((4, 4, 4), -1, np.float32), "no positive value"),
        (np.ones((4, 4, 4), np.complex64), "complex64"),
        (np.ones((4, 4, 4, 1, 3), np.float32), "5 dimensions"),
    ],
)
def test_volumes_that_cannot_be_used(tmp_path: Path, data: np.ndarray, message: str) -> None:
    path = save(tmp_path / "bad.nii.gz", data)
    with pytest.raises(VolumeFileError, match=message) as caught:
        read_magnitude(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.nii.gz", np.random.default_rng(0).random((16, 16, 16)).astype(np.float32))
    half = tmp_path / "half.nii.gz"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.nii.gz"
    text.write_text("no NIfTI")
    mgh = tmp_path / "other.mgz"
    nibabel.save(nibabel.MGHImage(np.ones((4, 4, 4), np.float32), np.eye(4)), mgh)
    for path in (half, text, mgh, tmp_path / "none.nii"):
        with pytest.raises(VolumeFileError, match=path.name):
            read_magnitude(path)
