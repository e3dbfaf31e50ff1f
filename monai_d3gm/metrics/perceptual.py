"""LPIPS of colour photographs, where its weights are present.

Zhang, Isola, Efros, Shechtman and Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, version 0.1 on AlexNet: the features of five layers, each divided by its norm over the channels, weighted squared
differences, means over the pixels, summed. torchmetrics brings the weights of the differences. No dependency brings
those of AlexNet: torchvision's file is searched in the folder of ``torch.hub``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["ALEXNET_FILE", "LpipsWeightsError", "lpips"]

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
"""The name of torchvision's file of AlexNet, trained on ImageNet."""

# number of the layer in torchvision's ``features`` -> stride, padding, whether pooling comes before
_LAYERS = {0: (4, 2, False), 3: (1, 2, True), 6: (1, 1, True), 8: (1, 1, False), 10: (1, 1, False)}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_SMALLEST = 64


class LpipsWeightsError(ValueError):
    """The weights of LPIPS are missing; the message says which, and where they were searched."""


def lpips(prediction: ArrayLike, reference: ArrayLike, backbone: str | os.PathLike[str] | None = None) -> float:
    """Take LPIPS (AlexNet, version 0.1): 0 for equal photographs, larger for less alike ones.

    Args:
        prediction: (H, W, 3) in [0, 1], each side at least 64 pixels.
        reference: the truth, of the same shape.
        backbone: torchvision's file of AlexNet; `ALEXNET_FILE` in the folder of ``torch.hub`` if None.

    Raises:
        LpipsWeightsError: there are no such weights.
        ValueError: the shapes differ or are not accepted.

    Example:
        >>> try:
        ...     lpips(torch.zeros(64, 64, 3), torch.zeros(64, 64, 3), "/no/such/alexnet.pth")
        ... except LpipsWeightsError as error:
        ...     print(error)
        no LPIPS: there is no /no/such/alexnet.pth with AlexNet's weights
    """
    images = [torch.as_tensor(image, dtype=torch.float32) for image in (prediction, reference)]
    shape = images[1].shape
    if len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < _SMALLEST or images[0].shape != shape:
        shapes = " and ".join(str(tuple(image.shape)) for image in images)
        raise ValueError(f"prediction and reference have shapes {shapes}; accepted: one (H, W, 3), 64 x 64 pixels up.")
    file = Path(torch.hub.get_dir(), "checkpoints", ALEXNET_FILE) if backbone is None else Path(backbone)
    place = f"{ALEXNET_FILE} in the folder checkpoints of torch.hub" if backbone is None else str(backbone)
    weights = _load(file, f"{place} with AlexNet's weights")
    spec = importlib.util.find_spec("torchmetrics")
    package = Path("torchmetrics" if spec is None or spec.origin is None else spec.origin).parent
    linear = _load(package / "functional" / "image" / "lpips_models" / "alex.pth", "alex.pth in torchmetrics")
    total = 0.0
    with torch.no_grad():
        layers = zip(*(_features(image, weights) for image in images), strict=True)
        for number, (one, other) in enumerate(layers):
            weight = linear[f"lin{number}.model.1.weight"]
            total += float(F.conv2d((one - other) ** 2, weight).mean())
    return total


def _load(path: Path, name: str) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise LpipsWeightsError(f"no LPIPS: there is no {name}")
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _features(image: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The normalised features of the five layers of a photograph (H, W, 3)."""
    shift, scale = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
    x = (2 * image.movedim(-1, 0)[None] - 1 - shift) / scale
    features = []
    for number, (stride, padding, pooled) in _LAYERS.items():
        x = F.max_pool2d(x, 3, 2) if pooled else x
        weight, bias = (weights[f"features.{number}.{name}"] for name in ("weight", "bias"))
        x = F.relu(F.conv2d(x, weight, bias, stride, padding))
        features.append(x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt())
    return features
