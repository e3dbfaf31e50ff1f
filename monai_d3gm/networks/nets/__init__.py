"""Networks F(x, timesteps, context=None) that a D3GMScheduler turns into denoisers."""

from __future__ import annotations

from monai_d3gm.networks.nets.conditional_nafnet import ConditionalNAFNet

__all__ = ["ConditionalNAFNet"]
