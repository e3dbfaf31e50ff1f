"""The console command ``d3gm``: run a bundle's own workflow on files, say what it holds, or compare processes.

Each command is a module of this package with a function ``add_parser(commands)``, which adds its parser to those of
``d3gm`` and sets ``command``, a function from the parsed arguments to the exit status. Nothing heavy is imported before
the arguments are parsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, explain, root_cause
from monai_d3gm.cli import calibrate, compare, diagnose, evaluate, info, label, restore
from monai_d3gm.cli.options import print_error

__all__ = ["main"]

_COMMANDS = (restore, evaluate, calibrate, info, compare, diagnose, label)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: those of the command line when left out.

    Returns:
        0 all done; 1 something failed; 2 the command cannot be run as it is given, and nothing was done; 130
        interrupted. An error is one line on stderr.

    >>> main(["info", "/no/such/bundle"])
    2
    """
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.command(parsed)
        return status
    except KeyboardInterrupt:
        print_error("interrupted.")
        return 130
    except Exception as error:
        print_error(explain(error))
        return 2 if isinstance(root_cause(error), BundleError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="d3gm",
        description="Restore medical images with measure-preserving diffusion models. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"d3gm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    return parser
