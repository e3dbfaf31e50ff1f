"""Training statistics: closed forms, no warning for their own volumes, and far inputs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from small_bundle import BUNDLE

from monai_d3gm.data import bundled_epi_path, read_magnitude
from monai_d3gm.metrics import foreground_mask
from monai_d3gm.transforms.kspace.functional import crop_to_acquired_band
from monai_d3gm.trust import TrainingStatistics, TrainingStatisticsError, range_warnings
from monai_d3gm.trust.training_statistics import (
    LEVELS,
    STATISTICS,
    volume_statistics,
)
from monai_d3gm.trust.warnings import residual_warnings

DATA = os.environ.get("D3GM_DATA")
SPACING = (0.9, 0.9, 3.0)


def head(seed: int, size: int = 224) -> np.ndarray:
    """Two slices of a textured ellipse with a bright rim, of varying size, contrast and noise."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] - size / 2) / size
    radius = np.hypot(x / rng.uniform(0.3, 0.36), y / rng.uniform(0.34, 0.42))
    texture = ndimage.gaussian_filter(rng.normal(size=(2, size, size)), (0, 4, 4)) * 12
    image = (radius < 1) * (0.55 + rng.uniform(0.1, 0.16) * texture) + 0.4 * (abs(radius - 0.95) < 0.05)
    noise = rng.normal(size=(2, 2, size, size)) * rng.uniform(0.01, 0.02)
    return np.hypot(image.clip(0) + noise[0], noise[1])


@pytest.fixture(scope="module")
def volumes() -> dict[str, dict[str, float]]:
    return {str(seed): volume_statistics(head(seed), SPACING) for seed in range(8)}


def test_statistics_of_a_square_are_those_of_its_two_levels() -> None:
    image = np.zeros((3, 64, 80))
    image[:, 16:48, 20:60] = 100.0
    statistics = volume_statistics(image, (2.0, 0.5, 4.0))
    inside = 32 * 40  # the mask's 5 x 5 median rounds the corners off
    assert statistics["foreground_share"] == pytest.approx(inside / (64 * 80), rel=0.02)
    geometry = ["voxel_fine", "voxel_coarse", "slice_spacing", "matrix_short", "matrix_long"]
    assert [statistics[name] for name in geometry] == [0.5, 2.0, 4.0, 64.0, 80.0]
    assert (statistics["foreground_mean"], statistics["foreground_variation"]) == (1.0, 0.0)
    assert statistics["background_level"] == 0.0
    assert "snr" not in statistics  # no noise at all
    small = volume_statistics(image[:, 8:56:2, 10:70:2], (2.0, 0.5, 4.0))
    assert "spectral_slope" not in small


def test_levels_are_relative_to_the_percentile_of_the_foreground() -> None:
    """Spikes of twice the object's level are 0.4 or 0.6 % of its pixels: below and above the 99.5th percentile."""
    for share, peak in ((0.004, 1.0), (0.006, 2.0)):
        image = np.full((1, 96, 96), 0.01)
        image[0, 16:80, 16:80] = 1.0
        image[0, 40:50, 40:50] = 0.3  # with two levels alone Otsu's threshold is the lower one
        inside = np.flatnonzero(foreground_mask(image))
        count = round(share * len(inside))
        image.ravel()[inside[:: len(inside) // count][:count]] = 2.0
        values = image.ravel()[inside]
        statistics = volume_statistics(image, SPACING)
        assert statistics["foreground_mean"] == pytest.approx(values.mean() / peak)
        assert statistics["foreground_variation"] == pytest.approx(values.std() / values.mean())
        assert statistics["background_level"] == pytest.approx(0.01 / peak)


def test_statistics_do_not_depend_on_the_unit(volumes: dict[str, dict[str, float]]) -> None:
    assert volume_statistics(1e4 * head(0), SPACING) == pytest.approx(volumes["0"])


def test_the_noise_of_a_flat_object_is_found() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((4, 128, 128))
    image[:, 16:112, 16:112] = 1.0
    noisy = (image + 0.02 * rng.normal(size=image.shape)).clip(0)
    # 9000 blocks: the median absolute deviation is known to 2 %
    assert volume_statistics(noisy, SPACING)["snr"] == pytest.approx(50, rel=0.05)


def test_white_noise_has_a_flat_spectrum() -> None:
    rng = np.random.default_rng(0)
    statistics = volume_statistics(np.abs(10 + rng.normal(size=(16, 128, 128))), SPACING)
    assert statistics["spectral_slope"] == pytest.approx(0, abs=0.15)
    assert statistics["fine_detail"] == pytest.approx(0, abs=0.3)


def test_the_quantiles_are_kept_and_a_file_holds_them_all(tmp_path: Path) -> None:
    training = TrainingStatistics.fit({str(i): {"snr": float(i)} for i in range(101)})
    assert training.quantiles == {"snr": (0.0, 5.0, 50.0, 95.0, 100.0)} and LEVELS[1] == 0.05
    training.save(tmp_path / "training_statistics.json")
    assert TrainingStatistics.load(tmp_path / "training_statistics.json") == training
    with pytest.raises(ValueError, match="exists"):
        training.save(tmp_path / "training_statistics.json")


@pytest.mark.parametrize("content", ["{", "[]", '{"quantiles": {}}', '{"quantiles": {"hue": [1]}, "volumes": []}'])
def test_damaged_files_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "training_statistics.json").write_text(content)
    with pytest.raises(TrainingStatisticsError, match="training_statistics.json: not training statistics"):
        TrainingStatistics.load(tmp_path / "training_statistics.json")
    with pytest.raises(TrainingStatisticsError, match="none.json: the training statistics cannot be read"):
        TrainingStatistics.load(tmp_path / "none.json")
    with pytest.raises(TrainingStatisticsError, match="statistics is empty"):
        TrainingStatistics.fit({})


@pytest.mark.parametrize(
    ("slices", "spacing", "words"),
    [
        (np.ones((8, 8)), SPACING, r"slices has the shape \(8, 8\)"),
        (np.zeros((1, 32, 32)), SPACING, "slices has no foreground"),
        (np.ones((1, 32, 32)), (1.0, 0.0, 1.0), "spacing is"),
        (np.ones((1, 32, 32)), (1.0, 1.0), "spacing is"),
    ],
)
def test_what_has_no_statistics_is_refused(slices: np.ndarray, spacing: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        volume_statistics(slices, spacing)


def test_every_training_volume_is_near_the_others(volumes: dict[str, dict[str, float]]) -> None:
    for name, own in volumes.items():
        assert range_warnings(TrainingStatistics.fit({n: v for n, v in volumes.items() if n != name}), own) == []


def test_noise_inversion_and_other_geometry_are_far(volumes: dict[str, dict[str, float]]) -> None:
    training, image = TrainingStatistics.fit(volumes), head(9)
    assert range_warnings(training, volume_statistics(image, SPACING)) == []
    noise = np.abs(np.random.default_rng(0).normal(size=image.shape))
    for far, words in (
        (noise, "share of the foreground"),
        (image.max() - image, "share of the foreground"),
        (noise, "slope of the power spectrum"),
        (ndimage.gaussian_filter(image, (0, 3, 3)), "estimated signal-to-noise ratio"),
        (image[:, ::4, ::4], "shorter side of the matrix"),
    ):
        assert any(words in reason for reason in range_warnings(training, volume_statistics(far, SPACING))), words
    reasons = range_warnings(training, volume_statistics(image, (2.0, 2.0, 3.0)))
    assert reasons[0] == (
        "far from the training data: finer voxel size in plane 2 mm is outside the training range, 0.9 to 0.9 mm"
    )


def test_what_is_not_known_is_not_compared(volumes: dict[str, dict[str, float]]) -> None:
    training = TrainingStatistics.fit(volumes)
    assert range_warnings(training, {"snr": training.quantiles["snr"][0]}) == []
    assert range_warnings(TrainingStatistics.fit({"a": {"snr": 1.0}}), {"slice_spacing": 99.0}) == []


def test_residuals_are_held_to_the_noise_or_what_was_usual() -> None:
    assert residual_warnings([]) == residual_warnings([0.3, 1.9]) == residual_warnings([3.9], usual=2.0) == []
    assert residual_warnings([1.9], usual=0.2) == []  # below the noise there is nothing to explain
    assert "residual of 2.1 times the noise, usual is 1" in residual_warnings([0.3, 2.1])[0]
    assert "residual of inf times the noise" in residual_warnings([math.nan])[0]


def as_read(path: Path) -> tuple[np.ndarray, list[float]]:
    """Every eleventh slice of a volume on its acquired band, and its spacing."""
    volume = read_magnitude(path)
    data, _, affine = crop_to_acquired_band(volume.data, (0, 1), volume.affine)
    assert affine is not None
    slices = np.moveaxis(data[:, :, volume.data.any(axis=(0, 1))], -1, 0)[::11]
    return slices, np.linalg.norm(affine[:3, :3], axis=0).tolist()


def test_the_bundles_statistics_are_alarmed_by_what_it_was_not_trained_on() -> None:
    """nibabel's EPI brain has voxels of 2 x 2 x 2.2 mm; the training volumes have 0.5 to 1.2 mm in plane."""
    training = TrainingStatistics.load(BUNDLE / "models" / "training_statistics.json")
    assert set(training.quantiles) == set(STATISTICS) and len(training.volumes) == 30
    epi, spacing = as_read(bundled_epi_path())
    assert any(
        "finer voxel size in plane 2 mm" in reason
        for reason in range_warnings(training, volume_statistics(epi, spacing))
    )
    ordinary = [0.87, 0.87, 1.0]
    for far in (epi.max() - epi, np.abs(np.random.default_rng(0).normal(size=(2, 256, 256)))):
        assert any(
            "share of the foreground" in reason for reason in range_warnings(training, volume_statistics(far, ordinary))
        )


@pytest.mark.skipif(DATA is None, reason="D3GM_DATA is not set: it gives the folder of the development data")
@pytest.mark.parametrize(
    "name", ["ds002748/sub-48_T1w", "open_ms/patient19_study2_T1W", "open_ms/patient09_study2_FLAIR"]
)
def test_the_bundles_statistics_are_not_alarmed_by_other_subjects_of_the_same_protocols(name: str) -> None:
    training = TrainingStatistics.load(BUNDLE / "models" / "training_statistics.json")
    slices, spacing = as_read(Path(str(DATA)) / "mri" / f"{name}.nii.gz")
    assert range_warnings(training, volume_statistics(slices, spacing)) == []


@pytest.mark.skipif(DATA is None, reason="D3GM_DATA is not set: it gives the folder of the development data")
def test_photographs_are_far() -> None:
    from PIL import Image

    training = TrainingStatistics.load(BUNDLE / "models" / "training_statistics.json")
    paths = sorted((Path(str(DATA)) / "photos").rglob("*.png"))[:4]
    for path in paths:
        grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64)[None]
        assert range_warnings(training, volume_statistics(grey, (0.87, 0.87, 1.0)))


def test_the_file_is_plain_json() -> None:
    content = json.loads((BUNDLE / "models" / "training_statistics.json").read_text())
    assert set(content) == {"levels", "quantiles", "volumes"}
    assert all("/" not in volume for volume in content["volumes"])
