"""``d3gm info``: what a bundle's model is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.cli.options import add_bundle, read_json

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add ``info`` to the commands."""
    parser = commands.add_parser("info", help="say what a bundle's model is", description=info.__doc__)
    parser.set_defaults(command=info)
    add_bundle(parser)


def info(arguments: argparse.Namespace) -> int:
    """Print what BUNDLE's model is: its process, the range it was trained in, its training, the weights' hash."""
    root = Path(find_bundle_root(arguments.bundle))
    weights = root / "models" / "model.pt"

    from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

    content = read_checkpoint(weights)
    metadata = read_json(root / "configs" / "metadata.json")
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
    return 0


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
