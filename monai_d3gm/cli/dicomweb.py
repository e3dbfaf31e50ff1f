"""``d3gm restore`` from a DICOMweb server, and back to it."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from monai_d3gm.bundle import BundleError

__all__ = ["restore_from_server"]

_MOST = 16_000_000_000
"""Bytes that a series may have."""


def restore_from_server(arguments: argparse.Namespace, restore: Callable[[argparse.Namespace], int]) -> int:
    """Retrieve the series that the query INPUT selects, restore them, and store them in the server or write them into
    OUTPUT.

    Args:
        arguments: of the command; ``input`` is an address with a query, ``output`` is None for the server.
        restore: the command for a folder.

    Returns:
        The command's exit status.

    Raises:
        BundleError: the server cannot be reached, or the query selects no series that can be restored.
        DicomWebError: the server did not accept a restored series.
    """
    from monai_d3gm.cli.options import before_anything
    from monai_d3gm.data.formats.dicom.headers import read_header
    from monai_d3gm.data.formats.dicom.web import DicomWeb, is_own, parse_address

    if arguments.output is None and getattr(arguments, "format", "same") == "nifti":
        raise BundleError("format is 'nifti', which a DICOMweb server does not take; give a folder OUTPUT.")
    with tempfile.TemporaryDirectory(prefix="d3gm-dicomweb-") as scratch:
        inputs, made = Path(scratch) / "inputs", Path(scratch) / "restored"
        with before_anything():
            address, query = parse_address(arguments.input)
            web = DicomWeb(address, _MOST)
            for series in tqdm(web.find(query), "retrieving", unit="series", disable=not sys.stderr.isatty()):
                folder = inputs / series.uid
                folder.mkdir(parents=True)
                files = web.retrieve(series, folder)
                chosen = "SeriesInstanceUID" in query
                if files and not chosen and is_own(read_header(files[0])):  # restored by an earlier run
                    shutil.rmtree(folder)
        if not inputs.is_dir() or not any(inputs.iterdir()):
            raise BundleError(f"{address} has no MR series to restore for {query}.")
        options = {**vars(arguments), "input": str(inputs), "output": arguments.output or str(made)}
        status = restore(argparse.Namespace(**options))
        restored = sorted(made.rglob("*.dcm")) if made.is_dir() else []
        if restored:
            web.store(restored)
            print(f"Stored: {len(restored)} instances in {address}", file=sys.stderr)
    return status
