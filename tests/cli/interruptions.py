"""Kill the command at many moments, alone and beside another run, and see that nothing is lost.

    python tests/cli/interruptions.py [--moments 20]

A moment is a change that the command makes in its folder of results: a file opened for writing, moved or removed, or a
folder made. The moments are spread evenly over a whole run. After each kill what is visible is whole, and the same
command again ends with the bytes of a run without interruption. The exit status is 1 where that is not so.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_bundle import content, full_kspace, magnitude, make_bundle, write_nifti

from monai_d3gm import data, engines, handlers, inferers  # noqa: F401  # once, before the forks
from monai_d3gm.cli.main import main as d3gm
from monai_d3gm.data.formats.fastmri import write_kspace

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
FAST = ("--steps", "1", "--samples", "1", "--no-baseline", "--no-progress", "--device", "cpu")


def start(arguments: Sequence[str], output: Path, moment: int | None = None) -> tuple[int, int]:
    """Run the command in a child that is killed at a moment; its process, and a pipe with the number of changes."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    os.close(reading)
    changes = 0

    def count(event: str, values: tuple[object, ...]) -> None:
        nonlocal changes
        if event not in CHANGES or not str(values[0]).startswith(str(output)):
            return
        if event == "open" and not (isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        changes += 1
        if changes == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.addaudithook(count)
    status = 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = d3gm(arguments)
    finally:
        os.write(writing, str(changes).encode())
        os._exit(status)


def finish(child: tuple[int, int]) -> tuple[int, int]:
    """The exit status of a child, negative for a signal, and its number of changes, 0 where it was killed."""
    process, reading = child
    with os.fdopen(reading, "rb") as pipe:
        changes = int(pipe.read() or b"0")
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), changes


def faults(moments: int, folder: Path) -> list[str]:
    """What is wrong after kills at this many moments, each alone and beside another run; nothing where all is right."""
    tree = folder / "inputs"
    tree.mkdir()
    write_nifti(tree / "a.nii.gz", magnitude(24, 20, 2))
    write_kspace(tree / "b.h5", full_kspace(), recon_size=(32, 24))
    bundle = make_bundle(folder / "mri_recon")

    def command(output: Path) -> list[str]:
        return [str(each) for each in ("restore", bundle, tree, output, *FAST)]

    whole = folder / "whole"
    status, changes = finish(start(command(whole), whole))
    expected = content(whole)
    wrong = [] if status == 0 and changes > moments else [f"a whole run: exit status {status}, {changes} changes"]
    for number in range(moments):
        moment = 1 + (2 * number + 1) * changes // (2 * moments)
        for pair in (False, True):
            output = folder / f"killed{number}{'pair' * pair}"
            name = f"change {moment} of {changes}{', beside another run' * pair}"
            first = start(command(output), output, moment)
            other = start(command(output), output) if pair else None
            killed, beside = finish(first)[0], 2 if other is None else finish(other)[0]
            # the one that came second was refused: it wrote nothing, and was not killed
            if (killed, beside) not in ((-signal.SIGKILL, 2), (2, 0), (-signal.SIGKILL, 0)):
                wrong.append(f"{name}: exit status {killed}, {beside}")
            visible = {key: value for key, value in content(output).items() if not key.startswith(".d3gm")}
            wrong += [f"{name}: {key} is not whole" for key, value in visible.items() if expected.get(key) != value]
            if finish(start(command(output), output))[0] != 0 or content(output) != expected:
                wrong.append(f"{name}: the same command again does not end with the same bytes")
    return wrong


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--moments", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = faults(arguments.moments, Path(folder))
    print("\n".join(wrong) or f"{arguments.moments} moments, alone and beside another run: nothing lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
