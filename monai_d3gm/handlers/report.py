"""The report of a `RestorationEvaluator`: tables, and the file of figures, warnings, parameters and versions."""

from __future__ import annotations

import itertools
import json
import logging
import math
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.restored import METHOD
from monai_d3gm.files import atomic_path, writable_folder
from monai_d3gm.handlers.metrics import Figures, RestorationFigures, mean
from monai_d3gm.handlers.trust import TrustCheck
from monai_d3gm.handlers.writer import check_outputs
from monai_d3gm.metrics import (
    COLOUR_PROTOCOLS,
    PROTOCOLS,
    format_table,
    paired_difference,
    summarise,
)
from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

__all__ = ["MetricsReport", "one_line", "provenance"]

logger = logging.getLogger(__name__)

_PACKAGES = ("monai_d3gm", "torch", "monai", "numpy", "fastmri", "sigpy", "nibabel", "h5py", "scikit-image", "pillow")
_KINDS = [(protocol, region) for protocol in PROTOCOLS for region in ("whole", "foreground")]
_KINDS += [(protocol, "whole") for protocol in COLOUR_PROTOCOLS]
_CAPTION = (
    "PSNR (dB), SSIM and NMSE of magnitude images. slice: data range of each slice, mean over slices; volume: "
    "fastMRI's, data range of the volume."
)
_COLOUR_CAPTION = "PSNR (dB) and SSIM of photographs, data range 1. rgb: all channels; y: luma of BT.601, studio range."
_NO_TRUTH = "no truth is known: no figures"
_HEADLINES = {"psnr/slice/foreground": "PSNR inside the object", "psnr/rgb/whole": "PSNR (RGB)"}
_MEASURES = {"psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".4f"), "nmse": ("NMSE", ".4f")}


def provenance(bundle: str, weights: str | PathLike[str], parameters: Mapping[str, Any]) -> dict[str, str]:
    """The origin of an image: the bundle, the package's version, the weights' SHA-256, and the parameters as JSON.

    Example:
        >>> import tempfile
        >>> weights = Path(tempfile.mkdtemp()) / "model.pt"
        >>> _ = weights.write_bytes(b"")
        >>> sorted(provenance("mri_sr", weights, {"seed": 0}))
        ['bundle', 'parameters', 'version', 'weights']
    """
    return {
        "bundle": bundle,
        "version": version("monai_d3gm"),
        "weights": weights_hash(weights),
        "parameters": json.dumps(_plain(parameters), sort_keys=True),
    }


def one_line(entry: Mapping[str, Any]) -> str:
    """An input's entry of the report in a few words: a figure if a truth is known, the coverage of its intervals.

    Example:
        >>> figures = {"zero-filled": {"psnr/rgb/whole": 20.0}, "D3GM": {"psnr/rgb/whole": 23.0}}
        >>> one_line({"protocol": {"slices": [0]}, "figures": figures, "warnings": [], "uncertainty": {}})
        'PSNR (RGB) 23.00 dB, +3.00 dB over zero-filled'
        >>> one_line({"protocol": {"slices": [0, 1]}, "figures": {}, "warnings": ["far from the training data: ..."]})
        '2 slices, 1 warning'
    """
    words = []
    for name, title in _HEADLINES.items():
        values = {method: each[name] for method, each in entry["figures"].items() if name in each}
        if METHOD in values:
            own = float(values.pop(METHOD))
            best = max(values, key=lambda method: float(values[method]))
            words.append(f"{title} {own:.2f} dB, {own - float(values[best]):+.2f} dB over {best}")
    if not words:
        words.append(f"{(count := len(entry['protocol']['slices']))} slice{'s' * (count != 1)}")
    uncertainty = entry.get("uncertainty", {})
    if "covered" in uncertainty:
        words.append(f"{uncertainty['coverage']:.0%} intervals cover {uncertainty['covered']:.1%}")
    if count := len([warning for warning in entry["warnings"] if warning != _NO_TRUTH]):
        words.append(f"{count} warning{'s' * (count != 1)}")
    return ", ".join(words)


class MetricsReport:
    """Prints a line for each input and the folder of the results, and writes the report at the end.

    It holds each input's protocol, figures and warnings, the parameters, the checkpoint's hash and training, and the
    versions of packages. It has neither times nor paths, so two runs with one seed write the same bytes.

    Args:
        output_dir: where to.
        figures: the handler that takes the figures; attached before this one.
        weights: the checkpoint's file.
        parameters: the settings of the run, as plain values.
        remarks: warnings that hold for every input.
        overwrite: replace a report that is there.
        report: the report's name.
        trust: the handler that says how far to trust each volume; attached before this one. None leaves that out.
        group_pattern: regular expression with one group that finds an input's contrast in its stem; the report then
            has a summary for each contrast, with differences paired by subject. None for no summary.
        subject_pattern: regular expression with one group that finds the subject in the stem; the stem where it does
            not match.
        verbose: print a table of all figures instead of one line for each volume.

    Attributes:
        gather: for a run that several processes share. It takes a value that JSON can hold, and returns the list of all
            processes' values on the first process and an empty list on the others. The inputs were dealt to the
            processes in turn. A single process gets the list of its own value.

    Raises:
        OutputError: when the engine starts: the folder cannot be written, or the report is there and ``overwrite`` is
            False.
    """

    def __init__(
        self,
        output_dir: str | PathLike[str],
        figures: RestorationFigures,
        weights: str | PathLike[str],
        parameters: Mapping[str, Any],
        remarks: Sequence[str] = (),
        overwrite: bool = False,
        report: str = "metrics.json",
        trust: TrustCheck | None = None,
        group_pattern: str | None = None,
        subject_pattern: str = r"^(sub-[0-9A-Za-z]+|patient[0-9]+)",
        verbose: bool = False,
    ) -> None:
        self.folder = Path(str(output_dir))
        self.figures = figures
        self.weights = Path(weights)
        self.parameters = dict(parameters)
        self.remarks = list(remarks)
        self.overwrite = overwrite
        self.report = report
        self.trust = trust
        self.group_pattern = group_pattern
        self.subject_pattern = subject_pattern
        self.verbose = verbose
        self.gather: Callable[[Any], list[Any]] = lambda value: [value]

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def check(self, engine: Any) -> None:
        """Refuse to start if the report cannot be written; log the warnings."""
        check_outputs(self.folder, [self.report], self.overwrite)
        for source in engine.volumes:
            for remark in self._remarks(source):
                if remark != _NO_TRUTH:  # nothing that a user could act on
                    logger.warning("%s: %s", source.path.name, remark)

    def write(self, engine: Any) -> None:
        """Print the tables and write the report; of several processes the first does, for all."""
        inputs = {source.stem: self._input(source) for source in engine.volumes}
        gathered = self.gather((_plain(inputs), self.figures.by_input))
        if not gathered:
            return
        self.figures.by_input = _in_turn([figures for _, figures in gathered])
        report: dict[str, Any] = {
            "inputs": _in_turn([inputs for inputs, _ in gathered]),
            "parameters": self.parameters,
            "checkpoint": {"file": self.weights.name, "sha256": weights_hash(self.weights)}
            | read_checkpoint(self.weights)["d3gm"],
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        }
        if self.verbose and self.figures.by_input:
            print(_table(self.figures.by_input))
        elif not self.verbose:
            for entry in report["inputs"].values():
                print(f"{entry['file']}: {one_line(entry)}")
        if self.group_pattern is not None and self.figures.by_input:
            report["summary"] = self._summary()
        text = json.dumps(_plain(report), indent=2, allow_nan=False)
        with atomic_path(writable_folder(self.folder) / self.report, overwrite=self.overwrite) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        print(f"Results: {self.folder}")

    def _input(self, source: InputVolume) -> dict[str, Any]:
        """The report of one input."""
        entry: dict[str, Any] = {
            "file": source.path.name,
            "protocol": {
                "data": source.origin,
                **({"coils": source.coils} if source.coils else {}),
                "slices": list(source.slices),
                "shape": list(source.shape),
                "figures": "measure/protocol/region; whole image and foreground; see monai_d3gm.metrics",
            },
            "figures": self.figures.by_input.get(source.stem, {}),
            "measurement": self.figures.measurement.get(source.stem, {}),
            "warnings": self._remarks(source),
        }
        if source.stem in self.figures.problems:
            entry["warnings"].append(self.figures.problems[source.stem])
        if self.trust is not None:
            entry["uncertainty"] = self.trust.reports.get(source.stem, {})
            entry["warnings"] += self.trust.warnings.get(source.stem, [])
        return entry

    def _remarks(self, source: InputVolume) -> list[str]:
        """Warnings and remarks on an input, for a reader of its figures."""
        remarks = [*self.remarks, *source.warnings]
        if min(source.kept_band) < 1:
            rows, columns = source.kept_band
            remarks.append(f"interpolated: only {rows:.2f} x {columns:.2f} of the band (rows x columns) was kept")
        if source.skipped:
            remarks.append(f"slices that are zero everywhere were skipped: {_numbers(source.skipped)}")
        others = sorted(set(range(source.shape[source.slice_axis])) - set(source.slices) - set(source.skipped))
        if others:
            remarks.append(f"not restored, as asked for, and zero in the output: slices {_numbers(others)}")
        if not source.has_truth:
            remarks.append(_NO_TRUTH)
        return remarks

    def _summary(self) -> dict[str, Any]:
        """Figures and paired differences of each contrast; printed too."""
        groups: dict[str, dict[str, Figures]] = {}
        for stem, figures in self.figures.by_input.items():
            groups.setdefault(_found(self.group_pattern, stem, "other").upper(), {})[stem] = figures
        summary: dict[str, Any] = {}
        rows = []
        for group, inputs in sorted(groups.items()):
            methods = [m for m in next(iter(inputs.values())) if all(m in figures for figures in inputs.values())]
            values = {m: self._by_subject(inputs, m) for m in methods}
            summary[group] = {
                "inputs": sorted(inputs),
                "figures": {m: {f: _entry(summarise(by)) for f, by in values[m].items()} for m in methods},
                "differences": {
                    f"{METHOD} - {m}": {
                        f: _entry(paired_difference(values[METHOD][f], values[m][f]))
                        for f in values[METHOD]
                        if f in values[m]
                    }
                    for m in methods
                    if m != METHOD
                },
            }
            for protocol, region in _KINDS:
                for m in methods:
                    if m != METHOD and (figure := f"psnr/{protocol}/{region}") in values[m]:
                        difference = paired_difference(values[METHOD][figure], values[m][figure])
                        row = {"contrast": group, "protocol": f"{protocol}, {region}", "than": m}
                        rows.append(row | {"PSNR higher by (dB)": difference.format(2)})
        print("\nDifferences within subjects\n" + format_table(rows))
        return summary

    def _by_subject(self, inputs: Mapping[str, Figures], method: str) -> dict[str, dict[str, list[float]]]:
        """Name of a figure -> subject -> its finite values; figures that some input lacks are dropped."""
        names = set.intersection(*(set(figures[method]) for figures in inputs.values()))
        result: dict[str, dict[str, list[float]]] = {}
        for name in sorted(names):
            by: dict[str, list[float]] = {}
            for stem, figures in inputs.items():
                by.setdefault(_found(self.subject_pattern, stem, stem), []).append(figures[method][name])
            if all(math.isfinite(value) for values in by.values() for value in values):
                result[name] = by
        return result


def _table(by_input: Mapping[str, Figures]) -> str:
    """A row for each input, protocol and method; the means over inputs where there are several."""
    blocks = dict(by_input)
    if len(blocks) > 1:
        blocks = {**blocks, f"mean of {len(by_input)}": _means(list(by_input.values()))}
    rows: list[dict[str, object]] = []
    for name, methods in blocks.items():
        for protocol, region in _KINDS:
            for method, figures in methods.items():
                if f"psnr/{protocol}/{region}" in figures:
                    row: dict[str, object] = {"input": name, "protocol": f"{protocol}, {region}", "method": method}
                    for measure, (title, digits) in _MEASURES.items():
                        if f"{measure}/{protocol}/{region}" in figures:
                            row[title] = format(figures[f"{measure}/{protocol}/{region}"], digits)
                    rows.append(row)
    colour = any(row["protocol"] == "rgb, whole" for row in rows)
    return (_COLOUR_CAPTION if colour else _CAPTION) + "\n" + format_table(rows)


def _means(inputs: Sequence[Figures]) -> Figures:
    methods = [method for method in inputs[0] if all(method in other for other in inputs)]
    return {method: mean([figures[method] for figures in inputs]) for method in methods}


def _in_turn(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of dicts, the first of each, then the second of each, and so on.

    Example:
        >>> list(_in_turn([{"a": 0, "c": 0}, {"b": 0}]))
        ['a', 'b', 'c']
    """
    turns = itertools.zip_longest(*(part.items() for part in parts))
    return dict(entry for turn in turns for entry in turn if entry is not None)


def _entry(summary: Any) -> dict[str, Any]:
    """A summary as plain containers."""
    return {"mean": summary.mean, "interval": summary.interval, "values": dict(summary.values)}


def _found(pattern: str | None, text: str, default: str) -> str:
    match = re.search(pattern, text) if pattern else None
    return match[1] if match else default


def _numbers(values: Sequence[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _plain(value: Any) -> Any:
    """Plain containers for JSON; figures that are not finite become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
