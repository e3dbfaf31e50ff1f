"""Summaries over subjects, paired differences and tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from monai_d3gm.metrics import Summary, format_table, paired_difference, summarise

VALUES = st.lists(st.floats(-100, 100), min_size=5, max_size=12)


def by_subject(values: list[float]) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


@settings(max_examples=30)
@given(VALUES)
def test_interval_holds_the_mean_and_stays_within_the_values(values: list[float]) -> None:
    summary = summarise(by_subject(values))
    assert summary.interval is not None
    low, high = summary.interval
    tolerance = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - tolerance <= low <= summary.mean + tolerance
    assert summary.mean - tolerance <= high <= max(values) + tolerance


def test_interval_of_many_subjects_is_the_normal_one() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    summary = summarise(by_subject(values.tolist()))
    assert summary.interval is not None
    half = norm.ppf(0.975) * values.std() / np.sqrt(400)  # central limit theorem
    # the 2.5 % quantile of 10 000 resamples is itself good to about 2 % of the half width
    assert summary.interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06 * half)


def test_seed_decides_the_interval() -> None:
    values = by_subject([1.0, 2.0, 4.0, 8.0, 16.0])
    assert summarise(values, seed=1) == summarise(values, seed=1)
    assert summarise(values, seed=1).interval != summarise(values, seed=2).interval


def test_below_five_subjects_every_value_is_printed() -> None:
    summary = summarise(by_subject([1.0, 2.0, 3.0, 4.125]))
    assert summary.interval is None
    assert summary.format(1) == "0 1.0, 1 2.0, 2 3.0, 3 4.1"


def test_figures_of_a_subject_are_averaged_before_subjects_are() -> None:
    summary = summarise({"a": [0.0, 0.0, 0.0, 4.0], "b": 3.0})
    assert summary.values == {"a": 1.0, "b": 3.0}
    assert summary.mean == 2.0  # not 7 / 5


def test_paired_difference_removes_what_subjects_differ_by() -> None:
    subjects = by_subject([10.0, 20.0, 30.0, 40.0, 50.0, 60.0])
    better = {subject: value + 1 for subject, value in reversed(subjects.items())}
    difference = paired_difference(better, subjects)
    assert difference.mean == pytest.approx(1.0)
    assert difference.interval == pytest.approx((1.0, 1.0))
    assert paired_difference(subjects, better).mean == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "values_by_subject is empty"),
        ({"a": []}, r"values_by_subject\['a'\] is \[\]"),
        ({"a": 1.0, "b": float("inf")}, r"values_by_subject\['b'\] is inf"),
    ],
)
def test_what_summaries_refuse(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        summarise(values)


def test_different_subjects_are_not_paired() -> None:
    with pytest.raises(ValueError, match=r"differ in the subjects \['b', 'c'\]"):
        paired_difference({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0})


def test_markdown_table() -> None:
    rows = [{"method": "a|b", "PSNR": 28.514, "n": 3}, {"method": "D3GM", "PSNR": 31.0, "note": "best"}]
    assert format_table(rows, digits=1, markdown=True).splitlines() == [
        "| method | PSNR |   n | note |",
        "| ------ | ---: | --: | ---- |",
        "| a\\|b   | 28.5 |   3 |      |",
        "| D3GM   | 31.0 |     | best |",
    ]


def test_summaries_are_written_into_cells() -> None:
    summary = Summary({str(i): 1.0 for i in range(5)}, 1.0, (0.5, 1.5))
    assert "1.000 [0.500, 1.500] (n = 5)" in format_table([{"x": summary}], digits=3)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.text("abc", max_size=12), st.floats(-1e6, 1e6)), min_size=1, max_size=5))
def test_columns_are_aligned(rows: list[tuple[str, float]]) -> None:
    lines = format_table([{"name": name, "value": value} for name, value in rows]).splitlines()
    assert len({len(line) for line in lines}) == 1  # the last column is flush right
    assert [float(line.split()[-1]) for line in lines[2:]] == pytest.approx([value for _, value in rows], abs=0.0051)


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="rows is empty"):
        format_table([])
