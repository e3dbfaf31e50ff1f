"""Checkpoints: what is written is what is read, and what does not fit is refused with the difference named."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from monai_d3gm.files import TooLargeError
from monai_d3gm.networks.checkpoint import (
    CheckpointError,
    build_scheduler,
    load_checkpoint,
    read_checkpoint,
    save_checkpoint,
    weights_hash,
)
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import D3GMProcess, OrnsteinUhlenbeckProcess


def network(seed: int = 0, **changes: int) -> ConditionalNAFNet:
    torch.manual_seed(seed)
    small = {"width": 4, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,)}
    return ConditionalNAFNet(**(small | changes))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint of the default process, lambda = 10 / 255 and tau = 2."""
    path = tmp_path / "model.pt"
    save_checkpoint(path, network(), D3GMScheduler(), {"percentile": 99.5}, {"steps": 3, "data": ["a", "b"]})
    return path


def test_what_is_written_is_read(file: Path) -> None:
    other, scheduler = network(1), D3GMScheduler()
    info = load_checkpoint(file, other, scheduler)
    for name, tensor in network().state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
    assert info["process"] == D3GMProcess().config()
    assert info["normalization"] == {"percentile": 99.5} and info["training"] == {"steps": 3, "data": ["a", "b"]}
    # rho(1) = ln(a / c) with a = 0.005 and c = 20 / 255 sqrt(1 - a^2)
    lowest = math.log(0.005) - math.log(20 / 255 * math.sqrt(1 - 0.005**2))
    assert info["rho_range"][0] == pytest.approx(lowest, abs=1e-9)
    assert scheduler.rho_range == tuple(info["rho_range"])


def test_the_file_holds_plain_containers_and_has_one_form(file: Path, tmp_path: Path) -> None:
    content = torch.load(file, weights_only=True)
    other = network(1)
    other.load_state_dict(content["model"], strict=True)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network().state_dict().items())
    assert set(content) == {"model", "d3gm", *other.state_dict()}
    one, two = (content[name]["intro.weight"] if name else content["intro.weight"] for name in ("model", ""))
    assert one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()  # stored once
    again = tmp_path / "again.pt"
    save_checkpoint(again, network(), D3GMScheduler(), {"percentile": 99.5}, {"steps": 3, "data": ["a", "b"]})
    assert again.read_bytes() == file.read_bytes()
    assert weights_hash(again) == weights_hash(file) and len(weights_hash(file)) == 64


def test_a_trained_range_that_is_known_is_kept(tmp_path: Path) -> None:
    scheduler = D3GMScheduler(rho_range=(-5.0, 4.0))
    save_checkpoint(tmp_path / "model.pt", network(), scheduler, {}, {})
    assert read_checkpoint(tmp_path / "model.pt")["d3gm"]["rho_range"] == [-5.0, 4.0]


def test_the_schedulers_of_training_and_checkpoint_are_one(tmp_path: Path) -> None:
    scheduler = D3GMScheduler(OrnsteinUhlenbeckProcess("linear"), prediction_type="sample", sigma_data=0.2)
    save_checkpoint(tmp_path / "model.pt", network(), scheduler, {}, {})
    built = build_scheduler(load_checkpoint(tmp_path / "model.pt", network()))
    assert built.process == scheduler.process and built.prediction_type == "sample" and built.sigma_data == 0.2


def test_wrappers_are_taken_off(file: Path, tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = network()

    path = tmp_path / "wrapped.pt"
    save_checkpoint(path, Wrapped(), D3GMScheduler(), {"percentile": 99.5}, {"steps": 3, "data": ["a", "b"]})
    assert path.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 6}, "intro.weight (4, 4, 3, 3) for (4, 6, 3, 3)"),
        ({"width": 8}, "has other shapes: .* more"),
        ({"middle_blocks": 2}, "lacks middle.1.* more"),
        ({"middle_blocks": 0}, "has besides middle.0"),
    ],
)
def test_another_network_is_refused(changes: dict[str, int], words: str, file: Path) -> None:
    other = network(1, **changes)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=words.replace("(", r"\(").replace(")", r"\)")) as error:
        load_checkpoint(file, other, D3GMScheduler())
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_a_process_inside_the_range_may_use_the_weights_and_one_outside_may_not(file: Path) -> None:
    load_checkpoint(file, network(), D3GMScheduler(OrnsteinUhlenbeckProcess("linear")))
    scheduler = D3GMScheduler(D3GMProcess(tau=4.0))
    with pytest.raises(CheckpointError, match="off by -0.6931"):  # ln(2 / 4)
        load_checkpoint(file, network(), scheduler)
    assert scheduler.rho_range is None


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (D3GMScheduler(prediction_type="sample"), "prediction_type is 'sample'"),
        (D3GMScheduler(sigma_data=0.11), "sigma_data is 0.11"),
    ],
)
def test_another_preconditioning_is_refused(scheduler: D3GMScheduler, words: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(file, network(), scheduler)


def test_files_that_are_no_checkpoints_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        read_checkpoint(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        weights_hash(tmp_path / "absent.pt")
    path = tmp_path / "bad.pt"
    for content in (b"", b"text", file.read_bytes()[:-500]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a checkpoint of tensors"):
            read_checkpoint(path)
    torch.save({"model": 3}, path)
    with pytest.raises(CheckpointError, match="lacks the state_dict 'model'"):
        read_checkpoint(path)
    torch.save(network().state_dict(), path)
    with pytest.raises(CheckpointError, match="lacks the state_dict 'model'"):
        read_checkpoint(path)
    torch.save({"model": network().state_dict(), "d3gm": {"process": {}}}, path)
    with pytest.raises(CheckpointError, match="lacks rho_range, prediction_type"):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_the_checkpoints_fault(value: float, file: Path) -> None:
    content = torch.load(file, weights_only=True)
    del content["d3gm"]["tensors_sha256"]
    content["model"]["intro.weight"].view(-1)[0] = value
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"model\.pt: the checkpoint's .* holds NaN or infinity"):
        read_checkpoint(file)


def test_weights_that_were_changed_differ_from_their_hash(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["model"]["intro.weight"].view(-1)[0] += 1
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="their hash differs"):
        read_checkpoint(file)
    del content["d3gm"]["tensors_sha256"]  # as those of earlier versions
    torch.save(content, file)
    assert "tensors_sha256" not in read_checkpoint(file)["d3gm"]


def test_an_archive_that_inflates_beyond_measure_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four mebibytes of zeros, deflated to some kilobytes; bytes and tensors take twice as much."""
    monkeypatch.setenv("D3GM_MAX_MEMORY", "0.1")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/0", bytes(1 << 26))
    with pytest.raises(TooLargeError, match=r"model\.pt: the checkpoint takes 0.125 GiB of memory; accepted"):
        read_checkpoint(file)


def test_what_cannot_be_read_back_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_text("before")
    with pytest.raises(CheckpointError, match="model.pt: not a checkpoint of tensors and plain containers"):
        save_checkpoint(path, network(), D3GMScheduler(), {}, {"loss": np.float32(1)})
    with pytest.raises(CheckpointError, match="MB; accepted"):
        save_checkpoint(path, network(), D3GMScheduler(), {}, {}, max_bytes=1000)
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt"] and path.read_text() == "before"
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "no" / "folder.pt", network(), D3GMScheduler(), {}, {})
