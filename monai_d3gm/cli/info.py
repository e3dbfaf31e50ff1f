"""``d3gm info``: describe a bundle's model."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import INFERENCE, accepted_kinds, find_bundle_root, read_config, read_json
from monai_d3gm.cli.options import add_bundle

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands

_NAMES, _WIDTH = 18, 110
_DEFAULTS = ("num_inference_steps", "num_samples", "fidelity", "seed")


def add_parser(commands: Commands) -> None:
    """Add ``info`` to the commands."""
    parser = commands.add_parser("info", help="describe a bundle's model", description=info.__doc__)
    parser.set_defaults(command=info)
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def info(arguments: argparse.Namespace) -> int:
    """Print the inputs, defaults, process, training and calibration of BUNDLE's model."""
    facts = _facts(Path(find_bundle_root(arguments.bundle)))
    if arguments.json:
        print(json.dumps(facts, indent=2, default=str))
        return 0
    for name, value in facts.items():
        print(_paragraph(name.replace("_", " "), value))
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
    """For each set of parameters, named by its distinctive ones: the contrasts with their coverage and number of
    subjects."""
    if content.get("weights") != weights:
        return "of other weights"
    conditions = [condition["parameters"] for condition in content["conditions"]]
    varied = [name for name in conditions[0] if len({json.dumps(each.get(name)) for each in conditions}) > 1]
    return {
        ", ".join(f"{name} {parameters.get(name)}" for name in varied) or "one setting": {
            name: {key: entry["interval"][key] for key in ("coverage", "subjects")}
            for name, entry in condition["contrasts"].items()
        }
        for parameters, condition in zip(conditions, content["conditions"], strict=True)
    }


def _training_statistics(content: Mapping[str, Any], _: str) -> Any:
    """The training volumes, and the statistics that inputs are compared with."""
    return {"volumes": len(content["volumes"]), "statistics": list(content["quantiles"])}


def _paragraph(name: str, value: Any) -> str:
    """A fact under its name: a line for each entry of a dict or a list, wrapped."""
    entries = [f"{key} {_one_line(item)}" for key, item in value.items()] if isinstance(value, dict) else [value]
    entries = value if isinstance(value, list) else entries
    margin = " " * (_NAMES + 2)
    wrapped = [
        textwrap.fill(
            _one_line(entry),
            _WIDTH,
            initial_indent=margin,
            subsequent_indent=f"{margin}  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for entry in entries or ["none"]
    ]
    return f"{name:<{_NAMES}}  " + "\n".join(wrapped).lstrip()


def _one_line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_one_line, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
