"""Settings of the documentation: ``sphinx-build -W docs docs/_build``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import monai_d3gm
from monai_d3gm.comparison.report import write_report

project = "monai_d3gm"
author = "The monai_d3gm contributors"
copyright = "The monai_d3gm contributors, Apache License 2.0"
release = version = monai_d3gm.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",  # equations without a network: MathJax lies in the pages
    "myst_nb",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence"]
myst_heading_anchors = 4

nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
# of the extra "label"
autodoc_mock_imports = ["fastapi", "fastapi_offline", "jwt", "monailabel", "requests_toolbelt", "starlette", "uvicorn"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"monai_d3gm {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]


def escape_mathematics(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings write |x| and (B, C, *spatial), which outside of backticks reStructuredText reads as its own marks."""
    for index, line in enumerate(lines):
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"\||\*(?=spatial)", r"\\\g<0>", part) for part in parts[::2]]
        lines[index] = "".join(parts)


def write_reports(app: Any) -> None:
    """The pages and plots of `comparisons.md`, from the results in the repository, into ``reports``."""
    folder = Path(app.srcdir)
    for results in sorted((folder.parent / "benchmarks" / "compare" / "results").glob("*.json")):
        output = folder / "reports" / results.stem
        output.mkdir(parents=True, exist_ok=True)
        write_report(json.loads(results.read_text(encoding="utf-8")), output)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_reports)
    app.connect("autodoc-process-docstring", escape_mathematics)
