"""The page of an experiment: tables, plots and conclusions, made from ``results.json`` alone."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from monai_d3gm.comparison.evaluation import FIGURES, Row, means
from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import Summary, paired_difference

__all__ = ["final_table", "seed_interval", "verdicts", "write_report"]

INPUT = "input"
"""The method of the rows of degraded images."""

_CHOSEN = {
    "psnr": "Most faithful image: settings chosen by PSNR",
    "crps": "Best samples: settings chosen by CRPS",
}
_SWEEP = ("psnr", "crps", "spread", "spectrum")
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{border-bottom:1px solid #ccc;padding:.25em .7em}
th{text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}pre{background:#f5f5f5;padding:1em;overflow:auto}
.note{color:#555}"""


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of a figure over seeds and half of Student's 95 % interval of it; nan for one seed.

    Example:
        >>> mean, half = seed_interval([1.0, 2.0, 3.0])
        >>> print(f"{mean:.1f} {half:.3f}")  # t(2, 0.975) = 4.303 times 1 / sqrt(3)
        2.0 2.484
    """
    if len(values) < 2:
        return float(np.mean(values)), math.nan
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1)) * error


def _by_seed(rows: Iterable[Row], figure: str) -> dict[int, dict[str, float]]:
    """Seed -> subject -> figure."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("seed", 0), []).append(row)
    return {seed: values for seed, part in found.items() if (values := means(part, figure))}


def _cell(rows: Sequence[Row], figure: str, digits: int) -> str:
    """Mean and interval over seeds; empty without the figure."""
    by_seed = _by_seed(rows, figure)
    if not by_seed:
        return ""
    mean, half = seed_interval([float(np.mean(list(values.values()))) for values in by_seed.values()])
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _digits(figure: str) -> int:
    return 3 if figure in ("ssim", "lpips", "gmsd") else 2


def _rows(results: Mapping[str, Any], condition: str, method: str, criterion: str | None = None) -> list[Row]:
    """Final rows of a method, or of the method that it coincides with."""
    name = results["coincide"].get(method, method)
    return [
        row
        for row in results["final"]
        if row["condition"] == condition
        and row["method"] == name
        and (criterion is None or criterion in row["chosen_by"])
    ]


def final_table(results: Mapping[str, Any], condition: str, criterion: str) -> list[dict[str, str]]:
    """A row for the degraded image and for each method, with its setting and its figures over seeds.

    Args:
        results: the content of ``results.json``.
        condition: the data.
        criterion: by which the settings were chosen.
    """
    taken = [name for name in FIGURES if any(name in row for row in results["final"])]
    table = []
    for method in [INPUT, *results["methods"]]:
        rows = _rows(results, condition, method, None if method == INPUT else criterion)
        if not rows:
            continue
        same = results["coincide"].get(method)
        line = {"method": method + (f" (the same as {same})" if same else ""), "setting": rows[0].get("setting", "")}
        shown = [name for name in taken if method != INPUT or name not in ("psnr_mean", "spread")]
        table.append(line | {FIGURES[name]: _cell(rows, name, _digits(name)) for name in taken if name in shown})
    return table


def verdicts(results: Mapping[str, Any], condition: str, criterion: str) -> list[str]:
    """One sentence for each other method on the interval of its paired difference from the reference.

    A difference counts if the interval over seeds excludes zero and, with five subjects or more, the one over subjects
    does too.
    """
    reference = _reference(results)
    ours = _rows(results, condition, reference, criterion)
    sentences = []
    for method in results["methods"]:
        if method == reference or results["coincide"].get(method) == reference:
            continue
        if results["coincide"].get(reference) == method:
            continue
        theirs = _rows(results, condition, method, criterion)
        if not ours or not theirs:
            continue
        sign = -1 if criterion == "crps" else 1
        one, other = _by_seed(ours, criterion), _by_seed(theirs, criterion)
        seeds = sorted(set(one) & set(other))
        per_seed = [float(np.mean([one[s][k] - other[s][k] for k in one[s]])) for s in seeds]
        subjects = {k: float(np.mean([one[s][k] for s in seeds])) for k in one[seeds[0]]}
        others = {k: float(np.mean([other[s][k] for s in seeds])) for k in other[seeds[0]]}
        over_subjects = paired_difference(subjects, others)
        mean, half = seed_interval(per_seed)
        sentences.append(
            f"{reference} less {method}: {FIGURES[criterion]} {mean:+.2f}"
            + (f" [{mean - half:+.2f}, {mean + half:+.2f}] over {len(seeds)} seeds" if half == half else ", one seed")
            + _over_subjects(over_subjects)
            + f": {_judged(reference, method, sign * mean, half, over_subjects)}."
        )
    return sentences


def _over_subjects(summary: Summary) -> str:
    if summary.interval is None:
        return f", {len(summary.values)} subjects"
    low, high = summary.interval
    return f", [{low:+.2f}, {high:+.2f}] over {len(summary.values)} subjects"


def _judged(reference: str, method: str, gain: float, half: float, subjects: Summary) -> str:
    if math.isnan(half):
        return "no interval over seeds"
    outside = subjects.interval is None or subjects.interval[0] * subjects.interval[1] > 0
    if abs(gain) <= half or not outside:
        return "no difference beyond the intervals"
    return f"{reference if gain > 0 else method} is better"


def _reference(results: Mapping[str, Any]) -> str:
    return str(results["experiment"].get("reference", list(results["methods"])[-1]))


def write_report(results: Mapping[str, Any], output: Path) -> None:
    """Write ``report.html``, which holds all it shows, and its plots as ``figures/*.png``.

    Args:
        results: the content of ``results.json``.
        output: the folder; it is there.
    """
    experiment = results["experiment"]
    parts = [f"<h1>{html.escape(experiment['title'])}</h1>", f"<p>{html.escape(experiment.get('about', ''))}</p>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in _facts(results)]
    plots = dict(_plots(results))
    for condition in experiment["final"]:
        for criterion in experiment.get("criteria", list(_CHOSEN)):
            table = final_table(results, condition, criterion)
            if len(table) < 2:
                continue
            parts += [f"<h2>{html.escape(condition)}</h2>", f"<h3>{_CHOSEN[criterion]}</h3>", _table(table)]
            parts += ["<ul>", *(f"<li>{html.escape(t)}</li>" for t in verdicts(results, condition, criterion)), "</ul>"]
    if results["lipschitz"]:
        lines = [
            {"network": name, "largest singular value of its Jacobian": _spread(list(values.values()))}
            for name, values in results["lipschitz"].items()
        ]
        parts += ["<h2>Lipschitz constants</h2>", _table(lines)]
    (output / "figures").mkdir(exist_ok=True)
    for name, figure in plots.items():
        picture = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
        with atomic_path(output / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(picture.getvalue())
        text = base64.b64encode(picture.getvalue()).decode()
        parts.append(f'<h2>{html.escape(name.replace("_", " "))}</h2><img alt="" src="data:image/png;base64,{text}">')
    shown = {"experiment": experiment, "methods": results["methods"], "networks": results["networks"]}
    parts += ["<h2>What was run</h2>", f"<pre>{html.escape(json.dumps(shown, indent=1))}</pre>"]
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(experiment['title'])}</title>"
    with atomic_path(output / "report.html") as temporary:
        temporary.write_text(f"{page}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n", encoding="utf-8")


def _spread(values: Sequence[float]) -> str:
    mean, half = seed_interval(values)
    return f"{mean:.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def _facts(results: Mapping[str, Any]) -> list[str]:
    experiment, place = results["experiment"], results["machine"]
    facts = [
        f"Seeds {', '.join(map(str, experiment['seeds']))}; ± is half of Student's 95 % interval of the mean over them."
        " Intervals over subjects are of the bootstrap, from five subjects up. Settings were chosen for each method on "
        f"{', '.join(experiment.get('choosing', {})) or 'nothing'}, by the mean over seeds and subjects."
    ]
    facts += [
        f"{one} has the curves of {other} and the same training: they are one."
        for one, other in results["coincide"].items()
    ]
    facts += [f"{method} is left out: {why}." for method, why in results["refused"].items()]
    facts += [f"{remark}." for remark in results["remarks"]]
    versions = ", ".join(f"{name} {version}" for name, version in place["versions"].items())
    where = f"{place['system']}, {place['processor']}, {place['threads']} thread(s), {place['device']}"
    facts.append(f"{where}; {versions}.")
    return facts


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    titles = list(dict.fromkeys(title for row in rows for title in row))
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    lines = [
        "".join(f"<td{' class=n' if i > 1 else ''}>{html.escape(row.get(t, ''))}</td>" for i, t in enumerate(titles))
        for row in rows
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _plots(results: Mapping[str, Any]) -> Iterable[tuple[str, Figure]]:
    for condition in results["experiment"].get("choosing", {}):
        rows = [row for row in results["choosing"] if row["condition"] == condition]
        if len({row["evaluations"] for row in rows}) > 1:
            yield f"evaluations_{_file_name(condition)}", _sweep(rows, condition)
    conditions = results["experiment"]["final"]
    if len({entry.get("x") for entry in conditions.values()} - {None}) > 1:
        for criterion in results["experiment"].get("criteria", list(_CHOSEN)):
            yield f"degradation_{criterion}", _degradation(results, criterion)


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text).strip("-").lower()


def _sweep(rows: Sequence[Row], condition: str) -> Figure:
    """Evaluations against figures: a column for each method, a line for each kind of sampler."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figures = [name for name in _SWEEP if any(name in row for row in rows)]
    families = list(dict.fromkeys(row["family"] for row in rows))
    ticks = sorted({row["evaluations"] for row in rows})
    figure = Figure(figsize=(2.9 * len(methods) + 1, 2.3 * len(figures) + 1.6), layout="constrained")
    axes = figure.subplots(len(figures), len(methods), squeeze=False, sharex=True, sharey="row")
    for column, method in enumerate(methods):
        for line, name in enumerate(figures):
            axis = axes[line][column]
            for number, family in enumerate(families):
                part = [row for row in rows if row["method"] == method and row["family"] == family]
                points: dict[int, list[Row]] = {}
                for row in part:
                    points.setdefault(row["evaluations"], []).append(row)
                xs = sorted(points)
                ys = [np.mean([np.mean(list(v.values())) for v in _by_seed(points[x], name).values()]) for x in xs]
                axis.plot(xs, ys, marker=".", color=f"C{number % 10}", label=family)
            axis.set_xscale("log")
            axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            if name == "spectrum":
                axis.axhline(0, color="black", linewidth=0.6)
            if column == 0:
                axis.set_ylabel(FIGURES[name].replace(" (", "\n("), fontsize=8)
            if line == 0:
                axis.set_title(method, fontsize=9)
            if line == len(figures) - 1:
                axis.set_xlabel("evaluations", fontsize=8)
            axis.tick_params(labelsize=7)
    for line, name in enumerate(figures):
        _limit(axes[line], name)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=7)
    figure.suptitle(condition, fontsize=10)
    return figure


def _limit(axes: Sequence[Any], name: str) -> None:
    """Limit the axis so that a diverging sampler does not hide the others: PSNR within 12 dB of the best, the rest
    within 4 medians."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for axis in axes for line in axis.get_lines()])
    values = values[np.isfinite(values)]
    if name == "psnr":
        axes[0].set_ylim(max(values.min() - 0.3, values.max() - 12), values.max() + 0.3)
    elif name != "spectrum" and values.max() > 4 * np.median(values) > 0:
        axes[0].set_ylim(min(0, values.min()), 4 * np.median(values))


def _degradation(results: Mapping[str, Any], criterion: str) -> Figure:
    """Degradation against quality: a panel for each group of conditions, a line with its interval for each method."""
    conditions = {name: entry for name, entry in results["experiment"]["final"].items() if entry.get("x") is not None}
    groups = list(dict.fromkeys(entry.get("group", "") for entry in conditions.values()))
    figure = Figure(figsize=(3.4 * len(groups) + 0.6, 3.9), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    shown = [m for m in [INPUT, *results["methods"]] if m not in results["coincide"] and m not in results["refused"]]
    for axis, group in zip(axes, groups, strict=True):
        for number, method in enumerate(shown):
            points = []
            for name, entry in conditions.items():
                rows = _rows(results, name, method, None if method == INPUT else criterion)
                if entry.get("group", "") == group and rows:
                    by_seed = _by_seed(rows, criterion)
                    mean, half = seed_interval([float(np.mean(list(v.values()))) for v in by_seed.values()])
                    points.append((float(entry["x"]), mean, 0.0 if math.isnan(half) else half))
            if not points:
                continue
            xs, ys, bars = zip(*sorted(points), strict=True)
            style = {"color": "0.5", "linestyle": ":"} if method == INPUT else {"color": f"C{number - 1}"}
            axis.errorbar(xs, ys, bars, marker=".", capsize=2, label=method, **style)
        axis.set_title(group, fontsize=9)
        axis.set_xlabel("degradation", fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel(FIGURES[criterion], fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(shown), fontsize=7)
    figure.suptitle(_CHOSEN[criterion], fontsize=10)
    return figure
