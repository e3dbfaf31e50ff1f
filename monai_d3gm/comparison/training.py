"""Training the networks of an experiment, each with its bundle's own trainer; a killed run resumes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from ignite.handlers.tqdm_logger import ProgressBar
from monai.utils import set_determinism

from monai_d3gm.comparison.experiment import Experiment
from monai_d3gm.comparison.settings import ExperimentError
from monai_d3gm.files import atomic_path, writable_folder
from monai_d3gm.networks.checkpoint import load_checkpoint, save_checkpoint
from monai_d3gm.networks.schedulers import D3GMScheduler

__all__ = ["load", "train", "weights_path"]


def weights_path(experiment: Experiment, network: str, seed: int, output: Path) -> Path:
    """The path of a network's weights."""
    given = experiment.networks[network].weights
    if given is None:
        return output / "networks" / network / f"seed{seed}" / "model.pt"
    return Path(given.format(seed=seed, bundle_root=experiment.root))


def train(
    experiment: Experiment, network: str, seed: int, output: Path, *, device: str = "cpu", progress: bool = True
) -> Path:
    """Train a network with a seed, or resume its training, unless it is trained already.

    The result is the last moving average of the weights. There is no validation, so each network has the same budget.

    Args:
        experiment: the comparison.
        network: one of its networks.
        seed: of the data, the initial weights, the noise and the times.
        output: the experiment's folder.
        device: where it is trained.
        progress: show a progress bar.

    Returns:
        The checkpoint.

    Raises:
        ExperimentError: the folder holds another training; or given weights are not there.
    """
    target = weights_path(experiment, network, seed, output)
    if experiment.networks[network].weights is not None:
        if not target.is_file():
            raise ExperimentError(f"networks: {network}: no such file: {target}")
        return target
    folder = writable_folder(target.parent)
    _check_same(experiment, network, seed, folder)
    if target.is_file():
        return target
    parser = experiment.parser(
        network,
        seed=seed,
        output_dir=str(folder),
        device=device,
        train_handlers="$[@lr_handler, @ema, @checkpoint_handler]",
    )
    set_determinism(seed)  # before anything of the configuration is made: equal weights to begin with
    scheduler: D3GMScheduler = parser.get_parsed_content("scheduler")
    process = scheduler.process
    trainer = parser.get_parsed_content("trainer")
    if progress:
        ProgressBar(desc=f"{network}, seed {seed}", persist=False).attach(
            trainer, output_transform=lambda output: {"loss": output["loss"].item()}
        )
    try:
        trainer.run()
    finally:
        set_determinism(None)
    scheduler.process = process  # a mixture leaves the last one
    training = {"experiment": experiment.title, "network": network, **parser.get_parsed_content("training")}
    average, normalization = (parser.get_parsed_content(key) for key in ("ema", "normalization"))
    save_checkpoint(target, average.ema_model, scheduler, normalization, training, max_bytes=None)
    return target


def load(experiment: Experiment, network: str, weights: Path, device: str = "cpu") -> tuple[torch.nn.Module, Any]:
    """A trained network in evaluation mode, and the entry ``d3gm`` of its checkpoint."""
    module = experiment.parser(network).get_parsed_content("network_def")
    information = load_checkpoint(weights, module)
    return module.to(device).eval().requires_grad_(False), information


def _check_same(experiment: Experiment, network: str, seed: int, folder: Path) -> None:
    """Record the training of a folder, or compare it with the record."""
    config = experiment.root / "configs" / "train.json"
    given = {key: str(value) for key, value in experiment.given.items()}
    common = {**experiment.content.get("values", {}), **experiment.content.get("common", {})}
    now = {
        "train.json": hashlib.sha256(config.read_bytes()).hexdigest(),
        "keys": {**common, **experiment.networks[network].overrides, **given},
        "seed": seed,
    }
    text, file = json.dumps(now, indent=2, sort_keys=True), folder / "training.json"
    if file.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise ExperimentError(f"{folder} holds another training of {network}; give another folder.")
        return
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
