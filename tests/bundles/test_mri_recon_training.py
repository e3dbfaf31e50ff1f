"""The bundle's training as its users run it, with a small network and two small volumes.

A run that is killed is a process of its own; `test_two_processes.py` has runs of several.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from small_bundle import BUNDLE, SMALL, Run, logging_kept, magnitude, write_nifti
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_d3gm.networks.checkpoint import build_scheduler, load_checkpoint
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.sde import D3GMProcess
from monai_d3gm.trust import ErrorMap

ROOT = BUNDLE.parents[1]
TRAIN = str(BUNDLE / "configs" / "train.json")
SEVERAL = str(BUNDLE / "configs" / "multi_gpu_train.json")
SCANNER = str(BUNDLE / "configs" / "train_scanner.json")
ERROR_MAP = str(BUNDLE / "configs" / "train_error_map.json")
REGRESSION = str(ROOT / "benchmarks" / "mri_recon" / "regression.json")
EPOCHS, STEPS = 5, 3
LIMIT = 300
"""Seconds after which a run counts as stuck."""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    write_nifti(folder / "a.nii.gz", magnitude(48, 44, 4))
    write_nifti(folder / "b.nii.gz", np.ascontiguousarray(magnitude(44, 48, 4)[::-1]))
    return folder


def arguments(folder: Path, output: Path, *configs: str, **changes: object) -> list[str]:
    """The command line of a small run, after ``python -m monai.bundle``."""
    settings: dict[str, object] = {
        "config_file": configs[0] if len(configs) == 1 else str(list(configs)),
        "volumes": f"$sorted(str(p) for p in Path({str(folder)!r}).glob('*.nii.gz'))",
        "validation_inputs": folder,
        "validation_interval": 2,
        "output_dir": output,
        "max_epochs": EPOCHS,
        "epoch_length": STEPS,
        "batch_size": 2,
        "train_dataset::widths": [32, 40],
        "train_dataset::height": 48,
        "train_dataset::strip": 16,
        "amp": "$None",
        **{f"network_def::{name}": value for name, value in SMALL.items()},
        **changes,
    }
    return ["run", *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a run as a process of its own; what it prints goes to ``log``."""
    command = [sys.executable, "-m", "monai.bundle", *arguments]
    with log.open("wb") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def run_here(arguments: list[str]) -> tuple[str, list[str]]:
    """Run ``python -m monai.bundle`` in this process; what it printed, and the warnings that a process would show."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        logging_kept(),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)  # as Python does
        patch.setattr(sys, "argv", ["monai.bundle", *arguments])
        patch.setattr(sys, "excepthook", sys.__excepthook__)
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
    return printed.getvalue(), [str(each.message) for each in caught if "parsing config_file" not in str(each.message)]


def small_network(**changes: Any) -> ConditionalNAFNet:
    return ConditionalNAFNet(**{"patch_size": 2, **SMALL, **changes})


def last(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(output / "last.pt", weights_only=True)
    return content


def assert_identical(one: Any, other: Any) -> None:
    """Containers with the same tensors, bit by bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for name in one:
            assert_identical(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


def scalars(output: Path, tag: str) -> dict[int, float]:
    """step -> value of a figure in the TensorBoard folder of a run."""
    events = EventAccumulator(str(output / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def warnings_in(text: str) -> list[str]:
    """Warnings but the one that MONAI 1.6 gives for every bundle that it runs."""
    return [line for line in text.splitlines() if "Warning: " in line and "parsing config_file" not in line]


@pytest.fixture(scope="module")
def whole(volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run that was left alone, and what it printed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    text, warned = run_here(arguments(volumes, output, TRAIN))
    assert warned == []
    return output, text


def test_a_killed_run_ends_as_one_that_was_not(whole: tuple[Path, str], volumes: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log.txt"
    command = arguments(volumes, output, TRAIN)
    process = start(command, log)
    until = time.monotonic() + LIMIT
    while process.poll() is None and not (output / "last.pt").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text()[-4000:]
    stopped = last(output)["trainer"]["iteration"]
    assert stopped % STEPS == 0 and 0 < stopped < EPOCHS * STEPS

    text, _ = run_here(command)
    assert f"going on from {output / 'last.pt'} after epoch {stopped // STEPS}" in text
    assert_identical(last(output), last(whole[0]))
    one, other = (torch.load(folder / "model.pt", weights_only=True) for folder in (output, whole[0]))
    assert_identical(one, other)
    # the steps of both parts are logged, with the losses that they would have had
    assert scalars(output, "train_loss") == scalars(whole[0], "train_loss")


def test_what_a_run_leaves(whole: tuple[Path, str]) -> None:
    output, text = whole
    assert sorted(path.name for path in output.iterdir()) == ["last.pt", "model.pt", "tensorboard"]
    assert f"no checkpoint {output / 'last.pt'}: training starts from the beginning" in text

    content = last(output)
    assert set(content) == {"network", "ema", "optimizer", "lr_scheduler", "trainer"}
    assert content["trainer"]["iteration"] == EPOCHS * STEPS
    for part in ("network", "ema"):
        small_network().load_state_dict(content[part], strict=True)

    network = small_network()
    info = load_checkpoint(output / "model.pt", network)
    scheduler = build_scheduler(info)
    stated = json.loads(Path(TRAIN).read_text())["scheduler"]
    assert scheduler.sigma_data == stated["sigma_data"] and scheduler.prediction_type == stated["prediction_type"]
    assert scheduler.process == D3GMProcess(tau=2.0)
    assert info["normalization"]["percentile"] == 99.5
    training = info["training"]
    assert training["steps"] == EPOCHS * STEPS and training["batch"] == 2 and training["seed"] == 0
    # every second epoch was validated, and the better one kept
    figures = scalars(output, "psnr/slice/whole")
    assert list(figures) == [2, 4]
    assert training["metric"] == "psnr/slice/whole" and training["epoch"] == max(figures, key=lambda k: figures[k])
    assert training["figure"] == pytest.approx(max(figures.values()), rel=1e-6)  # TensorBoard's are float32

    losses = scalars(output, "train_loss")
    assert list(losses) == list(range(1, EPOCHS * STEPS + 1)) and np.isfinite(list(losses.values())).all()


def test_the_regression_of_the_benchmark(volumes: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    output = tmp_path / "run"
    settings = {"max_epochs": 2, "epoch_length": 1, "validation_interval": 1, "amp": "bfloat16"}
    run = monai_bundle(*arguments(volumes, output, TRAIN, REGRESSION, **settings))
    assert run.status == 0, run.err[-4000:]
    assert last(output)["trainer"]["iteration"] == 2
    small_network(in_channels=2).load_state_dict(last(output)["ema"], strict=True)
    assert len(scalars(output, "train_loss")) == 2


def test_training_on_a_random_scanner_and_then_its_error_map(
    volumes: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    small = {"items::widths": [64], "items::heights": [48], "items::strip": 16, "items::coils": [1, 3], "pool": 8}
    small |= {"num_workers": 0, "max_epochs": 1, "epoch_length": 4, "validation_interval": 1}
    command = arguments(volumes, tmp_path / "run", TRAIN, SCANNER, **small)
    for name in ("widths", "height", "strip"):  # of the data set that the overlay replaces
        where = command.index(f"--train_dataset::{name}")
        del command[where : where + 2]
    run = monai_bundle(*command)
    assert run.status == 0, run.err[-4000:]
    assert last(tmp_path / "run")["trainer"]["iteration"] == 4
    assert len(list((tmp_path / "run" / "pool").iterdir())) == 8

    command[command.index("--config_file") + 1] = str([TRAIN, SCANNER, ERROR_MAP])
    command[command.index("--output_dir") + 1] = str(tmp_path / "map")
    run = monai_bundle(*command, "--weights", tmp_path / "run" / "model.pt")
    assert run.status == 0, run.err[-4000:]
    network = ConditionalNAFNet(
        in_channels=ErrorMap.CHANNELS,
        out_channels=1,
        width=16,
        encoder_blocks=(1, 1),
        middle_blocks=2,
        decoder_blocks=(1, 1),
        patch_size=2,
    )
    ErrorMap(network, 0.1, path=tmp_path / "map" / "error_map.pt")


@pytest.mark.parametrize("bundle", ["mri_recon", "mri_sr", "derain", "dehaze"])
@pytest.mark.parametrize(
    ("device", "capability", "dtype"),
    [("cpu", "AVX2", None), ("cpu", "AVX512", "bfloat16"), ("cuda:0", "AVX2", "bfloat16")],
)
def test_bfloat16_is_for_devices_that_compute_in_it(
    bundle: str, device: str, capability: str, dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    parser = ConfigParser()
    parser.read_config(str(ROOT / "bundles" / bundle / "configs" / "train.json"))
    parser["device"] = device
    assert parser.get_parsed_content("amp") == dtype


BAD_ARGUMENTS: dict[str, tuple[dict[str, object], list[str]]] = {
    "unknown key": ({"learning_rat": 0.1}, ["unknown key --learning_rat", "--learning_rate"]),
    "text for a number": ({"max_epochs": "many"}, ["max_epochs is 'many'", "a number"]),
    "share": ({"share_at_one": 2}, ["share_at_one is 2"]),
    "precision": ({"amp": "float64"}, ["amp is 'float64'"]),
    "no volumes": ({"volumes": []}, ["volumes is empty"]),
    "an empty folder": (
        {"volumes": "$[{'paths': sorted(Path(@output_dir).glob('*.nii.gz'))}]"},
        ["volumes: group 0 of 1 has no file"],
    ),
    "no data set": (
        {"dataset_dir": "/no/such/folder", "volumes": "$[@dataset_dir + '/sub-01_T1w.nii.gz']"},
        ["volumes: /no/such/folder/sub-01_T1w.nii.gz: no such file"],
    ),
    "no validation": ({"validation_inputs": "/no/such/folder"}, ["/no/such/folder: no such file or folder"]),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name: str, volumes: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    changes, words = BAD_ARGUMENTS[name]
    output = tmp_path / "run"
    refused(monai_bundle(*arguments(volumes, output, TRAIN, **changes)), *words)
    assert not output.exists()


def refused(run: Run, *words: str) -> None:
    """The run ended with an error whose last line has the words."""
    assert run.status == 1
    assert run.last_line.startswith("error: "), run.err[-2000:]
    for word in words:
        assert word in run.last_line


def test_the_data_set_of_the_configuration_is_missing(tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    output, data = tmp_path / "run", tmp_path / "data"
    run = monai_bundle("run", "--config_file", TRAIN, "--dataset_dir", data, "--output_dir", output)
    refused(run, "volumes: ", str(data), "no such file")
    assert not output.exists()


def test_an_output_that_is_a_file(volumes: Path, tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    output = tmp_path / "file"
    output.write_text("not a folder")
    refused(monai_bundle(*arguments(volumes, output, TRAIN)), str(output), "cannot be written")
    assert output.read_text() == "not a folder"


def test_a_checkpoint_of_another_network(
    whole: tuple[Path, str], volumes: Path, tmp_path: Path, monai_bundle: Callable[..., Run]
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    before = (whole[0] / "last.pt").read_bytes()
    (output / "last.pt").write_bytes(before)
    run = monai_bundle(*arguments(volumes, output, TRAIN, **{"network_def::width": 8}))
    refused(run, str(output / "last.pt"), "training cannot go on", "size mismatch")
    assert (output / "last.pt").read_bytes() == before
