"""The recipes of the paper's tables find generated data of the layout that each data set has, and train on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_bundle import full_kspace, magnitude, write_nifti

from monai_d3gm.cli.main import main
from monai_d3gm.comparison import Experiment
from monai_d3gm.comparison.training import train
from monai_d3gm.data import ImagePairCropDataset, find_pairs, write_image, write_kspace
from monai_d3gm.networks.schedulers import D3GMScheduler

RECIPES = Path(__file__).resolve().parents[2] / "benchmarks" / "reproduce"
EXPERIMENTS = sorted((RECIPES.parent / "compare").glob("*.json"))


def write_pairs(root: Path, degraded: str, clean: str, numbers: range, extent: tuple[int, int] = (40, 44)) -> None:
    """Pairs of constant pictures, but for one corner, under two patterns."""
    for number in numbers:
        for pattern, value in ((degraded, 0.3), (clean, 0.6)):
            path = root / pattern.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.full((3, *extent), value, np.float32)
            image[:, :5, :9] = number / 2000
            write_image(path, image)


def rain100(letter: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_pairs(root, f"RainTrain{letter}/rain-{{}}.png", f"RainTrain{letter}/norain-{{}}.png", counts(letter))
        test = f"Rain100{letter}"
        write_pairs(root, f"{test}/rain/rain-{{:03d}}.png", f"{test}/norain/norain-{{:03d}}.png", range(1, 101))

    return write


def counts(letter: str) -> range:
    manifest = (
        Path(__file__).resolve().parents[2] / f"monai_d3gm/data/collections/manifests/rain100{letter.lower()}.json"
    )
    train = json.loads(manifest.read_text())["splits"]["train"]
    return range(train["first"], train["last"] + 1)


def o_haze(root: Path) -> None:
    write_pairs(root, "hazy/{:02d}_outdoor_hazy.png", "GT/{:02d}_outdoor_GT.png", range(1, 46))


def dense_haze(root: Path) -> None:
    write_pairs(root, "hazy/{:02d}_hazy.png", "GT/{:02d}_GT.png", range(1, 56))


def fastmri(root: Path) -> None:
    for folder, columns in (("singlecoil_train", (96, 112)), ("singlecoil_val", (96,))):
        (root / folder).mkdir(parents=True)
        for width in columns:
            write_kspace(root / folder / f"file{width}.h5", full_kspace(192, width), recon_size=(96, width))


def ixi(root: Path) -> None:
    root.mkdir(parents=True)
    small = magnitude(24, 20, 3)
    for site, numbers in (("HH", range(184)), ("Guys", range(200, 230)), ("IOP", range(300, 330))):
        for number in numbers:
            write_nifti(root / f"IXI{number:03d}-{site}-{1000 + number}-T2.nii.gz", small)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "rain100h": rain100("H"),
    "rain100l": rain100("L"),
    "o_haze": o_haze,
    "dense_haze": dense_haze,
    "fastmri_knee_phase": fastmri,
    "fastmri_knee_frequency": fastmri,
    "ixi": ixi,
}
SMALL: dict[str, Any] = {
    "max_epochs": 1,
    "epoch_length": 1,
    "batch_size": 2,
    "num_workers": 0,
    "amp": None,
    "network_def::width": 4,
    "network_def::encoder_blocks": [1],
    "network_def::decoder_blocks": [1],
}


def test_every_recipe_is_tested() -> None:
    assert {file.stem for file in RECIPES.glob("*.json")} == set(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_the_recipe_finds_its_data_and_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run of the command as it stands; then a step of a small network on the recipe's own data sets."""
    LAYOUTS[name](tmp_path / "data")
    recipe = RECIPES / f"{name}.json"
    assert main(["compare", str(recipe), "--dry-run", "--dataset-dir", str(tmp_path / "data")]) == 0
    out = capsys.readouterr().out
    assert "network D3GM: 300000 steps of 16" in out
    tested = {"rain100h": 100, "rain100l": 100, "o_haze": 5, "dense_haze": 5, "ixi": 37 * 3}
    assert f"{tested.get(name, 2)} images" in out
    content = json.loads(recipe.read_text())
    process = content["networks"]["D3GM"]["process"]
    assert (process["schedule"], process["stationary_std"], process["tau"]) == ("cosine_nichol", "$10 / 255", 2.0)

    content["common"] |= SMALL
    dataset = content["common"].get("train_dataset", {})
    dataset |= {key: 16 for key in ("crop", "strip") if key in dataset}
    if name == "ixi":
        content["common"]["train_dataset::patch"] = 16
        content["common"]["volumes"][0]["central"] = 3
    small = tmp_path / "small.json"
    small.write_text(json.dumps(content))
    experiment = Experiment(small, {"dataset_dir": str(tmp_path / "data")})
    assert train(experiment, "D3GM", 0, tmp_path / "out", progress=False).is_file()


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_experiments_are_read_and_their_samplers_made(file: Path) -> None:
    """All but their data, which is not here."""
    experiment = Experiment(file, {"dataset_dir": "/no/such/folder"})
    for method in experiment.methods.values():
        for setting in experiment.settings:
            setting.inferer(D3GMScheduler(method.process), 0)
    assert experiment.component("to_image") is not None or experiment.component("clip") == [0.0, 1.0]
    if "D3GM" in experiment.methods and len(experiment.methods) == 6:
        assert len(experiment.coincide) == 1  # OU at its own best


def test_crops_of_pairs_are_turned_alike_and_are_functions_of_seed_and_index(tmp_path: Path) -> None:
    write_pairs(tmp_path, "rain/{}.png", "norain/{}.png", range(1, 4))
    dataset = ImagePairCropDataset(find_pairs(tmp_path), 40, seed=1, crop=32)
    again = ImagePairCropDataset(find_pairs(tmp_path), 40, seed=1, crop=32)
    for index in (39, 0, 7):
        item, other = dataset[index], again[index]
        assert torch.equal(item["mu"], other["mu"]) and item["image"].shape == (3, 32, 32)
        corner = item["image"] != item["image"].max()
        assert torch.equal(corner, item["mu"] != item["mu"].max())  # the corner lies at one place in both
    assert not torch.equal(dataset[1]["mu"], dataset[2]["mu"]) or dataset[1]["key"] != dataset[2]["key"]
    with pytest.raises(ValueError, match="44 x 40 and 44 x 40 pixels; accepted: one size, from 64 up"):
        ImagePairCropDataset(find_pairs(tmp_path), 1, crop=64)[0]
    with pytest.raises(ValueError, match="pairs is empty"):
        ImagePairCropDataset([], 1)
