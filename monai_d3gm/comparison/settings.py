"""How the methods of an experiment draw images: a sampler's options, and noise levels that stand for its times."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import DiffusionProcess, Sampler

__all__ = ["ExperimentError", "Setting", "check_keys", "settings_from"]


class ExperimentError(ValueError):
    """An experiment's file or folder cannot be used; the message names the key and the accepted ones."""


@dataclass(frozen=True)
class Setting:
    """How images are drawn. A noise level c / a stands for the time at which a process has it.

    Attributes:
        sampler: every option of the trajectory.
        fidelity: as for `RestorationInferer`.
        first_noise: c / a to which the first step leads, instead of the sampler's ``t_first``.
        last_noise: c / a of the last evaluation, instead of its ``t_min``.
        start_noise: c / a at which sampling starts from an estimate, that of one evaluation at ``t = 1``, instead of
            its ``start``; None starts from the prior.
        consistency: correct each evaluation by the measurement, where there is one.
        samples: drawn for each image.

    Raises:
        ExperimentError: a noise level is given together with the time that it stands for.

    Example:
        >>> setting = Setting(Sampler(steps=3), first_noise=0.5)
        >>> print(setting)
        3 evaluations: order 2, eta 0, first step to c/a 0.5
        >>> setting.inferer(D3GMScheduler(), seed=0).sampler.steps
        3
    """

    sampler: Sampler = Sampler()
    fidelity: float = 0.0
    first_noise: float | None = None
    last_noise: float | None = None
    start_noise: float | None = None
    consistency: bool = True
    samples: int = 2

    def __post_init__(self) -> None:
        for noise, time in _TIMES_OF.items():
            if getattr(self, noise) is not None and getattr(self.sampler, time) != getattr(Sampler, time):
                raise ExperimentError(f"settings has both {noise} and {time}; accepted: one of them.")

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one sample, the estimate's with them."""
        return (1 if self.fidelity == 1 else self.sampler.steps) + (self.start_noise is not None)

    @property
    def family(self) -> str:
        """All but the number of steps, in words."""
        sampler, usual = self.sampler, Sampler()
        words = [f"order {sampler.order}" if sampler.solver == "exponential" else sampler.solver.replace("_", "-")]
        words.append(f"eta {_short(sampler.eta)}")
        if sampler.grid != "rho":
            words.append(f"grid {sampler.grid}")
        noises = {"first step to": self.first_noise, "to": self.last_noise, "from the estimate at": self.start_noise}
        words += [f"{name} c/a {noise:g}" for name, noise in noises.items() if noise is not None]
        named = ("steps", "solver", "order", "eta", "grid")
        others = {name: value for name, value in sampler.config().items() if name not in named}
        words += [f"{name} {_short(value)}" for name, value in others.items() if value != usual.config()[name]]
        words += [
            f"{name} {value:g}"
            for name, value, kept in (("fidelity", self.fidelity, 0), ("samples", self.samples, 2))
            if value != kept
        ]
        if not self.consistency:
            words.append("without consistency")
        return ", ".join(words)

    def __str__(self) -> str:
        return f"{self.evaluations} evaluation{'s' * (self.evaluations > 1)}: {self.family}"

    def inferer(
        self,
        scheduler: D3GMScheduler,
        seed: int,
        clip: Sequence[float] | None = None,
        roi_size: int | None = None,
    ) -> RestorationInferer:
        """The inferer of this setting for a scheduler's process.

        Args:
            scheduler: with the process.
            seed: of the noise.
            clip: range to which predictions are clipped, unless the sampler has one.
            roi_size: extent of the tiles in which the network is evaluated; None for whole images.

        Raises:
            ValueError: the process does not reach a noise level, or an option is out of range.
        """
        process, sampler = scheduler.process, self.sampler
        start = sampler.start if self.start_noise is None else _time(process, "start_noise", self.start_noise)
        last = sampler.t_min if self.last_noise is None else _time(process, "last_noise", self.last_noise)
        leap = sampler.t_first
        if self.first_noise is not None and 1 < sampler.steps and self.fidelity < 1:
            first = _time(process, "first_noise", self.first_noise)
            leap = first if first < start else None
        times: dict[str, Any] = {"start": start, "t_min": min(last, start / 2), "t_first": leap}
        sampler = replace(sampler, **times, clip=clip if sampler.clip is None else sampler.clip)
        return RestorationInferer(scheduler, sampler, self.fidelity, self.samples, roi_size, seed=seed)


_TIMES_OF = {"first_noise": "t_first", "last_noise": "t_min", "start_noise": "start"}
"""The options of a sampler that noise levels stand for."""


def _short(value: Any) -> str:
    """Numbers without trailing zeros.

    Example:
        >>> _short(1.0), _short((0.0, 1.6)), _short("t")
        ('1', '[0, 1.6]', 't')
    """
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _time(process: DiffusionProcess, name: str, noise: float) -> float:
    """The time at which c / a is ``noise``; 1 where it is less than that throughout."""
    if not (isinstance(noise, int | float) and math.isfinite(noise) and noise > 0):
        raise ValueError(f"{name} is {noise!r}; accepted: a finite number above 0.")
    rho = -math.log(noise)
    return 1.0 if rho < float(process.rho(1.0)) else float(process.time_of_rho(rho))


def settings_from(entries: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The settings of a list of entries, whose keys are those of `Setting` and of `Sampler`.

    Every list is a choice of values, and all combinations are made. A value that is a list itself stands in a list.

    Example:
        >>> [str(setting) for setting in settings_from([{"steps": [1, 5], "order": 1}])]
        ['1 evaluation: order 1, eta 0', '5 evaluations: order 1, eta 0']
        >>> [str(setting) for setting in settings_from([{"eta": [[0, 1.6]], "temperature": 0.5}])]
        ['5 evaluations: order 2, eta [0, 1.6], temperature 0.5']
    """
    sampling = [field.name for field in fields(Sampler)]
    others = [field.name for field in fields(Setting) if field.name != "sampler"]
    found: list[Setting] = []
    for entry in entries:
        check_keys("settings", entry, [*sampling, *others])
        values = [value if isinstance(value, list) else [value] for value in entry.values()]
        for chosen in itertools.product(*values):
            pairs = dict(zip(entry, chosen, strict=True))
            try:
                sampler = Sampler(**{name: value for name, value in pairs.items() if name in sampling})
            except ValueError as error:
                raise ExperimentError(f"settings: {error}") from error
            found.append(Setting(sampler, **{name: value for name, value in pairs.items() if name in others}))
    if not found:
        raise ExperimentError("settings is empty; accepted: at least one.")
    return list(dict.fromkeys(found))


def check_keys(where: str, keys: Sequence[str] | Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse an unknown key, and name similar ones.

    Example:
        >>> check_keys("settings", ["stps"], ["steps", "order"])
        Traceback (most recent call last):
        monai_d3gm.comparison.settings.ExperimentError: settings has the key 'stps'; accepted: steps.
    """
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3) or known
            raise ExperimentError(f"{where} has the key {key!r}; accepted: {', '.join(near)}.")
