"""The curves of ``steps.py curve`` as one picture, with a row for each bundle, and one table.

    python benchmarks/steps_figure.py benchmarks/*/results/curve_*.json --output docs/images/steps.png

Columns: PSNR and SSIM of a sample less the reference's, the standard deviation over samples over the reference's, the
largest difference of the radial power spectrum. Grey is where a sampler is accepted. Values beyond an axis are drawn at
its edge. The table, in Markdown, has these four of each bundle at ``--at`` evaluations, and for samplers without noise
the root mean square distance to the exact solution of the probability-flow equation where the curves hold it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import format_table

# key of the table's lines: (title, limits of the axis, what is accepted)
PANELS: dict[str, tuple[str, tuple[float, float], tuple[float, float]]] = {
    "PSNR (dB)": ("PSNR, dB", (-2, 3), (-0.05, 9)),
    "SSIM": ("SSIM", (-0.2, 0.1), (-0.002, 9)),
    "std x": ("standard deviation, ratio", (0, 1.6), (0.9, 1.1)),
    "spectrum (dB)": ("power spectrum, dB off", (0, 6), (0, 0.5)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="JSON of steps.py curve")
    parser.add_argument("--at", type=int, default=5, help="evaluations that the table is about")
    parser.add_argument("--output", type=Path, required=True, help="PNG")
    arguments = parser.parse_args()
    results = [json.loads(path.read_text()) for path in arguments.results]

    print(format_table(side_by_side(results, arguments.at), markdown=True))

    figure = Figure(figsize=(12, 2.6 * len(results) + 0.8), layout="constrained")
    axes = figure.subplots(len(results), len(PANELS), squeeze=False)
    for result, row in zip(results, axes, strict=True):
        name = result["command"]["bundle"]
        for axis, (key, (title, limits, accepted)) in zip(row, PANELS.items(), strict=True):
            axis.axhspan(max(accepted[0], limits[0]), min(accepted[1], limits[1]), color="0.9")
            for number, (sampler, lines) in enumerate(_samplers(result["table"]).items()):
                own = sampler.startswith("the bundle")
                style: dict[str, Any] = {"color": "k", "linewidth": 2.2} if own else {"color": f"C{number}"}
                values = np.clip([line[key] for line in lines], *limits)
                axis.plot([line["evaluations"] for line in lines], values, "o-", markersize=3, label=sampler, **style)
            axis.set(xscale="log", ylim=limits)
            axis.set_title(f"{name}: {title}", fontsize="medium")
            axis.set_xticks(ticks := sorted({line["evaluations"] for line in result["table"]}), map(str, ticks))
            axis.minorticks_off()
    for axis in axes[-1]:
        axis.set_xlabel("evaluations")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    with atomic_path(arguments.output) as temporary, open(temporary, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def side_by_side(results: list[dict[str, Any]], evaluations: int = 5) -> list[dict[str, object]]:
    """A row for each sampler, a column for each bundle, at one number of evaluations."""
    rows: dict[str, dict[str, object]] = {}
    for result in results:
        for sampler, lines in _samplers(result["table"]).items():
            cells = [_cell(line) for line in lines if line["evaluations"] == evaluations]
            rows.setdefault(sampler, {"sampler": sampler})[result["command"]["bundle"]] = ", ".join(cells)
    return list(rows.values())


def _samplers(table: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The lines of each sampler in order of evaluations; the reference is not one."""
    lines = sorted((line for line in table if line["sampler"] != "reference"), key=lambda line: line["evaluations"])
    names = dict.fromkeys(line["sampler"].rsplit(":", 1)[0] for line in lines)
    own = [name for name in names if name.startswith("the bundle")]
    ordered = [*(name for name in names if name not in own), *own]  # the bundle's is drawn last, over the others
    return {name: [line for line in lines if line["sampler"].rsplit(":", 1)[0] == name] for name in ordered}


def _cell(line: dict[str, Any]) -> str:
    """The four differences, and the distance if there is one."""
    cell = f"{line['PSNR (dB)']:+.2f} / {line['SSIM']:+.3f} / {line['std x']:.2f} / {line['spectrum (dB)']:.1f}"
    return cell if line.get("distance", "") == "" else f"{cell} / {line['distance']:.4f}"


if __name__ == "__main__":
    main()
