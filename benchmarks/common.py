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
from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint, read_checkpoint, tensors_hash
from monai_d3gm.sde import Sampler

ROOT = Path(__file__).resolve().parents[1]


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


def shipped_weights(bundle: str) -> Path:
    """The weights that a bundle ships."""
    return Path(find_bundle_root(bundle)) / "models" / "model.pt"


def hash_of(path: str | os.PathLike[str]) -> str:
    """The hash of a checkpoint's tensors."""
    return tensors_hash(read_checkpoint(path)["model"])


def belongs_to(models: Mapping[str, str | os.PathLike[str]]) -> dict[str, dict[str, str]]:
    """What a result says of the weights behind its figures, which ``stale.py`` reads.

    ``weights`` has the hash of each file that the repository ships, by its path there. ``networks`` has that of the
    others, by name: trained for this result, or earlier weights that it is about.
    """
    found: dict[str, dict[str, str]] = {"weights": {}, "networks": {}}
    for name, path in models.items():
        place = Path(path).resolve()
        if place.is_relative_to(ROOT) and place.parent.name == "models":
            found["weights"][place.relative_to(ROOT).as_posix()] = hash_of(place)
        else:
            found["networks"][name] = hash_of(place)
    return found


def write_result(
    path: Path, result: Mapping[str, Any], models: Mapping[str, str | os.PathLike[str]], device: str = "cpu"
) -> None:
    """Write a result as JSON, whole or not at all, with its weights, the machine and the versions.

    Args:
        path: the file.
        result: what was measured.
        models: the weights that it was measured with, by name; none where the figures do not depend on weights.
        device: where it was measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps({**belongs_to(models), "machine": machine(device), **result}))
