"""Which results of the benchmarks belong to other weights than those that the repository ships.

    python benchmarks/stale.py

Every JSON below ``benchmarks/`` whose folder is ``results``, or in one, names the weights that it was measured with: in
``weights`` the hash of the tensors of each shipped file. A result is out of date where a file has another hash now,
and *unknown* where it does not say. What was trained for one result alone (``networks``) cannot be out of date. Prints
each result that is out of date or unknown, with the pages that cite it by its path. The exit status is 1 if there is
such a page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from common import ROOT, hash_of

from monai_d3gm.metrics import format_table

PAGES = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "bundles/*/docs/*.md", "benchmarks/**/*.md")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="of the repository")
    arguments = parser.parse_args()
    pages = {page: (arguments.root / page).read_text(encoding="utf-8") for page in page_names(arguments.root)}
    rows = []
    for path in results(arguments.root):
        state = state_of(path, arguments.root)
        if state:
            name = path.relative_to(arguments.root).as_posix()
            cited = [page for page, text in pages.items() if name in text]
            rows.append({"result": name, "state": state, "cited by": ", ".join(cited)})
    print(format_table(rows) if rows else "all results belong to the shipped weights")
    return int(any(row["cited by"] for row in rows))


def page_names(root: Path) -> list[str]:
    """Paths of the pages below the repository's root."""
    found = {path.relative_to(root).as_posix() for pattern in PAGES for path in root.glob(pattern)}
    return sorted(name for name in found if "_build" not in name)


def results(root: Path) -> Iterator[Path]:
    """All results."""
    for path in sorted((root / "benchmarks").rglob("*.json")):
        if "results" in path.relative_to(root).parts[:-1]:
            yield path


def state_of(path: Path, root: Path = ROOT) -> str:
    """Why a result is not one of the shipped weights; empty if it is."""
    content = json.loads(path.read_text(encoding="utf-8"))
    weights = content.get("weights", {} if content.get("networks") else None)
    if not isinstance(weights, dict):
        return "unknown weights"
    reasons = []
    for file, measured in weights.items():
        now = hash_of(root / file) if (root / file).is_file() else "gone"
        if now != measured:
            reasons.append(f"{file} was {measured[:8]}, is {now[:8]}")
    return "; ".join(reasons)


if __name__ == "__main__":
    sys.exit(main())
