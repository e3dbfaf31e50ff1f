"""What the README and the tutorials say is so: their examples run, their options and files exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def first_python_block(path: str) -> str:
    """The first fenced block of Python in a Markdown file of the repository."""
    match = re.search(r"```python\n(.*?)```", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match.group(1)


@pytest.mark.parametrize("path, results", [("README.md", ["mean", "std"]), ("docs/tutorials/python.md", ["image"])])
def test_the_example_runs(path: str, results: list[str]) -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(first_python_block(path), path, "exec"), names)
    for result in results:
        assert names[result].shape == (1, 2, 64, 64)
        assert torch.isfinite(names[result]).all()


def test_the_options_exist_in_the_bundle() -> None:
    table = README[README.index("| option |") : README.index("The defaults stand in")]
    options = set(re.findall(r"^\| `--(\w+)`", table, re.MULTILINE))
    assert len(options) == 11
    config = json.loads((ROOT / "bundles/mri_recon/configs/inference.json").read_text(encoding="utf-8"))
    assert options <= set(config)


def test_the_test_command_is_the_one_of_the_checks() -> None:
    checks = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert ".venv/bin/pytest" in checks
    assert "&& .venv/bin/pytest\n" in README


@pytest.mark.parametrize("path", ["README.md", "CONTRIBUTING.md", "bundles/mri_recon/docs/README.md"])
def test_linked_files_exist(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not re.match(r"https?://", target):
            assert ((ROOT / path).parent / target).exists(), f"{path} links {target}"


def test_the_tables_of_the_comparisons_are_those_of_their_results() -> None:
    """Each table that the command beside it prints stands in the page, line by line."""
    page = set((ROOT / "docs/comparisons.md").read_text(encoding="utf-8").splitlines())
    results = sorted((ROOT / "benchmarks/compare/results").glob("*.json"))
    assert {"derain", "mri_recon"} <= {path.stem for path in results}
    for path in results:
        command = [sys.executable, str(ROOT / "benchmarks/comparison_tables.py"), str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        tables = [line for line in printed if line.startswith("|")]
        assert len(tables) >= 10 and set(tables) <= page, path.name
