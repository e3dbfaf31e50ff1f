"""``d3gm restore``: a file, a series or a tree of them through a bundle's own ``configs/inference.json``."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from monai_d3gm.bundle import (
    INFERENCE,
    BundleError,
    accepted_kinds,
    explain,
    find_bundle_root,
    prepare,
    read_json,
    run_workflow,
)
from monai_d3gm.cli.dicomweb import restore_from_server
from monai_d3gm.cli.options import add_bundle, add_options, before_anything, given_options, print_error
from monai_d3gm.cli.shards import Shard
from monai_d3gm.cli.summary import Outcome, Status, as_text, failures, summarise
from monai_d3gm.files import OutputError, printable

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands
    from monai_d3gm.cli.results import ResultFolder
    from monai_d3gm.data.restoration.units import InputUnit, Problem


def add_parser(commands: Commands) -> None:
    """Add ``restore`` to the commands."""
    parser = commands.add_parser(
        "restore", help="restore a file, a series or a tree", description=restore.__doc__, add_help=False
    )
    parser.set_defaults(command=restore)
    add_bundle(parser)
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="a file, a folder that is searched with all below it, or a query of a DICOMweb server, "
        "dicomweb+http://HOST/PATH?StudyInstanceUID=UID",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        nargs="?",
        help="folder for the results, in the folders of the inputs; left out, results go back to the DICOMweb server",
    )
    add_options(parser, INFERENCE)
    parser.add_argument("--quick", action="store_true", help="one evaluation of the network for each image, no samples")
    parser.add_argument("--verbose", action="store_true", help="print a table of all figures for each input")
    parser.add_argument("--overwrite", action="store_true", help="replace results that another run made")
    parser.add_argument("--dry-run", action="store_true", help="say what would be restored, and write nothing")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON on stdout, all else on stderr")


def restore(arguments: argparse.Namespace) -> int:
    """Restore every file of INPUT that BUNDLE takes, and write the results into OUTPUT.

    The content of a file decides its format. Files that cannot be restored are named at the end; the others are
    restored. The same command resumes an interrupted run. Processes that torchrun starts share the inputs. From a
    DICOMweb server, the series that a query selects are retrieved, restored, and stored there. The bundle's settings
    are the defaults. The exit status is 0 if nothing failed, 1 if something did, and 2 if the command
    was refused.
    """
    if arguments.input.startswith("dicomweb+"):
        return restore_from_server(arguments, restore)
    if arguments.output is None:
        raise BundleError("OUTPUT is missing; accepted: a folder for the results.")
    shard = Shard()
    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, INFERENCE)
    if arguments.quick:
        settings = _quick(settings)
    source, output = Path(arguments.input).absolute(), Path(arguments.output).absolute()
    if source.is_dir() and source.resolve() == output.resolve():
        raise BundleError(f"OUTPUT is the folder INPUT, {source}: results would be taken for inputs; choose another.")

    from monai_d3gm.cli.results import ResultFolder
    from monai_d3gm.data.formats.registry import titles
    from monai_d3gm.data.formats.sidecar import bids_root
    from monai_d3gm.data.restoration.units import find_units

    base = source if source.is_dir() else source.parent
    results = ResultFolder(output, arguments.overwrite)
    with before_anything():
        kinds = accepted_kinds(root, INFERENCE)
        units, problems = find_units(source, kinds, leave_out=output)
        bids = source.is_dir() and bids_root(source) == source
        if bids:
            units, problems = _anatomy(units, problems, base)
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
        verbose=arguments.verbose,
        text=sys.stderr if arguments.json else sys.stdout,
        bids=bids,
    )
    try:
        # the first process keeps other runs out until all processes of this one are done
        with contextlib.ExitStack() as stack:
            if shard.first and not run.dry:
                with before_anything():
                    stack.enter_context(results.lock())
                    run.describe()
            shard.wait_for_first()
            return _restore_all(run, shard, units, problems, as_json=arguments.json)
    except KeyboardInterrupt:
        print_error("interrupted; the same command resumes from here.")
        return 130


def _restore_all(
    run: _Run, shard: Shard, units: Sequence[InputUnit], problems: Sequence[Problem], as_json: bool
) -> int:
    """Restore this process's part of the units. The first process prints the outcome of all and gives the exit
    status."""
    with _each_once():
        restored = [run.restore(unit) for unit in shard.part(units)]
    gathered = shard.gather([asdict(outcome) for outcome in restored])
    if not shard.first:
        return 0
    outcomes = [run.pass_over(problem) for problem in problems]
    outcomes += [Outcome(**outcome) for part in gathered for outcome in part]
    outcomes.sort(key=lambda outcome: outcome.input)
    summary = summarise(outcomes, {"bundle": run.root.name, **run.origin})
    print(as_text(outcomes), file=run.text)
    if not run.dry:
        print(f"Results: {run.results.folder}", file=run.text)
    if as_json:
        print(json.dumps(summary, indent=2))
    if text := failures(outcomes):
        print_error(text)
    if not run.dry:
        run.results.write_summary(summary)
    return 1 if text else 0


def _anatomy(
    units: Sequence[InputUnit], problems: Sequence[Problem], base: Path
) -> tuple[list[InputUnit], list[Problem]]:
    """The units of a BIDS data set that are anatomical images of its own; the others are passed over and named."""
    from monai_d3gm.data.formats.volumes import Problem
    from monai_d3gm.data.restoration.derivatives import passed_over

    kept, others = [], []
    for unit in units:
        if reason := passed_over(unit.files[0].relative_to(base)):
            others += [Problem(path, reason, unit.kind) for path in unit.files]
        else:
            kept.append(unit)
    for problem in problems:
        foreign = passed_over(problem.path.relative_to(base))
        others.append(problem if foreign is None else replace(problem, failed=False))
    return kept, others


def _quick(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings for one evaluation at t = 1, the most faithful estimate."""
    quick = {"num_inference_steps": 1, "num_samples": 1, "fidelity": 1.0}
    if set(quick) & set(settings):
        raise BundleError("--quick sets steps, samples and fidelity; accepted: --quick, or these.")
    return {**settings, **quick}


@contextlib.contextmanager
def _each_once() -> Iterator[None]:
    """Show each of the package's warnings once, for its first input."""
    seen: set[str] = set()

    def first(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        text = record.getMessage()
        if record.msg == "%s: %s" and isinstance(record.args, tuple):  # an input's name, and the warning
            text = str(record.args[-1])
        new = text not in seen
        seen.add(text)
        return new

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("monai_d3gm.")]
    for logger in loggers:
        logger.addFilter(first)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(first)


@dataclass(frozen=True)
class _Run:
    """A run of a bundle over units.

    Attributes:
        root: the bundle's folder.
        base: the folder that the units are in.
        results: where the results go.
        settings: keys of the config that the command line sets.
        origin: everything that determines the results besides the input.
        dry: restore nothing.
        verbose: print tables.
        text: where lines and tables are printed.
        bids: the inputs are a BIDS data set, and the results become a derivative one.
    """

    root: Path
    base: Path
    results: ResultFolder
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]
    dry: bool
    verbose: bool
    text: TextIO
    bids: bool

    def describe(self) -> None:
        """Describe the folder as a data set, where the inputs are a BIDS data set."""
        from monai_d3gm.data.restoration.derivatives import derivative_description

        if self.bids:
            self.results.write_description(derivative_description(self.base, self.results.folder, self.root.name))

    def pass_over(self, problem: Problem) -> Outcome:
        """The outcome of a file that is in no unit."""
        name = self._name(problem.path)
        return Outcome(name, "failed" if problem.failed else "skipped", problem.kind, (name,), reason=problem.reason)

    def restore(self, unit: InputUnit) -> Outcome:
        """Restore a unit, unless it is done. An error becomes its outcome."""
        files = tuple(self._name(path) for path in unit.files)
        name = files[0] if len(files) == 1 else printable(unit.relative.as_posix())
        status: Status = "restored"
        try:
            origin = {**self.origin, "input": self.results.fingerprint(unit)} | (
                {"layout": "BIDS"} if self.bids else {}
            )
            outputs = self.results.made(unit, origin)
            if outputs is None and self.dry:
                status, outputs = "planned", [f"{unit.relative.name}_*"]
            elif outputs is None:
                outputs = self._make(unit, origin)
        except Exception as error:
            reason = self._shorten(explain(error), unit).removeprefix(f"{name}: ")
            return Outcome(name, "failed", unit.kind, files, reason=reason)
        if status == "restored":
            print(f"{status:<9} {name}: {self._said(unit)}", file=self.text)
        places = tuple(printable((unit.relative.parent / output).as_posix()) for output in outputs)
        return Outcome(name, status, unit.kind, files, places)

    def _make(self, unit: InputUnit, origin: Mapping[str, Any]) -> list[str]:
        """Run the bundle's workflow on a unit, print its tables if asked for, and return the names of the results."""
        printed = io.StringIO()
        with self.results.make(unit, origin) as folder, contextlib.redirect_stdout(printed):
            places = {
                "inputs": list(unit.files),
                "dataset_dir": self.base,
                "output_dir": folder,
                "report": folder / self.results.report(unit),
            }
            run_workflow(self.root, INFERENCE, {**self.settings, **places, "verbose": self.verbose})
            if self.bids:
                self._as_derivative(unit, folder)
        if self.verbose:
            text = printed.getvalue().replace(str(folder), str(self.results.place(unit)))
            print("\n".join(map(printable, text.rstrip("\n").split("\n"))), file=self.text)
        made = self.results.made(unit, origin)
        if made is None:
            raise OutputError("the results are gone: another program changed the folder.")
        return made

    def _as_derivative(self, unit: InputUnit, folder: Path) -> None:
        """Give the results of a BIDS image the names of a derivative, and sidecars."""
        from monai_d3gm.data.restoration.derivatives import derivative_name, derivative_sidecar

        for file in sorted(folder.glob("*.nii.gz")):
            name = derivative_name(unit.relative.name, file.name)
            if name != file.name:
                what = file.name.removeprefix(f"{unit.relative.name}_").removesuffix(".nii.gz")
                sidecar = derivative_sidecar(unit.files[0], self.base, what)
                text = json.dumps(sidecar, indent=2) + "\n"
                file.rename(folder / name).with_name(name.replace(".nii.gz", ".json")).write_text(text)

    def _said(self, unit: InputUnit) -> str:
        """A unit's report in a few words."""
        from monai_d3gm.handlers.report import one_line

        report = read_json(self.results.place(unit) / self.results.report(unit))
        return "; ".join(one_line(entry) for entry in report["inputs"].values())

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self.base).as_posix())

    def _shorten(self, text: str, unit: InputUnit) -> str:
        """A message with paths as they are in the trees of inputs and results."""
        text = text.replace(str(self.results.staging(unit)), str(self.results.place(unit)))
        return printable(text.replace(f"{self.base}/", "").replace(f"{self.results.folder}/", ""))
