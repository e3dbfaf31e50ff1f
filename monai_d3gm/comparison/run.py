"""Running an experiment: train, choose each method's own settings, take the figures, and write the results."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from tqdm import tqdm

from monai_d3gm import __version__
from monai_d3gm.comparison.diagnosis import lipschitz
from monai_d3gm.comparison.evaluation import Evaluator, Item, Row, means, process_scheduler
from monai_d3gm.comparison.experiment import CRITERIA, Condition, Experiment, Method
from monai_d3gm.comparison.report import INPUT, write_report
from monai_d3gm.comparison.settings import Setting
from monai_d3gm.comparison.training import load, train, weights_path
from monai_d3gm.files import atomic_path, writable_folder
from monai_d3gm.networks.checkpoint import build_scheduler, weights_hash
from monai_d3gm.networks.schedulers import D3GMScheduler

__all__ = ["Results", "compare", "machine", "plan"]


@dataclass
class Results:
    """The results of an experiment.

    Attributes:
        choosing: rows of all methods and settings on the conditions of the choice.
        final: rows of the chosen settings on the others.
        chosen: method -> criterion -> setting.
        refused: method -> why its network does not cover its process.
        weights: network -> seed -> hash of its file.
        lipschitz: network -> seed -> its local Lipschitz constant.
        remarks: remarks for a reader of the figures.
    """

    choosing: list[Row] = field(default_factory=list)
    final: list[Row] = field(default_factory=list)
    chosen: dict[str, dict[str, Setting]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[int, str]] = field(default_factory=dict)
    lipschitz: dict[str, dict[int, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def compare(experiment: Experiment, output: Path, *, device: str = "cpu", progress: bool = True) -> Results:
    """Run or resume an experiment, and write ``results.json``, ``report.html`` and the figures.

    Args:
        experiment: the comparison.
        output: its folder; existing weights and figures are kept.
        device: where networks are trained and run.
        progress: show progress bars.

    Returns:
        The results, as they are written.

    Raises:
        ExperimentError: the folder holds another training.
    """
    return _Run(experiment, writable_folder(output), device, progress).all()


def plan(experiment: Experiment) -> list[str]:
    """The plan of an experiment, line by line: makes its data sets and samplers, and trains nothing.

    Raises:
        ValueError: a data set or a setting is not accepted.
    """
    lines = [f"{experiment.title}: {experiment.path}", f"bundle: {experiment.root}"]
    for name, network in experiment.networks.items():
        if network.weights is not None:
            lines.append(f"network {name}: {network.weights}")
            continue
        parser = experiment.parser(name)
        steps = parser.get_parsed_content("max_epochs") * parser.get_parsed_content("epoch_length")
        definition = parser.get_parsed_content("network_def")
        parameters = sum(weight.numel() for weight in definition.parameters())
        batch = parser.get_parsed_content("batch_size")
        lines.append(
            f"network {name}: {steps} steps of {batch}, {parameters} parameters, "
            f"seeds {' '.join(map(str, experiment.seeds))}"
        )
    for method in experiment.methods.values():
        same = experiment.coincide.get(method.name)
        lines.append(f"method {method.name}: {method.process!r}" + (f", the same as {same}" if same else ""))
        for setting in experiment.settings:
            setting.inferer(D3GMScheduler(method.process), 0)
    counts: dict[str, int] = {}
    for part, conditions in (("choosing", experiment.choosing), ("final", experiment.final)):
        for condition in conditions.values():
            dataset = experiment.dataset(condition)
            counts[condition.name] = len(dataset)
            item = Item(dataset, 0, condition.crop)
            extent = "x".join(map(str, item.content["mu"].shape))
            lines.append(
                f"{part} on {condition.name}: {len(dataset)} images, the first {extent}, "
                f"subject {experiment.subject(item.key)}"
            )
    calls = sum(setting.evaluations * setting.samples for setting in experiment.settings)
    distinct = len(experiment.methods) - len(experiment.coincide)
    images = sum(counts[name] for name in experiment.choosing)
    lines.append(
        f"choosing: {len(experiment.settings)} settings, "
        f"{calls * images * distinct * len(experiment.choosing_seeds)} evaluations of a network on an image"
    )
    return lines


def machine(device: str) -> dict[str, Any]:
    """The machine and the versions that computed the figures."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "versions": {
            "monai_d3gm": __version__,
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": torch.__version__,
            "monai": monai.__version__,
            "numpy": np.__version__,
        },
    }


class _Run:
    """The state of a run: the trained networks, and the results so far."""

    def __init__(self, experiment: Experiment, output: Path, device: str, progress: bool) -> None:
        self.experiment, self.output, self.device, self.progress = experiment, output, device, progress
        self.evaluator = Evaluator(experiment, writable_folder(output / "rows"), device)
        self.results = Results()
        self._loaded: tuple[tuple[str, int], torch.nn.Module, Mapping[str, Any]] | None = None

    def all(self) -> Results:
        """Train, choose, evaluate, write."""
        torch.set_num_threads(int(self.experiment.parser().get_parsed_content("num_threads")))
        used = [m.network for m in self.experiment.methods.values() if m.name not in self.experiment.coincide]
        for seed in self.experiment.seeds:
            for network in dict.fromkeys(used):
                path = train(self.experiment, network, seed, self.output, device=self.device, progress=self.progress)
                self.results.weights.setdefault(network, {})[seed] = weights_hash(path)
        self._choose()
        self._take_final()
        if self.experiment.lipschitz:
            self._measure_lipschitz(list(dict.fromkeys(used)))
        self.results.remarks += self.evaluator.remarks
        self._write()
        return self.results

    def _methods(self) -> list[Method]:
        return [m for m in self.experiment.methods.values() if m.name not in self.experiment.coincide]

    def _network(self, network: str, seed: int) -> tuple[torch.nn.Module, Mapping[str, Any]]:
        """A trained network; the last one loaded is kept."""
        if self._loaded is None or self._loaded[0] != (network, seed):
            path = weights_path(self.experiment, network, seed, self.output)
            self._loaded = ((network, seed), *load(self.experiment, network, path, self.device))
        return self._loaded[1], self._loaded[2]

    def _rows(self, method: Method, seed: int, condition: Condition, setting: Setting) -> list[Row]:
        """Figures of a method with their labels; none if its network does not cover its process."""
        module, information = self._network(method.network, seed)
        try:
            scheduler = process_scheduler(method.process, information)
        except ValueError as error:
            self.results.refused[method.name] = str(error)
            return []
        weights = self.results.weights[method.network][seed]
        rows = self.evaluator.restored(module, scheduler, weights, setting, seed, condition)
        about = {"condition": condition.name, "method": method.name, "seed": seed, "setting": str(setting)}
        return [{**about, "evaluations": setting.evaluations, "family": setting.family, **row} for row in rows]

    def _choose(self) -> None:
        """Each method's own settings, by each criterion, as means over seeds, conditions and subjects."""
        settings, conditions = self.experiment.settings, list(self.experiment.choosing.values())
        if len(settings) == 1:
            for method in self._methods():
                self.results.chosen[method.name] = dict.fromkeys(self.experiment.criteria, settings[0])
            return
        jobs = [(s, m) for s in self.experiment.choosing_seeds for m in self._methods()]
        with tqdm(total=len(jobs) * len(settings), disable=not self.progress, desc="choosing", unit="setting") as bar:
            for seed, method in jobs:
                for setting in settings:
                    for condition in conditions:
                        self.results.choosing += self._rows(method, seed, condition, setting)
                    bar.update()
        for method in self._methods():
            rows = [row for row in self.results.choosing if row["method"] == method.name]
            if rows:
                found = {criterion: _best(settings, rows, criterion) for criterion in self.experiment.criteria}
                self.results.chosen[method.name] = found

    def _take_final(self) -> None:
        """The figures of the chosen settings and of the degraded images."""
        jobs = [(s, m) for s in self.experiment.seeds for m in self._methods() if m.name in self.results.chosen]
        for seed, method in tqdm(jobs, disable=not self.progress, desc="figures", unit="network"):
            chosen = self.results.chosen[method.name]
            for setting in dict.fromkeys(chosen.values()):
                by = [criterion for criterion, each in chosen.items() if each == setting]
                for condition in self.experiment.final.values():
                    rows = self._rows(method, seed, condition, setting)
                    self.results.final += [{**row, "chosen_by": by} for row in rows]
        for condition in self.experiment.final.values():
            about = {"condition": condition.name, "method": INPUT}
            self.results.final += [{**about, **row} for row in self.evaluator.degraded(condition)]

    def _measure_lipschitz(self, networks: list[str]) -> None:
        """Take every network's Lipschitz constant at the first final image."""
        item = next(iter(self.evaluator.items(next(iter(self.experiment.final.values())))))
        mu = item.content["mu"][None].to(self.device)
        for network in networks:
            for seed in self.experiment.seeds:
                module, information = self._network(network, seed)
                constant = lipschitz(module, build_scheduler(information), mu)
                self.results.lipschitz.setdefault(network, {})[seed] = constant

    def _write(self) -> None:
        results = self.results
        content = {
            "experiment": self.experiment.describe(),
            "networks": {n: {str(s): h for s, h in seeds.items()} for n, seeds in results.weights.items()},
            "methods": {name: method.process.config() for name, method in self.experiment.methods.items()},
            "coincide": self.experiment.coincide,
            "refused": results.refused,
            "chosen": {m: {c: asdict(s) for c, s in found.items()} for m, found in results.chosen.items()},
            "lipschitz": {n: {str(s): v for s, v in seeds.items()} for n, seeds in results.lipschitz.items()},
            "remarks": results.remarks,
            "machine": machine(self.device),
            "choosing": results.choosing,
            "final": results.final,
        }
        with atomic_path(self.output / "results.json") as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
        write_report(json.loads(json.dumps(content)), self.output)


def _best(settings: list[Setting], rows: list[Row], criterion: str) -> Setting:
    """The setting with the best mean; among equals, the one of fewest evaluations."""
    sign = CRITERIA[criterion]
    values = {s: sign * _mean([row for row in rows if row["setting"] == str(s)], criterion) for s in settings}
    return max(settings, key=lambda s: (values[s], -s.evaluations))


def _mean(rows: list[Row], figure: str) -> float:
    """Over subjects, then over conditions and seeds alike."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["condition"], row["seed"]), []).append(row)
    return float(np.mean([np.mean(list(means(group, figure).values())) for group in groups.values()]))
