"""What importing the package adds to importing MONAI: CPU seconds in fresh processes, medians.

    python benchmarks/import_time.py --output benchmarks/results/import_time.json

CPU time, which neither a cold disk nor other processes on the machine change much. Python's garbage collection is part
of it: MONAI leaves so many objects that the next import, whatever it is, usually sets off a collection of all of them;
``collections`` is its share.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from common import write_result
from tqdm import tqdm

from monai_d3gm.metrics import format_table

WHAT = {
    "the package": "monai_d3gm",
    "restoration": "monai_d3gm.inferers",
    "everything": "monai_d3gm.handlers, monai_d3gm.engines, monai_d3gm.data, monai_d3gm.transforms, monai_d3gm.losses",
}
CODE = """
import gc, json, time
begin = time.process_time()
import monai
between = time.process_time()
spent, since = [0.0], [0.0]
def watch(phase, info):
    if phase == "start":
        since[0] = time.process_time()
    else:
        spent[0] += time.process_time() - since[0]
gc.callbacks.append(watch)
import {modules}
print(json.dumps([between - begin, time.process_time() - between, spent[0]]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name, modules in tqdm(WHAT.items()):
        command = [sys.executable, "-W", "ignore", "-c", CODE.format(modules=modules)]
        runs = [
            json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            for _ in range(arguments.repeats)
        ]
        monai, added, collections = (statistics.median(column) for column in zip(*runs, strict=True))
        rows.append({"import": name, "monai": monai, "added": added, "collections": collections})
    print(format_table(rows, digits=3))
    if arguments.output:
        write_result(arguments.output, {"repeats": arguments.repeats, "rows": rows}, {})


if __name__ == "__main__":
    main()
