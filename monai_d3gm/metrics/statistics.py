"""Summaries of metrics: means over subjects with bootstrap intervals, paired differences, and plain tables.

Slices and scans of one subject are not independent, so the unit is the subject: several figures of a subject are
averaged first, and the bootstrap (Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7,
1979; percentile interval) draws subjects with replacement. Methods are compared on the same subjects, by the
difference within each. With fewer than five subjects an interval says nothing: then every value is printed instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

__all__ = ["MIN_SUBJECTS", "Summary", "format_table", "paired_difference", "summarise"]

MIN_SUBJECTS = 5
RESAMPLES = 10_000


@dataclass(frozen=True)
class Summary:
    """The figures of a group of subjects.

    Attributes:
        values: one figure per subject, in the order given.
        mean: their mean.
        interval: the bounds of the 95 % bootstrap interval of the mean, None below five subjects.

    Example:
        >>> print(Summary({"a": 30.0, "b": 32.5}, mean=31.25, interval=None))
        a 30.00, b 32.50
    """

    values: Mapping[str, float]
    mean: float
    interval: tuple[float, float] | None

    def format(self, digits: int = 2) -> str:
        """Write the mean and interval, or every value below five subjects, with that many decimals."""
        if self.interval is None:
            return ", ".join(f"{subject} {value:.{digits}f}" for subject, value in self.values.items())
        low, high = self.interval
        return f"{self.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}] (n = {len(self.values)})"

    def __str__(self) -> str:
        return self.format()


def summarise(values_by_subject: Mapping[str, float | Sequence[float]], *, seed: int = 0) -> Summary:
    """Summarise one figure over subjects.

    Args:
        values_by_subject: a subject's figure, or its figures (slices, scans), which are averaged first.
        seed: of the bootstrap's 10 000 resamples; the same seed and values give the same interval.

    Returns:
        The subjects' values, their mean and, from five subjects up, the 95 % percentile bootstrap interval of the mean.

    Raises:
        ValueError: for no subject, a subject without a figure, or a figure that is not finite.

    Example:
        >>> summary = summarise({"1": 30.0, "2": [31.0, 33.0], "3": 34.0, "4": 30.0, "5": 32.0})
        >>> print(summary.format(1))
        31.6 [30.4, 32.8] (n = 5)
    """
    if not values_by_subject:
        raise ValueError("values_by_subject is empty; accepted: at least one subject.")
    values: dict[str, float] = {}
    for subject, figures in values_by_subject.items():
        array = np.asarray(figures, dtype=np.float64).ravel()
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"values_by_subject[{subject!r}] is {figures!r}; accepted: one or more finite figures.")
        values[subject] = float(array.mean())
    subjects = np.array(list(values.values()))
    interval = None
    if len(subjects) >= MIN_SUBJECTS:
        rng = np.random.default_rng(seed)
        found = bootstrap((subjects,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=rng)
        interval = (float(found.confidence_interval.low), float(found.confidence_interval.high))
    return Summary(values, float(subjects.mean()), interval)


def paired_difference(
    a: Mapping[str, float | Sequence[float]], b: Mapping[str, float | Sequence[float]], *, seed: int = 0
) -> Summary:
    """Summarise the differences a - b within subjects.

    Args:
        a: figures of one method by subject, as for :func:`summarise`.
        b: figures of the other, for the same subjects.
        seed: of the bootstrap.

    Returns:
        The summary of a - b: its interval lies above 0 where a is larger beyond chance.

    Raises:
        ValueError: where the subjects differ, and where :func:`summarise` raises.

    Example:
        >>> print(paired_difference({"x": 31.0, "y": 28.5}, {"y": 28.0, "x": 30.0}))
        x 1.00, y 0.50
    """
    if set(a) != set(b):
        raise ValueError(f"a and b differ in the subjects {sorted(set(a) ^ set(b))}; accepted: the same subjects.")
    first, second = summarise(a).values, summarise(b).values
    return summarise({subject: first[subject] - second[subject] for subject in first}, seed=seed)


def format_table(rows: Sequence[Mapping[str, object]], *, digits: int = 2, markdown: bool = False) -> str:
    """Lay out rows as a table in plain text or Markdown; columns of numbers are aligned to the right.

    Args:
        rows: one mapping per row, from the column's title to its cell; columns appear in the order first met, and a
            row without a column has an empty cell there. Floats and summaries are written with ``digits`` decimals.
        digits: decimals.
        markdown: write a Markdown table; a ``|`` inside a cell is escaped.

    Returns:
        The table, without a newline at its end.

    Raises:
        ValueError: for no rows.

    Example:
        >>> print(format_table([{"method": "zero-filled", "PSNR": 28.514}, {"method": "D3GM", "PSNR": 31.0}]))
        method        PSNR
        -----------  -----
        zero-filled  28.51
        D3GM         31.00
    """
    if not rows:
        raise ValueError("rows is empty; accepted: at least one row.")
    titles = list(dict.fromkeys(title for row in rows for title in row))
    numeric = [all(isinstance(row.get(t, 0), (int, float, np.number)) for row in rows) for t in titles]
    cells = [titles] + [[_cell(row.get(title, ""), digits) for title in titles] for row in rows]
    if markdown:
        cells = [[cell.replace("|", "\\|") for cell in line] for line in cells]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(titles))]
    lines = [
        [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(line, widths, numeric, strict=True)]
        for line in cells
    ]
    if markdown:
        rule = ["-" * (w - 1) + (":" if right else "-") for w, right in zip(widths, numeric, strict=True)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    rule = ["-" * w for w in widths]
    return "\n".join("  ".join(line).rstrip() for line in [lines[0], rule, *lines[1:]])


def _cell(value: object, digits: int) -> str:
    """Write one cell."""
    if isinstance(value, Summary):
        return value.format(digits)
    if isinstance(value, (float, np.floating)):
        return f"{value:.{digits}f}"
    return str(value)
