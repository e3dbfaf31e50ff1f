"""Classical peers of the photographs' bundles: the dark channel prior for haze, a guided-filter decomposition for rain.

Both work on float32 RGB (H, W, 3) in [0, 1] and know of the degradation only what their papers say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.transforms.weather import functional
from monai_d3gm.transforms.weather.functional import guided_filter

Image = NDArray[np.float32]


def dark_channel_prior(image: Image) -> Image:
    """He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009: over 15 x 15 pixels."""
    return np.clip(functional.dark_channel_prior(image.transpose(2, 0, 1)), 0, 1).transpose(1, 2, 0)


def guided_derain(image: Image) -> Image:
    """A guided-filter derainer in the manner of Xu et al., "Removing rain and snow in a single image using guided
    filter", CSAE 2012, whose guide is made in another way.

    Rain is brighter than what is behind it, so a rain-free but blurred guide is made first: the guided filter of each
    channel by itself (radius 15, epsilon 0.04), of which the minimum with the photograph is taken. That is refined: the
    photograph filtered by this guide (radius 2, epsilon 1e-4), the minimum with the photograph once more.
    """
    result = np.empty_like(image)
    for c in range(3):
        channel = image[..., c]
        low = guided_filter(channel, channel, radius=15, epsilon=0.04)
        guide = np.minimum(low, channel)
        result[..., c] = np.minimum(guided_filter(guide, channel, radius=2, epsilon=1e-4), channel)
    return np.clip(result, 0, 1)


PEERS = {"derain": ("guided filter", guided_derain), "dehaze": ("dark channel prior", dark_channel_prior)}
"""By bundle: the peer's name and function."""
