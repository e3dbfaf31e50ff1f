"""``d3gm evaluate``: a bundle's own ``configs/evaluate.json`` on a folder with known truth."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.cli.options import add_bundle, add_options, before_anything, given_options, prepare, run_workflow

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_CONFIG = "evaluate.json"
_REPORT = "metrics.json"


def add_parser(commands: Commands) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser("evaluate", help="take figures on data with known truth", description=evaluate.__doc__)
    parser.set_defaults(command=evaluate)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", help="a file or a folder of files that the bundle reads")
    parser.add_argument(
        "output", metavar="OUTPUT", nargs="?", help="folder for metrics.json; without it nothing is written"
    )
    add_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a metrics.json that is there")
    parser.add_argument("--json", action="store_true", help="print metrics.json on stdout, and the tables on stderr")


def evaluate(arguments: argparse.Namespace) -> int:
    """Restore INPUT with BUNDLE, compare with the truth and print tables of figures with their protocol.

    Options left out are as the bundle has them.
    """
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, _CONFIG)
    source = Path(arguments.input).absolute()
    with before_anything():
        prepare(root, _CONFIG, settings, source)
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()) as printed:
        output = Path(arguments.output or temporary).absolute()
        paths = {"dataset_dir": source, "output_dir": output}
        run_workflow(root, _CONFIG, {**settings, **paths, "overwrite": arguments.overwrite, "report": _REPORT})
        report = (output / _REPORT).read_text(encoding="utf-8")
    tables = printed.getvalue()
    if arguments.output is None:
        tables = "".join(line for line in tables.splitlines(keepends=True) if temporary not in line)
    print(tables, end="", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(report, end="")
    return 0
