"""Training checkpoints: the state from which a run resumes, and the best network so far."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from ignite import distributed as idist
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader

from monai_d3gm.files import atomic_path
from monai_d3gm.networks.checkpoint import CheckpointError, read_checkpoint, save_checkpoint
from monai_d3gm.networks.schedulers import D3GMScheduler

__all__ = ["KeepBest", "TrainingCheckpoint"]

logger = logging.getLogger(__name__)


class TrainingCheckpoint:
    """Saves after every ``interval`` epochs and loads when the trainer starts, if the file is there.

    MONAI's CheckpointSaver writes in place: a run killed at that moment has lost its checkpoint. This handler writes a
    temporary file and renames it. Attach it after the handlers whose state it saves.

    Args:
        path: the checkpoint, a file of ``torch.save`` with plain containers.
        objects: name -> object with ``state_dict`` and ``load_state_dict``: network, optimizer and so
            on. The trainer's own state is saved with them, as ``trainer``.
        interval: epochs between two saves.

    Raises:
        CheckpointError: when the trainer starts: the file is damaged, or of another network or optimizer.

    Example:
        >>> from ignite.engine import Engine
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for max_epochs in (1, 3):
        ...         trainer = Engine(lambda engine, batch: None)
        ...         TrainingCheckpoint(Path(folder) / "last.pt", {}).attach(trainer)
        ...         state = trainer.run([0, 0], max_epochs=max_epochs)
        >>> state.iteration
        6
    """

    def __init__(
        self,
        path: str | PathLike[str],
        objects: Mapping[str, Any],
        interval: int = 1,
    ) -> None:
        if interval < 1:
            raise ValueError(f"interval is {interval}; accepted: at least 1.")
        self.path = Path(path)
        self.objects = dict(objects)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)

    def load(self, engine: Engine) -> None:
        """Resume from the file, if it exists."""
        if not self.path.exists():
            logger.info("no checkpoint %s: training starts from the beginning", self.path)
            return
        objects = {**self.objects, "trainer": engine}
        load = CheckpointLoader(str(self.path), objects, map_location="cpu")  # type: ignore[arg-type] # as torch has it
        try:
            load(engine)
        except Exception as error:  # torch, pickle and ignite raise many kinds for damaged or unfit files
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"{self.path}: training cannot go on from this checkpoint: {reason}") from error
        logger.info("going on from %s after epoch %d", self.path, engine.state.epoch)

    def save(self, engine: Engine) -> None:
        """Write the file; of several processes, the first does."""
        if idist.get_rank() > 0:
            return
        with atomic_path(self.path) as temporary:
            objects = {**self.objects, "trainer": engine}
            torch.save({name: thing.state_dict() for name, thing in objects.items()}, temporary)


class KeepBest:
    """Writes the network as a bundle's checkpoint whenever the restoration's figure is the best so far.

    Args:
        path: the checkpoint; the best figure of an earlier part of the run is read from it.
        network: the network to write, such as the moving average of the weights.
        scheduler: process, prediction type and sigma_d.
        metric: name of the figure in the evaluator's metrics; larger is better.
        normalization: how the images were scaled.
        training: data and budget; the figure and the epoch are added.

    Raises:
        CheckpointError: when it is attached: the file is there, and was not written for this figure.
        ValueError: after an evaluation without the figure.

    Example:
        >>> KeepBest("model.pt", torch.nn.Identity(), D3GMScheduler()).metric
        'psnr/slice/whole'
    """

    def __init__(
        self,
        path: str | PathLike[str],
        network: torch.nn.Module,
        scheduler: D3GMScheduler,
        metric: str = "psnr/slice/whole",
        normalization: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = network
        self.scheduler = scheduler
        self.metric = metric
        self.normalization = dict(normalization or {})
        self.training = dict(training or {})

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator, after the handler that publishes the figure."""
        self.best()
        engine.add_event_handler(Events.COMPLETED, self)

    def best(self) -> float:
        """The figure of the network in the file; -inf if there is no file."""
        if not self.path.exists():
            return float("-inf")
        training = read_checkpoint(self.path)["d3gm"]["training"]
        if training.get("metric") != self.metric:
            raise CheckpointError(f"{self.path}: not a network chosen by {self.metric}; it is not overwritten.")
        return float(training["figure"])

    def __call__(self, engine: Engine) -> None:
        """Compare, and write."""
        if self.metric not in engine.state.metrics:
            raise ValueError(
                f"metric is {self.metric!r}; the evaluation gave {', '.join(engine.state.metrics) or 'no figures'}"
            )
        figure, best = float(engine.state.metrics[self.metric]), self.best()
        logger.info("epoch %d: %s %.4f (best before: %.4f)", engine.state.epoch, self.metric, figure, best)
        if figure > best:
            found = {"metric": self.metric, "figure": figure, "epoch": engine.state.epoch}
            save_checkpoint(self.path, self.network, self.scheduler, self.normalization, self.training | found)
