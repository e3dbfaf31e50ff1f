"""The figures of README, cards and pages, renewed in place from the results that they come from.

    python benchmarks/figures.py            # after a benchmark has written its JSON
    python benchmarks/figures.py --check    # changes nothing; the exit status is 1 if a page differs from its results

A page marks each figure by two comments, which no reader sees, and what stands between them is made from the JSON
that the first one names (paths from the repository's root; words as in a shell):

    <!-- figures: mri_quality benchmarks/mri_recon/results/quality.json 4 -->

    (a table)

    <!-- end -->

    PSNR rises by <!-- figures: gain benchmarks/... +.1f psnr/slice/foreground condition=4 method="D3GM: mean path"
    less method=L1-wavelet -->+1.6<!-- end --> dB.

Tables, `TABLES` below, have the name of the script whose result they show. Single figures, `VALUES`, take a format,
the column, and the rows that have the given values:

    mean, least, most            of the column
    gain, least-gain, most-gain  the same of paired differences from the rows after ``less``; several of these rows for
                                 one measurement count as their best
    ratio                        of the mean to that of the rows after ``over``
    count                        of the rows
    entry                        of the JSON, by the keys that lead there
    coverage                     of a calibration, over the subjects, each left out of the fit

A comment inside a line must not begin that line, since Markdown would take it for a block.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import classical
import lesions
import mri_quality
import numpy as np
import photo_quality
import photo_tau
import reproduction
import steps
import steps_figure
from common import ROOT
from comparison_tables import titles
from stale import page_names

from monai_d3gm.comparison.report import final_table
from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import format_table

MARK = re.compile(r"<!-- figures: (?P<what>.*?) -->(?P<shown>.*?)<!-- end -->", re.DOTALL)

Json = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]

_MEASUREMENT = (
    "volume",
    "subject",
    "case",
    "slice",
    "photograph",
    "condition",
    "acceleration",
    "amount",
    "mask",
    "seed",
)
"""The columns that say what was measured; figures are paired where these agree."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    found = 0
    for name in page_names(ROOT):
        page = ROOT / name
        text = page.read_text(encoding="utf-8")
        renewed = renew(text, name)
        if renewed == text:
            continue
        found += 1
        for line, before, after in differences(text, renewed):
            print(f"{name}:{line}: {before!r} is now {after!r}")
        if not arguments.check:
            with atomic_path(page, overwrite=True) as temporary:
                temporary.write_text(renewed, encoding="utf-8")
    return int(arguments.check and found > 0)


def renew(text: str, page: str) -> str:
    """A page with all its figures made anew.

    Raises:
        ValueError: a mark cannot be read, or its result lacks what it asks for; the page and the mark are named.
    """

    def made(mark: re.Match[str]) -> str:
        what = mark["what"]
        begins_line = text[: mark.start()].rpartition("\n")[2].strip() == ""
        block = mark["shown"].startswith("\n")
        if begins_line != block:
            raise ValueError(f"{page}: the mark {what!r}: accepted: alone in its line, or not at the line's beginning.")
        try:
            shown = show(what)
        except (KeyError, ValueError, TypeError, OSError, IndexError) as error:
            raise ValueError(f"{page}: the mark {what!r}: {error}") from error
        return f"<!-- figures: {what} -->" + (f"\n\n{shown}\n\n" if block else shown) + "<!-- end -->"

    return MARK.sub(made, text)


def differences(before: str, after: str) -> list[tuple[int, str, str]]:
    """Where two versions of a page differ: the line of each mark, and what it showed and shows."""
    found = []
    for one, other in zip(MARK.finditer(before), MARK.finditer(after), strict=True):
        if one["shown"] != other["shown"]:
            old, new = one["shown"].strip().splitlines(), other["shown"].strip().splitlines()
            first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            cells = [lines[first] if first < len(lines) else "" for lines in (old, new)]
            found.append((before[: one.start()].count("\n") + 1, cells[0], cells[1]))
    return found


def show(what: str) -> str:
    """What stands between the comments of a mark."""
    kind, *words = shlex.split(what)
    paths = [word for word in words if word.endswith(".json") and "/" in word]
    results = [_read(path) for path in paths]
    return {**TABLES, **VALUES}[kind](*results, *words[len(paths) :])


@functools.cache
def _read(path: str) -> Json:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def _table(rows: Sequence[Mapping[str, object]], digits: int = 2) -> str:
    if not rows:
        raise ValueError("the result has no such rows.")
    return format_table(rows, digits=digits, markdown=True)


def _quality(result: Json, condition: str, what: str = "means") -> str:
    rows = list(result["rows"])
    if what == "means":
        return _table(mri_quality.quality(rows, float(condition)))
    return _table(mri_quality.gains(rows, float(condition), mri_quality.TASKS[result["command"]["bundle"]].compared))


def _photographs(result: Json, amount: str, what: str = "means") -> str:
    make = photo_quality.quality if what == "means" else photo_quality.each_photograph
    return _table(make(list(result["rows"]), float(amount)), 3 if what == "means" else 2)


def _samplers(*arguments: Any) -> str:
    """The samplers of each search, or the bundles' own at as many evaluations as the last argument says."""
    results = [each for each in arguments if isinstance(each, Mapping)]
    at = [int(each) for each in arguments if isinstance(each, str)]
    rows = []
    for result in results:
        for line in steps.judged(list(result["table"])):
            if at and (line["evaluations"] not in at or line["sampler"] != "the bundle's"):
                continue
            about = f"`{result['command']['bundle']}`, {result['command']['condition']:g}"
            rows.append({"bundle, condition": about, **line} if at else line)
    return _table(rows)


def _comparison(result: Json, criterion: str, condition: str) -> str:
    rows = final_table(result, condition, criterion)
    return _table([{title: row.get(title, "") for title in titles()} for row in rows])


def _coverage(result: Json) -> str:
    """A row for each calibrated condition, a column for each contrast."""
    rows = []
    for condition in result["conditions"]:
        about = {k: v for k, v in condition["parameters"].items() if k in ("acceleration", "factor", "coils")}
        row: dict[str, object] = {name: f"{value:g}" for name, value in about.items()}
        for contrast, fit in sorted(condition["contrasts"].items(), reverse=True):
            left = list(fit["leave_one_out"].values())
            row[f"{contrast} ({len(left)} subjects)"] = f"{np.mean(left):.3f} ({min(left):.3f} to {max(left):.3f})"
        rows.append(row)
    return _table(rows)


TABLES: Mapping[str, Callable[..., str]] = {
    "mri_quality": _quality,  # PATH CONDITION [gains]
    "photo_quality": _photographs,  # PATH AMOUNT [each]
    "photo_tau": lambda result: _table(photo_tau.quality(list(result["rows"]))),
    "classical": lambda result: _table(classical.best_weights(result["rows"])),
    "lesions": lambda result: _table(lesions.contrast_table(result["summary"])),
    "steps": _samplers,  # PATH... [EVALUATIONS]
    "steps_figure": lambda *results: _table(steps_figure.side_by_side(list(results))),
    "comparison": _comparison,  # PATH CRITERION CONDITION
    "calibration": _coverage,
    "reproduction": lambda result: _table(reproduction.table(result["rows"])),
}


def _rows(result: Json, words: Sequence[str]) -> list[dict[str, Any]]:
    """The rows that have each ``column=value``, and none with a ``column!=value``; ``in=table`` takes the table's."""
    place = "rows"
    wanted = []
    for word in words:
        column, unlike, value = re.split(r"(!?)=", word, maxsplit=1)
        if column == "in":
            place = value
        else:
            wanted.append((column, value, not unlike))
    flat = [
        {**row, **row["condition"]} if isinstance(row.get("condition"), Mapping) else {**row} for row in result[place]
    ]
    found = [row for row in flat if all((_text(row[name]) == value) == like for name, value, like in wanted)]
    if not found:
        raise ValueError(f"no row has {' '.join(words)}.")
    return found


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float, form: str) -> str:
    return format(value, form).replace("%", " %")


def _over(take: Callable[[Sequence[float]], Any]) -> Callable[..., str]:
    def value(result: Json, form: str, column: str, *words: str) -> str:
        return _number(float(take([row[column] for row in _rows(result, words)])), form)

    return value


def _gain(take: Callable[[Sequence[float]], Any]) -> Callable[..., str]:
    def value(result: Json, form: str, column: str, *words: str) -> str:
        ours, theirs = _two(words, "less")
        return _number(float(take(_paired(_rows(result, ours), _rows(result, theirs), column))), form)

    return value


def _two(words: Sequence[str], by: str) -> tuple[list[str], list[str]]:
    """Two choices of rows; the second has all of the first but the columns that it names itself."""
    place = words.index(by)
    first, own = list(words[:place]), list(words[place + 1 :])
    named = {re.split("!?=", word)[0] for word in own}
    return first, [word for word in first if re.split("!?=", word)[0] not in named] + own


def _paired(ours: Rows, theirs: Rows, column: str) -> list[float]:
    """Differences on the same measurement, from the best row of it."""

    def measurement(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in _MEASUREMENT if name in row)

    best: dict[tuple[str, ...], float] = {}
    for row in theirs:
        best[measurement(row)] = max(row[column], best.get(measurement(row), -np.inf))
    return [row[column] - best[measurement(row)] for row in ours]


def _ratio(result: Json, form: str, column: str, *words: str) -> str:
    one, other = (np.mean([row[column] for row in _rows(result, part)]) for part in _two(words, "over"))
    return _number(float(one / other), form)


def _entry(result: Json, form: str, *keys: str) -> str:
    value: Any = result
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return _number(value, form)


def _covered(result: Json, form: str, which: str, contrast: str, *words: str) -> str:
    """Mean, least or most over the subjects of a contrast and the conditions with the given parameters."""
    parts = [c["contrasts"][contrast]["leave_one_out"].values() for c in _conditions(result, words)]
    left = [value for part in parts for value in part]
    return _number(float({"mean": np.mean, "least": np.min, "most": np.max}[which](left)), form)


def _conditions(result: Json, words: Sequence[str]) -> list[Json]:
    flat = {"rows": [{**c["parameters"], "contrasts": c["contrasts"]} for c in result["conditions"]]}
    return [*_rows(flat, words)]


VALUES: Mapping[str, Callable[..., str]] = {
    "mean": _over(np.mean),
    "least": _over(np.min),
    "most": _over(np.max),
    "count": lambda result, *words: str(len(_rows(result, words))),
    "gain": _gain(np.mean),
    "least-gain": _gain(np.min),
    "most-gain": _gain(np.max),
    "ratio": _ratio,
    "entry": _entry,
    "coverage": _covered,
}


if __name__ == "__main__":
    sys.exit(main())
