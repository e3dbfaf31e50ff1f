"""``d3gm label``: bundles behind a MONAI Label server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from monai_d3gm.bundle import BundleError

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_parser(commands: Commands) -> None:
    """Add ``label`` to the commands."""
    parser = commands.add_parser("label", help="serve bundles with MONAI Label")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    starting = actions.add_parser("start", help="start the server", description=start.__doc__)
    starting.set_defaults(command=start)
    starting.add_argument(
        "--studies",
        required=True,
        metavar="FOLDER",
        help="the folder of the datastore, or the address of a DICOMweb server",
    )
    starting.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 if not given")
    starting.add_argument("--port", type=int, default=8000, help="8000 if not given")
    starting.add_argument(
        "--conf",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a setting: bundles, names or folders separated by commas (mri_sr,mri_recon); device; workers, requests "
        "that run at once besides a short one (1); queue, how many more may wait (24); memory, the most GB that a "
        "request may take (half of the machine's, shared by the workers); upload, the most GB that may be sent (4); "
        "short, pixels through the network in a request that is short (2e7); keep, minutes for which a job's results "
        "are kept (60)",
    )


def start(arguments: argparse.Namespace) -> int:
    """Serve the images of a folder to viewers until stopped, with MONAI Label's REST interface.

    The environment is checked first: MONAI Label needs its own, see the README.
    """
    from monai_d3gm.label.environment import check_environment

    check_environment()
    studies = str(arguments.studies)
    if not studies.startswith(("http://", "https://")):
        studies = str(Path(studies).absolute())
        if not Path(studies).is_dir():
            raise BundleError(f"studies is {studies}; accepted: a folder that exists, or http://HOST/PATH.")
    if arguments.host not in _LOOPBACK:
        print(
            f"warning: whoever reaches {arguments.host}:{arguments.port} can read and change the studies, unless MONAI "
            "Label's authentication is set up.",
            file=sys.stderr,
        )
    from monai_d3gm.label.app.server import start as serve

    serve(studies, dict(arguments.conf), arguments.host, arguments.port)
    return 0
