"""The console command ``d3gm``: run a bundle's own workflow on files, describe a bundle, or compare processes.

Each command is a module of this package with a function ``add_parser(commands)``, which adds its parser to those of
``d3gm`` and sets ``command``, a function from the parsed arguments to the exit status. Nothing heavy is imported before
the arguments are parsed.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Collection, Sequence
from typing import Any

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, did_you_mean, explain, root_cause
from monai_d3gm.bundle.errors import DEBUG_VARIABLE
from monai_d3gm.cli import bundle, calibrate, compare, diagnose, doctor, evaluate, info, label, restore
from monai_d3gm.cli.options import print_error
from monai_d3gm.files import DEFAULT_MEMORY, MEMORY_VARIABLE, memory_limit, printable

__all__ = ["main", "make_parser"]

_COMMANDS = (restore, evaluate, calibrate, info, doctor, bundle, compare, diagnose, label)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: those of the command line when left out.

    Returns:
        0 all done; 1 something failed; 2 the command is refused, and nothing was done; 130 interrupted. An error is one
        line on stderr.

    Example:
        >>> main(["info", "/no/such/bundle"])
        2
    """
    parser = make_parser()
    logging.setLogRecordFactory(_printable_record)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{_hint(unknown[0], parsed.options)}")
        if parsed.debug:
            os.environ[DEBUG_VARIABLE] = "1"
        if parsed.max_memory is not None:
            os.environ[MEMORY_VARIABLE] = repr(parsed.max_memory)
        memory_limit()
        status: int = parsed.command(parsed)
        return status
    except KeyboardInterrupt:
        print_error("interrupted.")
        return 130
    except Exception as error:
        print_error(explain(error))
        return 2 if isinstance(root_cause(error), BundleError) else 1


def _printable_record(*arguments: Any, **options: Any) -> logging.LogRecord:
    """A log record whose message can be shown: names of files may hold anything."""

    def shown(value: Any) -> Any:
        return value if isinstance(value, int | float) else "\n".join(map(printable, str(value).split("\n")))

    record = logging.LogRecord(*arguments, **options)
    record.msg = shown(record.msg)
    if isinstance(record.args, tuple):
        record.args = tuple(map(shown, record.args))
    return record


def _hint(unknown: str, options: Collection[str]) -> str:
    """The options of the command that are similar to an unknown one."""
    name, known = unknown.partition("=")[0].lstrip("-"), {option.lstrip("-") for option in options}
    return f"; {did_you_mean(name, known, prefix='--')}" if unknown.startswith("--") else ""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; the parsed arguments have ``command`` and ``options``."""
    parser = argparse.ArgumentParser(
        prog="d3gm",
        description="Restore medical images with measure-preserving diffusion models. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"d3gm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_parser(commands)
    for command in dict.fromkeys(commands.choices.values()):
        group = command.add_argument_group("options of all commands")
        group.add_argument("--debug", action="store_true", help="show where an error that was not foreseen came from")
        group.add_argument(
            "--max-memory",
            type=float,
            metavar="GIB",
            help=f"refuse an input that would take more memory than this (default {DEFAULT_MEMORY:g})",
        )
    for command in commands.choices.values():
        command.set_defaults(options=[option for option in command._option_string_actions if option.startswith("--")])
    return parser
