"""What comes out of a `RestorationEvaluator`: volumes, pictures, figures and a report."""

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

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from monai_d3gm.data.datasets import InputVolume
from monai_d3gm.data.fastmri import write_submission
from monai_d3gm.data.files import OutputError, atomic_path, writable_folder
from monai_d3gm.data.images import write_image, write_map
from monai_d3gm.data.nifti import write_volume
from monai_d3gm.engines.restoration import METHOD, RestorationEvents, RestoredVolume
from monai_d3gm.handlers.calibration import CalibratedUncertainty, TrustCheck
from monai_d3gm.handlers.panel import save_panel
from monai_d3gm.metrics import (
    COLOUR_PROTOCOLS,
    PROTOCOLS,
    evaluate_detail,
    evaluate_images,
    evaluate_photograph,
    format_table,
    lpips,
    paired_difference,
    photograph_detail,
    summarise,
)
from monai_d3gm.networks.checkpoint import read_checkpoint, weights_hash

__all__ = ["FORMATS", "MetricsReport", "RestorationFigures", "VolumeWriter", "provenance"]

logger = logging.getLogger(__name__)

Figures = dict[str, dict[str, float]]
"""method -> name of a figure (measure/protocol/region) -> value."""

FORMATS = ("same", "nifti")
"""In which format a restored volume can be written."""

_LABELS = {"std": "standard deviation", "interval": "half-width of the interval"}

_PACKAGES = ("monai_d3gm", "torch", "monai", "numpy", "fastmri", "sigpy", "nibabel", "h5py", "scikit-image", "pillow")
_KINDS = [(protocol, region) for protocol in PROTOCOLS for region in ("whole", "foreground")]
_KINDS += [(protocol, "whole") for protocol in COLOUR_PROTOCOLS]
_CAPTION = (
    "PSNR (dB), SSIM and NMSE of magnitude images. slice: data range of each slice, mean over slices; volume: "
    "fastMRI's, data range of the volume."
)
_COLOUR_CAPTION = "PSNR (dB) and SSIM of photographs, data range 1. rgb: all channels; y: luma of BT.601, studio range."
_MEASURES = {"psnr": ("PSNR", ".2f"), "ssim": ("SSIM", ".4f"), "nmse": ("NMSE", ".4f")}


def check_outputs(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Refuse, before anything is computed, a folder that cannot be written or files that are there; make nothing.

    Raises:
        OutputError: naming the folder or the file.
    """
    for name in names:
        if (folder / name).exists() and not overwrite:
            raise OutputError(f"{folder / name} exists; choose another output_dir, or set overwrite to true.")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        writable_folder(existing)
    except OutputError as error:
        raise OutputError(f"output_dir {folder} cannot be written: {error}") from error


class VolumeWriter:
    """Writes each volume when it is complete: images in the input's geometry, and a picture.

    For an input ``name.nii.gz`` or ``name.h5`` these are ``name_restored.nii.gz``, ``name_std.nii.gz`` where several
    samples were drawn, ``name_interval.nii.gz`` where a `TrustCheck` attached before gave the intervals' half-width,
    ``name_panel.png`` and, if asked for, ``name.h5`` in fastMRI's submission format for k-space files. For a DICOM
    series they are a derived series in the folder ``name_restored``, the parametric maps ``name_std.dcm`` and
    ``name_interval.dcm``, and the picture. For a photograph they are ``name_restored.png``, or ``.tif`` for a TIFF, of
    as many bits and with the same ICC profile, ``name_std.tif`` with the standard deviation of red, green and blue as
    float32, and the picture. Each is written whole or not at all; the folder is made with the first.

    Args:
        output_dir: where to.
        overwrite: replace files that are there (and remove those of an earlier run that are not written again).
        save_h5: also write fastMRI's submission format.
        format: ``same`` as the input, or ``nifti`` whatever it is.
        provenance: what made the images, name -> text, for formats that record it: see `provenance`.

    Raises:
        OutputError: when the engine starts: the folder cannot be written, or a file is there and ``overwrite`` is
            False.
    """

    def __init__(
        self,
        output_dir: str | PathLike[str],
        overwrite: bool = False,
        save_h5: bool = False,
        format: str = "same",
        provenance: Mapping[str, str] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"format is {format!r}; accepted: {', '.join(FORMATS)}.")
        self.folder = Path(str(output_dir))
        self.overwrite = overwrite
        self.save_h5 = save_h5
        self.format = format
        self.provenance = dict(provenance or {})

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.write)

    def check(self, engine: Any) -> None:
        """Refuse to start where the results could not be written."""
        names = [name for source in engine.volumes for name in self._names(source)]
        check_outputs(self.folder, names, self.overwrite)

    def write(self, engine: Any) -> None:
        """Write the volume that is complete."""
        volume: RestoredVolume = engine.state.volume
        source = volume.source
        folder = writable_folder(self.folder)
        if source.kind == "image":
            self._write_photograph(folder, volume)
            return
        half_width = getattr(engine.state, "uncertainty", CalibratedUncertainty()).half_width
        images = {"restored": volume.images[METHOD], "std": volume.std, "interval": half_width}
        for kind, slices in images.items():
            path = folder / self._name(source, kind)
            if slices is None:
                path.unlink(missing_ok=True)
            elif self._as_dicom(source):
                self._write_dicom(path, kind, volume.as_volume(slices), source)
            else:
                write_volume(path, volume.as_volume(slices), source.affine, source.header)
        save_panel(folder / self._name(source, "panel"), volume, overwrite=self.overwrite)
        if self._submits(source):
            restored = np.moveaxis(volume.as_volume(volume.images[METHOD]), -1, 0)
            write_submission(folder / f"{source.stem}.h5", restored, overwrite=self.overwrite)

    def _write_photograph(self, folder: Path, volume: RestoredVolume) -> None:
        source = volume.source
        paths = {kind: folder / self._name(source, kind) for kind in ("restored", "std", "panel")}
        if volume.std is None:
            paths["std"].unlink(missing_ok=True)
        else:
            write_map(paths["std"], volume.std[0], overwrite=self.overwrite)
        image = np.moveaxis(volume.images[METHOD][0], -1, 0)
        write_image(paths["restored"], image, **source.attributes, overwrite=self.overwrite)
        save_panel(paths["panel"], volume, overwrite=self.overwrite)

    def _write_dicom(self, path: Path, kind: str, data: NDArray[np.float32], source: InputVolume) -> None:
        from monai_d3gm.data.dicom import write_parametric_map, write_series  # with the extra "dicom" alone

        assert source.dicom is not None
        options: dict[str, Any] = {"provenance": self.provenance, "overwrite": self.overwrite}
        if kind == "restored":
            write_series(path, data, source.affine, source.dicom, **options)
        else:
            write_parametric_map(path, data, source.affine, source.dicom, label=_LABELS[kind], **options)

    def _as_dicom(self, source: InputVolume) -> bool:
        return source.kind == "dicom" and self.format == "same"

    def _submits(self, source: InputVolume) -> bool:
        return self.save_h5 and source.kind == "kspace"

    def _name(self, source: InputVolume, kind: str) -> str:
        """The name of the file, or of the folder of a series, that holds this kind of image."""
        suffix = {"restored": ".nii.gz", "std": ".nii.gz", "interval": ".nii.gz", "panel": ".png"}
        if source.kind == "image":
            tiff = source.path.suffix.lower() in (".tif", ".tiff")
            suffix |= {"restored": ".tif" if tiff else ".png", "std": ".tif"}
        elif self._as_dicom(source):
            suffix |= {"restored": "", "std": ".dcm", "interval": ".dcm"}
        return f"{source.stem}_{kind}{suffix[kind]}"

    def _names(self, source: InputVolume) -> list[str]:
        kinds = ("restored", "std", "panel") if source.kind == "image" else ("restored", "std", "interval", "panel")
        names = [self._name(source, kind) for kind in kinds]
        return names + ([f"{source.stem}.h5"] if self._submits(source) else [])


def provenance(bundle: str, weights: str | PathLike[str], parameters: Mapping[str, Any]) -> dict[str, str]:
    """What made an image: the bundle, the package's version, the weights' SHA-256, and the parameters as JSON.

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


class RestorationFigures:
    """Takes the figures of every volume with a truth: all protocols of `evaluate_images`, and measures of detail.

    ``by_input`` holds them by the input's stem; at the end of a run ``engine.state.metrics`` has the restoration's
    means over inputs, each under its name (``psnr/slice/whole`` and so on).
    """

    def __init__(self) -> None:
        self.by_input: dict[str, Figures] = {}
        self.problems: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.take)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.publish)

    def clear(self, engine: Any) -> None:
        """Forget an earlier run."""
        self.by_input, self.problems = {}, {}

    def take(self, engine: Any) -> None:
        """Take the figures of the volume that is complete."""
        volume: RestoredVolume = engine.state.volume
        if volume.reference is None:
            return
        stem, truth = volume.source.stem, volume.reference
        try:
            self.by_input[stem] = {method: _figures(image, truth) for method, image in volume.images.items()}
        except ValueError as error:  # too small for the measures, or a truth without signal
            self.problems[stem] = f"no figures: {error}"
            return
        if truth.ndim == 4:
            self._take_lpips(volume, truth)

    def _take_lpips(self, volume: RestoredVolume, truth: NDArray[np.float32]) -> None:
        stem = volume.source.stem
        try:
            for method, image in volume.images.items():
                self.by_input[stem][method]["lpips/rgb/whole"] = lpips(image[0], truth[0])
        except ValueError as error:  # no weights, or too small
            self.problems[stem] = str(error)

    def publish(self, engine: Any) -> None:
        """Put the means over inputs into the engine's metrics."""
        engine.state.metrics.update(_mean([figures[METHOD] for figures in self.by_input.values()]))


class MetricsReport:
    """Prints a table of the figures and where the results are, and writes the report when all is restored.

    The report has neither a clock nor paths, so that two runs with one seed write the same bytes: per input its
    protocol, figures and warnings; the parameters; the checkpoint's hash and training; versions of packages.

    Args:
        output_dir: where to.
        figures: the handler that takes the figures; attached before this one.
        weights: the checkpoint's file.
        parameters: what the run was told, as plain values.
        remarks: warnings that hold for every input.
        overwrite: replace a report that is there.
        report: the report's name.
        trust: the handler that says how far to trust each volume; attached before this one. None for no such word.
        group_pattern: regular expression with one group that finds an input's contrast in its stem; the report then
            has a summary for each contrast, with differences paired by subject. None for no summary.
        subject_pattern: regular expression with one group that finds the subject in the stem; the stem where it does
            not match.

    Attributes:
        gather: gives the values of all processes that share a run, of what JSON has, to one of them, and nothing to the
            others; the inputs went to the processes in turn. A process alone has its own value.

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
        self.gather: Callable[[Any], list[Any]] = lambda value: [value]

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.check)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def check(self, engine: Any) -> None:
        """Refuse to start where the report could not be written; log the warnings."""
        check_outputs(self.folder, [self.report], self.overwrite)
        for source in engine.volumes:
            for remark in self._remarks(source):
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
        if self.figures.by_input:
            print(_table(self.figures.by_input))
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
            "warnings": self._remarks(source),
        }
        if source.stem in self.figures.problems:
            entry["warnings"].append(self.figures.problems[source.stem])
        if self.trust is not None:
            entry["uncertainty"] = self.trust.reports.get(source.stem, {})
            entry["warnings"] += self.trust.warnings.get(source.stem, [])
        return entry

    def _remarks(self, source: InputVolume) -> list[str]:
        """What a reader of the figures must know about an input."""
        remarks = [*self.remarks, *source.warnings]
        if min(source.kept_band) < 1:
            rows, columns = source.kept_band
            remarks.append(f"interpolated: only {rows:.2f} x {columns:.2f} of the band (rows x columns) was kept")
        if source.header is not None and len(frames := source.header.get_data_shape()) == 4 and frames[3] > 1:
            remarks.append(f"4-D file: the first of {frames[3]} volumes was taken")
        if source.skipped:
            remarks.append(f"slices that are zero everywhere were skipped: {_numbers(source.skipped)}")
        others = sorted(set(range(source.shape[source.slice_axis])) - set(source.slices) - set(source.skipped))
        if others:
            remarks.append(f"not restored, as asked for, and zero in the output: slices {_numbers(others)}")
        if not source.has_truth:
            remarks.append("no truth is known: no figures")
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
        """Name of a figure -> subject -> its finite values; figures that some input lacks are left out."""
        names = set.intersection(*(set(figures[method]) for figures in inputs.values()))
        result: dict[str, dict[str, list[float]]] = {}
        for name in sorted(names):
            by: dict[str, list[float]] = {}
            for stem, figures in inputs.items():
                by.setdefault(_found(self.subject_pattern, stem, stem), []).append(figures[method][name])
            if all(math.isfinite(value) for values in by.values() for value in values):
                result[name] = by
        return result


def _figures(image: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
    figures: dict[str, float] = {}
    if truth.ndim == 4:
        figures |= _mean([evaluate_photograph(i, t) for i, t in zip(image, truth, strict=True)])
        if min(truth.shape[1:3]) >= 32:
            figures |= _mean([photograph_detail(i, t) for i, t in zip(image, truth, strict=True)])
        return figures
    for protocol in PROTOCOLS:
        figures |= evaluate_images(image, truth, protocol)
    if min(truth.shape[1:]) >= 32:
        figures |= evaluate_detail(image, truth)
    return figures


def _mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the figures that all have."""
    if not figures:
        return {}
    names = [name for name in figures[0] if all(name in other for other in figures)]
    return {name: float(np.mean([each[name] for each in figures])) for name in names}


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
    return {method: _mean([figures[method] for figures in inputs]) for method in methods}


def _in_turn(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of dicts, the first of each, then the second of each, and so on.

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
