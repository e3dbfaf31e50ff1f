"""Runs a bundle's config with some keys set, for the command line and the server."""

from __future__ import annotations

import hashlib
import json
import logging
import pydoc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_d3gm import __version__
from monai_d3gm.bundle.find import read_config

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

__all__ = ["accepted_kinds", "make_workflow", "prepare", "run_workflow"]


def prepare(root: Path, configs: Sequence[str], settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that determines a bundle's results besides the inputs: equal origins give equal results.

    Args:
        root: the bundle's folder.
        configs: names of the config files.
        settings: keys of the config that the command line sets.
        folder: where the inputs are.

    Returns:
        The package's ``version``, the SHA-256 of the ``configs`` (by name), of the ``weights`` and of the files
        beside them (by name, in ``models``), and the ``parameters``.

    Raises:
        ValueError: a setting is out of range, or there are no weights; no input has been read.

    Example:
        >>> from monai_d3gm.bundle import INFERENCE, find_bundles
        >>> origin = prepare(find_bundles()["mri_recon"], INFERENCE, {"seed": 3, "device": "cpu"}, Path("scans"))
        >>> sorted(origin), origin["parameters"]["seed"]
        (['configs', 'models', 'parameters', 'version', 'weights'], 3)
    """
    from monai_d3gm.engines.evaluator import usable_device
    from monai_d3gm.networks.checkpoint import weights_hash

    parser = make_workflow(root, configs, {**settings, "dataset_dir": folder}).parser
    usable_device(parser.get_parsed_content("device"))
    parameters = parser.get_parsed_content("record") | {k: v for k, v in settings.items() if k != "progress"}
    origin = {
        "version": __version__,
        "configs": {name: _sha256(root / "configs" / name) for name in configs},
        "weights": weights_hash(parser.get_parsed_content("weights")),
        "models": {file.name: _sha256(file) for file in sorted((root / "models").glob("*.json"))},
        "parameters": parameters,
    }
    return dict(json.loads(json.dumps(origin, default=str)))


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def accepted_kinds(root: Path, configs: Sequence[str]) -> tuple[str, ...]:
    """The names of the formats that a bundle's data set takes; all by default.

    Only data sets of this package are looked up, so a configuration cannot import anything here.

    Example:
        >>> from monai_d3gm.bundle import INFERENCE, find_bundles
        >>> accepted_kinds(find_bundles()["mri_sr"], INFERENCE)
        ('nifti', 'dicom')
    """
    from monai_d3gm.data.formats.base import Format
    from monai_d3gm.data.formats.registry import names_of

    dataset = read_config(root, configs).get("dataset", {})
    target = dataset.get("_target_", "") if isinstance(dataset, dict) else ""
    known = pydoc.locate(target) if str(target).startswith("monai_d3gm.") else None
    return names_of(getattr(known, "formats", Format))


def make_workflow(root: Path, configs: Sequence[str], settings: Mapping[str, Any]) -> ConfigWorkflow:
    """The workflow of a bundle's config files with some keys set; as ``python -m monai.bundle run`` makes it.

    Pass paths as ``Path``: MONAI evaluates text that contains one of its signs.

    Example:
        >>> from monai_d3gm.bundle import INFERENCE, find_bundles
        >>> workflow = make_workflow(find_bundles()["mri_recon"], INFERENCE, {"num_samples": 3})
        >>> workflow.parser.get_parsed_content("inferer").num_samples
        3
    """
    from monai.bundle import ConfigWorkflow

    _keep_stdout_for_results()
    files = [str(root / "configs" / name) for name in configs]
    return ConfigWorkflow(files, workflow_type="inference", **{"bundle_root": root, **settings})


def _keep_stdout_for_results() -> None:
    """Send MONAI's log from stdout to stderr, without its line for each workflow."""
    logging.getLogger("monai.bundle.workflows").setLevel(logging.WARNING)
    for logger in logging.root.manager.loggerDict.values():
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stdout__:
                handler.setStream(sys.stderr)


def run_workflow(root: Path, configs: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Run a bundle's config files with some keys set."""
    workflow = make_workflow(root, configs, settings)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
