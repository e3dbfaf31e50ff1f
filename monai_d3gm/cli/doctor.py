"""``d3gm doctor``: check the installation and its results."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, explain, find_bundles

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_PACKAGES = ("torch", "monai", "numpy", "nibabel", "pydicom", "fastmri", "h5py", "scikit-image", "sigpy")
# extra -> its modules, and the features that need them
_EXTRAS = {
    "dicom": (("highdicom", "gdcm", "openjpeg", "dicomweb_client"), "DICOM maps, compressed DICOM files, DICOMweb"),
    "ismrmrd": (("ismrmrd",), "ISMRMRD raw data"),
    "label": (("monailabel",), "the MONAI Label server (an environment of its own)"),
    "docs": (("sphinx", "furo", "myst_nb", "sphinx-mathjax-offline"), "building the documentation"),
    "test": (("pytest", "hypothesis"), "running the tests"),
}


def add_parser(commands: Commands) -> None:
    """Add ``doctor`` to the commands."""
    parser = commands.add_parser("doctor", help="check the installation", description=doctor.__doc__)
    parser.set_defaults(command=doctor)


def doctor(arguments: argparse.Namespace) -> int:
    """Print the versions, missing extras and devices. Then restore a small input with every bundle and compare with its
    reference result. The exit status is 0 if all bundles give their result, 1 if one does not.
    """
    print(f"monai_d3gm {__version__}, Python {platform.python_version()}, {sys.executable}")
    print("packages   " + ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    for extra, (modules, purpose) in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        state = f"missing {', '.join(missing)}; needed for {purpose}" if missing else "installed"
        print(f"extra      {extra}: {state}")
    import torch

    print(f"processor  {os.cpu_count()} cores, {torch.get_num_threads()} threads for torch")
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory
        print(f"device     cuda:{index}, {torch.cuda.get_device_name(index)}, {memory / 1e9:.0f} GB")
    if not torch.cuda.device_count():
        print("device     cpu alone: torch finds no GPU")
    bundles = find_bundles()
    if not bundles:
        raise BundleError("no bundle is found: the installation is not complete.")
    return max([_check(name, root) for name, root in bundles.items()])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _check(name: str, root: Path) -> int:
    """Print whether a bundle computes its reference result; return 0 if so, else 1."""
    from monai_d3gm.bundle.reference import compare_reference

    if not (root / "models" / "reference.json").exists():
        print(f"bundle     {name}: not tried: it has no reference result; see d3gm bundle finish --help")
        return 0
    start = time.perf_counter()
    try:
        result = compare_reference(root)
    except Exception as error:
        print(f"bundle     {name}: failed: {explain(error)}")
        return 1
    verdict = "as it should be" if result.agrees else "NOT as it should be"
    seconds = time.perf_counter() - start
    print(f"bundle     {name}: {verdict}, off by {result.difference:.1e} of the range ({seconds:.0f} s)")
    return 0 if result.agrees else 1
