"""Commands in two processes that torchrun starts: training, and evaluations and restorations with the bytes of one.

torchrun and the imports of its processes take most of the time, so that all commands share one start.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_bundle import TRAINED, content, magnitude, make_bundle, two_processes, write_nifti
from test_mri_recon_training import SEVERAL, TRAIN, arguments, last, scalars, small_network, warnings_in

from monai_d3gm.cli.main import main
from monai_d3gm.data import bundled_photographs, read_image, write_image
from monai_d3gm.networks.checkpoint import load_checkpoint

FAST = ("--steps", "1", "--samples", "1", "--no-progress")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles with small networks, and of their inputs."""
    root = tmp_path_factory.mktemp("places")
    for name in ("mri_recon", "derain", "dehaze"):
        make_bundle(root / name, name)
    (root / "volumes").mkdir()
    for subject in ("01", "02", "03"):
        write_nifti(root / "volumes" / f"sub-{subject}_T1w.nii.gz", magnitude(slices=2) * int(subject))
    photograph = read_image(bundled_photographs(["coffee.png"])[0]).data[:, 100:172, 200:264]
    for part, image in (("rain", photograph**2), ("norain", photograph)):
        (root / "pairs" / part).mkdir(parents=True)
        for name in "xyz":
            write_image(root / "pairs" / part / f"{name}.png", image)
    return root


@pytest.fixture(scope="module")
def runs(places: Path) -> dict[str, list[str]]:
    """Commands of d3gm by name; a bundle, its inputs and the place of the results come after the first word."""
    found = {f"mri_recon_{kind}": [kind, "mri_recon", "volumes", "--no-baseline"] for kind in ("restore", "evaluate")}
    for name in ("derain", "dehaze"):  # clean photographs, and pairs
        found[f"{name}_clean"] = ["evaluate", name, "pairs/norain", "--synthetic"]
        found[f"{name}_pairs"] = ["evaluate", name, "pairs"]
    return {
        name: [kind, str(places / bundle), str(places / source), str(places / name), *options, *FAST]
        for name, (kind, bundle, source, *options) in found.items()
    }


@pytest.fixture(scope="module")
def shared(places: Path, runs: dict[str, list[str]]) -> tuple[str, str]:
    """What the training printed, and what the commands after it printed."""
    settings = {"max_epochs": 4, "epoch_length": 10, "learning_rate": 0.01, "train_dataset::length": 8}
    training = arguments(places / "volumes", places / "training", TRAIN, SEVERAL, **settings)
    run = two_processes(["monai.bundle", *training], *runs.values())
    assert run.returncode == 0, run.stdout[-4000:]
    first, _, others = run.stdout.partition(TRAINED)
    return first, others


def test_training(places: Path, shared: tuple[str, str]) -> None:
    """Over the same eight items again and again the loss falls, and only the first process writes."""
    text, output = shared[0], places / "training"
    assert warnings_in(text) == []
    assert text.count("Engine run finished") == 1 and text.count("training starts from the beginning") == 1

    losses = list(scalars(output, "train_loss").values())
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    # one file of the trainer and one of the validation
    assert len(list((output / "tensorboard").iterdir())) == 2
    assert list(scalars(output, "psnr/slice/whole")) == [2, 4]

    trained = last(output)
    for part in ("network", "ema"):
        small_network().load_state_dict(trained[part], strict=True)
    assert trained["trainer"]["iteration"] == 40
    info = load_checkpoint(output / "model.pt", small_network())
    assert info["training"]["batch"] == 4


def test_they_write_the_bytes_of_one(runs: dict[str, list[str]], shared: tuple[str, str], tmp_path: Path) -> None:
    """Volumes, photographs and pairs alike are shared."""
    assert shared[1].count("sub-02_T1w") >= 2
    for name, (kind, bundle, source, output, *options) in runs.items():
        assert main([kind, bundle, source, str(tmp_path / name), *options]) == 0
        assert content(Path(output)) == content(tmp_path / name)
        assert kind == "restore" or set(content(Path(output))) == {"metrics.json"}
