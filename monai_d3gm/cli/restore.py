"""``d3gm restore``: a file, a series or a tree of them through a bundle's own ``configs/inference.json``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.cli.options import add_bundle, add_options, given_options, make_workflow

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_CONFIG = "inference.json"


def add_parser(commands: Commands) -> None:
    """Add ``restore`` to the commands."""
    parser = commands.add_parser("restore", help="restore a file or a folder", description=restore.__doc__)
    parser.set_defaults(command=restore)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", help="a file or a folder of files that the bundle reads")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the results; made where it is missing")
    add_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")


def restore(arguments: argparse.Namespace) -> int:
    """Restore INPUT with BUNDLE and write the results into OUTPUT. Options left out are as the bundle has them."""
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, _CONFIG)
    # absolute: MONAI evaluates text that begins with one of its signs
    for key, path in {"dataset_dir": arguments.input, "output_dir": arguments.output}.items():
        settings[key] = str(Path(path).absolute())
    workflow = make_workflow(root, _CONFIG, settings | {"overwrite": arguments.overwrite})
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return 0
