"""Calibrations of volumes whose errors are known: normal quantiles, files, and what is refused or warned of."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_bundle import save_untrained

from monai_d3gm.data import InputVolume
from monai_d3gm.data.formats.base import FORMATS
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.handlers.trust import CollectCalibration, TrustCheck
from monai_d3gm.metrics import evaluate_images, foreground_mask
from monai_d3gm.networks.checkpoint import weights_hash
from monai_d3gm.trust import TrainingStatistics
from monai_d3gm.trust.calibration import Calibration, CalibrationError
from monai_d3gm.trust.conformal import volume_scale
from monai_d3gm.trust.intervals import CONSTANT_SPREAD, calibrated, contrast_of, spread_of
from monai_d3gm.trust.training_statistics import volume_statistics

NORMAL_95 = 1.6448536
PARAMETERS: dict[str, Any] = {"acceleration": 4.0, "mask": "random", "coils": 1, "num_samples": 4, "seed": 0}
PARAMETERS["process"] = {"name": "D3GMProcess", "tau": 2.0}
WEIGHTS = "f" * 64


def source(stem: str = "sub-01_T1w", **changes: Any) -> InputVolume:
    values: dict[str, Any] = {
        "path": Path(f"{stem}.nii.gz"),
        "stem": stem,
        "format": FORMATS["nifti"],
        "shape": (64, 64, 2),
    }
    values |= {"slices": (0, 1), "skipped": (), "affine": np.diag([1.0, 2.0, 3.0, 1.0]), "coils": 1}
    values |= {"simulated": True, "has_truth": True, "kept_band": (1.0, 1.0)}
    return InputVolume(**(values | changes))


def restored(stem: str = "sub-01_T1w", *, unit: float = 1.0, seed: int = 0, **changes: Any) -> RestoredVolume:
    """Two slices of a textured disc with normal errors of the stated std, 0.02 and 0.04 of the peak in its halves."""
    y, x = np.mgrid[:64, :64] - 31.5
    truth = np.stack([(np.hypot(x, y) < radius) * (1 + 0.2 * np.sin(x) * np.cos(y)) for radius in (25, 20)])
    std = np.broadcast_to(np.where(x < 0, 0.02, 0.04), truth.shape)
    image = np.abs(truth + std * np.random.default_rng(seed).normal(size=truth.shape))
    arrays = [np.float32(unit * array) for array in (image, std, truth)]
    return RestoredVolume(source(stem, **changes), {METHOD: arrays[0]}, arrays[1], arrays[2])


def engine(*volumes: RestoredVolume, num_samples: int = 4) -> Any:
    return SimpleNamespace(
        volumes=[volume.source for volume in volumes],
        restore=SimpleNamespace(num_samples=num_samples),
        error_map=None,
        state=SimpleNamespace(volume=volumes[0]),
    )


def collect(*volumes: RestoredVolume, **options: Any) -> CollectCalibration:
    handler, run = CollectCalibration(**options), engine(*volumes)
    handler.check(run)
    for run.state.volume in volumes:
        handler.take(run)
    return handler


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Ten T1w subjects, of scanners with other units, and two FLAIR subjects whose std is half of the error's."""
    volumes = [restored(f"sub-{i:02}_T1w", unit=10.0**i, seed=i) for i in range(10)]
    for i in range(2):
        volume = restored(f"patient0{i}_FLAIR", seed=20 + i)
        assert volume.std is not None
        volumes.append(replace(volume, std=volume.std / 2, residual=np.float32([0.5, 0.8])))
    return Calibration(WEIGHTS, (collect(*volumes).fit(PARAMETERS, 0.9),))


def test_half_widths_are_normal_quantiles_in_the_units_of_the_image(calibration: Calibration) -> None:
    volume = restored("sub-77_T1w", unit=300.0, seed=77)
    found = calibrated(volume, calibration, WEIGHTS, PARAMETERS)
    assert found.contrast == "T1W" and found.warnings == () and found.half_width is not None
    assert volume.std is not None and volume.reference is not None
    inside = foreground_mask(volume.reference)
    # 60 000 pixels with two values of std: q (std + s0) is the normal quantile on average over them
    mean = float((found.half_width / volume.std)[inside].mean())
    assert mean == pytest.approx(NORMAL_95, rel=0.05)
    covered = np.mean(np.abs(volume.reference - volume.images[METHOD])[inside] <= found.half_width[inside])
    # 2900 pixels: the standard deviation is 0.0056
    assert covered == pytest.approx(0.9, abs=0.03)
    report = found.report(volume)
    assert report["covered"] == pytest.approx(covered)
    assert (report["contrast"], report["coverage"], report["subjects"]) == ("T1W", 0.9, 10)
    assert report["guaranteed"] == pytest.approx(0.9 * 10 / 11)


def test_one_calibration_holds_for_every_unit(calibration: Calibration) -> None:
    small, large = (calibrated(restored(unit=unit), calibration, WEIGHTS, PARAMETERS) for unit in (1.0, 1000.0))
    assert small.half_width is not None and large.half_width is not None
    np.testing.assert_allclose(large.half_width, 1000 * small.half_width, rtol=1e-4)
    assert small.psnr_bound == pytest.approx(large.psnr_bound)


def test_bounds_are_below_the_figures_of_nearly_all_slices(calibration: Calibration) -> None:
    held = []
    for seed in range(100, 120):
        volume = restored(seed=seed)
        found = calibrated(volume, calibration, WEIGHTS, PARAMETERS)
        assert found.bound_coverage == 0.9 and len(found.psnr_bound) == 2 and volume.reference is not None
        for number, bounds in enumerate(zip(found.psnr_bound, found.ssim_bound, strict=True)):
            figures = evaluate_images(volume.images[METHOD][number], volume.reference[number], "slice")
            held += [bounds[0] <= figures["psnr/slice/foreground"], bounds[1] <= figures["ssim/slice/foreground"]]
            assert bounds[0] == pytest.approx(figures["psnr/slice/foreground"], abs=2.0)  # and not far below
    assert np.mean(held) >= 0.85


def test_a_contrast_has_its_own_factor_and_few_subjects_no_bound(calibration: Calibration) -> None:
    volume = restored("patient03_FLAIR", seed=3)
    assert volume.std is not None
    found = calibrated(replace(volume, std=volume.std / 2), calibration, WEIGHTS, PARAMETERS)
    assert found.contrast == "FLAIR" and found.half_width is not None and volume.reference is not None
    inside = foreground_mask(volume.reference)
    assert float((found.half_width / volume.std)[inside].mean()) == pytest.approx(NORMAL_95, rel=0.05)
    assert found.psnr_bound == () and "lower_bounds" not in found.report(volume)
    assert found.warnings == (
        "no bounds on PSNR and SSIM: 2 calibration subjects of contrast FLAIR, at least 9 are needed",
    )


@pytest.mark.parametrize("stem", ["scan7", "sub-01_T2w"])
def test_an_unknown_contrast_takes_the_widest_intervals_and_says_so(stem: str, calibration: Calibration) -> None:
    volume = restored(stem)
    found = calibrated(volume, calibration, WEIGHTS, PARAMETERS)
    flair, t1w = (calibrated(volume, calibration, WEIGHTS, PARAMETERS, name) for name in ("flair", "T1w"))
    assert found.half_width is not None and flair.half_width is not None and t1w.half_width is not None
    np.testing.assert_array_equal(found.half_width, flair.half_width)
    assert flair.half_width.mean() > 1.5 * t1w.half_width.mean()
    name = {"scan7": "unknown", "sub-01_T2w": "T2W"}[stem]
    assert found.warnings[0].startswith(f"contrast {name} was not calibrated (FLAIR, T1W were): the widest")
    assert found.psnr_bound == ()


@pytest.mark.parametrize(
    ("weights", "changes", "words"),
    [
        ("a" * 64, {}, "calibrated for other weights (ffffffffffff, not aaaaaaaaaaaa)"),
        (WEIGHTS, {"acceleration": 8}, "calibrated for acceleration 4.0, not 8"),
        (WEIGHTS, {"num_samples": 8, "mask": "magic"}, "mask random, not magic; num_samples 4, not 8"),
        (WEIGHTS, {"process": {"name": "D3GMProcess", "tau": 3.0}}, "calibrated for process"),
    ],
)
def test_other_weights_or_parameters_have_no_intervals(
    weights: str, changes: dict[str, Any], words: str, calibration: Calibration
) -> None:
    found = calibrated(restored(), calibration, weights, PARAMETERS | changes)
    assert found.half_width is None and found.psnr_bound == () and found.report(restored()) == {}
    assert len(found.warnings) == 1 and words in found.warnings[0]


def test_what_does_not_change_an_image_may_differ(calibration: Calibration) -> None:
    changes = {"seed": 5, "device": "cuda", "batch_size": 1, "slices": 3, "acceleration": 4}
    assert calibrated(restored(), calibration, WEIGHTS, PARAMETERS | changes).warnings == ()
    incomplete = {name: value for name, value in PARAMETERS.items() if name != "mask"}
    assert "mask random, not known" in calibrated(restored(), calibration, WEIGHTS, incomplete).warnings[0]


def test_a_single_sample_has_intervals_of_one_width(calibration: Calibration) -> None:
    volume = replace(restored(), std=None)
    found = calibrated(volume, calibration, WEIGHTS, PARAMETERS)
    assert found.half_width is not None and found.interval is not None
    scale = volume_scale(volume.images[METHOD])
    expected = found.interval.q * (CONSTANT_SPREAD + found.interval.s0) * scale
    np.testing.assert_allclose(found.half_width, expected, rtol=1e-5)


def test_a_predicted_error_comes_before_the_spread_of_samples() -> None:
    volume = restored()
    predicted = np.full_like(volume.images[METHOD], 0.25)
    np.testing.assert_array_equal(spread_of(replace(volume, predicted_error=predicted)), predicted)
    np.testing.assert_array_equal(spread_of(volume), volume.std)


def test_between_two_calibrated_accelerations_the_higher_one_counts(calibration: Calibration) -> None:
    (only,) = calibration.conditions
    both = replace(calibration, conditions=(only, replace(only, parameters={**only.parameters, "acceleration": 8.0})))
    for acceleration, words in ((4.2, None), (5.5, "acceleration 8"), (8.5, None)):
        found = calibrated(restored(), both, WEIGHTS, PARAMETERS | {"acceleration": acceleration})
        assert found.half_width is not None
        assert [word for word in found.warnings if "wider" in word] == [
            w for w in found.warnings if words and words in w
        ]
    assert calibrated(restored(), both, WEIGHTS, PARAMETERS | {"acceleration": 12}).half_width is None


def test_several_coils_take_the_nearest_calibrated_number(calibration: Calibration) -> None:
    (only,) = calibration.conditions
    eight = replace(only, parameters={**only.parameters, "coils": 8})
    both = replace(calibration, conditions=(only, eight))
    for coils, words in ((1, []), (8, []), (5, ["the intervals were calibrated with 8 coils, not 5"])):
        found = calibrated(restored(coils=coils), both, WEIGHTS, PARAMETERS)
        assert found.half_width is not None and [w for w in found.warnings if "coils" in w] == words


def test_measured_data_are_held_to_what_they_are(calibration: Calibration) -> None:
    """k-space that was undersampled by the scanner has an acceleration of its own; so has data of several coils."""
    measured = {"format": FORMATS["fastmri"], "simulated": False}
    found = calibrated(restored(**measured), calibration, WEIGHTS, PARAMETERS)
    assert found.half_width is not None and "measured data is not known" in found.warnings[0]
    for changes, words in (
        ({"coils": 8}, "coils 1, not 8"),
        ({"has_truth": False}, "acceleration 4.0, not unknown"),
        ({"has_truth": False, "attributes": {"acceleration": 8}}, "acceleration 4.0, not 8"),
    ):
        found = calibrated(restored(**measured, **changes), calibration, WEIGHTS, PARAMETERS)
        assert found.half_width is None and words in found.warnings[0]
    for acceleration, known in ((4.3, True), (3.6, True), (4.7, False)):  # within 15 % of the calibrated 4, or not
        near = restored(**measured, has_truth=False, attributes={"acceleration": acceleration, "acquisition": "AXT1"})
        assert (calibrated(near, calibration, WEIGHTS, PARAMETERS).half_width is not None) == known
    fitting = restored(**measured, has_truth=False, attributes={"acceleration": 4, "acquisition": "AXT1"})
    assert calibrated(fitting, calibration, WEIGHTS, PARAMETERS).contrast == "T1W"


def test_a_file_holds_all_and_damaged_ones_are_refused(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    assert Calibration.load(path) == calibration
    with pytest.raises(ValueError, match="exists"):
        calibration.save(path)
    content = json.loads(path.read_text())
    for damaged in ("{", "[]", '{"weights": "a", "conditions": []}', json.dumps(content)[:-40]):
        path.write_text(damaged)
        with pytest.raises(CalibrationError, match="calibration.json: not a calibration"):
            Calibration.load(path)
    with pytest.raises(CalibrationError, match="cannot be read"):
        Calibration.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("q", float("nan"), "NaN is no JSON number"),
        ("q", -1.0, "q is -1.0; accepted: 0 to inf"),
        ("s0", "much", "s0 is 'much'; accepted: a finite number"),
        ("coverage", 1.5, "coverage is 1.5; accepted: 0 to 1"),
        ("subjects", 2.5, "subjects is 2.5; accepted: a whole number"),
        ("pixels", True, "pixels is True"),
    ],
)
def test_entries_out_of_range_are_refused(
    entry: str, value: object, words: str, calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.json"
    calibration.save(path)
    content = json.loads(path.read_text())
    next(iter(content["conditions"][0]["contrasts"].values()))["interval"][entry] = value
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=f"calibration.json: not a calibration: {words}"):
        Calibration.load(path)


def test_json_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("[" * 200_000)
    with pytest.raises(CalibrationError, match="nested too deeply"):
        Calibration.load(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"has_truth": False}, {}, "no truth is known"),
        ({"stem": "scan7"}, {}, "its name says no contrast"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_before_the_work(
    changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    volume = replace(restored(), source=source(**changes))
    with pytest.raises(CalibrationError, match=words):
        CollectCalibration().check(engine(volume, **options))


def test_subjects_are_told_apart_and_joined() -> None:
    stems = ["patient01_study1_FLAIR", "patient01_study2_FLAIR", "patient02_study1_FLAIR", "other_FLAIR"]
    fitted = collect(*(restored(stem) for stem in stems)).fit(PARAMETERS).contrasts["FLAIR"]
    assert set(fitted.leave_one_out) == {"patient01", "patient02", "other_FLAIR"}
    own = collect(restored("scan7"), restored("scan8"), contrast="knee", subject_pattern="^(scan)")
    assert own.fit(PARAMETERS).contrasts["KNEE"].interval.subjects == 1
    with pytest.raises(CalibrationError, match="several kinds"):
        collect(restored(), restored("sub-02_T1w", coils=4))


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("sub-01_T1w", "T1W"),
        ("patient01_study1_T2W", "T2W"),
        ("patient01_study1_FLAIR", "FLAIR"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("AXT1POST", "T1W"),
        ("sag t2 tse", "T2W"),
        ("t1_mprage_sag", "T1W"),
        ("T2*_gre", None),
        ("T2star", None),
        ("example4d", None),
        ("pt2016_scan", None),
    ],
)
def test_contrasts_are_found_in_names_and_descriptions(text: str, contrast: str | None) -> None:
    assert contrast_of(text) == contrast


@pytest.fixture
def checked(calibration: Calibration, tmp_path: Path) -> Iterator[tuple[dict[str, Any], RestoredVolume]]:
    """Arguments of a TrustCheck with a calibration and training statistics of volumes like the one given."""
    weights = tmp_path / "model.pt"
    save_untrained(weights)
    replace(calibration, weights=weights_hash(weights)).save(tmp_path / "calibration.json")
    volume = restored()
    TrainingStatistics.fit({"a": volume_statistics(volume.images[METHOD], (1.0, 2.0, 3.0))}).save(
        tmp_path / "training_statistics.json"
    )
    files = {name: tmp_path / f"{name}.json" for name in ("calibration", "training_statistics")}
    yield {"weights": weights, "parameters": PARAMETERS, **files}, volume


def judge(arguments: dict[str, Any], volume: RestoredVolume) -> tuple[TrustCheck, Any]:
    handler, run = TrustCheck(**arguments), engine(volume)
    handler.clear(run)
    handler.judge(run)
    return handler, run.state.uncertainty


def test_a_volume_like_the_training_data_gives_intervals_and_no_warnings(
    checked: tuple[dict[str, Any], RestoredVolume],
) -> None:
    arguments, volume = checked
    handler, uncertainty = judge(arguments, replace(volume, residual=np.float32([0.6, 0.7])))
    assert handler.warnings == {"sub-01_T1w": []}
    assert uncertainty.half_width.shape == (2, 64, 64)
    assert handler.reports["sub-01_T1w"]["lower_bounds"]["coverage"] == 0.9
    json.dumps(handler.reports, allow_nan=False)


def test_far_inputs_and_measurements_are_warned_of_in_the_log(
    checked: tuple[dict[str, Any], RestoredVolume], caplog: pytest.LogCaptureFixture
) -> None:
    arguments, volume = checked
    far = replace(volume.source, affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    with caplog.at_level(logging.WARNING):
        handler, _ = judge(arguments, replace(volume, source=far, residual=np.float32([0.6, 5.0])))
    assert "finer voxel size in plane 3 mm is outside" in handler.warnings["sub-01_T1w"][0]
    assert "residual of 5 times the noise" in handler.warnings["sub-01_T1w"][-1]
    assert caplog.messages == [f"sub-01_T1w.nii.gz: {warning}" for warning in handler.warnings["sub-01_T1w"]]


def test_a_bundle_without_the_files_says_so(checked: tuple[dict[str, Any], RestoredVolume]) -> None:
    arguments, volume = checked
    for name in ("calibration", "training_statistics"):
        arguments[name].unlink()
    handler, uncertainty = judge(arguments, volume)
    assert uncertainty.half_width is None and handler.reports["sub-01_T1w"] == {}
    assert handler.warnings["sub-01_T1w"] == [
        "no intervals: the bundle has no calibration.json",
        "not compared with the training data: the bundle has no training_statistics.json",
    ]
    handler, _ = judge({name: arguments[name] for name in ("weights", "parameters")}, volume)
    assert handler.warnings["sub-01_T1w"] == []
