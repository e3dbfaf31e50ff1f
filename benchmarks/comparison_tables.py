"""The tables and the verdicts of a comparison in Markdown, from the ``results.json`` that ``d3gm compare`` has written.

    python benchmarks/comparison_tables.py benchmarks/compare/results/derain.json --report docs/reports/derain

Of the figures it prints those that the settings are chosen by, SSIM and the spread. ``--report`` writes the page, which
has all of them, and its plots anew into a folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from monai_d3gm.comparison.evaluation import FIGURES
from monai_d3gm.comparison.report import final_table, verdicts, write_report
from monai_d3gm.metrics import format_table

SHOWN = ("psnr", "ssim", "crps", "spread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--report", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text())
    for condition in results["experiment"]["final"]:
        for criterion in results["experiment"].get("criteria", ["psnr", "crps"]):
            table = final_table(results, condition, criterion)
            titles = ["method", "setting", *(FIGURES[name] for name in SHOWN)]
            rows = [{title: row.get(title, "") for title in titles} for row in table]
            print(f"\n{condition}, settings chosen by {criterion.upper()}:\n\n{format_table(rows, markdown=True)}\n")
            print("\n".join(f"- {sentence}" for sentence in verdicts(results, condition, criterion)))
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        write_report(results, arguments.report)


if __name__ == "__main__":
    main()
