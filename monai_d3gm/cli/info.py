"""``d3gm info``: what a bundle's model is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import INFERENCE, accepted_kinds, find_bundle_root, read_config, read_json
from monai_d3gm.cli.options import add_bundle

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_DEFAULTS = ("num_inference_steps", "num_samples", "fidelity", "seed")


def add_parser(commands: Commands) -> None:
    """Add ``info`` to the commands."""
    parser = commands.add_parser("info", help="say what a bundle's model is", description=info.__doc__)
    parser.set_defaults(command=info)
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def info(arguments: argparse.Namespace) -> int:
    """Print what BUNDLE's model is: what it takes, its defaults, its process and training, and its calibration."""
    facts = _facts(Path(find_bundle_root(arguments.bundle)))
    if arguments.json:
        print(json.dumps(facts, indent=2, default=str))
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {_one_line(value)}")
    return 0


def _facts(root: Path) -> dict[str, Any]:
    from monai.bundle import ConfigParser

    from monai_d3gm.data.formats.base import FORMATS
    from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

    config = read_config(root, INFERENCE)
    metadata = read_json(root / "configs" / "metadata.json")
    weights = root / "models" / "model.pt"
    content = read_checkpoint(weights)
    facts: dict[str, Any] = {
        "bundle": str(root),
        "name": metadata.get("name", ""),
        "version": metadata.get("version", ""),
        "intended_use": metadata.get("intended_use", ""),
        "inputs": [FORMATS[kind].title for kind in accepted_kinds(root, INFERENCE)],
        "defaults": {name: config[name] for name in _DEFAULTS if name in config},
        "sampler": ConfigParser(config).get_parsed_content("sampler").config(),
        "weights": f"{weights.name}, {weights.stat().st_size / 1e6:.1f} MB",
        "sha256": weights_hash(weights),
        "parameters": sum(tensor.numel() for tensor in content["model"].values()),
        **content["d3gm"],
    }
    for name, describe in {"calibration": _calibration, "training_statistics": _training_statistics}.items():
        file = root / "models" / f"{name}.json"
        facts[name] = describe(read_json(file), facts["sha256"]) if file.exists() else "none"
    return facts


def _calibration(content: Mapping[str, Any], weights: str) -> Any:
    """For each set of parameters the contrasts, each with its coverage and number of subjects."""
    if content.get("weights") != weights:
        return "of other weights"
    return [
        {
            **condition["parameters"],
            "contrasts": {
                name: {key: entry["interval"][key] for key in ("coverage", "subjects")}
                for name, entry in condition["contrasts"].items()
            },
        }
        for condition in content["conditions"]
    ]


def _training_statistics(content: Mapping[str, Any], _: str) -> Any:
    """The volumes of the training and the statistics that inputs are compared by."""
    return {"volumes": len(content["volumes"]), "statistics": list(content["quantiles"])}


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_one_line, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
