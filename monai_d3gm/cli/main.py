"""The console command ``d3gm``: run a bundle's own workflow, or say what a bundle holds.

``d3gm restore`` sets keys of the bundle's ``configs/inference.json`` and runs it; what an option does not set stays as
the bundle has it. Nothing heavy is imported before the arguments are parsed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_d3gm import __version__
from monai_d3gm.bundle import BundleError, find_bundle_root, is_refusal, root_cause

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 after an error of one line on stderr.

    Args:
        arguments: those of the command line when left out.

    >>> main(["info", "/no/such/bundle"])
    1
    """
    parsed = _parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except Exception as error:
        cause = root_cause(error)
        if not is_refusal(cause):
            raise
        print(f"d3gm: error: {' '.join(str(cause).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="d3gm",
        description="Restore medical images with measure-preserving diffusion models. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"d3gm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore a file or a folder", description=_restore.__doc__)
    restore.set_defaults(command=_restore)
    _add_bundle(restore)
    restore.add_argument("input", metavar="INPUT", help="a file or a folder of files that the bundle reads")
    restore.add_argument("output", metavar="OUTPUT", help="folder for the results; made where it is missing")
    # argparse leaves what is not given out of the namespace: such a key stays as the bundle has it
    options = restore.add_argument_group("options", argument_default=argparse.SUPPRESS)
    for name, key, kind, text in _OPTIONS:
        options.add_argument(f"--{name}", dest=key, type=kind, metavar=name.upper(), help=text)
    options.add_argument("--no-baseline", dest="baseline", action="store_false", help="leave L1-wavelet out")
    options.add_argument("--overwrite", action="store_true", help="replace results that are there")

    info = commands.add_parser("info", help="say what a bundle's model is", description=_info.__doc__)
    info.set_defaults(command=_info)
    _add_bundle(info)
    return parser


def _slices(text: str) -> str | int:
    return text if text == "all" else int(text)


_OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("steps", "num_inference_steps", int, "evaluations of the network for each sample"),
    ("samples", "num_samples", int, "samples drawn: their mean is written, and above 1 their standard deviation"),
    ("fidelity", "fidelity", float, "0 samples, 1 takes the single most faithful evaluation, or between"),
    ("order", "order", int, "order of the solver, 1 to 3"),
    ("eta", "eta", float, "0 the probability-flow ODE, 1 the exact posterior"),
    ("seed", "seed", int, "of masks, simulation and sampling"),
    ("device", "device", str, "where the network runs: cpu, cuda, cuda:1, ..."),
    ("roi", "roi_size", int, "extent of the tiles in which the network is evaluated; whole images without it"),
    ("batch", "batch_size", int, "images that go through the network at once"),
    ("acceleration", "acceleration", float, "undersampling of fully sampled or simulated k-space"),
    ("mask", "mask", str, "random, equispaced, equispaced_fraction, magic or magic_fraction"),
    ("axis", "axis", str, "undersampled axis: phase or frequency"),
    ("snr", "snr", float, "signal to noise of simulated k-space"),
    ("noise-std", "noise_std", float, "noise of measured k-space, per real and imaginary part, in the file's units"),
    ("slices", "slices", _slices, "'all', or how many of each volume, evenly spaced"),
)


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle's folder, or its name, such as mri_recon")


def _restore(arguments: argparse.Namespace) -> None:
    """Restore INPUT with BUNDLE and write the results into OUTPUT. Options left out are as the bundle has them."""
    settings = dict(vars(arguments))
    del settings["command"]
    root = find_bundle_root(settings.pop("bundle"))
    # absolute: MONAI evaluates text that begins with one of its signs
    paths = {"bundle_root": root, "dataset_dir": settings.pop("input"), "output_dir": settings.pop("output")}
    overrides = {key: str(Path(path).absolute()) for key, path in paths.items()}

    from monai.bundle import ConfigWorkflow

    config = str(Path(root) / "configs" / "inference.json")
    workflow = ConfigWorkflow(config, workflow_type="inference", **overrides, **settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _info(arguments: argparse.Namespace) -> None:
    """Print what BUNDLE's model is: its process, the range it was trained in, its training, the weights' hash."""
    root = Path(find_bundle_root(arguments.bundle))
    weights = root / "models" / "model.pt"

    from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

    content = read_checkpoint(weights)
    try:
        metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BundleError(f"{root / 'configs' / 'metadata.json'}: cannot be read: {error}") from error
    facts = {
        "bundle": str(root),
        "name": metadata.get("name", ""),
        "version": metadata.get("version", ""),
        "intended use": metadata.get("intended_use", ""),
        "weights": f"{weights.name}, {weights.stat().st_size / 1e6:.1f} MB",
        "sha256": weights_hash(weights),
        "parameters": f"{sum(tensor.numel() for tensor in content['model'].values()):,}",
    }
    lines = [(name, value) for name, value in facts.items()]
    lines += [(name.replace("_", " "), value) for name, value in content["d3gm"].items()]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {_one_line(value)}")


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
