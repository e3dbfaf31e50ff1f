"""The console command ``d3gm``: run a bundle's own workflow on files, or say what a bundle holds.

Each command is a module of this package with a function ``add_parser(commands)``, which adds its parser to those of
``d3gm`` and sets ``command``, a function from the parsed arguments to the exit status. Nothing heavy is imported before
the arguments are parsed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, is_refusal, root_cause
from monai_d3gm.cli import evaluate, info, restore

__all__ = ["main"]

_COMMANDS = (restore, evaluate, info)


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
        print("d3gm: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        cause = root_cause(error)
        if not is_refusal(cause):
            raise
        print(f"d3gm: error: {' '.join(str(cause).split())}", file=sys.stderr)
        return 2 if isinstance(cause, BundleError) else 1


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
