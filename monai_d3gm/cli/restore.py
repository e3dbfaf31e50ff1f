"""``d3gm restore``: a file, a series or a tree of them through a bundle's own ``configs/inference.json``."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from monai_d3gm.bundle import (
    INFERENCE,
    BundleError,
    accepted_kinds,
    explain,
    find_bundle_root,
    prepare,
    read_config,
    run_workflow,
)
from monai_d3gm.cli.options import add_bundle, add_options, before_anything, given_options, print_error
from monai_d3gm.cli.shards import Shard
from monai_d3gm.cli.summary import Outcome, Status, as_text, failures, summarise

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands
    from monai_d3gm.cli.results import ResultFolder
    from monai_d3gm.data.restoration.units import InputUnit, Problem


def add_parser(commands: Commands) -> None:
    """Add ``restore`` to the commands."""
    parser = commands.add_parser("restore", help="restore a file, a series or a tree", description=restore.__doc__)
    parser.set_defaults(command=restore)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", help="a file, or a folder that is searched with all below it")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the results, in the folders of the inputs")
    add_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results that another run made")
    parser.add_argument("--dry-run", action="store_true", help="say what would be restored, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout, all else on stderr")


def restore(arguments: argparse.Namespace) -> int:
    """Restore all of INPUT that BUNDLE takes and write the results into OUTPUT.

    Files are told apart by their content. One that cannot be restored is named at the end, and the others are
    restored all the same. The same command resumes a run that was interrupted. Processes that torchrun starts
    share the inputs. Options left out are as the bundle has them. The exit status is 0 if nothing failed, 1 if
    something did, and 2 if the command was refused.
    """
    shard = Shard()
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, INFERENCE)
    source, output = Path(arguments.input).absolute(), Path(arguments.output).absolute()
    if source.is_dir() and source.resolve() == output.resolve():
        raise BundleError(f"OUTPUT is the folder INPUT, {source}: results would be taken for inputs; choose another.")

    from monai_d3gm.cli.results import ResultFolder
    from monai_d3gm.data.formats.registry import titles
    from monai_d3gm.data.restoration.units import find_units

    base = source if source.is_dir() else source.parent
    results = ResultFolder(output, arguments.overwrite)
    with before_anything():
        kinds = accepted_kinds(root, INFERENCE)
        units, problems = find_units(source, kinds, leave_out=output)
        failed = [problem for problem in problems if problem.failed]
        if not units and not failed:
            raise BundleError(f"{source}: the folder has no input for bundle {root.name}; accepted: {titles(kinds)}.")
        results.check()
        origin = prepare(root, INFERENCE, settings, base)
    run = _Run(
        root=root,
        base=base,
        results=results,
        settings=settings,
        origin=origin,
        dry=arguments.dry_run,
        text=sys.stderr if arguments.json else sys.stdout,
    )
    try:
        shown = run.progress and shard.first
        restored = [run.restore(unit) for unit in tqdm(shard.part(units), "inputs", unit="input", disable=not shown)]
        gathered = shard.gather([asdict(outcome) for outcome in restored])
    except KeyboardInterrupt:
        print_error("interrupted; the same command resumes from here.")
        return 130
    if not shard.first:
        return 0
    outcomes = [run.pass_over(problem, "failed" if problem in failed else "skipped") for problem in problems]
    outcomes += [Outcome(**outcome) for part in gathered for outcome in part]
    outcomes.sort(key=lambda outcome: outcome.input)
    summary = summarise(outcomes, {"bundle": root.name, **run.origin})
    if not run.dry:
        results.write_summary(summary)
    print(as_text(outcomes), file=run.text)
    if arguments.json:
        print(json.dumps(summary, indent=2))
    if text := failures(outcomes):
        print_error(text)
    return 1 if text else 0


@dataclass(frozen=True)
class _Run:
    """A run of a bundle over units.

    Attributes:
        root: the bundle's folder.
        base: the folder that the units are in.
        results: where the results go.
        settings: keys of the config that the command line sets.
        origin: what makes the results, but for the input.
        dry: restore nothing.
        text: where tables are printed.
    """

    root: Path
    base: Path
    results: ResultFolder
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]
    dry: bool
    text: TextIO

    @property
    def progress(self) -> bool:
        """Whether progress bars are shown: as the bundle's own."""
        return bool({**read_config(self.root, INFERENCE), **self.settings}.get("progress", True))

    def pass_over(self, problem: Problem, status: Status) -> Outcome:
        """The outcome of a file that is in no unit."""
        name = self._name(problem.path)
        return Outcome(name, status, problem.kind, (name,), reason=problem.reason)

    def restore(self, unit: InputUnit) -> Outcome:
        """Restore a unit, unless it is done; whatever goes wrong with it is its outcome."""
        files = tuple(self._name(path) for path in unit.files)
        name = files[0] if len(files) == 1 else unit.relative.as_posix()
        status: Status = "restored"
        try:
            origin = {**self.origin, "input": self.results.fingerprint(unit)}
            outputs = self.results.made(unit, origin)
            if outputs is None and self.dry:
                status, outputs = "planned", [f"{unit.relative.name}_*"]
            elif outputs is None:
                outputs = self._make(unit, origin)
        except Exception as error:
            reason = self._shorten(explain(error), unit).removeprefix(f"{name}: ")
            return Outcome(name, "failed", unit.kind, files, reason=reason)
        places = tuple((unit.relative.parent / output).as_posix() for output in outputs)
        return Outcome(name, status, unit.kind, files, places)

    def _make(self, unit: InputUnit, origin: Mapping[str, Any]) -> list[str]:
        """Run the bundle's workflow on a unit, print what it prints, and return the names of the results."""
        printed = io.StringIO()
        with self.results.make(unit, origin) as folder, contextlib.redirect_stdout(printed):
            places = {
                "inputs": list(unit.files),
                "dataset_dir": self.base,
                "output_dir": folder,
                "report": folder / self.results.report(unit),
            }
            run_workflow(self.root, INFERENCE, {**self.settings, **places})
        text = printed.getvalue().replace(str(folder), str(self.results.place(unit)))
        tqdm.write(text, file=self.text, end="")
        return self.results.made(unit, origin) or []

    def _name(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix()

    def _shorten(self, text: str, unit: InputUnit) -> str:
        """A message with paths as they are in the trees of inputs and results."""
        text = text.replace(str(self.results.staging(unit)), str(self.results.place(unit)))
        return text.replace(f"{self.base}/", "").replace(f"{self.results.folder}/", "")
