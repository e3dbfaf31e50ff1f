"""The baseline of a comparison: the same network as a plain regression x_0 = mu + sigma_d F(mu)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_d3gm.inferers.diffusion import autocast_dtype, linear_part
from monai_d3gm.networks.schedulers import D3GMScheduler, crop_to, pad_to_multiple, size_multiple

__all__ = ["RegressionInferer"]


class RegressionInferer(Inferer):
    """Regression in the units of a D3GM's target, so that both train with the same loss, data and engine.

    Args:
        scheduler: gives sigma_d.
        amp: dtype in which the network runs under autocast.

    Example:
        >>> inferer = RegressionInferer(D3GMScheduler(sigma_data=0.1))
        >>> inferer.restore(torch.zeros(1, 1, 4, 4), torch.nn.Conv2d(1, 1, 1)).shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, scheduler: D3GMScheduler, amp: torch.dtype | str | None = None) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.amp = autocast_dtype(amp)

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, data_consistency: Callable[[Tensor, Any], Tensor] | None = None
    ) -> Tensor:
        """F(mu), to be compared with (x_0 - mu) / sigma_d; with ``data_consistency``, its linear part of F(mu)."""
        with torch.autocast(inputs.device.type, self.amp, enabled=self.amp is not None):
            prediction = network(pad_to_multiple(inputs, size_multiple(network)))
        prediction = crop_to(prediction, inputs.shape[2:]).to(inputs.dtype)
        return prediction if data_consistency is None else linear_part(data_consistency, prediction, torch.tensor(1.0))

    @torch.no_grad()
    def restore(
        self, mu: Tensor, network: nn.Module, data_consistency: Callable[[Tensor, Any], Tensor] | None = None
    ) -> Tensor:
        """mu + sigma_d F(mu), corrected by ``data_consistency`` as the prediction at t = 1 is."""
        image = mu + self.scheduler.sigma_data * self(mu, network)
        return image if data_consistency is None else data_consistency(image, 1.0)
