"""A bundle as an inference task: each input is a run of the bundle's own ``configs/inference.json``.

A run has a workflow of its own, made anew with the network and its weights (a few megabytes): nothing is shared between
requests but the files of the bundle, so parallel requests cannot disturb each other, and the result is that of
``python -m monai.bundle run``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ignite.engine import Events
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from torch import nn

from monai_d3gm.bundle import (
    INFERENCE,
    BundleError,
    accepted_kinds,
    explain,
    is_refusal,
    make_workflow,
    prepare,
    read_config,
    read_json,
    root_cause,
)
from monai_d3gm.data.formats.registry import titles
from monai_d3gm.data.formats.volumes import Extent, InputVolume
from monai_d3gm.data.restoration.units import InputUnit
from monai_d3gm.handlers.trust import TrustCheck
from monai_d3gm.handlers.writer import FORMATS
from monai_d3gm.label.archive import pack
from monai_d3gm.label.cost import estimate_bytes, estimate_pixels, read_extents
from monai_d3gm.label.errors import RequestError
from monai_d3gm.label.jobs import Cancelled
from monai_d3gm.label.parameters import OUTPUTS, Parameters, parse_parameters, settable
from monai_d3gm.networks.checkpoint import load_checkpoint

__all__ = ["Request", "RestorationTask", "Result", "told"]

_EMPTY = "inputs is empty"
"""A data set's message about no inputs, after it has accepted its options."""

_RESULT = re.compile(r"_(restored|std|interval|panel)(\.nii\.gz|\.png|\.tif|\.dcm)?$")


@dataclass(frozen=True)
class Request:
    """A request: the input, and how to restore it.

    Attributes:
        name: the first part of the results' names.
        units: the inputs.
        problems: by name, why other files that came with them are none.
        parameters: of the request.
        folder: an empty folder of the request's own; a job removes it.
    """

    name: str
    units: Sequence[InputUnit]
    problems: Mapping[str, str]
    parameters: Parameters
    folder: Path


@dataclass
class Result:
    """The result of a restoration.

    Attributes:
        name: what its files are called by.
        folder: where they are; it has room for archives.
        files: by output, the files or folders, by their names in an archive.
        details: for the client.
        wanted: the output that the request asked for.
    """

    name: str
    folder: Path
    files: dict[str, dict[str, Path]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    wanted: str = OUTPUTS[0]

    def path(self, output: str) -> Path:
        """The file of an output: the file itself, or an archive of several and of folders.

        Raises:
            RequestError: 400 or 404, there is no such output.
        """
        if output not in (*self.files, "all"):
            raise RequestError(
                404 if output in OUTPUTS else 400,
                f"output is {output[:80]!r}, which was not made; accepted: {', '.join((*self.files, 'all'))}.",
            )
        every = {name: path for files in self.files.values() for name, path in files.items()}
        files = every | {"report.json": self.folder / "report.json"} if output == "all" else self.files[output]
        (name, path), *others = files.items()
        if not others and path.is_file():
            return path
        archive = self.folder / (f"{self.name}.zip" if output == "all" else f"{self.name}_{output}.zip")
        if not archive.exists():
            pack(archive, files)
        return archive

    def single(self, output: str) -> Path | None:
        """The one file or folder of an output; None where there are none or several."""
        paths = list(self.files.get(output, {}).values())
        return paths[0] if len(paths) == 1 else None


class RestorationTask(InferTask):
    """Restores images with a bundle.

    Args:
        root: the bundle's folder.
        device: where the network runs; the bundle's own choice if None.
        memory: the most bytes that a request may take by the estimate of `monai_d3gm.label.cost`.

    Raises:
        BundleError: the bundle has no weights, or they do not fit its network or process.
    """

    def __init__(self, root: Path, device: str | None, memory: int) -> None:
        self.root = root
        self.memory = memory
        self.bundle = read_config(root, INFERENCE)
        self.kinds = accepted_kinds(root, INFERENCE)
        self._server = {"logging_file": False, "progress": False, **({} if device is None else {"device": device})}
        place = self._check()
        metadata = read_json(root / "configs" / "metadata.json")
        taken = titles(self.kinds)
        super().__init__(
            type=InferType.OTHERS,
            labels=[],
            dimension=2,
            description=f"{metadata.get('description', root.name)} Takes: {taken}. Research use only.",
            config={**settable(self.bundle), "output": list(OUTPUTS), "store": False, "device": [place]},
        )

    def _check(self) -> str:
        """Load the weights as every request will, and return the device."""
        try:
            prepare(self.root, INFERENCE, self._server, self.root)
            parsed = make_workflow(self.root, INFERENCE, self._server).parser.get_parsed_content
            load_checkpoint(parsed("weights"), parsed("network_def"), parsed("scheduler"))
            return str(parsed("device"))
        except Exception as error:
            if is_refusal(cause := root_cause(error)):
                raise BundleError(f"bundle {self.root.name} cannot be served: {cause}") from error
            raise

    def is_valid(self) -> bool:
        """True: the weights were loaded when the server started."""
        return True

    def check(self, given: Mapping[str, Any]) -> Parameters:
        """Refuse parameters before anything is read.

        Raises:
            RequestError: 400, a parameter is unknown or out of its range, or asks for what there cannot be.
        """
        try:
            parameters = parse_parameters(given, self.bundle)
            if parameters.settings.get("format", FORMATS[0]) not in FORMATS:
                raise ValueError(f"format is {parameters.settings['format']!r}; accepted: {', '.join(FORMATS)}.")
            self._check_options(parameters)
        except ValueError as error:
            raise RequestError(400, explain(error)) from error
        return parameters

    def _check_options(self, parameters: Parameters) -> None:
        """Make inferer and data set with the options, and no inputs."""
        settings = {**parameters.settings, **self._server, "inputs": [], "dataset_dir": self.root}
        parser = make_workflow(self.root, INFERENCE, settings).parser
        try:
            parser.get_parsed_content("inferer")
            parser.get_parsed_content("dataset")
        except Exception as error:
            cause = root_cause(error)
            if not is_refusal(cause):
                raise
            if not str(cause).startswith(_EMPTY):
                raise cause from error
        if parameters.output == "interval":
            trust = parser.get_parsed_content("trust") if "trust" in self.bundle else None
            if trust is None or trust.calibration is None:
                raise ValueError(
                    f"output is 'interval', which there is not here: bundle {self.root.name} is not calibrated; there "
                    "are: restored, std, panel, all."
                )

    def check_input(self, unit: InputUnit, parameters: Parameters) -> list[Extent]:
        """Refuse an input by its headers, and return the sizes of its volumes.

        Raises:
            RequestError: 400, the bundle does not take it or its header cannot be read; 413, it would take too much
                memory.
        """
        name = unit.files[0].name if len(unit.files) == 1 else unit.relative.name
        if unit.kind not in self.kinds:
            found, accepted = titles([unit.kind]), titles(self.kinds)
            raise RequestError(400, f"{name} is {found}; bundle {self.root.name} accepts: {accepted}.")
        try:
            extents = read_extents(unit)
            needed = max(estimate_bytes(extent, {**self.bundle, **parameters.settings}) for extent in extents)
        except ValueError as error:
            raise RequestError(400, told(error, unit.files[0].parent)) from error
        if needed > self.memory:
            raise RequestError(
                413,
                f"{name}: restoring it would take about {needed / 1e9:.1f} GB of memory; accepted: "
                f"{self.memory / 1e9:.1f} GB (the server's setting memory).",
            )
        return extents

    def pixels(self, extents: Sequence[Extent], parameters: Parameters) -> int:
        """How many pixels go through the network."""
        return sum(estimate_pixels(extent, {**self.bundle, **parameters.settings}) for extent in extents)

    def __call__(self, request: Request, report: Callable[[float], None]) -> Result:
        """Restore inputs.

        Args:
            request: the request.
            report: called with the share that is done.

        Raises:
            RequestError: 400, no input can be restored, or there is no such output.
            Cancelled: ``report`` raised it.
        """
        units, parameters = request.units, request.parameters
        result = Result(request.name, request.folder / "results")
        result.folder.mkdir()
        reports: dict[str, Any] = {}
        problems: dict[str, str] = dict(request.problems)
        refused: RequestError | None = None
        for number, unit in enumerate(units):
            folder = result.folder / str(number)
            try:
                self.check_input(unit, parameters)
                self._run(unit, parameters, folder, _part(report, number, len(units)))
            except RequestError as error:
                refused = error
                problems[unit.relative.as_posix()] = error.reason
                continue
            for path in sorted(folder.iterdir()):
                if found := _RESULT.search(path.name):
                    inside = (unit.relative.parent / path.name).as_posix() if len(units) > 1 else path.name
                    result.files.setdefault(found[1], {})[inside] = path
            reports[unit.relative.as_posix()] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if not reports:
            raise refused or RequestError(400, _nothing(problems))
        result.wanted = parameters.output or ("all" if self._is_archive(result) else OUTPUTS[0])
        result.details = {
            **_told_of(reports),
            "problems": problems,
            "model": self.root.name,
            "output": result.wanted,
            "outputs": [*result.files, "all"],
        }
        text = json.dumps(result.details, indent=2, allow_nan=False)
        (result.folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
        result.path(result.wanted)
        return result

    def _is_archive(self, result: Result) -> bool:
        """Whether the restored images are no one file."""
        restored = result.single("restored")
        return restored is None or restored.is_dir()

    def _run(self, unit: InputUnit, parameters: Parameters, folder: Path, report: Callable[[float], None]) -> None:
        """Run the bundle on an input and leave its results and report in a folder."""
        places = {
            "inputs": list(unit.files),
            "dataset_dir": unit.files[0].parent,
            "output_dir": folder,
            "report": Path("report.json"),
        }
        try:
            workflow = make_workflow(self.root, INFERENCE, {**parameters.settings, **self._server, **places})
            workflow.initialize()
            evaluator = workflow.parser.get_parsed_content("evaluator")
            if parameters.output == "interval":
                _check_intervals(workflow.parser.get_parsed_content("trust"), evaluator.volumes)
            _watch(evaluator, report)
            workflow.run()
            workflow.finalize()
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, Cancelled):
                raise cause from None
            status = 400 if is_refusal(cause) else 500
            raise RequestError(status, told(error, unit.files[0].parent, folder)) from error


def _part(report: Callable[[float], None], number: int, of: int) -> Callable[[float], None]:
    """Report the share of one of several parts as one of the whole."""
    return lambda share: report((number + share) / of)


def _check_intervals(trust: TrustCheck, volumes: Sequence[InputVolume]) -> None:
    """Refuse a volume for which there are no intervals before it is restored."""
    for volume in volumes:
        if reasons := trust.no_intervals(volume):
            raise ValueError(f"output is 'interval', which there is not for {volume.path.name}: {'; '.join(reasons)}.")


def _watch(evaluator: Any, report: Callable[[float], None]) -> None:
    """Report before each evaluation of the network, which is where a run can be cancelled."""
    done, batch, evaluated = 0, 0, 0
    each = evaluator.restore.num_samples * (len(evaluator.restore.times) - 1)

    def begin(engine: Any) -> None:
        nonlocal batch, evaluated
        batch, evaluated = len(engine.state.batch["key"]), 0
        report(done / evaluator.num_slices)

    def evaluate(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        nonlocal evaluated
        share = min(evaluated / (batch * each), 1.0) if batch else 0.0
        report((done + batch * share) / evaluator.num_slices)
        evaluated += len(arguments[0] if arguments else options["x"])

    def end(engine: Any) -> None:
        nonlocal done
        done += batch
        report(done / evaluator.num_slices)

    evaluator.add_event_handler(Events.ITERATION_STARTED, begin)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, end)
    evaluator.network.register_forward_pre_hook(evaluate, with_kwargs=True)


def _told_of(reports: Mapping[str, Any]) -> dict[str, Any]:
    """The report of one input with its entry beside the rest; of several, all entries, and their warnings."""
    first = next(iter(reports.values()))
    inputs = {
        name if len(report["inputs"]) == 1 else f"{name}/{volume}": entry
        for name, report in reports.items()
        for volume, entry in report["inputs"].items()
    }
    common = {name: value for name, value in first.items() if name != "inputs"}
    if len(inputs) == 1:
        return {**common, **next(iter(inputs.values()))}
    warnings = [f"{name}: {warning}" for name, entry in inputs.items() for warning in entry["warnings"]]
    return {**common, "inputs": inputs, "warnings": warnings}


def _nothing(problems: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in [*problems.items()][:5])
    return f"nothing can be restored: {reasons}." if reasons else "nothing that can be restored was sent."


def told(error: Exception, *folders: Path) -> str:
    """An error as the client is told it: without the server's folders."""
    text = explain(error)
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text
