"""A map of a restored image's error, predicted by a second network that was trained on errors.

The network sees the restored image, its start (mu), the difference of the two, the uncertainty that the measurement
leaves in each pixel (`MeasurementConsistency.open_std`), and the noise. It predicts the half-width that nine of ten
errors do not exceed, by the quantile loss (`monai_d3gm.losses.QuantileLoss`). A calibration on subjects then makes it
conformal (`monai_d3gm.trust.conformal`). It needs no second sample.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_d3gm.files import atomic_path
from monai_d3gm.networks.schedulers import crop_to, pad_to_multiple, size_multiple

__all__ = ["ErrorMap", "ErrorMapFileError"]

SCALE = 0.05
"""The half-width that the untrained network predicts, in units of the normalised image."""

_LARGEST = 3.0
"""The network's output is limited to e^-3 and e^3 times `SCALE`."""


class ErrorMapFileError(ValueError):
    """The file of an error map cannot be used."""


class ErrorMap(nn.Module):
    """Half-widths from restored images.

    Args:
        network: F(x, timesteps=None, context=None), from `CHANNELS` channels to one.
        prior_std: gamma of `open_std`, the scheduler's sigma_data.
        to_image: the image whose errors are predicted, such as the magnitude: (B, C, H, W) to (B, 1 or 3, H, W).
            None for the images themselves.
        path: weights saved by `save`; None to start untrained.

    Raises:
        ErrorMapFileError: the file cannot be read, or does not fit the network.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> net = ConditionalNAFNet(in_channels=5, out_channels=1, width=8, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> error_map = ErrorMap(net, prior_std=0.1)
        >>> error_map(error_map.features(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))).shape
        torch.Size([1, 1, 16, 16])
    """

    CHANNELS = 5

    def __init__(
        self,
        network: nn.Module,
        prior_std: float,
        to_image: Callable[[Tensor], Tensor] | None = None,
        path: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.prior_std = prior_std
        self.to_image = to_image
        if path is not None:
            self._load(Path(path))

    @torch.no_grad()
    def features(self, image: Tensor, mu: Tensor, consistency: Any = None) -> Tensor:
        """The network's input, (B, 5, H, W).

        Args:
            image: restored, (B, C, H, W), in the units of the network that restored it.
            mu: the start of the restoration, of the same shape.
            consistency: the measurement, with ``open_std`` and ``noise_std``, or None.
        """
        restored, start = (x.to(torch.float32) if self.to_image is None else self.to_image(x) for x in (image, mu))
        restored, start = restored.mean(1, keepdim=True), start.mean(1, keepdim=True)
        if consistency is None:
            unknown = torch.full_like(restored, self.prior_std)
            noise = torch.zeros_like(restored)
        else:
            unknown = consistency.open_std(self.prior_std).to(restored)
            noise = consistency.noise_std.to(restored).reshape(-1, 1, 1, 1).expand_as(restored)
        logarithms = [torch.log((x / self.prior_std).clamp(min=1e-3)) for x in (unknown, noise)]
        return torch.cat([restored, start, 4 * (restored - start).abs(), *logarithms], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Half-widths (B, 1, H, W), above 0, of what `features` returned."""
        padded = pad_to_multiple(features, size_multiple(self.network))
        logarithm = crop_to(self.network(padded), features.shape[2:])
        return SCALE * torch.exp(_LARGEST * torch.tanh(logarithm / _LARGEST))

    def save(self, path: str | PathLike[str], training: dict[str, Any]) -> None:
        """Write the weights in half precision, with their training data, whole or not at all."""
        content = {
            "error_map": {name: tensor.detach().cpu().half() for name, tensor in self.network.state_dict().items()},
            "training": dict(training),
        }
        with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
            torch.save(content, file)

    def _load(self, path: Path) -> None:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            self.network.load_state_dict({name: tensor.float() for name, tensor in content["error_map"].items()})
        except FileNotFoundError as error:
            raise ErrorMapFileError(f"{path}: no such file.") from error
        except Exception as error:  # torch raises many kinds for a damaged or foreign file
            reason = " ".join(str(error).split())[:200]
            raise ErrorMapFileError(f"{path}: not an error map for this network: {reason}.") from error
