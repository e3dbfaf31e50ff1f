"""How fast the bundles train, and how much of it is waiting for data: steps of each bundle's own ``train.json``.

    python benchmarks/training.py mri_recon mri_sr derain dehaze --processes 1 2 --workers 0 \
        --output benchmarks/results/training.json

Each run is its own ``torchrun`` of so many processes, with ``multi_gpu_train.json`` where there are several, on GPUs
where there are some. A batch is the configuration's for each process, so that two processes take twice as many items a
step. The first ``--warm-up`` steps are not counted. Ratios are those of one run of this command.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import write_result
from ignite.engine import Events
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.metrics import format_table

BUNDLES = ("mri_recon", "mri_sr", "derain", "dehaze")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", choices=BUNDLES)
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before")
    parser.add_argument("--processes", nargs="+", type=int, default=[1])
    parser.add_argument("--workers", nargs="+", type=int, default=[0], help="of each process, that make items")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # one run, in the processes that are started for it
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    runs = [(b, p, w) for b in arguments.bundles for p in arguments.processes for w in arguments.workers]
    rows = [start(arguments, *run) for run in tqdm(runs, unit="run")]
    for row in rows:
        first = next(other for other in rows if other["bundle"] == row["bundle"])
        row["times the first"] = row["items a second"] / first["items a second"]
    print(format_table([{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]))
    if arguments.output:
        command = {k: v for k, v in vars(arguments).items() if k not in ("output", "measure")}
        write_result(arguments.output, {"command": command, "rows": rows}, {}, device)


def start(arguments: argparse.Namespace, bundle: str, processes: int, workers: int) -> dict[str, Any]:
    """The row of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += [__file__, bundle, "--steps", str(arguments.steps), "--warm-up", str(arguments.warm_up)]
        subprocess.run([*command, "--workers", str(workers), "--measure", folder], check=True, stdout=sys.stderr)
        return json.loads((Path(folder) / "row.json").read_text())


def measure(arguments: argparse.Namespace) -> None:
    """Train, and write the row if this is the first process."""
    (bundle,), folder, processes = arguments.bundles, Path(arguments.measure), int(os.environ["WORLD_SIZE"])
    configs = Path(find_bundle_root(bundle)) / "configs"
    parser = ConfigParser()
    parser.read_config([configs / "train.json", *[configs / "multi_gpu_train.json"] * (processes > 1)])
    steps = arguments.warm_up + arguments.steps
    parser.update({"output_dir": str(folder), "max_epochs": 1, "epoch_length": steps})
    parser["num_workers"] = arguments.workers[0]
    parser["initialize"] = [line for line in parser["initialize"] if "check_command_line" not in line]
    if "validation_handlers" in parser:
        parser["validation_handlers"] = []
    if processes == 1 and torch.cuda.is_available():
        parser["device"] = "cuda"
    parser.get_parsed_content("initialize")
    trainer = parser.get_parsed_content("trainer")

    waits: list[float] = []
    begins: list[float] = []

    def clock() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    trainer.add_event_handler(Events.GET_BATCH_STARTED, lambda: begins.append(clock()))
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: waits.append(time.perf_counter() - begins[-1]))
    ends: list[float] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: ends.append(clock()))
    trainer.run()
    if os.environ["RANK"] == "0":
        taken = [end - begin for begin, end in zip(begins, ends, strict=False)][arguments.warm_up :]
        batch = parser.get_parsed_content("batch_size") * processes
        seconds = statistics.median(taken)
        row: dict[str, Any] = {"bundle": bundle, "processes": processes, "workers": arguments.workers[0]}
        row |= {"batch": batch, "seconds a step": seconds, "items a second": batch / seconds}
        row["share waiting for data"] = sum(waits[arguments.warm_up : len(ends)]) / sum(taken)
        (folder / "row.json").write_text(json.dumps(row))
    if "finalize" in parser:
        parser.get_parsed_content("finalize")


if __name__ == "__main__":
    main()
