"""``d3gm evaluate``: a bundle's ``configs/evaluate.json`` over its inference.json, on a folder with known truth."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import (
    EVALUATION,
    BundleError,
    accepted_kinds,
    find_bundle_root,
    make_workflow,
    prepare,
    read_config,
)
from monai_d3gm.cli.options import add_bundle, add_options, before_anything, given_options
from monai_d3gm.cli.shards import Shard

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_REPORT = "metrics.json"


def add_parser(commands: Commands) -> None:
    """Add ``evaluate`` to the commands."""
    parser = commands.add_parser(
        "evaluate", help="take figures on data with known truth", description=evaluate.__doc__, add_help=False
    )
    parser.set_defaults(command=evaluate)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", help="a file or a folder of files that the bundle reads")
    parser.add_argument(
        "output", metavar="OUTPUT", nargs="?", help="folder for metrics.json; without it nothing is written"
    )
    add_options(parser, EVALUATION)
    parser.add_argument("--overwrite", action="store_true", help="replace a metrics.json that is there")
    parser.add_argument("--json", action="store_true", help="print metrics.json on stdout, and the tables on stderr")


def evaluate(arguments: argparse.Namespace) -> int:
    """Restore INPUT with BUNDLE, compare with the truth and print tables of figures with their protocol.

    The bundle's settings are the defaults. Processes that torchrun starts share the files of the folder INPUT.
    """
    shard = Shard()
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, EVALUATION)
    source = Path(arguments.input).absolute()
    with before_anything():
        prepare(root, EVALUATION, settings, source)
        if shard.size > 1:
            settings |= _part(root, source, shard)
            settings |= {} if shard.first else {"progress": False}
    with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()) as printed:
        output = Path(arguments.output or temporary).absolute()
        paths = {"dataset_dir": source, "output_dir": output}
        _run(root, {**settings, **paths, "overwrite": arguments.overwrite, "report": _REPORT}, shard)
        if not shard.first:
            return 0
        report = (output / _REPORT).read_text(encoding="utf-8")
    tables = printed.getvalue()
    if arguments.output is None:
        tables = "".join(line for line in tables.splitlines(keepends=True) if temporary not in line)
    print(tables, end="", file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(report, end="")
    return 0


def _part(root: Path, folder: Path, shard: Shard) -> dict[str, Any]:
    """The settings that give this process its part of a folder: the bundle's own, or its files."""
    from monai_d3gm.data.restoration.units import find_units

    if "world_size" in read_config(root, EVALUATION):
        return {"rank": shard.rank, "world_size": shard.size}
    units, _ = find_units(folder, accepted_kinds(root, EVALUATION))
    files = [unit.files for unit in units if unit.relative.parent == Path()]
    if len(files) < shard.size or any(len(each) > 1 for each in files):
        raise BundleError(
            f"{folder} cannot be shared by {shard.size} processes; accepted: a folder with a file at least for each of "
            "them, and no DICOM series."
        )
    return {"inputs": shard.part([file for (file,) in files])}


def _run(root: Path, settings: dict[str, Any], shard: Shard) -> None:
    """Run the bundle's config, with one report for all processes."""
    from monai_d3gm.handlers import MetricsReport

    workflow = make_workflow(root, EVALUATION, settings)
    workflow.initialize()
    for handler in workflow.parser.get_parsed_content("handlers"):
        if isinstance(handler, MetricsReport):
            handler.gather = shard.gather
    workflow.run()
    workflow.finalize()
