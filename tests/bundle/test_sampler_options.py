"""What ran is what is recorded: every option of the sampler, set in every way there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sampler_options import CHOSEN
from small_bundle import Run, logging_kept, magnitude, make_bundle, monai_command, write_nifti

from monai_d3gm.bundle import INFERENCE, make_workflow
from monai_d3gm.cli.main import main
from monai_d3gm.comparison.settings import settings_from
from monai_d3gm.inferers import RestorationInferer, restoration
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import D3GMProcess, Sampler

IN_A_BUNDLE = {name: value for name, value in CHOSEN.items() if name != "start"}  # which has no estimate to start from


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sampler, list[float]]]:
    """The sampler and the times of every trajectory that is drawn."""
    seen: list[tuple[Sampler, list[float]]] = []
    draw = restoration.sample

    def sample(*arguments: Any, **options: Any) -> torch.Tensor:
        seen.append((options["sampler"], options["times"]))
        return draw(*arguments, **options)

    monkeypatch.setattr(restoration, "sample", sample)
    return seen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle whose network is untrained, so that its images stay far from the measurement: no limit to that."""
    folder = make_bundle(tmp_path / "mri_recon")
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["evaluator"]["worst_residual"] = None
    file.write_text(json.dumps(config))
    return folder


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "scan.nii.gz", magnitude(16, 16, 1))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    return monai_command(monkeypatch, capfd)


def check(ran: list[tuple[Sampler, list[float]]], recorded: Any, expected: dict[str, Any]) -> None:
    """What was drawn is what is recorded, and both are what was asked for."""
    assert ran and all(sampler.config() == recorded for sampler, _ in ran)
    assert expected.items() <= recorded.items()
    times = Sampler(**recorded).times(D3GMProcess()).tolist()
    assert all(each == times for _, each in ran)


def recorded_in(folder: Path) -> Any:
    (report,) = folder.glob("*metrics.json")
    return json.loads(report.read_text())["parameters"]["sampler"]


def test_in_python(ran: list[tuple[Sampler, list[float]]]) -> None:
    network = ConditionalNAFNet(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
    chosen = CHOSEN | {"last_prior_scales": []}  # without a measurement
    restore = RestorationInferer(D3GMScheduler(), Sampler(**chosen))
    mu = torch.zeros(1, 2, 8, 8)
    restore(mu, network, initial=mu)
    check(ran, restore.config()["sampler"], chosen)


def test_in_a_second_config_file(
    ran: list[tuple[Sampler, list[float]]], root: Path, scan: Path, tmp_path: Path, command: Callable[..., Run]
) -> None:
    first, second = root / "configs" / "inference.json", root / "configs" / "mine.json"
    second.write_text(json.dumps({f"sampler::{name}": value for name, value in IN_A_BUNDLE.items()}))
    files = f"['{first}','{second}']"
    options = ["--dataset_dir", scan, "--output_dir", tmp_path / "out", "--baseline", "False"]
    run = command("run", "--config_file", files, *options)
    assert run.status == 0, run.err
    check(ran, recorded_in(tmp_path / "out"), IN_A_BUNDLE)


def test_on_monais_command_line(
    ran: list[tuple[Sampler, list[float]]], root: Path, scan: Path, tmp_path: Path, command: Callable[..., Run]
) -> None:
    options = [text for name, value in IN_A_BUNDLE.items() for text in (f"--sampler::{name}", value)]
    options += ["--dataset_dir", scan, "--output_dir", tmp_path / "out", "--baseline", "False"]
    run = command("run", "--config_file", root / "configs" / "inference.json", *options)
    assert run.status == 0, run.err
    check(ran, recorded_in(tmp_path / "out"), IN_A_BUNDLE)


@pytest.mark.parametrize("kind", ["restore", "evaluate"])
def test_on_the_command_line_of_d3gm(
    kind: str, ran: list[tuple[Sampler, list[float]]], root: Path, scan: Path, tmp_path: Path
) -> None:
    flags = {"steps": ["--steps", "3"], "order": ["--order", "1"], "eta": ["--eta", "0.5", "1.5"]}
    options = [text for words in flags.values() for text in words]
    for name, value in IN_A_BUNDLE.items():
        if name not in flags:
            options += ["--sampler", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    with logging_kept():
        assert main([kind, str(root), str(scan), str(tmp_path / "out"), *options, "--no-baseline"]) == 0
    check(ran, recorded_in(tmp_path / "out"), IN_A_BUNDLE)


def test_in_an_experiment() -> None:
    """A list is a choice of values there, so that a value that is one stands in a list."""
    entry = {name: [value] if isinstance(value, list) else value for name, value in CHOSEN.items()}
    (setting,) = settings_from([entry])
    inferer = setting.inferer(D3GMScheduler(), seed=0)
    assert inferer.config()["sampler"] == inferer.sampler.config() == CHOSEN
    assert inferer.times == Sampler(**CHOSEN).times(D3GMProcess()).tolist()


@pytest.mark.parametrize("bundle", ["mri_recon", "mri_sr", "derain", "dehaze"])
def test_an_experiment_can_express_what_ships(bundle: str, tmp_path: Path) -> None:
    parsed = make_workflow(make_bundle(tmp_path / bundle, bundle), INFERENCE, {}).parser.get_parsed_content
    config = parsed("sampler").config()
    (setting,) = settings_from(
        [{name: [value] if isinstance(value, list) else value for name, value in config.items()}]
    )
    assert setting.inferer(parsed("scheduler"), 0).sampler == parsed("sampler")


@pytest.mark.parametrize("name", CHOSEN)
def test_one_option_changes_itself_alone(name: str, root: Path) -> None:
    value = CHOSEN[name]
    before = make_workflow(root, INFERENCE, {}).parser.get_parsed_content("record")["sampler"]
    parsed = make_workflow(root, INFERENCE, {f"sampler::{name}": value}).parser.get_parsed_content
    assert parsed("record")["sampler"] == parsed("inferer").sampler.config() == {**before, name: value}


def test_the_other_keys_of_a_run_are_recorded_as_they_ran(root: Path) -> None:
    """By their own key, or past it, in the component that takes them."""
    keys = {"num_samples": 3, "fidelity": 0.5, "seed": 7, "roi_size": 32, "batch_size": 2}
    for prefix in ("", "inferer::"):
        given = {f"{prefix}{key}": value for key, value in keys.items()}
        parsed = make_workflow(root, INFERENCE, {**given, "num_inference_steps": 4}).parser.get_parsed_content
        assert keys.items() <= parsed("record").items() and parsed("record")["sampler"]["steps"] == 4
        assert parsed("record") == parsed("parameters") | parsed("inferer").config()
    amp = make_workflow(root, INFERENCE, {"inferer::amp": "bfloat16"}).parser.get_parsed_content("record")["amp"]
    assert amp == "bfloat16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("temprature=3", "unknown key sampler::temprature; did you mean temperature?"),
        ("temperature=$1", "accepted: NAME=VALUE"),
        ('clip=["$1", 2]', "accepted: NAME=VALUE"),
        ("temperature", "accepted: NAME=VALUE"),
        ("temperature=-1", "temperature is -1.0; accepted: at least 0"),
        ("temperature=warm", "temperature is 'warm'; accepted: finite numbers"),
    ],
)
def test_what_no_sampler_has_is_refused(
    words: str, message: str, root: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_kept():
        assert main(["restore", str(root), str(scan), str(tmp_path / "out"), "--sampler", words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("d3gm: error: ") and message in last
    assert not (tmp_path / "out").exists()
