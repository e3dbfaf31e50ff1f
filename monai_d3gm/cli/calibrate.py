"""``d3gm calibrate``: fit a bundle's intervals and bounds on subjects whose truth is known."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import EVALUATION, find_bundle_root, make_workflow
from monai_d3gm.cli.options import add_bundle, add_options, given_options

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands
    from monai_d3gm.trust.calibration import CalibrationCondition

_REPEATED: dict[str, type] = {"acceleration": float, "factor": int, "coils": int}


def add_parser(commands: Commands) -> None:
    """Add ``calibrate`` to the commands."""
    parser = commands.add_parser(
        "calibrate",
        help="fit intervals on subjects with known truth",
        description=calibrate.__doc__,
        conflict_handler="resolve",
        add_help=False,
    )
    parser.set_defaults(command=calibrate)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", nargs="+", help="files or folders of files that the bundle reads")
    add_options(parser, EVALUATION)
    for name, kind in _REPEATED.items():
        parser.add_argument(
            f"--{name}",
            type=kind,
            action="append",
            default=argparse.SUPPRESS,
            metavar=name.upper(),
            help="may be repeated: a calibration for each",
        )
    parser.add_argument("--coverage", type=float, default=0.9, help="share of pixels to cover; 0.9 if not given")
    parser.add_argument("--contrast", help="contrast of all inputs; found in their names without it")
    parser.add_argument(
        "--subjects", metavar="PATTERN", help="regular expression with one group: the subject in a name"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a calibration.json that is there")


def calibrate(arguments: argparse.Namespace) -> int:
    """Restore INPUTs whose truth is known with BUNDLE, fit its intervals and bounds by contrast, and write them into
    the bundle's models/calibration.json.

    The bundle's settings are the defaults. Options that change an image must be the same when the calibration is used.
    Use subjects that neither trained nor tested the weights.
    """
    from monai_d3gm.files import OutputError
    from monai_d3gm.networks.checkpoint import weights_hash
    from monai_d3gm.trust.calibration import SUBJECT_PATTERN, Calibration
    from monai_d3gm.trust.conformal import check_coverage

    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = given_options(arguments, root, EVALUATION)
    check_coverage(arguments.coverage)
    target = root / "models" / "calibration.json"
    if target.exists() and not arguments.overwrite:
        raise OutputError(f"{target} exists; set --overwrite to replace it.")
    # absolute: MONAI evaluates text that begins with one of its signs
    inputs = [str(Path(path).absolute()) for path in arguments.input]
    settings |= {"dataset_dir": inputs[0], "inputs": inputs, "handlers": [], "baseline": False}
    conditions = []
    for condition_settings in _conditions(settings):
        weights, condition = _fit(
            root, condition_settings, arguments.coverage, arguments.contrast, arguments.subjects or SUBJECT_PATTERN
        )
        conditions.append(condition)
    Calibration(weights_hash(weights), tuple(conditions)).save(target, overwrite=arguments.overwrite)
    print(_table(conditions))
    print(f"Written: {target}")
    return 0


def _conditions(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The settings of each run: one for each combination of the options that are repeated."""
    names = [name for name in _REPEATED if name in settings]
    for values in itertools.product(*(dict.fromkeys(settings[name]) for name in names)):
        yield {**settings, **dict(zip(names, values, strict=True))}


def _fit(
    root: Path, settings: Mapping[str, Any], coverage: float, contrast: str | None, subject_pattern: str
) -> tuple[str, CalibrationCondition]:
    """The weights' file, and the fit under one set of parameters."""
    from monai_d3gm.handlers.trust import CollectCalibration

    workflow = make_workflow(root, EVALUATION, settings)
    workflow.initialize()
    parsed = workflow.parser.get_parsed_content
    collect = CollectCalibration(contrast, subject_pattern)
    collect.attach(parsed("evaluator"))
    workflow.run()
    workflow.finalize()
    return parsed("weights"), collect.fit(parsed("record"), coverage)


def _table(conditions: list[CalibrationCondition]) -> str:
    """A row for each condition and contrast."""
    from monai_d3gm.metrics import format_table

    rows = []
    for condition in conditions:
        varied = {name: condition.parameters[name] for name in _REPEATED if name in condition.parameters}
        for contrast, fitted in condition.contrasts.items():
            interval, shares = fitted.interval, list(fitted.leave_one_out.values())
            row: dict[str, object] = {**varied, "contrast": contrast, "subjects": interval.subjects}
            row |= {"q": interval.q, "s0": f"{interval.s0:.2g}"}
            row["left out"] = (
                f"{sum(shares) / len(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})" if shares else ""
            )
            row |= {f"{name} margin": f"{bound.margin:.2f}" for name, bound in fitted.bounds.items()}
            rows.append(row)
    coverage = next(iter(conditions[0].contrasts.values())).interval.coverage
    return (
        f"Intervals q (std + s0) that cover {coverage:g} of the foreground's pixels; s0 in units of the foreground's "
        "99.5th percentile. left out: share covered in each subject by a fit on the others, mean and range.\n"
        + format_table(rows)
    )
