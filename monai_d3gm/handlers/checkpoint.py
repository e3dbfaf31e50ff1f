"""The state of a training run on disk: written whole after an epoch, and gone on with when the run starts again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader

from monai_d3gm.data.files import atomic_path

__all__ = ["TrainingCheckpoint"]

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
            raise ValueError(f"interval is {interval}; it must be at least 1")
        self.path = Path(path)
        self.objects = dict(objects)
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.save)

    def load(self, engine: Engine) -> None:
        """Go on from the file, if it exists."""
        if not self.path.exists():
            logger.info("no checkpoint %s: training starts from the beginning", self.path.name)
            return
        load = CheckpointLoader(str(self.path), {**self.objects, "trainer": engine})
        load(engine)
        logger.info("going on from %s after epoch %d", self.path.name, engine.state.epoch)

    def save(self, engine: Engine) -> None:
        """Write the file."""
        with atomic_path(self.path) as temporary:
            objects = {**self.objects, "trainer": engine}
            torch.save({name: thing.state_dict() for name, thing in objects.items()}, temporary)
