"""A bundle's reference result: its weights restore a small input, to test an installation.

The input lies in the wheel of nibabel or scikit-image. One slice or photograph is restored by one evaluation on the
CPU. ``models/reference.json`` holds the means of the image over 4 x 4 blocks, as shares of the largest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.bundle.errors import BundleError
from monai_d3gm.bundle.find import INFERENCE, read_config, read_json
from monai_d3gm.bundle.model import load_model
from monai_d3gm.bundle.run import accepted_kinds
from monai_d3gm.data.collections.samples import bundled_epi_path, bundled_photographs
from monai_d3gm.files import atomic_path
from monai_d3gm.networks.checkpoint import weights_hash

__all__ = ["TOLERANCE", "Comparison", "compare_reference", "write_reference"]

TOLERANCE = 2e-3
"""The largest difference of a block's mean that other processors and library versions can cause."""

_SETTINGS = {"num_inference_steps": 1, "num_samples": 1, "fidelity": 1.0, "device": "cpu", "baseline": False}
_BLOCKS = 4


@dataclass(frozen=True)
class Comparison:
    """A bundle's result compared with the recorded one.

    Attributes:
        difference: the largest difference of a block's mean, as a share of the largest mean.
    """

    difference: float

    @property
    def agrees(self) -> bool:
        """Whether the installation computes the expected result."""
        return self.difference <= TOLERANCE


def write_reference(root: str | PathLike[str]) -> Path:
    """Restore the small input, and write ``models/reference.json`` whole or not at all.

    Returns:
        The file.
    """
    models = Path(root) / "models"
    content = {
        "weights": weights_hash(models / "model.pt"),
        "blocks": np.round(_blocks(_restored(Path(root))), 5).tolist(),
    }
    with atomic_path(models / "reference.json", overwrite=True) as temporary:
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return models / "reference.json"


def compare_reference(root: str | PathLike[str]) -> Comparison:
    """Restore the small input, and compare the image with what ``models/reference.json`` holds.

    Raises:
        BundleError: there is no such file, or it is of other weights.
    """
    models = Path(root) / "models"
    noted = read_json(models / "reference.json")
    if noted.get("weights") != weights_hash(models / "model.pt"):
        raise BundleError(f"{models / 'reference.json'}: of other weights; see d3gm bundle finish --help.")
    expected = np.asarray(noted.get("blocks"), dtype=np.float64)
    if expected.shape != (_BLOCKS, _BLOCKS):
        raise BundleError(f"{models / 'reference.json'}: blocks has shape {expected.shape}; accepted: 4 x 4.")
    return Comparison(float(np.abs(_blocks(_restored(Path(root))) - expected).max()))


def _restored(root: Path) -> NDArray[np.float32]:
    """The restored slice or photograph, (h, w) or (h, w, 3)."""
    known = read_config(root, INFERENCE)
    photographs = "image" in accepted_kinds(root, INFERENCE)
    settings: dict[str, Any] = {**_SETTINGS, **({"slices": 1} if "slices" in known else {})}
    settings |= {"frame": 0} if "frame" in known else {}
    settings |= {name: True for name in ("simulate", "synthetic") if name in known}
    path = bundled_photographs(["rocket.jpg"])[0] if photographs else bundled_epi_path()
    return load_model(root).restore(path, **settings).image[0]


def _blocks(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means over 4 x 4 blocks, as shares of the largest."""
    rows = np.array_split(image.astype(np.float64), _BLOCKS, axis=0)
    means = np.array([[block.mean() for block in np.array_split(row, _BLOCKS, axis=1)] for row in rows])
    return np.asarray(means / max(float(means.max()), 1e-12))
