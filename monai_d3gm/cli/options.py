"""The common part of the commands: the bundle and its options on the command line."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import (
    BundleError,
    check_argument,
    find_bundle_root,
    is_refusal,
    read_config,
    read_json,
    root_cause,
)
from monai_d3gm.files import printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_bundle", "add_options", "before_anything", "given_options", "print_error"]


# repeated here, so that the command line is parsed without torch
MASKS = ("random", "equispaced", "equispaced_fraction", "magic", "magic_fraction")
AXES = ("phase", "frequency")
MASK_PER = ("slice", "volume")
PLANES = ("in", "through")
FORMATS = ("same", "nifti", "dicom")


def _slices(text: str) -> str | int:
    return text if text == "all" else int(text)


# flag, key of the bundle's config, arguments of argparse
_OPTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("steps", "num_inference_steps", {"type": int, "help": "evaluations of the network for each sample"}),
    ("samples", "num_samples", {"type": int, "help": "samples drawn; above 1 their standard deviation is written too"}),
    ("fidelity", "fidelity", {"type": float, "help": "0 samples, 1 takes the most faithful evaluation, or between"}),
    ("order", "sampler::order", {"type": int, "help": "order of the solver, 1 to 3"}),
    (
        "eta",
        "sampler::eta",
        {"type": float, "nargs": "+", "help": "share of noise in each step, or in the first and last"},
    ),
    ("sampler", "sampler", {"action": "append", "help": "NAME=VALUE, any option of the sampler; may be repeated"}),
    ("seed", "seed", {"type": int, "help": "of masks, simulation and sampling"}),
    ("device", "device", {"help": "where the network runs: cpu, cuda, cuda:1, ...; the first GPU if there is one"}),
    ("roi", "roi_size", {"type": int, "help": "extent of the tiles in which the network is evaluated"}),
    ("batch", "batch_size", {"type": int, "help": "images that go through the network at once"}),
    ("slices", "slices", {"type": _slices, "help": "'all', or how many of each volume, evenly spaced"}),
    ("acceleration", "acceleration", {"type": float, "help": "undersampling of fully sampled or simulated k-space"}),
    ("mask", "mask", {"choices": MASKS, "help": f"sampling pattern: {', '.join(MASKS)}"}),
    ("mask-per", "mask_per", {"choices": MASK_PER, "help": "what shares a drawn mask: slice, or volume as in fastMRI"}),
    ("axis", "axis", {"choices": AXES, "help": f"undersampled axis: {' or '.join(AXES)}"}),
    ("snr", "snr", {"type": float, "help": "signal to noise of simulated k-space"}),
    ("coils", "coils", {"type": int, "help": "coils of simulated k-space"}),
    ("noise-std", "noise_std", {"type": float, "help": "noise of the measurement, in the file's units"}),
    ("maps", "maps", {"help": "coil sensitivity maps for the inputs: .npy, .mat, .h5 or BART's .cfl"}),
    (
        "mask-file",
        "mask_file",
        {"help": "sampling mask for the inputs, in place of a drawn one: such a file too"},
    ),
    ("axes", "axes", {"help": "of k-space in NumPy and MATLAB files, such as 'coil read phase'"}),
    ("measurement", "measurement", {"help": "which measurement of raw data that hold several, by name"}),
    ("factor", "factor", {"type": int, "help": "how many times finer the voxels become"}),
    ("plane", "plane", {"choices": PLANES, "help": f"where they do, within slices or across: {' or '.join(PLANES)}"}),
    ("degradation", "degradation", {"help": "how resolution is or was lost: truncation, blocks or kernel"}),
    ("frame", "frame", {"type": int, "help": "which volume of files that hold several, from 0"}),
    ("amount", "amount", {"type": float, "nargs": 2, "help": "range of synthetic weather, from 0, light, to 1, heavy"}),
    ("degraded", "degraded", {"help": "pattern of the degraded photographs' names, such as 'rain/rain-{id}.png'"}),
    ("clean", "clean", {"help": "pattern of the clean photographs' names, such as 'norain/norain-{id}.png'"}),
    ("benchmark", "benchmark", {"help": "a known data set of pairs, such as rain100h or o-haze"}),
    ("split", "split", {"help": "of a known data set: train or test"}),
    ("format", "format", {"choices": FORMATS, "help": f"of the restored volumes: {', '.join(FORMATS)}"}),
)
# flag, key, the value that it sets, help
_SWITCHES = (
    ("simulate", "simulate", True, "degrade the inputs first, and compare with them"),
    ("synthetic", "synthetic", True, "put weather on clean photographs first, and compare with them"),
    ("all-baselines", "all_baselines", True, "make all classical reconstructions, not L1-wavelet alone"),
    ("no-baseline", "baseline", False, "make no other baselines than the degraded input"),
    ("no-progress", "progress", False, "show no progress bar"),
)
_FLAGS = {str(key): f"--{flag}" for flag, key, *_ in (*_OPTIONS, *_SWITCHES)}


# an example of each of these, where a bundle has the key
_EXAMPLES = {
    "acceleration": "--acceleration 8 --samples 8",
    "factor": "--factor 2 --plane through",
    "synthetic": "--synthetic",
    "num_inference_steps": "--device cuda --batch 16",
}


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument BUNDLE."""
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="a bundle's folder, or its name, such as mri_recon; d3gm list names all"
    )


class _BundleHelp(argparse.Action):
    """``--help``; after BUNDLE, with the options of that bundle alone and their defaults."""

    def __init__(self, option_strings: Sequence[str], dest: str, configs: Sequence[str]) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="this text; after BUNDLE, for that bundle")
        self.configs = configs

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if (name := getattr(namespace, "bundle", None)) is not None:
            root = Path(find_bundle_root(name))
            config: dict[str, Any] = {}
            for name_of_file in self.configs:  # without MONAI, which takes seconds to import
                config |= read_json(root / "configs" / name_of_file)
            for action in parser._actions:
                if action.dest in _FLAGS:
                    known = _component(action.dest) in config
                    action.help = _with_default(action, config) if known else argparse.SUPPRESS
            others = [str(a.metavar) for a in parser._actions if not a.option_strings and a.dest != "bundle"]
            command = " ".join([parser.prog, name, *others])
            lines = [command, *(f"{command} {text}" for key, text in _EXAMPLES.items() if key in config)]
            parser.epilog = "examples:\n  " + "\n  ".join(lines)
            parser.formatter_class = argparse.RawDescriptionHelpFormatter
            parser.description = inspect.cleandoc(parser.description or "")
        parser.print_help()
        parser.exit()


def _with_default(action: argparse.Action, config: Mapping[str, Any]) -> str:
    """The help of an option with the bundle's default, unless that is an expression of the config."""
    component, _, argument = action.dest.partition("::")
    value = config[component].get(argument) if argument else config[component]
    if isinstance(value, bool | dict) or value is None or str(value).startswith(("$", "@")):
        return str(action.help)
    return f"{action.help} (default: {value})".replace("%", "%%")


def add_options(parser: argparse.ArgumentParser, configs: Sequence[str]) -> None:
    """Add the options that set keys of a bundle's config. A key without its option keeps the bundle's value.

    Args:
        parser: of a command with the argument BUNDLE, made with ``add_help=False``.
        configs: names of the config files that have the keys and their defaults.
    """
    parser.add_argument("-h", "--help", action=_BundleHelp, configs=configs)
    group = parser.add_argument_group("options of the bundle")
    for flag, key, arguments in _OPTIONS:
        metavar = flag.replace("-", "_").upper()
        group.add_argument(f"--{flag}", dest=key, default=argparse.SUPPRESS, metavar=metavar, **arguments)
    for flag, key, value, text in _SWITCHES:
        group.add_argument(
            f"--{flag}", dest=key, action="store_const", const=value, default=argparse.SUPPRESS, help=text
        )


def given_options(arguments: argparse.Namespace, root: Path, configs: Sequence[str]) -> dict[str, Any]:
    """The keys that the command line sets.

    Args:
        arguments: parsed, of a parser with `add_options`.
        root: the bundle's folder.
        configs: names of the config files that must have these keys.

    Raises:
        BundleError: they have no such key.
    """
    known = read_config(root, configs)
    given = {key: value for key, value in vars(arguments).items() if key in _FLAGS}
    for key in given:
        if _component(key) not in known:
            accepted = ", ".join(flag for name, flag in _FLAGS.items() if _component(name) in known)
            raise BundleError(f"bundle {root.name} has no option {_FLAGS[key]}; accepted: {accepted}.")
    for text in given.pop("sampler", ()):
        given |= _sampler_option(text)
    return given


def _component(key: str) -> str:
    """The key of the config that an option sets, or sets an argument of."""
    return key.partition("::")[0]


def _sampler_option(text: str) -> dict[str, Any]:
    """An option of the sampler, as its key and value; text is a plain word, which MONAI does not evaluate.

    Example:
        >>> _sampler_option("eta=[0, 1.6]"), _sampler_option("grid=t")
        ({'sampler::eta': [0, 1.6]}, {'sampler::grid': 't'})
    """
    name, _, value = text.partition("=")
    given: Any = value
    if not re.fullmatch(r"[A-Za-z]\w*", value) or value == "null":
        with contextlib.suppress(ValueError):
            given = json.loads(value)
        numbers = given if isinstance(given, list) else [given]
        if given is not None and not all(isinstance(number, int | float) for number in numbers):
            raise BundleError(
                f"--sampler is {text!r}; accepted: NAME=VALUE, with a number, a list of numbers, null or a word."
            )
    key = f"sampler::{name}"
    check_argument({"sampler": {"_target_": "monai_d3gm.sde.Sampler"}}, key)
    return {key: given}


@contextlib.contextmanager
def before_anything() -> Iterator[None]:
    """Turn a refusal in the block into one of the command; nothing has been done yet.

    Raises:
        BundleError: the refusal.
    """
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        if not is_refusal(cause):
            raise
        raise BundleError(str(cause)) from error


def print_error(text: str) -> None:
    """Print the last line of an error on stderr."""
    print(f"d3gm: error: {printable(text)}", file=sys.stderr)
