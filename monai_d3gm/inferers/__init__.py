"""Training steps, samples and restorations behind MONAI's inferer interfaces."""

from __future__ import annotations

from monai_d3gm.inferers.diffusion import D3GMInferer, linear_part
from monai_d3gm.inferers.regression import RegressionInferer
from monai_d3gm.inferers.restoration import RestorationInferer

__all__ = [
    "D3GMInferer",
    "RegressionInferer",
    "RestorationInferer",
    "linear_part",
]
