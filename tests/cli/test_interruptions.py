"""Kills, full disks and folders that cannot be written: nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_bundle import Run, content, d3gm, magnitude, write_nifti

FAST = ("--steps", "1", "--samples", "1", "--no-baseline", "--no-progress", "--device", "cpu")


def restore(bundle: Path, source: Path, output: Path) -> Run:
    return d3gm("restore", bundle, source, output, *FAST)


def mounted(*arguments: object) -> bool:
    """Whether a mount could be made: it needs root, and a container that allows it."""
    return os.geteuid() == 0 and subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in "ab":
        write_nifti(folder / f"{name}.nii.gz", magnitude(48, 40, 2))
    return folder


@pytest.fixture(scope="module")
def expected(bundle: Path, volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "results"
    assert restore(bundle, volumes, output).status == 0
    return content(output)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=64m", "none", place):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_kills_lose_nothing() -> None:
    """At three moments here, at twenty by its command."""
    script = Path(__file__).with_name("interruptions.py")
    done = subprocess.run([sys.executable, script, "--moments", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_a_full_disk_fails_by_name_and_the_same_command_goes_on(
    share: float, disk: Path, volumes: Path, bundle: Path, expected: dict[str, bytes]
) -> None:
    size = int(share * sum(map(len, expected.values())))
    assert mounted("-o", f"remount,size={size}", disk)
    run = restore(bundle, volumes, disk / "out")
    assert run.status == 1 and "No space left on device" in run.err and "Traceback" not in run.err
    visible = {name: value for name, value in content(disk / "out").items() if not name.startswith(".d3gm")}
    assert all(expected[name] == value for name, value in visible.items() if name != "summary.json")
    assert mounted("-o", "remount,size=64m", disk)
    assert restore(bundle, volumes, disk / "out").status == 0 and content(disk / "out") == expected


def test_a_folder_that_cannot_be_written_is_refused(disk: Path, volumes: Path, bundle: Path) -> None:
    (disk / "out").mkdir()
    assert mounted("-o", "remount,ro", disk)
    for output in (disk / "out", disk / "new"):
        run = restore(bundle, volumes, output)
        assert run.status == 2 and "cannot be written: Read-only file system" in run.last_line
    assert not content(disk)


def test_inputs_that_cannot_be_written_are_restored(disk: Path, bundle: Path, tmp_path: Path) -> None:
    write_nifti(disk / "a.nii.gz", magnitude(24, 20, 2))
    assert mounted("-o", "remount,ro", disk)
    assert restore(bundle, disk, tmp_path / "out").status == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(volumes: Path, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o555)
    run = restore(bundle, volumes, tmp_path / "out")
    assert run.status == 2 and "cannot be written: Permission denied" in run.last_line
