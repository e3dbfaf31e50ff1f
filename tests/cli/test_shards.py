"""Processes that share a run: the part of each. `tests/bundles/test_two_processes.py` starts two."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_d3gm.bundle import BundleError
from monai_d3gm.cli.main import main
from monai_d3gm.cli.shards import Shard


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
