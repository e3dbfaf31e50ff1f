"""A bundle as an object: find it by name, check it, set its keys, run it. The command line and the server use it."""

from __future__ import annotations

from monai_d3gm.bundle.command_line import check_argument, check_command_line
from monai_d3gm.bundle.errors import BundleError, did_you_mean, explain, is_refusal, root_cause
from monai_d3gm.bundle.find import EVALUATION, INFERENCE, find_bundle_root, find_bundles, read_config, read_json
from monai_d3gm.bundle.run import accepted_kinds, make_workflow, prepare, run_workflow

__all__ = [
    "BundleError",
    "EVALUATION",
    "INFERENCE",
    "accepted_kinds",
    "check_argument",
    "check_command_line",
    "did_you_mean",
    "explain",
    "find_bundle_root",
    "find_bundles",
    "is_refusal",
    "make_workflow",
    "prepare",
    "read_config",
    "read_json",
    "root_cause",
    "run_workflow",
]
