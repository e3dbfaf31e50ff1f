"""A bundle as an inference task: each request is a run of the bundle's own ``configs/inference.json``.

A run has a workflow of its own, made anew with the network and its weights (a few megabytes): nothing is shared between
requests but the files of the bundle, so parallel requests cannot disturb each other, and the result is that of
``python -m monai.bundle run``.
"""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from monai_d3gm.bundle import (
    INFERENCE,
    BundleError,
    accepted_kinds,
    explain,
    is_refusal,
    make_workflow,
    prepare,
    read_config,
    read_json,
    root_cause,
    run_workflow,
)
from monai_d3gm.data.formats.base import stem_of
from monai_d3gm.data.formats.registry import format_of, read_extent, titles
from monai_d3gm.label.memory import estimate_bytes
from monai_d3gm.label.parameters import OUTPUTS, ParameterError, Parameters, parse_parameters, settable
from monai_d3gm.networks.checkpoint import load_checkpoint

__all__ = ["RestorationTask"]

_REPORT = "metrics.json"


class RestorationTask(BasicInferTask):
    """Restores images with a bundle.

    Args:
        root: the bundle's folder.
        device: where the network runs; the bundle's own choice if None.
        memory: the most bytes that a request may take by the estimate of `monai_d3gm.label.memory`.

    Raises:
        BundleError: the bundle has no weights, or they do not fit its network or process.
    """

    def __init__(self, root: Path, device: str | None, memory: int) -> None:
        self.root = root
        self.memory = memory
        self.bundle = read_config(root, INFERENCE)
        self.kinds = accepted_kinds(root, INFERENCE)
        self._server = {"logging_file": False, "progress": False, **({} if device is None else {"device": device})}
        if "format" in self.bundle:
            self._server["format"] = "nifti"  # a reply is one file, a DICOM series many
        place, weights = self._check()
        metadata = read_json(root / "configs" / "metadata.json")
        taken = titles(self.kinds)
        super().__init__(
            path=weights,
            network=None,
            type=InferType.OTHERS,
            labels=[],
            dimension=2,
            description=f"{metadata.get('description', root.name)} Takes: {taken}. Research use only.",
            config={**settable(self.bundle), "output": list(OUTPUTS), "store": False, "device": [place]},
            load_strict=True,
        )

    def _check(self) -> tuple[str, str]:
        """Load the weights as every request will, and return the device and the weights' file."""
        try:
            prepare(self.root, INFERENCE, self._server, self.root)
            parsed = make_workflow(self.root, INFERENCE, self._server).parser.get_parsed_content
            load_checkpoint(parsed("weights"), parsed("network_def"), parsed("scheduler"))
            return str(parsed("device")), str(parsed("weights"))
        except Exception as error:
            if is_refusal(cause := root_cause(error)):
                raise BundleError(f"bundle {self.root.name} cannot be served: {cause}") from error
            raise

    def check(self, path: Path, given: dict[str, Any]) -> Parameters:
        """Refuse, before it waits for its turn, a request that cannot be served.

        Args:
            path: the input.
            given: the request's parameters.

        Raises:
            HTTPException: 400, the parameters or the input are wrong; 413, it would take too much memory.
        """
        try:
            parameters = parse_parameters(given, self.bundle)
            format = format_of(path)
            if format is None or format.name not in self.kinds:
                found = "no image or k-space" if format is None else format.title
                raise ParameterError(f"{path.name} is {found}; bundle {self.root.name} accepts: {titles(self.kinds)}.")
            needed = estimate_bytes(read_extent(path), {**self.bundle, **parameters.settings})
        except ValueError as error:
            raise HTTPException(400, _told(error, path.parent)) from error
        if needed > self.memory:
            raise HTTPException(
                413,
                f"{path.name}: restoring it would take about {needed / 1e9:.1f} GB of memory; accepted: "
                f"{self.memory / 1e9:.1f} GB (the server's setting memory).",
            )
        return parameters

    def is_valid(self) -> bool:
        """Whether the weights are there."""
        return Path(self.path[0]).is_file()

    def pre_transforms(self, data: Any = None) -> list[Any]:
        """None: reading is the bundle's."""
        return []

    def post_transforms(self, data: Any = None) -> list[Any]:
        """None: the bundle writes in the input's geometry."""
        return []

    def run_inferer(self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda") -> dict[str, Any]:
        """Run the bundle on ``data["image"]`` and leave its results in ``data["folder"]``.

        Raises:
            HTTPException: 400, the bundle refuses the input or a parameter; 500, anything else went wrong.
        """
        path, parameters = data["image"], data["parameters"]
        places = {
            "inputs": [path],
            "dataset_dir": path.parent,
            "output_dir": data["folder"],
            "report": Path(_REPORT),
        }
        try:
            run_workflow(self.root, INFERENCE, {**parameters.settings, **self._server, **places})
        except Exception as error:
            refused = is_refusal(root_cause(error))
            raise HTTPException(400 if refused else 500, _told(error, path.parent, data["folder"])) from error
        return data

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[str, dict[str, Any]]:
        """The file that was asked for, and the bundle's report on the input with all files by what they are.

        Raises:
            HTTPException: 400, there is no such result.
        """
        stem = stem_of(data["image"])
        found = {kind: sorted(data["folder"].glob(f"{glob.escape(stem)}_{kind}.*")) for kind in OUTPUTS}
        files = {kind: str(paths[0]) for kind, paths in found.items() if paths}
        wanted = data["parameters"].output
        if wanted not in files:
            raise HTTPException(400, f"output is {wanted!r}, which there is not here; there are: {', '.join(files)}.")
        report = json.loads((data["folder"] / _REPORT).read_text(encoding="utf-8"))
        details = {**report, **report["inputs"][stem]}
        del details["inputs"]
        return files[wanted], {**details, "model": self.root.name, "output": wanted, "files": files}


def _told(error: Exception, *folders: Path) -> str:
    """An error as the client is told it: without the server's folders."""
    text = explain(error)
    for folder in folders:
        text = text.replace(f"{folder}/", "")
    return text
