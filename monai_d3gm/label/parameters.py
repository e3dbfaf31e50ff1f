"""The parameters of a request: which keys of a bundle's config it may set, and to what.

MONAI evaluates text in a config that holds one of its signs, so a value that comes over the network is a number, a
truth value, nothing, or a plain word, and never reaches a config as anything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from monai_d3gm.sde.sampler import Sampler

__all__ = ["OUTPUTS", "ParameterError", "Parameters", "parse_parameters", "settable"]

OUTPUTS = ("restored", "std", "interval", "panel", "all")
"""The files that a reply can hold, by the names of a `VolumeWriter`'s files; or an archive of all."""

_MOST = {"num_inference_steps": 100, "num_samples": 100}
"""A request that asked for more would keep all others waiting."""

_LARGEST = 1e12
"""No number of a request is larger; the components have their own, narrower ranges."""

_LONGEST = 200
"""Characters of a value that are shown in a message."""

_BESIDES = (
    "num_inference_steps",
    "num_samples",
    "fidelity",
    "seed",
    "roi_size",
    "frame",
    "contrast",
    "simulate",
    "format",
)
"""Keys that a request may set though they are not among a bundle's ``parameters``."""

_SERVERS = ("device",)
"""Keys among the ``parameters`` that are the server's own."""

_SAMPLER = tuple(option.name for option in fields(Sampler) if option.name != "steps")
"""The options of ``sampler``; its steps are num_inference_steps."""

_MOST_NUMBERS = 100
"""In the value of an option of the sampler."""

_FOREIGN = ("client_id", "device", "label", "label_info", "label_tag", "logging", "result_dtype", "result_extension")
"""Keys that MONAI Label's own viewers send with every request; nothing here depends on them."""

_WORDS = ("contrast", "degradation")
_TRUTHS = ("simulate", "synthetic")
"""The types of keys whose default is null or computed; the others are numbers."""

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


class ParameterError(ValueError):
    """A parameter of a request cannot be used; the message names it, its value and the accepted values."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request.

    Attributes:
        settings: keys of the bundle's config, with their values.
        output: which of the results the reply holds, one of `OUTPUTS`; None where the request does not say.
        store: also put the restored volume into the datastore, as an image of its own.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    output: str | None = None
    store: bool = False


def settable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a bundle's config that a request may set, with their defaults.

    These are the plain values among its ``parameters``, and the ``sampler`` with the options that the config sets. A
    default that the config computes is given as None.

    Example:
        >>> settable({"parameters": {"seed": "@seed", "device": "$str(@device)"}, "seed": 0, "weights": "model.pt"})
        {'seed': 0}
        >>> settable({"sampler": {"_target_": "monai_d3gm.sde.Sampler", "steps": "@num_inference_steps", "eta": 1.0}})
        {'sampler': {'eta': 1.0}}
    """
    names = [name for name, value in config.get("parameters", {}).items() if value == f"@{name}"]
    names = [name for name in (*names, *_BESIDES) if name in config and name not in _SERVERS]
    defaults = {name: config[name] for name in names if not isinstance(config[name], dict | list)}
    plain = {name: None if _is_computed(value) else value for name, value in defaults.items()}
    if "sampler" in config:
        given = {name: value for name, value in config["sampler"].items() if name in _SAMPLER}
        plain["sampler"] = {name: None if _is_computed(value) else value for name, value in given.items()}
    return plain


def parse_parameters(given: Mapping[str, Any], config: Mapping[str, Any]) -> Parameters:
    """Check the parameters of a request against a bundle's config.

    Whether a value is in its range is left to the component that takes it. Options of the sampler become nested keys.

    Args:
        given: the request's ``params``.
        config: of the bundle, as its file has it.

    Raises:
        ParameterError: an unknown name; a value of another kind than the config has; text that is no plain word.

    Example:
        >>> config = {"parameters": {"seed": "@seed"}, "seed": 0}
        >>> parse_parameters({"seed": 3, "output": "std"}, config)
        Parameters(settings={'seed': 3}, output='std', store=False)
        >>> parse_parameters({"sampler": {"eta": 1.0}}, {"sampler": {}}).settings
        {'sampler::eta': 1.0}
        >>> parse_parameters({"sead": 3}, config)
        Traceback (most recent call last):
        monai_d3gm.label.parameters.ParameterError: unknown parameter 'sead'; accepted: seed, output, store.
    """
    defaults = settable(config)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name in ("output", "store") or name in _FOREIGN:
            continue
        if name not in defaults:
            raise ParameterError(
                f"unknown parameter {_shown(name)}; accepted: {', '.join((*defaults, 'output', 'store'))}."
            )
        settings |= _options(value) if name == "sampler" else {name: _checked(name, value, defaults[name])}
    output, store = given.get("output"), given.get("store", False)
    if output is not None and output not in OUTPUTS:
        raise ParameterError(f"output is {_shown(output)}; accepted: {', '.join(OUTPUTS)}.")
    if not isinstance(store, bool):
        raise ParameterError(f"store is {_shown(store)}; accepted: true or false.")
    if output == "std" and settings.get("num_samples", defaults.get("num_samples")) == 1:
        raise ParameterError("output is 'std' of 1 sample; accepted: num_samples above 1.")
    return Parameters(settings, output, store)


def _options(given: Any) -> dict[str, Any]:
    """Options of the sampler, as keys of a config; `Sampler` checks their values."""
    if not isinstance(given, dict):
        raise ParameterError(f"sampler is {_shown(given)}; accepted: a JSON object with {', '.join(_SAMPLER)}.")
    for name, value in given.items():
        if name == "steps":
            raise ParameterError("sampler has the option steps; set num_inference_steps in its place.")
        if name not in _SAMPLER:
            raise ParameterError(f"unknown option {_shown(name)} of sampler; accepted: {', '.join(_SAMPLER)}.")
        numbers = value if isinstance(value, list) else [value]
        plain = len(numbers) <= _MOST_NUMBERS and all(_is_number(number) for number in numbers)
        if not (plain or value is None or _is_word(value)):
            accepted = f"a number, up to {_MOST_NUMBERS} numbers, a word or null"
            raise ParameterError(f"{name} of sampler is {_shown(value)}; accepted: {accepted}.")
    return {f"sampler::{name}": value for name, value in given.items()}


def _is_number(value: Any) -> bool:
    """Whether it is a number that is not too large."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_word(value: Any) -> bool:
    """Whether it is a plain word."""
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def _checked(name: str, value: Any, default: Any) -> Any:
    """A value that may go into a config."""
    number, word = _is_number(value), _is_word(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and not number:
        raise ParameterError(f"{name} is {_shown(value)}; accepted: a finite number of at most {_LARGEST:g}.")
    if isinstance(default, bool) or name in _TRUTHS:
        accepted, fits = "true or false", isinstance(value, bool)
    elif name == "slices":  # "all", or how many
        accepted, fits = "a word or a number", word or number
    elif isinstance(default, str) or name in _WORDS:
        accepted, fits = "a word", word
    else:
        accepted, fits = "a number", number
    if default is None and value is None:
        return None
    if not fits:
        raise ParameterError(f"{name} is {_shown(value)}; accepted: {accepted}.")
    if name in _MOST and value > _MOST[name]:
        raise ParameterError(f"{name} is {value}; accepted: at most {_MOST[name]}.")
    return value


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long.

    Example:
        >>> _shown(10**500)
        '1e+500'
    """
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"1e+{int(math.log10(abs(value)))}" if value > 0 else f"-1e+{int(math.log10(abs(value)))}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_computed(value: Any) -> bool:
    """Whether it is text that MONAI may evaluate."""
    return isinstance(value, str) and not _is_word(value)
