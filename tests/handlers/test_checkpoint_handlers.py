"""Training on disk: a run that is stopped at any moment goes on from its last whole checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from monai_d3gm.handlers import KeepBest, TrainingCheckpoint
from monai_d3gm.handlers import checkpoint as module
from monai_d3gm.networks.checkpoint import CheckpointError, load_checkpoint, read_checkpoint, save_checkpoint
from monai_d3gm.networks.schedulers import D3GMScheduler

BATCHES = [1.0, 2.0, 4.0]


class Run:
    """A small training: a linear model, Adam and a learning rate that falls."""

    def __init__(self, path: Path, width: int = 2, interval: int = 1) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(width, 1)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.1)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        self.seen: list[tuple[int, float]] = []
        self.trainer = Engine(self.step)
        objects = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        TrainingCheckpoint(path, objects, interval).attach(self.trainer)

    def step(self, engine: Engine, batch: float) -> None:
        self.seen.append((engine.state.epoch, batch))
        self.optimizer.zero_grad()
        self.model(torch.full((1, self.model.in_features), batch)).square().sum().backward()
        self.optimizer.step()
        self.schedule.step()

    def train(self, max_epochs: int = 4) -> Run:
        self.trainer.run(BATCHES, max_epochs=max_epochs)
        return self

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "rate": self.schedule.get_last_lr()}


class Interrupted(BaseException):
    """Stands for the end of the process."""


def stop_at(step: int) -> Callable[[Engine], None]:
    def stop(engine: Engine) -> None:
        if engine.state.iteration == step:
            raise Interrupted

    return stop


def equal(one: Run, other: Run) -> None:
    assert one.state["rate"] == other.state["rate"]
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name])


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 12])
def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path, step: int) -> None:
    whole = Run(tmp_path / "whole.pt").train()
    first = Run(tmp_path / "last.pt")
    first.trainer.add_event_handler("ITERATION_COMPLETED", stop_at(step))
    with pytest.raises(Interrupted):
        first.train()
    second = Run(tmp_path / "last.pt").train()
    equal(whole, second)
    assert second.trainer.state.iteration == 12 and second.trainer.state.epoch == 4
    # epochs that are in the checkpoint are not repeated, the one that was stopped is
    assert second.seen == [(e, b) for e in range((step - 1) // 3 + 1, 5) for b in BATCHES]


def test_stopped_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the one before, and what was half written is in nobody's way."""
    path = tmp_path / "last.pt"
    whole = Run(tmp_path / "whole.pt").train()
    Run(path).train(2)
    before = path.read_bytes()

    def half(content: Any, target: Path) -> None:
        Path(target).write_bytes(before[:1000])
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(module.torch, "save", half)
        with pytest.raises(Interrupted):
            Run(path).train()
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["last.pt", "whole.pt"]
    # a process that is killed leaves its temporary file
    (tmp_path / ".0123456789abcdef.pt").write_bytes(before[:1000])
    equal(whole, Run(path).train())


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    first = Run(path).train()
    before = path.read_bytes()
    again = Run(path).train()
    assert again.seen == [] and path.read_bytes() == before
    equal(first, again)


def test_interval(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    Run(path, interval=3).train(2)
    assert not path.exists()
    Run(path, interval=3).train(5)
    assert torch.load(path, weights_only=True)["trainer"]["iteration"] == 9  # three epochs of three


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.idist, "get_rank", lambda: 1)
    Run(tmp_path / "last.pt").train()
    assert list(tmp_path.iterdir()) == []


def test_the_file_holds_plain_containers(tmp_path: Path) -> None:
    Run(tmp_path / "last.pt").train()
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)) == {"model", "optimizer", "schedule", "trainer"}


def test_it_says_from_where_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.pt"
    with caplog.at_level(logging.INFO, module.__name__):
        Run(path).train(2)
        Run(path).train(3)
    assert f"no checkpoint {path}: training starts from the beginning" in caplog.text
    assert f"going on from {path} after epoch 2" in caplog.text


def test_what_cannot_be_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    Run(path).train(1)
    with pytest.raises(CheckpointError, match=r"last\.pt: training cannot go on.*size mismatch for weight"):
        Run(path, width=3).train()
    Run(path).train(4)
    with pytest.raises(CheckpointError, match=r"last\.pt: training cannot go on.*[Ee]poch"):
        Run(path).train(2)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(CheckpointError, match=r"last\.pt: training cannot go on"):
        Run(path).train()
    with pytest.raises(ValueError, match="interval is 0"):
        TrainingCheckpoint(path, {}, interval=0)


# --- the best network --------------------------------------------------------------------------------------------


METRIC = "psnr/slice/whole"


def keep(path: Path, value: float, figure: float, **changes: Any) -> KeepBest:
    """A handler whose network has one weight, ``value``, after an evaluation with ``figure``."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    handler = KeepBest(path, network, D3GMScheduler(), training={"seed": 7}, **changes)
    evaluator = Engine(lambda engine, batch: engine.state.metrics.update({METRIC: figure, "loss": -figure}))
    handler.attach(evaluator)
    evaluator.run([0], max_epochs=1)
    return handler


def weight_in(path: Path) -> float:
    network = nn.Linear(1, 1, bias=False)
    load_checkpoint(path, network, D3GMScheduler())
    return network.weight.item()


def test_only_a_better_network_replaces_the_file(tmp_path: Path) -> None:
    """Every call is a new handler, as after a restart."""
    path = tmp_path / "model.pt"
    for value, figure, kept in [(1, 20.0, 1), (2, 19.0, 1), (3, 20.0, 1), (4, 20.5, 4), (5, float("nan"), 4)]:
        keep(path, value, figure)
        assert weight_in(path) == kept
    training = read_checkpoint(path)["d3gm"]["training"]
    assert training == {"seed": 7, "metric": METRIC, "figure": 20.5, "epoch": 1}


def test_the_same_handler_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    handler = keep(path, 1, 20.0)
    evaluator = Engine(lambda engine, batch: None)
    for figure, value, kept in [(25.0, 2.0, 2.0), (24.0, 3.0, 2.0)]:
        nn.init.constant_(handler.network.weight, value)  # type: ignore[arg-type]
        evaluator.state.metrics[METRIC] = figure
        handler(evaluator)
        assert weight_in(path) == kept


def test_another_figure(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    keep(path, 1, 20.0, metric="loss")
    keep(path, 2, 19.0, metric="loss")  # the loss is the negative figure here
    assert weight_in(path) == 2
    with pytest.raises(CheckpointError, match=r"model\.pt: not a network chosen by psnr/slice/whole"):
        keep(path, 3, 30.0)
    assert weight_in(path) == 2


def test_a_network_that_was_not_chosen_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, nn.Linear(1, 1), D3GMScheduler(), {}, {"steps": 3})
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="not overwritten"):
        keep(path, 1, 20.0)
    assert path.read_bytes() == before


def test_an_evaluation_without_the_figure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric is 'psnr'; the evaluation gave psnr/slice/whole, loss"):
        keep(tmp_path / "model.pt", 1, 20.0, metric="psnr")
    assert list(tmp_path.iterdir()) == []
