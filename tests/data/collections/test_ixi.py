"""IXI's names and the split of the paper, on a generated folder of the same shape as IXI's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser
from small_bundle import BUNDLE, SMALL, Run, magnitude

from monai_d3gm.data.collections.ixi import MANIFEST, IxiError, find_ixi, ixi_paths, ixi_split, parse_name
from monai_d3gm.data.training.pictures import Pictures

COUNTS = {"HH": 184, "Guys": 30, "IOP": 30}
SPLITS = {"train": 129, "validation": 18, "test": 37, "test_guys": 30, "test_iop": 30}
"""7:1:2 of 184, rounded, and 30 of each of the other sites."""


def write_ixi(folder: Path, counts: dict[str, int], data: np.ndarray | None = None) -> Path:
    """T2 volumes with names like IXI's; of their 62 slices the values are the numbers plus 100, unless given."""
    (folder / "IXI-T2").mkdir(parents=True)
    data = np.broadcast_to(np.arange(100, 162, dtype=np.int16), (6, 5, 62)) if data is None else data
    content = nibabel.Nifti1Image(data, np.diag([0.9375, 0.9375, 1.25, 1])).to_bytes()
    number = 2
    for site, count in counts.items():
        for _ in range(count):
            (folder / "IXI-T2" / f"IXI{number:03}-{site}-{700 + number:04}-T2.nii").write_bytes(content)
            number += 1
    return folder


@pytest.fixture(scope="module")
def ixi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ixi(tmp_path_factory.mktemp("ixi"), COUNTS)


def test_the_papers_split(ixi: Path) -> None:
    splits = ixi_split(ixi)
    assert {name: len(files) for name, files in splits.items()} == SPLITS
    subjects = [file.subject for files in splits.values() for file in files]
    assert len(set(subjects)) == len(subjects) == sum(COUNTS.values())
    sites = {name: {file.site for file in files} for name, files in splits.items()}
    assert sites == {
        **dict.fromkeys(("train", "validation", "test"), {"HH"}),
        "test_guys": {"Guys"},
        "test_iop": {"IOP"},
    }
    assert ixi_paths(ixi, "test_iop") == [str(file.path) for file in splits["test_iop"]]
    assert all(Path(path).is_file() for path in ixi_paths(ixi, "train"))


def test_the_split_is_of_subjects_and_the_same_every_time(ixi: Path, tmp_path: Path) -> None:
    """Copies of the files elsewhere, under other scans' numbers, and a subject more: the others stay where they are."""
    splits = ixi_split(ixi)
    other = tmp_path / "elsewhere"
    other.mkdir()
    for files in splits.values():
        for file in files:
            (other / f"{file.subject}-{file.site}-9{file.scan}-T2.nii.gz").touch()
    (other / "IXI662-HH-2790-T2.nii.gz").touch()
    again = ixi_split(other)
    before, after = (
        {file.subject: name for name, files in split.items() for file in files} for split in (splits, again)
    )
    moved = {subject for subject in before if before[subject] != after.get(subject)}
    assert len(moved) <= 3  # one at the end of each split of HH, where the new one came in before it


def test_the_manifest_records_its_rule_and_names_no_subject() -> None:
    content = json.loads(MANIFEST.read_text())
    assert {name: split["subjects"] for name, split in content["splits"].items()} == SPLITS
    assert content["central_slices"] == 60 and "not the paper's" in content["selection"]


def test_the_central_slices_are_trained_on(ixi: Path) -> None:
    """Of slices with the values 100 to 161 the central 60 have 101 to 160, divided by their 99.5th percentile, 160."""
    path = ixi_paths(ixi, "train")[0]
    pictures = Pictures([{"paths": [path], "axes": [2], "central": 60}])
    rng = np.random.default_rng(0)
    values = {round(float(pictures.draw(rng)[1].max()) * 160) for _ in range(600)}
    assert values == set(range(101, 161))
    with pytest.raises(ValueError, match=f"{path}: central is 63; accepted: 1 to the number of slices, 62"):
        Pictures([{"paths": [path], "central": 63}])
    with pytest.raises(ValueError, match="accepted with central: one axis"):
        Pictures([{"paths": [path], "axes": [0, 2], "central": 60}])


@pytest.mark.parametrize(
    "name",
    ["IXI012-HH-1211-T2.nii.gz.part", "sub-01_T2w.nii.gz", "IXI012-UCL-1211-T2.nii.gz", "IXI-HH-1211-T2.nii.gz"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(IxiError, match=name):
        parse_name(name)


def test_names_of_every_contrast() -> None:
    contrasts = ("T1", "T2", "PD", "MRA", "DTI-07")
    assert [parse_name(f"a/IXI600-IOP-1184-{name}.nii.gz").contrast for name in contrasts] == list(contrasts)


def test_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["IXI012-HH-1211-T2.nii.gz", "IXI012-HH-1300-T2.nii.gz", "IXI012-HH-1211-PD.nii.gz", "mask.nii"]
    for name in [*names, "._IXI013-HH-1212-T2.nii.gz", "IXI.xls"]:
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert [file.path.name for file in find_ixi(tmp_path)] == names[:1]
    assert "2 files are left out: IXI012-HH-1300-T2.nii.gz, mask.nii" in caplog.text


def test_folders_that_do_not_hold_enough(tmp_path: Path) -> None:
    with pytest.raises(IxiError, match="none: no such folder"):
        ixi_split(tmp_path / "none")
    with pytest.raises(IxiError, match="no T2 volume"):
        ixi_split(tmp_path)
    few = write_ixi(tmp_path / "few", {**COUNTS, "HH": 183})
    with pytest.raises(
        IxiError, match="183 subjects of HH with a T2 volume; the splits train, validation, test need 184"
    ):
        ixi_split(few)


def manifest(path: Path, **splits: object) -> Path:
    path.write_text(json.dumps({"contrast": "T2", "seed": 0, "splits": splits}))
    return path


def test_a_list_of_subjects_in_place_of_their_number(ixi: Path, tmp_path: Path) -> None:
    named = {"site": "HH", "subjects": ["IXI005", "IXI003"]}
    splits = ixi_split(ixi, manifest(tmp_path / "a.json", train={"site": "HH", "subjects": 182}, test=named))
    assert [file.subject for file in splits["test"]] == ["IXI003", "IXI005"]
    assert len(splits["train"]) == 182 and not {"IXI003", "IXI005"} & {file.subject for file in splits["train"]}
    for wrong in ({"site": "Guys", "subjects": ["IXI003"]}, {"site": "HH", "subjects": ["IXI003"]}):
        with pytest.raises(IxiError, match="of the split test, IXI003 are missing or in an earlier split"):
            ixi_split(ixi, manifest(tmp_path / "b.json", train=named, test=wrong))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "no manifest such as ixi_t2.json: FileNotFoundError"),
        (lambda path: path.write_text("{"), "no manifest such as ixi_t2.json: JSONDecodeError"),
        (lambda path: path.write_text('{"splits": {}}'), "no manifest such as ixi_t2.json: KeyError: 'contrast'"),
        (lambda path: manifest(path, train={"site": "HH"}), "no manifest such as ixi_t2.json: KeyError: 'subjects'"),
        (
            lambda path: manifest(path, train={"site": "UCL", "subjects": 1}),
            "has the sites UCL; accepted: HH, Guys, IOP",
        ),
    ],
)
def test_bad_manifests(ixi: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(tmp_path / "split.json")
    with pytest.raises(IxiError, match=f"split.json:? ?{message}"):
        ixi_split(ixi, tmp_path / "split.json")


def command(monai_bundle: Callable[..., Run], kind: str, **settings: object) -> Run:
    """Run the recipe's ``train`` or ``evaluate`` with a small network."""
    changes = {f"network_def::{name}": value for name, value in SMALL.items()}
    settings = {"config_file": recipe(kind), **changes, **settings}
    return monai_bundle("run", *(part for name, value in settings.items() for part in (f"--{name}", value)))


def recipe(kind: str) -> list[str]:
    names = ["train", "ixi_train"] if kind == "train" else ["inference", "evaluate", "ixi_evaluate"]
    return [str(BUNDLE.parent / "mri_sr" / "configs" / f"{name}.json") for name in names]


def test_the_recipe_trains_and_evaluates(tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    """A few steps on a folder of IXI's shape; then every subject of a site that was not trained on."""
    folder = write_ixi(tmp_path / "ixi", COUNTS, magnitude(24, 20, 62))
    output = tmp_path / "train"
    steps = {"max_epochs": 1, "epoch_length": 2, "batch_size": 2, "validation_interval": 1, "amp": "$None"}
    training = {"dataset_dir": folder, "output_dir": output, "train_dataset::patch": 32}
    ended = command(monai_bundle, "train", **training, **steps)
    assert ended.status == 0, ended.err

    few = {"slices": "central:1", "num_inference_steps": 1, "num_samples": 1, "baseline": "False"}
    evaluation = {"dataset_dir": folder, "split": "test_guys", "weights": output / "model.pt"}
    ended = command(monai_bundle, "evaluate", **evaluation, **few, output_dir=tmp_path / "figures")
    assert ended.status == 0, ended.err
    report = json.loads((tmp_path / "figures" / "metrics.json").read_text())
    assert set(report["inputs"]) == {file.path.name.split(".")[0] for file in ixi_split(folder)["test_guys"]}
    assert {tuple(entry["protocol"]["slices"]) for entry in report["inputs"].values()} == {(30,)}
    assert report["parameters"]["split"] == "test_guys" and report["parameters"]["factor"] == 4


def test_the_recipe_is_the_papers(ixi: Path, tmp_path: Path) -> None:
    """Its schedule, its factor, and the central slices of the subjects it trains on."""
    for kind in ("train", "evaluate"):
        parser = ConfigParser(ConfigParser.load_config_files(recipe(kind)))
        parser["bundle_root"], parser["dataset_dir"] = str(tmp_path), str(ixi)
        process = parser.get_parsed_content("process").config()
        assert (process["schedule"], process["tau"]) == ("cosine_nichol", 2.0)
        assert process["stationary_std"] == pytest.approx(10 / 255)
        if kind == "evaluate":
            assert parser.get_parsed_content("inputs") == ixi_paths(ixi, "test")
            assert (parser["slices"], parser["factor"], parser["degradation"]) == ("central:60", 4, "truncation")
        else:
            assert "129 subjects of HH, central 60 slices" in parser.get_parsed_content("training")["data"]
            dataset = parser.get_parsed_content("train_dataset")
            items = [dataset[index] for index in range(4)]
            assert {tuple(item["factor"].tolist()) for item in items} == {(4, 4)}
            assert {item["degradation"] for item in items} == {"truncation"}
            train = {file.path.name.split(".")[0] for file in ixi_split(ixi)["train"]}
            assert {item["key"].split(":")[0] for item in items} <= train
            assert parser.get_parsed_content("validation_inputs") == ixi_paths(ixi, "validation")


def test_the_recipe_needs_ixis_folder(tmp_path: Path, monai_bundle: Callable[..., Run]) -> None:
    ended = command(monai_bundle, "train", dataset_dir=tmp_path, output_dir=tmp_path)
    assert ended.status == 1
    expected = f"error: {tmp_path}: no T2 volume of IXI; accepted: files such as IXI012-HH-1211-T2.nii.gz."
    assert ended.last_line == expected
