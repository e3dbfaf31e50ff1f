"""``d3gm compare``: an experiment on processes, from its file to its report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.cli.options import before_anything

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands


def add_parser(commands: Commands) -> None:
    """Add ``compare`` to the commands."""
    parser = commands.add_parser(
        "compare", help="compare processes under one network and budget", description=compare.__doc__
    )
    parser.set_defaults(command=compare)
    parser.add_argument("config", metavar="CONFIG", help="the experiment, a JSON file; see benchmarks/compare")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="folder for weights, figures and the report")
    parser.add_argument("--seeds", type=int, nargs="+", help="of training and sampling, instead of the experiment's")
    parser.add_argument("--dataset-dir", metavar="DIR", help="the key dataset_dir of the bundle's train.json")
    parser.add_argument("--device", default="cpu", help="where networks are trained and run: cpu, cuda, cuda:1, ...")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, check it, and do nothing")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bars")


def compare(arguments: argparse.Namespace) -> int:
    """Train the networks of the experiment CONFIG, choose each method's own sampler on one part of the data, take the
    figures on the other, and write results.json and report.html into OUTPUT.

    A killed run resumes, with the same results. A run with more seeds keeps the existing ones.
    """
    from monai_d3gm.comparison.experiment import Experiment
    from monai_d3gm.comparison.run import compare as run
    from monai_d3gm.comparison.run import plan
    from monai_d3gm.comparison.settings import ExperimentError

    settings: dict[str, Any] = {} if arguments.dataset_dir is None else {"dataset_dir": arguments.dataset_dir}
    with before_anything():
        experiment = Experiment(arguments.config, settings, arguments.seeds)
        if arguments.output is None and not arguments.dry_run:
            raise ExperimentError("OUTPUT is missing; without it there is only --dry-run.")
        if arguments.dry_run:
            print("\n".join(plan(experiment)))
            return 0
    output = Path(arguments.output)
    run(experiment, output, device=arguments.device, progress=not arguments.no_progress)
    print(f"Written: {output / 'report.html'}, {output / 'results.json'}")
    return 0
