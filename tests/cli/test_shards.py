"""Processes that share a run: the same bytes as one process alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bundle import content, magnitude, two_processes, write_nifti

from monai_d3gm.bundle import BundleError
from monai_d3gm.cli.main import main
from monai_d3gm.cli.shards import Shard

FAST = ("--steps", "1", "--samples", "1", "--no-baseline", "--no-progress")


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    folder = tmp_path / "volumes"
    folder.mkdir()
    for subject in ("01", "02", "03"):
        write_nifti(folder / f"sub-{subject}_T1w.nii.gz", magnitude(slices=2) * int(subject))
    return folder


def test_two_processes_write_the_bytes_of_one(bundle: Path, volumes: Path, tmp_path: Path) -> None:
    commands = ("restore", "evaluate")
    shared = two_processes(*([command, bundle, volumes, tmp_path / f"{command}_two", *FAST] for command in commands))
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout.count("sub-02_T1w") >= len(commands)
    for command in commands:
        one, two = (tmp_path / f"{command}_{count}" for count in ("one", "two"))
        assert main([command, str(bundle), str(volumes), str(one), *FAST]) == 0
        assert content(two) == content(one)


def test_parts_are_all_and_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(7))
    parts = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        parts.append(Shard().part(items))
    assert sorted(sum(parts, [])) == items
    assert max(map(len, parts)) - min(map(len, parts)) == 1


@pytest.mark.parametrize("rank, size", [("2", "2"), ("-1", "2"), ("a", "2"), ("0", "0")])
def test_an_environment_that_makes_no_sense(rank: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(BundleError, match="RANK is"):
        Shard()


def test_fewer_files_than_processes(
    bundle: Path, nifti: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", str(bundle), str(nifti)]) == 2
    assert "cannot be shared by 2 processes" in capsys.readouterr().err
