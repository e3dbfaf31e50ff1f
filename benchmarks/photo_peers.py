"""Classical peers of the photographs' bundles: the dark channel prior for haze, a guided-filter decomposition for rain.

Both work on float32 RGB (H, W, 3) in [0, 1] and know of the degradation only what their papers say.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]

_DARK_RADIUS = 7
_OMEGA = 0.95
_LOWEST_TRANSMISSION = 0.1
_BRIGHTEST = 0.001


def guided_filter(guide: Image, image: Image, radius: int, epsilon: float) -> Image:
    """He, Sun and Tang, "Guided Image Filtering", ECCV 2010, with a grey guide: q = mean(a) guide + mean(b).

    In each box of 2 ``radius`` + 1 pixels a = cov(guide, image) / (var(guide) + epsilon), b = mean(image) -
    a mean(guide).

    Args:
        guide: (H, W).
        image: (H, W).
        radius: of the boxes, in pixels.
        epsilon: the variance up to which the guide's detail is smoothed away.
    """

    def mean(x: Image) -> Image:
        return ndimage.uniform_filter(x, 2 * radius + 1, mode="reflect")

    guide, image = guide.astype(np.float64), image.astype(np.float64)
    average, target = mean(guide), mean(image)
    a = (mean(guide * image) - average * target) / (mean(guide * guide) - average**2 + epsilon)
    return (mean(a) * guide + mean(target - a * average)).astype(np.float32)


def dark_channel_prior(image: Image) -> Image:
    """He, Sun and Tang, "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009, transmission by guided filter.

    The airlight is the mean of the pixels with the brightest thousandth of dark channels; t = 1 - 0.95 dark(I / A) over
    15 x 15 pixels, refined by the guided filter (radius 60, epsilon 1e-4) that its authors put in place of matting in
    2010; J = (I - A) / max(t, 0.1) + A.
    """

    def dark(x: Image) -> Image:
        return ndimage.minimum_filter(x.min(axis=-1), 2 * _DARK_RADIUS + 1, mode="reflect")

    channel = dark(image)
    count = max(1, round(_BRIGHTEST * channel.size))
    brightest = np.argpartition(channel.ravel(), -count)[-count:]
    airlight = np.maximum(image.reshape(-1, 3)[brightest].mean(axis=0), 0.05)
    t = guided_filter(image.mean(axis=-1), 1 - np.float32(_OMEGA) * dark(image / airlight), radius=60, epsilon=1e-4)
    clear = (image - airlight) / np.maximum(t, _LOWEST_TRANSMISSION)[..., None] + airlight
    return np.clip(clear, 0, 1).astype(np.float32)


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
