"""What the benchmarks share: a bundle's network with given weights, its sampler, and what a result says of its run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.comparison.run import machine
from monai_d3gm.files import atomic_path
from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint, read_checkpoint
from monai_d3gm.sde import Sampler


def set_threads() -> None:
    """As many threads as ``OMP_NUM_THREADS`` says, else two."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def inference_config(bundle: str) -> dict[str, Any]:
    """A bundle's ``inference.json``."""
    return ConfigParser.load_config_file(Path(find_bundle_root(bundle)) / "configs" / "inference.json")


def bundle_sampler(bundle: str, **changes: Any) -> Sampler:
    """A bundle's own sampler, with some of its options changed."""
    return replace(ConfigParser(inference_config(bundle)).get_parsed_content("sampler"), **changes)


def is_option(name: str) -> bool:
    """Whether a name is that of an option of a `Sampler`."""
    return name in {field.name for field in fields(Sampler)}


def bundle_network(bundle: str, **changes: Any) -> Any:
    """A bundle's network, untrained; ``changes`` to its arguments."""
    definition = inference_config(bundle)["network_def"] | changes
    return ConfigParser({"network": definition}).get_parsed_content("network").eval()


def load_model(bundle: str, path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """A bundle's network with as many input channels and features as the weights have, and their scheduler."""
    width, channels = read_checkpoint(path)["model"]["intro.weight"].shape[:2]
    network = bundle_network(bundle, in_channels=channels, width=width)
    return network, build_scheduler(load_checkpoint(path, network))


def about_run(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine and the versions."""
    return {"machine": machine(str(device))}


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result))
