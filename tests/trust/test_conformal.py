"""Conformal intervals: order statistics by hand, normal quantiles, and coverage on simulated subjects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from discs import disc

from monai_d3gm.metrics import foreground_mask
from monai_d3gm.trust.conformal import (
    S0_LEVELS,
    Interval,
    Pixels,
    covered,
    fit_interval,
    leave_one_out,
    sample_pixels,
    volume_scale,
    weighted_quantile,
)

NORMAL_95 = 1.6448536  # the 95 % quantile of the standard normal: half of the 10 % lie on either side


def pixels(error: object, std: object, weight: object = 1.0) -> Pixels:
    error, std, weight = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (error, std, weight)))
    return Pixels(error.ravel(), std.ravel(), weight.ravel())


def subject(rng: np.random.Generator, count: int, spread: float) -> Pixels:
    """Normal errors whose std is stated wrongly by a factor that the subject's pixels share."""
    std = np.exp(rng.normal(-3, 0.5, count))
    return pixels(np.abs(rng.normal(size=count)) * std * np.exp(spread * rng.normal()), std)


def test_weighted_quantile_is_an_order_statistic() -> None:
    values = [3.0, 1.0, 4.0, 2.0, 5.0]
    for k in range(1, 6):
        assert weighted_quantile(values, np.ones(5), k / 5) == k
        assert weighted_quantile(values, np.ones(5), (k - 0.5) / 5) == k
    assert weighted_quantile([1, 2, 2, 2, 3], np.ones(5), 0.4) == 2  # ties
    assert weighted_quantile([1, 2, 3], [0.0, 0.0, 1.0], 1e-3) == 3
    assert weighted_quantile([1, 2], [1, 1], 1.0 + 1e-6) == math.inf


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_normal_errors_give_the_normal_quantile(coverage: float) -> None:
    rng = np.random.default_rng(0)
    sigma = 0.03
    subjects = {str(i): pixels(np.abs(rng.normal(scale=sigma, size=50_000)), sigma) for i in range(4)}
    half_width = fit_interval(subjects, coverage).half_width(np.array(sigma), 1.0)
    quantile = {0.5: 0.6744898, 0.9: NORMAL_95}[coverage]
    # the standard error of the quantile of 200 000 draws is below 0.004 sigma
    assert half_width == pytest.approx(quantile * sigma, abs=0.016 * sigma)


def test_pixels_of_exchangeable_subjects_are_covered_as_stated() -> None:
    """Over many draws of 10 subjects and a new one. Between (1 - a) n / (n + 1) and what one subject more could add."""
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        subjects = {str(i): subject(rng, 300, spread=0.4) for i in range(10)}
        shares.append(covered(fit_interval(subjects, 0.9), subject(rng, 300, spread=0.4)))
    mean, error = np.mean(shares), np.std(shares) / math.sqrt(len(shares))
    assert 0.9 * 10 / 11 < mean < 0.9 + 1 / 11
    assert mean == pytest.approx(0.9, abs=4 * error + 0.01)


def test_independent_pixels_are_covered_within_binomial_bounds() -> None:
    rng = np.random.default_rng(2)
    interval = fit_interval({str(i): subject(rng, 20_000, spread=0.0) for i in range(5)}, 0.9)
    count = 20_000
    deviation = math.sqrt(0.9 * 0.1 / count + 0.9 * 0.1 / 100_000)
    assert covered(interval, subject(rng, count, spread=0.0)) == pytest.approx(0.9, abs=4 * deviation)


def test_every_subject_counts_the_same() -> None:
    """One subject of 10 pixels with the score 1 / (1 + 1), one of 10 000 with twice that."""
    subjects = {"few": pixels(np.full(10, 1.0), 1.0), "many": pixels(np.full(10_000, 2.0), 1.0)}
    assert fit_interval(subjects, 0.5).q == 0.5
    assert fit_interval(subjects, 0.51).q == 1.0
    fitted = fit_interval(subjects, 0.5)
    assert (fitted.subjects, fitted.pixels) == (2, 10_010)
    assert fitted.guaranteed == pytest.approx(0.5 * 2 / 3)


def test_weights_of_sampled_pixels_count() -> None:
    """A volume of which a tenth was kept weighs as much as if all were."""
    joined = Pixels.join([pixels(np.full(10, 1.0), 1.0, 10.0), pixels(np.full(99, 2.0), 1.0)])
    assert fit_interval({"a": joined}, 0.5).q == 0.5
    assert covered(Interval(0.5, 1.0, 0.5, 1, 199), joined) == pytest.approx(100 / 199)


def test_wider_for_more_coverage_and_larger_errors() -> None:
    rng = np.random.default_rng(3)
    subjects = {str(i): subject(rng, 1000, spread=0.2) for i in range(3)}
    widths = [fit_interval(subjects, c).half_width(np.array(0.05), 1.0) for c in (0.5, 0.8, 0.9, 0.99)]
    assert widths == sorted(widths)
    doubled = {name: Pixels(2 * p.error, p.std, p.weight) for name, p in subjects.items()}
    once, twice = fit_interval(subjects, 0.9), fit_interval(doubled, 0.9)
    assert (twice.q, twice.s0) == (pytest.approx(2 * once.q), once.s0)
    scaled = {name: Pixels(7 * p.error, 7 * p.std, p.weight) for name, p in subjects.items()}
    assert fit_interval(scaled, 0.9).q == pytest.approx(once.q)


def test_s0_is_small_where_std_tells_all_and_large_where_it_tells_nothing() -> None:
    """The interval score is proper: intervals q std are best for errors of the size std, constant ones for others."""
    rng = np.random.default_rng(4)
    std = np.exp(rng.normal(-3, 1.0, 20_000))
    informed = fit_interval({"a": pixels(np.abs(rng.normal(size=20_000)) * std, std)}, 0.9)
    blind = fit_interval({"a": pixels(np.abs(rng.normal(scale=0.05, size=20_000)), std)}, 0.9)
    assert informed.s0 == weighted_quantile(std, np.ones_like(std), min(S0_LEVELS))
    assert blind.s0 == weighted_quantile(std, np.ones_like(std), max(S0_LEVELS))


def test_leaving_a_subject_out_repeats_the_fit_without_it() -> None:
    subjects = {"a": pixels(np.full(10, 1.0), 1.0), "b": pixels(np.full(10, 1.0), 1.0), "far": pixels([9.0], 1.0)}
    assert leave_one_out(subjects, 0.5) == {"a": 1.0, "b": 1.0, "far": 0.0}
    assert leave_one_out({"a": subjects["a"]}, 0.5) == {}


@pytest.mark.parametrize(("share", "scale"), [(0.004, 1.0), (0.006, 1.5)])
def test_the_scale_is_the_percentile_of_the_foreground(share: float, scale: float) -> None:
    """Spikes of 1.5 on an object of 1: the 99.5th percentile inside is theirs if more than 0.5 % of the pixels are."""
    image = np.zeros((1, 96, 96))
    image[0, 16:80, 16:80] = 1.0
    inside = np.flatnonzero(foreground_mask(image))
    spikes = inside[:: len(inside) // round(share * len(inside))][: round(share * len(inside))]
    image.ravel()[spikes] = 1.5
    assert np.array_equal(np.flatnonzero(foreground_mask(image)), inside)  # the median of the mask does not see them
    assert volume_scale(image) == scale


def test_pixels_are_those_of_the_foreground_in_units_of_the_scale() -> None:
    truth = np.stack([disc(), np.zeros((48, 48))]) * 500
    scale = volume_scale(truth)
    assert volume_scale(3 * truth) == pytest.approx(3 * scale)
    taken = sample_pixels(truth + 0.1 * scale, truth + scale, truth, scale, count=200)
    again = sample_pixels(truth + 0.1 * scale, truth + scale, truth, scale, count=200)
    everything = sample_pixels(truth + 0.1 * scale, truth + scale, truth, scale)
    assert np.array_equal(taken.std, again.std)
    assert len(taken.error) == 200 and taken.weight.sum() == pytest.approx(everything.weight.sum())
    assert everything.weight.max() == 1
    np.testing.assert_allclose(taken.error, 0.1)
    assert taken.std.min() > 1  # none of the empty slice, where std is the scale alone


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit_interval({}, 0.9), "subjects is empty"),
        (lambda: fit_interval({"a": pixels([1.0], 1.0)}, 1.0), "coverage is 1.0"),
        (lambda: fit_interval({"a": pixels([], [])}, 0.9), r"subjects\['a'\] has no foreground pixels"),
        (lambda: fit_interval({"a": pixels([1.0, 2.0], 0.0)}, 0.9), "std is 0"),
        (lambda: weighted_quantile([], [], 0.5), "values has 0 entries"),
        (lambda: weighted_quantile([1.0], [-1.0], 0.5), "weights has entries that are negative"),
        (lambda: weighted_quantile([1.0], [1.0], 0.0), "level is 0.0"),
        (lambda: volume_scale(np.zeros((1, 16, 16))), "restored has the scale 0.0"),
        (lambda: sample_pixels(disc(), disc(32), disc(), 1.0), "mean, std and truth have the shapes"),
        (lambda: sample_pixels(disc(), disc(), disc(), 0.0), "scale is 0.0"),
    ],
)
def test_what_cannot_be_used_is_refused(call: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()  # type: ignore[operator]
