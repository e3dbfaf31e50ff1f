"""Pairs in the layouts of the known data sets, on generated folders of the same shape; what is missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_d3gm.data import ImageFileError, ImagePairDataset, find_pairs, write_image
from monai_d3gm.data.collections.pairs import PHOTOGRAPH_SETS, ImagePair, PairError, match_pairs, read_manifest

# split -> (first, last) as the papers have them: 1800/100, 200/100, 1800/200, and the last five as test
SPLITS = {
    "rain100h": {"train": (1, 1800), "test": (1, 100)},
    "rain100l": {"train": (1, 200), "test": (1, 100)},
    "rain200h": {"train": (1, 1800), "test": (1, 200)},
    "rain200l": {"train": (1, 1800), "test": (1, 200)},
    "o-haze": {"train": (1, 40), "test": (41, 45)},
    "dense-haze": {"train": (1, 50), "test": (51, 55)},
}

LAYOUTS = [
    ("rain100h", "test", "Rain100H/rainy/rain-{:03d}.png", "Rain100H/norain-{:03d}.png", 100),
    ("rain100h", "train", "RainTrainH/rain-{}.png", "RainTrainH/norain-{}.png", 1800),
    ("rain100l", "test", "test/input/{}.png", "test/target/{}.png", 100),
    (
        "rain200h",
        "test",
        "rain_data_test_Heavy/rain/X2/norain-{}x2.png",
        "rain_data_test_Heavy/norain/norain-{}.png",
        200,
    ),
    ("o-haze", "train", "hazy/{:02d}_outdoor_hazy.jpg", "GT/{:02d}_outdoor_GT.jpg", 45),
    ("o-haze", "test", "O-HAZE/hazy/{:02d}_outdoor_hazy.jpg", "O-HAZE/GT/{:02d}_outdoor_GT.jpg", 45),
    ("dense-haze", "test", "hazy/{:02d}_hazy.png", "GT/{:02d}_GT.png", 55),
]


def fill(root: Path, *patterns: str, count: int) -> None:
    for pattern in patterns:
        (root / pattern).parent.mkdir(parents=True, exist_ok=True)
        for number in range(1, count + 1):
            (root / pattern.format(number)).touch()


def test_the_manifests_have_the_papers_splits() -> None:
    found = {
        name: {s: (p["first"], p["last"]) for s, p in read_manifest(name)["splits"].items()} for name in PHOTOGRAPH_SETS
    }
    assert found == SPLITS


@pytest.mark.parametrize(("dataset", "split", "degraded", "clean", "count"), LAYOUTS)
def test_known_layouts(dataset: str, split: str, degraded: str, clean: str, count: int, tmp_path: Path) -> None:
    fill(tmp_path, degraded, clean, count=count)
    pairs = find_pairs(tmp_path, dataset=dataset, split=split)
    first, last = SPLITS[dataset][split]
    assert [pair.id for pair in pairs] == [str(number) for number in range(first, last + 1)]
    assert pairs[-1].degraded == tmp_path / degraded.format(last) and pairs[-1].clean == tmp_path / clean.format(last)
    pairs[3].degraded.unlink()
    pairs[4].clean.unlink()
    with pytest.raises(PairError, match=f"missing: {first + 3}; without a clean partner: .*{pairs[4].degraded.name}"):
        find_pairs(tmp_path, dataset=dataset, split=split)


def test_any_two_folders_and_patterns(tmp_path: Path) -> None:
    fill(tmp_path, "wet/img_{}_wet.jpg", "dry/img_{:04d}.PNG", count=12)
    pairs = match_pairs(tmp_path, "wet/img_{id}_wet", "dry/img_{id}.png")
    assert [pair.id for pair in pairs] == [str(number) for number in range(1, 13)]  # by number, not by text
    assert pairs == find_pairs("/", str(tmp_path / "wet" / "img_{id}_wet"), str(tmp_path / "dry" / "img_{id}"))
    (tmp_path / "dry" / "img_0007.PNG").unlink()
    (tmp_path / "wet" / "img_9_wet.jpg").unlink()
    with pytest.raises(PairError, match=r"2 unmatched: .*img_7_wet.jpg has no partner .*img_0009.PNG has no partner"):
        match_pairs(tmp_path, "wet/img_{id}_wet", "dry/img_{id}.png")


def test_known_folders_are_tried(tmp_path: Path) -> None:
    with pytest.raises(PairError, match="no pairs found; tried: input/{id} with target/{id}"):
        find_pairs(tmp_path)
    fill(tmp_path, "hazy/scene{}.png", "GT/scene{}.png", count=2)
    assert [pair.id for pair in find_pairs(tmp_path)] == ["scene1", "scene2"]


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    for arguments, message in [
        ({"dataset": "rain"}, "dataset is 'rain'; accepted: rain100h"),
        ({"dataset": "o-haze", "split": "dev"}, "split is 'dev'; accepted: train, test"),
        ({"dataset": "o-haze"}, "no picture of O-HAZE"),
        ({"degraded": "a/{id}"}, "accepted: both patterns, or neither"),
        ({"degraded": "a", "clean": "b/{id}"}, "with {id} once"),
        ({"degraded": "{id}/a.png", "clean": "b/{id}"}, "{id} in the name of the file"),
        ({"degraded": "a/{id}", "clean": "b/{id}"}, "no files a/{id} and b/{id}"),
    ]:
        with pytest.raises(ValueError, match=message):
            find_pairs(tmp_path, **arguments)
    with pytest.raises(PairError, match="no such folder"):
        find_pairs(tmp_path / "missing")
    fill(tmp_path, "a/{}.png", "a/{:02d}.png", "b/{}.png", count=1)
    with pytest.raises(PairError, match="are the same picture"):
        find_pairs(tmp_path, "a/{id}", "b/{id}")


def test_pairs_become_items_and_two_sizes_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, shape in (("a", (3, 20, 24)), ("b", (3, 20, 24)), ("c", (3, 24, 20))):
        write_image(tmp_path / f"{name}.png", rng.random(shape))
    a, b, c = (tmp_path / f"{name}.png" for name in "abc")
    dataset = ImagePairDataset([ImagePair("1", a, b), ImagePair("2", a, c)])
    assert len(dataset) == 1 and dataset[0]["key"] == "a:0" and dataset.volumes[0].has_truth
    assert not (dataset[0]["mu"] == dataset[0]["reference"]).all()
    with pytest.raises(
        ImageFileError, match="a.png: it and .*c.png have 24 x 20 and 20 x 24 pixels; accepted: one size"
    ):
        dataset.check_refused()
    with pytest.raises(ValueError, match="pairs is empty"):
        ImagePairDataset([])
