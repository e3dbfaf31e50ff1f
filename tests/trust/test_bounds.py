"""Bounds on the figures of restored slices: order statistics by hand, and coverage on simulated subjects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from discs import disc

from monai_d3gm.metrics import evaluate_images
from monai_d3gm.trust.bounds import MIN_BOUND_SUBJECTS, fit_bound, lower_bounds, predicted_figures, shortfalls


def test_the_bound_is_the_conformal_order_statistic() -> None:
    """k of n subjects with a slice each: the ceil((n + 1) c)-th smallest shortfall."""
    for n, coverage, rank in ((9, 0.9, 9), (19, 0.9, 18), (39, 0.9, 36), (10, 0.5, 6)):
        bound = fit_bound({str(i): [float(i)] for i in range(1, n + 1)}, coverage)
        assert (bound.margin, bound.coverage, bound.subjects, bound.slices) == (rank, coverage, n, n)
    few = fit_bound({str(i): [float(i)] for i in range(1, 11)}, 0.99)
    assert (few.margin, few.coverage) == (10.0, pytest.approx(10 / 11))
    assert MIN_BOUND_SUBJECTS == 9
    with pytest.raises(ValueError, match="subjects has 8 entries; accepted: 9 or more"):
        fit_bound({str(i): [1.0] for i in range(8)})
    with pytest.raises(ValueError, match=r"subjects\['0'\] has no slices"):
        fit_bound({str(i): [] for i in range(9)})


def test_bounds_hold_for_slices_of_new_subjects() -> None:
    """Shortfalls with a part that a subject's slices share: at least 90 % of random slices of new subjects."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(300):
        draws = rng.normal(size=(13, 1)) + 0.5 * rng.normal(size=(13, 6))
        bound = fit_bound({str(i): draws[i].tolist() for i in range(12)}, 0.9)
        held.append(np.mean(draws[12] <= bound.margin))
    assert np.mean(held) >= 0.9 - 4 * np.std(held) / math.sqrt(len(held))


def test_predicted_psnr_is_exact_for_errors_of_that_size_and_shortfalls_are_undone_by_bounds() -> None:
    truth, sign = disc(), np.where(np.indices((48, 48)).sum(0) % 2, 1.0, -1.0)
    image = truth + 0.02 * sign
    found = shortfalls(image, np.full_like(truth, 0.02), truth)
    assert found is not None
    # both peaks are the discs' own: R^2 differs by (1 + 0.02 / max)^2 at most
    assert abs(found["psnr"]) < 20 * math.log10(1 + 0.021 / truth.max()) + 0.05
    predicted = predicted_figures(image, np.full_like(truth, 0.02))
    assert predicted is not None
    figures = evaluate_images(image, truth, "slice")
    bounds = lower_bounds(predicted, found)
    assert bounds["psnr"] == pytest.approx(figures["psnr/slice/foreground"])
    assert bounds["ssim"] == pytest.approx(figures["ssim/slice/foreground"])


def test_predicted_ssim_is_near_the_true_one_for_independent_errors() -> None:
    truth = disc(96)
    for std in (0.02, 0.1):
        noisy = truth + std * np.random.default_rng(6).normal(size=truth.shape)
        predicted = predicted_figures(noisy.clip(0), np.full_like(truth, std))
        assert predicted is not None
        true = evaluate_images(noisy.clip(0), truth, "slice")
        assert predicted["ssim"] == pytest.approx(true["ssim/slice/foreground"], abs=0.05)
        assert predicted["psnr"] == pytest.approx(true["psnr/slice/foreground"], abs=2.0)


def test_nothing_is_predicted_without_a_foreground_or_spread() -> None:
    assert predicted_figures(np.zeros((16, 16)), np.ones((16, 16))) is None
    assert predicted_figures(disc(), np.zeros((48, 48))) is None
    assert shortfalls(disc(), np.ones((48, 48)), np.zeros((48, 48))) is None
