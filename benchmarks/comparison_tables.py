"""The tables and the verdicts of a comparison in Markdown, from the ``results.json`` that ``d3gm compare`` has written.

    python benchmarks/comparison_tables.py benchmarks/compare/results/derain.json

Of the figures it prints those that the settings are chosen by, SSIM and the spread; where the data are graded, one
table of all grades. The pages with all figures are written when the documentation is built.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_d3gm.comparison.evaluation import FIGURES
from monai_d3gm.comparison.report import final_table, verdicts
from monai_d3gm.metrics import format_table

SHOWN = ("psnr", "ssim", "crps", "spread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    graded = any("x" in entry for entry in results["experiment"]["final"].values())
    for criterion in results["experiment"].get("criteria", ["psnr", "crps"]):
        if graded:
            print(f"\n{FIGURES[criterion]}, settings chosen by it:\n")
            print(format_table(grades(results, criterion), markdown=True))
        for condition in results["experiment"]["final"]:
            if not graded:
                rows = [
                    {title: row.get(title, "") for title in titles()}
                    for row in final_table(results, condition, criterion)
                ]
                print(
                    f"\n{condition}, settings chosen by {criterion.upper()}:\n\n{format_table(rows, markdown=True)}\n"
                )
            print("\n".join(f"- {condition}: {sentence}" for sentence in verdicts(results, condition, criterion)))


def titles() -> list[str]:
    """The columns of a table of methods."""
    return ["method", "setting", *(FIGURES[name] for name in SHOWN)]


def grades(results: Mapping[str, Any], criterion: str) -> list[dict[str, str]]:
    """A row for each condition: the figure of each method; one that coincides with another is left out."""
    rows = []
    for condition in results["experiment"]["final"]:
        table = final_table(results, condition, criterion)
        cells = {row["method"]: row.get(FIGURES[criterion], "") for row in table if "(the same as" not in row["method"]}
        rows.append({"data": condition, **cells})
    return rows


if __name__ == "__main__":
    main()
