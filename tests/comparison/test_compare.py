"""An experiment from its file to its report, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_experiment import write_experiment, write_photographs

from monai_d3gm.cli.main import main
from monai_d3gm.comparison import Experiment, ExperimentError, compare
from monai_d3gm.comparison.evaluation import crps
from monai_d3gm.comparison.report import final_table, seed_interval, verdicts
from monai_d3gm.comparison.training import train
from monai_d3gm.data import SimulatedWeatherDataset
from monai_d3gm.networks.checkpoint import read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:no LPIPS")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data") / "photographs", 8)


@pytest.fixture(scope="module")
def finished(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The experiment's file and its folder after an undisturbed run."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_experiment(folder / "experiment.json", photographs)
    assert main(["compare", str(config), str(folder / "out"), "--no-progress"]) == 0
    return config, folder / "out"


def results_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def test_what_is_written(finished: tuple[Path, Path]) -> None:
    config, output = finished
    results = results_of(output)
    assert results["coincide"] == {"D3GM": "OU"}  # 2 * 0.04 = 0.08: one process, trained once
    assert set(results["networks"]) == {"SGM", "OU"} and set(results["networks"]["OU"]) == {"0", "1"}
    final = [row for row in results["final"] if row["method"] != "input"]
    assert {(row["method"], row["seed"], row["subject"]) for row in final} == {
        (m, s, p) for m in ("SGM", "OU") for s in (0, 1) for p in ("p6", "p7")
    }
    assert {row["subject"] for row in results["choosing"]} == {"p4", "p5"}
    assert results["machine"]["versions"]["torch"] == torch.__version__
    page = (output / "report.html").read_text()
    assert "D3GM (the same as OU)" in page and 'src="http' not in page and "no LPIPS" in page
    for picture in (output / "figures").iterdir():
        with Image.open(picture) as image:
            assert image.width > 300


def test_the_chosen_settings_are_the_best_of_the_choice(finished: tuple[Path, Path]) -> None:
    """By the definition: the mean over subjects and seeds of each setting's rows."""
    results = results_of(finished[1])
    for method, chosen in results["chosen"].items():
        means: dict[int, list[float]] = {}
        for row in results["choosing"]:
            if row["method"] == method:
                means.setdefault(row["evaluations"], []).append(row["psnr"])
        best = max(means, key=lambda steps: np.mean(means[steps]))
        assert chosen["psnr"]["sampler"]["steps"] == best


def test_the_networks_begin_alike_and_see_the_same_items(finished: tuple[Path, Path], photographs: Path) -> None:
    experiment = Experiment(finished[0])
    first = {}
    for name in ("SGM", "OU"):
        parser = experiment.parser(name, seed=3)
        torch.manual_seed(3)
        network = parser.get_parsed_content("network_def")
        dataset = parser.get_parsed_content("train_dataset")
        first[name] = [network.state_dict()["intro.weight"], dataset[5]["mu"], dataset[5]["image"]]
    for one, other in zip(first["SGM"], first["OU"], strict=True):
        assert torch.equal(one, other)


def test_a_killed_run_goes_on_with_the_same_results(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in the middle of the second epoch of a training, and after the first figures; the undisturbed run
    says what has to come out."""
    config, output = finished
    item = SimulatedWeatherDataset.__getitem__

    def killed(self: SimulatedWeatherDataset, index: int) -> Any:
        if index == 6:  # batches of 2, epochs of 2: the second batch of the second epoch
            raise KeyboardInterrupt
        return item(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(SimulatedWeatherDataset, "__getitem__", killed)
        assert main(["compare", str(config), str(tmp_path), "--no-progress"]) == 130
    assert (tmp_path / "networks" / "SGM" / "seed0" / "last.pt").is_file()
    assert not (tmp_path / "networks" / "SGM" / "seed0" / "model.pt").exists()

    draws = []
    from monai_d3gm.comparison.evaluation import Evaluator

    draw = Evaluator._draw

    def interrupted(self: Evaluator, *arguments: Any) -> Any:
        draws.append(1)
        if len(draws) == 6:
            raise KeyboardInterrupt
        return draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "_draw", interrupted)
        assert main(["compare", str(config), str(tmp_path), "--no-progress"]) == 130
    assert len(list((tmp_path / "rows").iterdir())) == 5
    assert main(["compare", str(config), str(tmp_path), "--no-progress"]) == 0
    assert results_of(tmp_path) == results_of(output)
    for name in ("SGM", "OU"):
        one, other = (
            read_checkpoint(f / "networks" / name / "seed0" / "model.pt")["model"] for f in (tmp_path, output)
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_training_is_refused(finished: tuple[Path, Path], photographs: Path, tmp_path: Path) -> None:
    _, output = finished
    changed = write_experiment(tmp_path / "other.json", photographs)
    content = json.loads(changed.read_text())
    content["common"]["learning_rate"] = 0.5
    changed.write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match="holds another training of SGM"):
        compare(Experiment(changed), output, progress=False)


def test_one_network_for_all_processes(photographs: Path, tmp_path: Path) -> None:
    """A mixture covers each of its processes; one of a single process leaves others out and says why."""
    sgm = {"name": "VariancePreservingProcess"}
    methods = {
        "SGM": {"network": "one", "process": sgm},
        "bridge": {"network": "one", "process": {"name": "OrnsteinUhlenbeckBridge"}},
        "SGM by OU": {"network": "OU", "process": sgm},
    }
    mixture = {
        "prepare_batch": {
            "_target_": "monai_d3gm.engines.ProcessMixturePrepareBatch",
            "scheduler": "@scheduler",
            "seed": "@seed",
            "processes": [
                {"_target_": "monai_d3gm.sde.VariancePreservingProcess"},
                {"_target_": "monai_d3gm.sde.OrnsteinUhlenbeckBridge"},
            ],
        }
    }
    config = write_experiment(
        tmp_path / "one.json",
        photographs,
        networks={"one": mixture, "OU": {"process": {"_target_": "monai_d3gm.sde.OrnsteinUhlenbeckProcess"}}},
        methods=methods,
        settings=[{"steps": 2, "order": 1, "eta": 1.0, "start_noise": 0.3}],
        seeds=[0],
        reference="SGM",
        lipschitz=True,
    )
    results = compare(Experiment(config), tmp_path / "out", progress=False)
    assert {row["method"] for row in results.final} == {"SGM", "bridge", "input"}
    assert list(results.refused) == ["SGM by OU"] and "was trained for rho" in results.refused["SGM by OU"]
    assert all(row["evaluations"] == 3 for row in results.final if row["method"] == "SGM")  # the estimate's is counted
    assert results.lipschitz["one"][0] > 0
    information = read_checkpoint(tmp_path / "out" / "networks" / "one" / "seed0" / "model.pt")["d3gm"]
    assert information["rho_range"][0] == -20  # the bridge's end
    assert information["process"]["name"] == "D3GMProcess"  # train.json's, not the last batch's


def test_the_plan_names_everything_and_writes_nothing(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["compare", str(finished[0]), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "network SGM: 6 steps of 2" in out and "D3GM: D3GMProcess" in out and "the same as OU" in out
    # 2 settings of 1 and 3 evaluations, 2 samples each, 2 images, 2 methods, 2 seeds
    assert "choosing: 2 settings, 64 evaluations" in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": [0]}, "has the key 'seed'; accepted: seeds"),
        ({"networks": {}}, "networks missing"),
        ({"settings": [{"stepz": 1}]}, "has the key 'stepz'; accepted: steps"),
        ({"settings": []}, "settings missing"),
        ({"choosing": {}}, "choosing is missing"),
        ({"criteria": ["ssim"]}, "criteria is"),
        ({"reference": "none"}, "reference is 'none'"),
        ({"final": {"a": {"data": {}}}}, "data has no _target_"),
        ({"networks": {"a": {"lerning_rate": 1}}}, "has the key 'lerning_rate'; accepted: learning_rate"),
        ({"methods": {"a": {"network": "b"}}}, "network is 'b'"),
        ({"seeds": [1, 1]}, "each once"),
        ({"choosing_seeds": [2]}, "choosing_seeds is"),
    ],
)
def test_what_is_not_accepted_is_named(
    photographs: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExperimentError, match=message):
        Experiment(write_experiment(tmp_path / "experiment.json", photographs, **changes))


def test_an_unknown_subject_and_missing_weights_are_named(photographs: Path, tmp_path: Path) -> None:
    config = write_experiment(tmp_path / "a.json", photographs, subjects="^(kodim)", seeds=[0])
    with pytest.raises(ExperimentError, match="not found in the item 'p4:0'"):
        compare(Experiment(config), tmp_path / "out", progress=False)
    config = write_experiment(tmp_path / "b.json", photographs, networks={"given": {"weights": "/no/such.pt"}})
    with pytest.raises(ExperimentError, match="no such file: /no/such.pt"):
        train(Experiment(config), "given", 0, tmp_path)


def test_crps_is_unbiased() -> None:
    """For samples and truth of one normal law the fair CRPS has the mean sigma / sqrt(pi), whatever their number."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200_000)
    for count in (2, 5):
        value = crps(rng.normal(size=(count, len(truth))), truth)
        assert value == pytest.approx(1 / np.sqrt(np.pi), abs=5e-3)


def test_verdicts_follow_the_intervals() -> None:
    """Differences of 1 dB in every seed are a gain; differences that change sign with the seed are none."""

    def rows(method: str, values: list[float]) -> list[dict[str, Any]]:
        return [
            {
                "condition": "c",
                "method": method,
                "seed": s,
                "subject": "a",
                "psnr": v,
                "chosen_by": ["psnr"],
                "setting": "",
            }
            for s, v in enumerate(values)
        ]

    results = {
        "experiment": {"reference": "D3GM", "final": {"c": {}}},
        "methods": {"worse": {}, "alike": {}, "D3GM": {}},
        "coincide": {},
        "final": rows("D3GM", [30.0, 31.0, 32.0])
        + rows("worse", [29.0, 30.1, 30.9])
        + rows("alike", [31.0, 30.0, 32.0]),
    }
    worse, alike = verdicts(results, "c", "psnr")
    assert worse.endswith("D3GM is better.") and alike.endswith("no difference beyond the intervals.")
    assert "PSNR (dB) +1.00 [" in worse and "over 3 seeds" in worse
    mean, half = seed_interval([30.0, 31.0, 32.0])
    assert final_table(results, "c", "psnr")[-1]["PSNR (dB)"] == f"{mean:.2f} ± {half:.2f}"
