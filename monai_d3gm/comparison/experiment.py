"""An experiment as a JSON file: networks, their processes, settings of the sampler, data sets.

The file stands on a bundle's ``configs/train.json``: its expressions may name what that file defines
(``@dataset_dir``), and ``common`` and each network's entry override its keys, such as ``network_def::width``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from monai_d3gm.bundle import find_bundle_root
from monai_d3gm.comparison.settings import ExperimentError, check_keys, settings_from
from monai_d3gm.sde import DiffusionProcess, process_from_config

__all__ = ["CRITERIA", "Condition", "Experiment", "Method", "Network", "same_curves"]

CRITERIA = {"psnr": 1, "crps": -1}
"""The criteria for a method's setting, and whether more or less is better: the fidelity of one image, and the
continuous ranked probability score of the samples. The latter is a proper score: samples of the posterior have the
best."""


@dataclass(frozen=True)
class Network:
    """A network: the keys of train.json that it overrides, and its weights; None to train it.

    Example:
        >>> Network("narrow", {"network_def::width": 8}).weights is None
        True
    """

    name: str
    overrides: Mapping[str, Any]
    weights: str | None = None


@dataclass(frozen=True)
class Method:
    """A network under a process.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> Method("D3GM", "narrow", D3GMProcess(tau=2.0)).process.tau
        2.0
    """

    name: str
    network: str
    process: DiffusionProcess


@dataclass(frozen=True, eq=False)
class Condition:
    """Data on which figures are taken.

    Attributes:
        name: its name in the report.
        data: the data set, a component of MONAI's configurations.
        crop: extent of the central crop that is taken of a photograph; None for all of it.
        group: conditions of one group are one line of the plot of degradation against quality.
        x: how strong the degradation is; None leaves the condition out of that plot.

    Example:
        >>> Condition("rain", {"_target_": "monai_d3gm.data.ImageDataset"}, crop=64).group
        ''
    """

    name: str
    data: Mapping[str, Any]
    crop: int | None = None
    group: str = ""
    x: float | None = None


def same_curves(first: DiffusionProcess, second: DiffusionProcess) -> bool:
    """Whether two processes are one: equal curves at 64 times.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess, OrnsteinUhlenbeckProcess
        >>> same_curves(D3GMProcess(tau=2.0), OrnsteinUhlenbeckProcess(stationary_std=20 / 255))
        True
    """
    times = torch.linspace(0, 1, 64, dtype=torch.float64)
    pairs = zip(first.curves(times), second.curves(times), strict=True)
    return all(bool(torch.allclose(a, b, rtol=1e-12, atol=0)) for a, b in pairs)


_KEYS = (
    "title about bundle imports values common networks methods settings choosing final criteria seeds choosing_seeds "
    "reference subjects data_consistency to_image clip roi_size lipschitz"
).split()


class Experiment:
    """A comparison, read from its file and checked.

    Args:
        path: the JSON file. Its keys:

            - ``title``, ``about``: for the report.
            - ``bundle``: name or folder of the bundle whose ``configs/train.json`` it stands on.
            - ``imports``, ``values``: further imports, and keys that are added to that file.
            - ``common``: keys of it that are set for every network.
            - ``networks``: name -> keys that are set for this one; with ``weights``, a file in which ``{seed}`` and
              ``{bundle_root}`` are replaced, it is not trained.
            - ``methods``: name -> ``{"network": name, "process": {...}}``; without it each network under the process
              that it is trained for.
            - ``settings``: keys of `Setting` and of `Sampler`; lists are multiplied out (`settings_from`).
            - ``choosing``, ``final``: name -> `Condition`. Each method's settings are chosen on the first, by each of
              ``criteria`` (``psnr``, ``crps``) and over ``choosing_seeds``, and the figures taken on the second.
            - ``seeds``: of training and sampling.
            - ``reference``: the method that the others are compared with; the last if not given.
            - ``subjects``: regular expression with one group, the subject in an item's key; the key up to ":"
              if not given.
            - ``data_consistency``, ``to_image``, ``clip``, ``roi_size``: as of `RestorationEvaluator` and
              `RestorationInferer`.
            - ``lipschitz``: measure the networks' Lipschitz constants.
        settings: keys of train.json that the command line sets, such as ``dataset_dir``.
        seeds: instead of the file's.

    Raises:
        ExperimentError: the file cannot be read, or a key is unknown, missing or not accepted.

    Example:
        >>> import tempfile
        >>> data = {"data": {"_target_": "monai_d3gm.data.ImageDataset"}}
        >>> content = {"title": "Rain", "bundle": "derain", "networks": {"usual": {}}, "final": {"rain": data}}
        >>> file = Path(tempfile.mkdtemp()) / "experiment.json"
        >>> _ = file.write_text(json.dumps({**content, "settings": [{"steps": 1}]}))
        >>> experiment = Experiment(file)
        >>> list(experiment.methods), [str(setting) for setting in experiment.settings]
        (['usual'], ['1 evaluation: order 2, eta 0'])
    """

    def __init__(
        self,
        path: str | PathLike[str],
        settings: Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.path = Path(path)
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ExperimentError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise ExperimentError(f"{path}: not a JSON object.")
        check_keys(str(path), content, _KEYS)
        missing = [key for key in ("title", "bundle", "networks", "settings", "final") if not content.get(key)]
        if missing:
            raise ExperimentError(f"{path}: {', '.join(missing)} missing.")
        self.content: dict[str, Any] = content
        self.given = dict(settings or {})
        self.title, self.about = str(content["title"]), str(content.get("about", ""))
        self.root = Path(find_bundle_root(content["bundle"])).absolute()
        self.seeds = [int(seed) for seed in (content.get("seeds", [0]) if seeds is None else seeds)]
        self.choosing_seeds = [int(seed) for seed in content.get("choosing_seeds", self.seeds)]
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ExperimentError(f"seeds is {self.seeds}; accepted: at least one, each once.")
        if set(self.choosing_seeds) - set(self.seeds):
            raise ExperimentError(f"choosing_seeds is {self.choosing_seeds}; accepted: of the seeds, {self.seeds}.")
        self.criteria = list(content.get("criteria", CRITERIA))
        if not self.criteria or set(self.criteria) - set(CRITERIA):
            raise ExperimentError(f"criteria is {self.criteria}; accepted: {', '.join(CRITERIA)}.")
        self.settings = settings_from(content["settings"])
        self.choosing = self._conditions("choosing")
        self.final = self._conditions("final")
        if len(self.settings) > 1 and not (self.choosing and self.choosing_seeds):
            raise ExperimentError("choosing is missing: several settings are chosen from on data of their own.")
        self.subjects = re.compile(content.get("subjects", r"^([^:]*)"))
        self.lipschitz = bool(content.get("lipschitz", False))
        self.networks = {name: self._network(name, entry) for name, entry in content["networks"].items()}
        self.methods = {method.name: method for method in self._methods()}
        self.reference = str(content.get("reference", list(self.methods)[-1]))
        if self.reference not in self.methods:
            raise ExperimentError(f"reference is {self.reference!r}; accepted: {', '.join(self.methods)}.")
        self.coincide = self._coincide()

    def parser(self, network: str | None = None, **overrides: Any) -> ConfigParser:
        """The bundle's train.json with the keys of the experiment, and of one of its networks."""
        file = self.root / "configs" / "train.json"
        base = ConfigParser.load_config_file(file)
        base["imports"] = [*base.get("imports", []), *self.content.get("imports", [])]
        parser = ConfigParser(base)
        parser.update({"bundle_root": str(self.root)})
        pairs = {**self.content.get("values", {}), **self.content.get("common", {})}
        if network is not None:
            pairs |= self.networks[network].overrides
        for key, value in {**pairs, **self.given, **overrides}.items():
            first = re.split("::|#", key)[0]
            if first not in base and first not in self.content.get("values", {}) and first not in overrides:
                check_keys("common or networks", [first], list(base))
            parser.update({key: value})
        return parser

    def component(self, key: str) -> Any:
        """The component ``data_consistency``, ``to_image``, ``clip`` or ``roi_size``; None if it is missing."""
        value = self.content.get(key)
        return None if value is None else self.parser(_comparison=value).get_parsed_content("_comparison")

    def dataset(self, condition: Condition) -> Any:
        """A condition's data set."""
        return self.parser(_comparison=dict(condition.data)).get_parsed_content("_comparison")

    def subject(self, key: str) -> str:
        """The subject in an item's key."""
        match = self.subjects.search(key)
        if match is None:
            raise ExperimentError(f"subjects is {self.subjects.pattern!r}, which is not found in the item {key!r}.")
        return match[1]

    def _conditions(self, key: str) -> dict[str, Condition]:
        found = {}
        for name, entry in self.content.get(key, {}).items():
            check_keys(f"{key}: {name}", entry, [field.name for field in fields(Condition) if field.name != "name"])
            if "_target_" not in entry.get("data", {}):
                raise ExperimentError(f"{key}: {name}: data has no _target_; accepted: a data set.")
            found[name] = Condition(name, **entry)
        return found

    def _network(self, name: str, entry: Mapping[str, Any]) -> Network:
        if not re.fullmatch(r"[\w .,+()=-]+", name):
            raise ExperimentError(f"networks has {name!r}; accepted: letters, digits and . , + ( ) = -")
        overrides = dict(entry)
        return Network(name, overrides, weights=overrides.pop("weights", None))

    def _methods(self) -> list[Method]:
        entries = self.content.get("methods") or {name: {"network": name} for name in self.networks}
        methods = []
        for name, entry in entries.items():
            check_keys(f"methods: {name}", entry, ["network", "process"])
            if entry.get("network") not in self.networks:
                raise ExperimentError(
                    f"methods: {name}: network is {entry.get('network')!r}; accepted: {', '.join(self.networks)}."
                )
            network = entry["network"]
            parser = self.parser(network)
            if "process" in entry:
                parser = self.parser(network, _comparison=entry["process"])
                process = process_from_config(parser.get_parsed_content("_comparison"))
            else:
                process = parser.get_parsed_content("process")
            methods.append(Method(name, network, process))
        return methods

    def _coincide(self) -> dict[str, str]:
        """Method -> an earlier one with the same process and training, which has the same results."""
        found: dict[str, str] = {}
        for second in self.methods.values():
            for first in self.methods.values():
                if first is second:
                    break
                alike = same_curves(first.process, second.process) and self._alike(first, second)
                if alike and first.name not in found:
                    found[second.name] = first.name
                    break
        return found

    def _alike(self, first: Method, second: Method) -> bool:
        """Whether two networks are the same except for the arguments of their processes."""
        if first.network == second.network:
            return True
        one, other = self.networks[first.network], self.networks[second.network]
        if one.weights or other.weights:
            return False
        kept = [{k: v for k, v in n.overrides.items() if not k.startswith("process")} for n in (one, other)]
        trained = [self.parser(n.name).get_parsed_content("process") for n in (one, other)]
        return kept[0] == kept[1] and same_curves(*trained)

    def describe(self) -> dict[str, Any]:
        """The file's content as plain containers, for the results."""
        return {**self.content, "settings": [asdict(setting) for setting in self.settings], "seeds": self.seeds}
