"""What the commands share: the bundle and its options on the command line, and the workflow that they make."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import BundleError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_bundle", "add_options", "given_options", "make_workflow", "read_json"]


def _slices(text: str) -> str | int:
    return text if text == "all" else int(text)


# flag, key of the bundle's config, arguments of argparse
_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("steps", "num_inference_steps", {"type": int, "help": "evaluations of the network for each sample"}),
    ("samples", "num_samples", {"type": int, "help": "samples drawn; above 1 their standard deviation is written too"}),
    ("fidelity", "fidelity", {"type": float, "help": "0 samples, 1 takes the most faithful evaluation, or between"}),
    ("order", "order", {"type": int, "help": "order of the solver, 1 to 3"}),
    ("eta", "eta", {"type": float, "help": "0 the probability-flow ODE, 1 the exact posterior"}),
    ("seed", "seed", {"type": int, "help": "of masks, simulation and sampling"}),
    ("device", "device", {"help": "where the network runs: cpu, cuda, cuda:1, ..."}),
    ("roi", "roi_size", {"type": int, "help": "extent of the tiles in which the network is evaluated"}),
    ("batch", "batch_size", {"type": int, "help": "images that go through the network at once"}),
    ("slices", "slices", {"type": _slices, "help": "'all', or how many of each volume, evenly spaced"}),
    ("acceleration", "acceleration", {"type": float, "help": "undersampling of fully sampled or simulated k-space"}),
    ("mask", "mask", {"help": "random, equispaced, equispaced_fraction, magic or magic_fraction"}),
    ("axis", "axis", {"help": "undersampled axis: phase or frequency"}),
    ("snr", "snr", {"type": float, "help": "signal to noise of simulated k-space"}),
    ("noise-std", "noise_std", {"type": float, "help": "noise of the measurement, in the file's units"}),
    ("factor", "factor", {"type": float, "help": "how many times finer the voxels become"}),
    ("format", "format", {"choices": ("nifti", "dicom"), "help": "of the restored volumes"}),
)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument BUNDLE."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its name, such as mri_recon")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that set keys of a bundle's config; one that is not given leaves its key as the bundle has it."""
    group = parser.add_argument_group("options of the bundle")
    for flag, key, arguments in _OPTIONS:
        group.add_argument(f"--{flag}", dest=key, default=argparse.SUPPRESS, metavar=flag.upper(), **arguments)
    group.add_argument(
        "--no-baseline", dest="baseline", action="store_false", default=argparse.SUPPRESS, help="leave L1-wavelet out"
    )


def given_options(arguments: argparse.Namespace, root: Path, config: str) -> dict[str, Any]:
    """The keys that the command line sets.

    Args:
        arguments: parsed, of a parser with `add_options`.
        root: the bundle's folder.
        config: name of the config file that is to have these keys.

    Raises:
        BundleError: the config has no such key.
    """
    known = read_json(root / "configs" / config)
    flags = {key: f"--{flag}" for flag, key, _ in _OPTIONS} | {"baseline": "--no-baseline"}
    given = {key: value for key, value in vars(arguments).items() if key in flags}
    for key in given:
        if key not in known:
            accepted = ", ".join(flag for name, flag in flags.items() if name in known)
            raise BundleError(f"bundle {root.name} has no option {flags[key]}; accepted: {accepted}.")
    return given


def make_workflow(root: Path, config: str, settings: Mapping[str, Any]) -> ConfigWorkflow:
    """The workflow of a bundle's config with some keys set; as ``python -m monai.bundle run`` makes it."""
    from monai.bundle import ConfigWorkflow

    file = str(root / "configs" / config)
    return ConfigWorkflow(file, workflow_type="inference", **{"bundle_root": str(root), **settings})


def read_json(file: Path) -> dict[str, Any]:
    """A config file of a bundle.

    Raises:
        BundleError: it is missing, or no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{file}: not a JSON object.")
    return content
