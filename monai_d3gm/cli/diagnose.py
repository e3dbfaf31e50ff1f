"""``d3gm diagnose``: processes measured on a bundle's own pairs of images."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm.bundle import EVALUATION, BundleError, find_bundle_root, make_workflow, read_config
from monai_d3gm.cli.options import add_bundle, add_options, before_anything, given_options

if TYPE_CHECKING:
    from monai_d3gm.cli.options import Commands
    from monai_d3gm.comparison.diagnosis import Diagnosis, Pair

_EXAMPLE = '{"name": "D3GMProcess", "tau": 4}'
_OUTPUTS = ("diagnosis.json", "trajectories.png")


def add_parser(commands: Commands) -> None:
    """Add ``diagnose`` to the commands."""
    parser = commands.add_parser(
        "diagnose", help="measure processes on pairs of images", description=diagnose.__doc__, add_help=False
    )
    parser.set_defaults(command=diagnose)
    add_bundle(parser)
    parser.add_argument("input", metavar="INPUT", help="a file or a folder of files that the bundle reads, with truth")
    parser.add_argument("output", metavar="OUTPUT", help=f"folder for {' and '.join(_OUTPUTS)}")
    parser.add_argument(
        "--process",
        action="append",
        metavar="JSON",
        help='such as \'{"name": "D3GMProcess", "tau": 4}\'; may be repeated; without it the bundle\'s own process '
        "and the other four with their default arguments",
    )
    parser.add_argument("--weights", help="a checkpoint of the bundle's network, instead of its own")
    parser.add_argument("--score-bound", type=float, default=1.0, help="C of the paper's Eq. 5; 1 if not given")
    parser.add_argument("--tolerance", type=float, default=2e-5, help="of the calibration of tau; 2e-5 if not given")
    add_options(parser, EVALUATION)
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")


def diagnose(arguments: argparse.Namespace) -> int:
    """Measure processes on the pairs that BUNDLE makes of INPUT: temporal discrepancy, the paper's Eq. 5, cocycle
    defect, calibrated tau, round trips with the bundle's network and its Lipschitz constant; and draw one image's
    sampling trajectories.

    The bundle's settings are the defaults, except for the slices: one of each volume.
    """
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from tqdm import tqdm

    from monai_d3gm.comparison.diagnosis import diagnose_process, draw_trajectories
    from monai_d3gm.files import OutputError, atomic_path, writable_folder
    from monai_d3gm.networks.checkpoint import load_checkpoint
    from monai_d3gm.sde import PROCESSES, process_from_config

    root = Path(find_bundle_root(arguments.bundle)).absolute()
    settings = {"slices": 1, **given_options(arguments, root, EVALUATION)}
    output = writable_folder(arguments.output)
    with before_anything():
        for name in _OUTPUTS:
            if (output / name).exists() and not arguments.overwrite:
                raise OutputError(f"{output / name} exists; set --overwrite to replace it.")
        processes = [process_from_config(_process(text)) for text in arguments.process or []]
    progress = settings.pop("progress", True)
    if arguments.weights is not None:
        settings["weights"] = str(Path(arguments.weights).absolute())
    workflow = make_workflow(
        root, EVALUATION, _known(root, {**settings, "dataset_dir": Path(arguments.input).absolute()})
    )
    parsed = workflow.parser.get_parsed_content
    network = parsed("network_def")
    information = load_checkpoint(parsed("weights"), network)
    network = network.to(parsed("device")).eval().requires_grad_(False)
    if not processes:
        own = process_from_config(information["process"])
        processes = [*(kind() for kind in PROCESSES.values() if kind is not type(own)), own]
    pairs = _pairs(parsed, torch.device(parsed("device")))
    found = [
        diagnose_process(
            process, pairs, network, information, score_bound=arguments.score_bound, tolerance=arguments.tolerance
        )
        for process in tqdm(processes, disable=not progress, desc="diagnosing", unit="process")
    ]
    dataset, shown = parsed("dataset"), len(pairs) // 2
    source = dataset.volumes[dataset[shown]["volume"]]
    view = source.format.view(source)
    methods = {_title(process.config()): (process, network, information) for process in processes}
    figure = draw_trajectories(methods, pairs[shown], view=view.turn, aspect=view.aspect)
    FigureCanvasAgg(figure)
    with atomic_path(output / _OUTPUTS[1], overwrite=arguments.overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    with atomic_path(output / _OUTPUTS[0], overwrite=arguments.overwrite) as temporary:
        temporary.write_text(json.dumps({"pairs": len(pairs), "processes": [asdict(d) for d in found]}, indent=2))
    print(_table(found, len(pairs)))
    return 0


def _process(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise BundleError(f"process is {text!r}; accepted: JSON such as {_EXAMPLE}.") from error
    if not isinstance(config, dict):
        raise BundleError(f"process is {text!r}; accepted: JSON such as {_EXAMPLE}.")
    return config


def _known(root: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Those keys that the bundle's config has: photographs have no slices."""
    config = read_config(root, EVALUATION)
    return {key: value for key, value in settings.items() if key in config}


def _pairs(parsed: Any, device: Any) -> list[Pair]:
    """The pairs of the bundle's data set, with the correction of each where there is a measurement."""
    from monai_d3gm.comparison.diagnosis import Pair
    from monai_d3gm.data import collate_slices

    dataset, consistency = parsed("dataset"), parsed("evaluator").data_consistency
    pairs = []
    for index in range(len(dataset)):
        item = dataset[index]
        if "reference" not in item:
            raise ValueError(f"{item['source']}: no truth is known; accepted: inputs with one.")
        batch = collate_slices([item])
        clean = batch["image"] if "image" in batch else batch["reference"]
        correct = None if consistency is None else consistency(batch, device)
        pairs.append(Pair(clean.to(device), batch["mu"].to(device), correct))
    return pairs


def _title(config: dict[str, Any]) -> str:
    kind = config["name"].removesuffix("Process")
    return f"{kind}, tau {config['tau']:g}" if "tau" in config else kind


def _table(found: list[Diagnosis], pairs: int) -> str:
    from monai_d3gm.metrics import format_table

    rows = []
    for one in found:
        row: dict[str, object] = {"process": _title(one.process)}
        row["KL / pixel"] = "" if one.kl_per_pixel is None else f"{one.kl_per_pixel:.2e}"
        row |= {"W2 / pixel": f"{one.w2_per_pixel:.2e}", "Eq. 5": f"{one.proposition2:.4g}"}
        row |= {"cocycle defect": f"{one.cocycle_defect:.3g}", "tau": f"{one.tau:.2f}"}
        row |= {f"round trip {t} (dB)": f"{value:.2f}" for t, value in one.round_trip.items()}
        row["Lipschitz"] = "" if one.lipschitz is None else f"{one.lipschitz:.2f}"
        rows.append(row)
    notes = [f"{_title(one.process)}: {one.refused}." for one in found if one.refused]
    return "\n".join([f"Means over {pairs} pairs.", format_table(rows), *notes])
