r"""Functions that add rain and haze to photographs from a random generator, and one that removes haze.

Images are float32 (3, H, W) in [0, 1], with the sRGB values of 8-bit files. Gamma is not undone, as in the synthetic
data sets of the field. Angles are measured in degrees from the vertical, and rain falls towards the last row.

Haze, the atmospheric scattering model (Koschmieder 1924)::

    I = J t + A (1 - t),    t = exp(-beta rho d)

with the airlight A and the scattering beta (one value per channel each), the density rho of the haze, whose mean is 1,
and the depth d in [0, 1]. Small particles scatter blue more than red: beta goes with the wavelength to the power of
minus the Angstrom exponent, which lies between 0 (fog) and 1.5 (smoke) in the atmosphere (Angstrom 1929).

Rain, streak layers over a veil of distant drops (the heavy rain model of Li, Cheong and Tan, CVPR 2019)::

    I = V (1 - S) + B S,    V = J t + A (1 - t),    S = 1 - prod_k (1 - S_k)

with the opacity S_k in [0, 1] of layer k and the brightness B of the drops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

from monai_d3gm.transforms.kspace.functional import smooth_phase

__all__ = [
    "Haze",
    "Rain",
    "RainLayer",
    "add_haze",
    "add_rain",
    "check_amount",
    "dark_channel_prior",
    "density_map",
    "depth_map",
    "draw_haze",
    "draw_rain",
    "guided_filter",
    "quantise",
    "remove_haze",
    "streaks",
]

Image = NDArray[np.float32]

_KINDS_OF_STREAK = 3
_WAVELENGTHS = (610.0, 550.0, 465.0)  # nm, of red, green and blue
_DARKEST_AIRLIGHT = 0.05
_DARKEST_MEAN = 0.02
_BRIGHTEST = 0.001
_LARGEST_GAIN = 3.0


@dataclass(frozen=True)
class RainLayer:
    """Streaks of about one length and direction.

    Attributes:
        length: pixels.
        angle: degrees from the vertical; positive falls to the right.
        width: pixels, the full width at half maximum.
        density: mean number of streaks over a pixel, were none faint.
        opacity: of the brightest streaks, from 0 to 1.
    """

    length: float
    angle: float
    width: float
    density: float
    opacity: float


@dataclass(frozen=True)
class Haze:
    """Haze over a photograph.

    Attributes:
        beta: optical thickness of the most distant part, at 550 nm.
        nearest: depth of the nearest part, from 0 to 1; 1 is homogeneous haze.
        airlight: red, green and blue, from 0 to 1.
        angstrom: the Angstrom exponent; 0 scatters all colours alike.
    """

    beta: float
    nearest: float
    airlight: tuple[float, float, float]
    angstrom: float = 0.0


@dataclass(frozen=True)
class Rain:
    """Rain over a photograph.

    Attributes:
        layers: of streaks.
        veil: the haze of distant drops.
        brightness: of the drops, from 0 to 1.
    """

    layers: tuple[RainLayer, ...]
    veil: Haze
    brightness: float


def check_amount(amount: Sequence[float]) -> tuple[float, float]:
    """Return the range ``amount`` as two floats.

    Raises:
        ValueError: it is not two increasing numbers in [0, 1].

    Example:
        >>> check_amount([0, 1])
        (0.0, 1.0)
    """
    if len(amount) != 2 or not 0 <= amount[0] <= amount[1] <= 1:
        raise ValueError(f"amount is {amount}; accepted: two increasing numbers from 0 (light) to 1 (heavy).")
    return float(amount[0]), float(amount[1])


def depth_map(shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """Draw the depth of a scene: smooth hills over a plane that recedes towards the first row.

    Args:
        shape: height and width.
        rng: source of randomness.

    Returns:
        float32 (H, W) from 0, the nearest, to 1, the most distant.

    Example:
        >>> depth = depth_map((16, 24), np.random.default_rng(0))
        >>> depth.shape, float(depth.min()), float(depth.max())
        ((16, 24), 0.0, 1.0)
    """
    plane = np.linspace(1, -1, shape[0], dtype=np.float32)[:, None] if shape[0] > 1 else np.zeros((1, 1), np.float32)
    share = np.float32(rng.uniform())
    depth = share * plane + (1 - share) * smooth_phase(shape, rng, 1.0)
    depth -= depth.min()
    return depth / max(depth.max(), np.float32(1e-6))


def density_map(shape: tuple[int, int], rng: np.random.Generator) -> Image:
    """Draw the density of patchy haze: the exponential of a smooth field, divided by its mean.

    Args:
        shape: height and width.
        rng: source of randomness.

    Returns:
        float32 (H, W), positive, of mean 1.

    Example:
        >>> density = density_map((16, 24), np.random.default_rng(0))
        >>> density.shape, round(float(density.mean()), 4)
        ((16, 24), 1.0)
    """
    density = np.exp(smooth_phase(shape, rng, float(rng.uniform(0.2, 1.0))))
    return density / density.mean()


def add_haze(image: Image, haze: Haze, depth: Image, density: Image | None = None) -> Image:
    """J t + A (1 - t) of a photograph (3, H, W), with t = exp(-beta density (nearest + (1 - nearest) depth)).

    Args:
        image: J.
        haze: the haze to add.
        depth: (H, W) from 0 to 1.
        density: (H, W), above 0, with the mean 1; None is 1 everywhere.

    Example:
        >>> haze = Haze(beta=100.0, nearest=0.5, airlight=(0.5, 0.5, 0.5))
        >>> add_haze(np.zeros((3, 1, 2), np.float32), haze, np.array([[0.0, 1.0]], np.float32))[0].tolist()
        [[0.5, 0.5]]
    """
    path = np.float32(haze.nearest) + np.float32(1 - haze.nearest) * depth
    if density is not None:
        path = path * density
    beta = haze.beta * (550.0 / np.array(_WAVELENGTHS)) ** haze.angstrom
    t = np.exp(-beta.astype(np.float32)[:, None, None] * path)
    airlight = np.array(haze.airlight, dtype=np.float32)[:, None, None]
    return airlight + (image - airlight) * t


def streaks(shape: tuple[int, int], layer: RainLayer, rng: np.random.Generator) -> Image:
    """Draw the opacity of a layer: drops at random places, each smeared along its fall.

    A streak is Gaussian across and flat with soft ends along its fall; lengths and angles vary by a tenth and by two
    degrees about the layer's, brightnesses between a third and all.

    Args:
        shape: height and width.
        layer: the layer to draw.
        rng: source of randomness.

    Returns:
        float32 (H, W) from 0 to ``layer.opacity``.

    Example:
        >>> layer = RainLayer(length=8, angle=10, width=1.5, density=0.1, opacity=0.8)
        >>> drawn = streaks((32, 48), layer, np.random.default_rng(0))
        >>> drawn.shape, bool((drawn >= 0).all() and (drawn <= 0.8).all())
        ((32, 48), True)
    """
    reach = int(np.ceil(0.6 * layer.length + layer.width)) + 1
    padded = (shape[0] + 2 * reach, shape[1] + 2 * reach)
    expected = layer.density * padded[0] * padded[1] / (layer.length * layer.width * _KINDS_OF_STREAK)
    total = np.zeros(shape, dtype=np.float32)
    for _ in range(_KINDS_OF_STREAK):
        drops = np.zeros(padded, dtype=np.float32)
        count = int(rng.poisson(expected))
        place = tuple(rng.integers(size, size=count) for size in padded)
        np.add.at(drops, place, rng.uniform(1 / 3, 1, size=count).astype(np.float32))
        streak = _streak(layer.length * rng.uniform(0.9, 1.1), layer.angle + rng.uniform(-2, 2), layer.width, reach)
        total += fftconvolve(drops, streak, mode="same")[reach:-reach, reach:-reach]
    return layer.opacity * np.clip(total, 0, 1)


def _streak(length: float, angle: float, width: float, reach: int) -> Image:
    """One streak of brightness 1 at the centre of a square of 2 ``reach`` + 1 pixels."""
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    sine, cosine = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    along, across = rows * cosine + columns * sine, columns * cosine - rows * sine
    ends = np.clip(length / 2 - np.abs(along) + 0.5, 0, 1) * np.clip(1.5 - 2 * np.abs(along) / length, 0.3, 1)
    return (ends * np.exp2(-((2 * across / width) ** 2))).astype(np.float32)


def add_rain(image: Image, rain: Rain, rng: np.random.Generator) -> Image:
    """V (1 - S) + B S of a photograph (3, H, W): the veil V over it, and streaks of opacity S before both.

    Args:
        image: the photograph.
        rain: the rain to add.
        rng: source of the streaks' places and of the depth.

    Example:
        >>> layer = RainLayer(length=8, angle=10, width=1.5, density=0.1, opacity=0.8)
        >>> rain = Rain((layer,), Haze(0.0, 1.0, (1.0, 1.0, 1.0)), brightness=0.9)
        >>> bool(add_rain(np.zeros((3, 32, 48), np.float32), rain, np.random.default_rng(0)).max() <= 0.72 + 1e-6)
        True
    """
    shape = (image.shape[1], image.shape[2])
    clear = np.ones(shape, dtype=np.float32)
    for layer in rain.layers:
        clear *= 1 - streaks(shape, layer, rng)
    veiled = add_haze(image, rain.veil, depth_map(shape, rng))
    brightness = np.float32(rain.brightness)
    return brightness + (veiled - brightness) * clear


def draw_rain(rng: np.random.Generator, amount: float) -> Rain:
    """Draw rain of an amount from 0, a drizzle, to 1, which leaves 13 to 17 dB of PSNR like Rain100H's.

    Half of the rains fall in one direction; in the others, as in Rain100H, each layer has its own.

    Example:
        >>> light, heavy = (draw_rain(np.random.default_rng(0), amount) for amount in (0.0, 1.0))
        >>> sum(layer.density for layer in light.layers) < sum(layer.density for layer in heavy.layers)
        True
    """
    direction = float(np.clip(rng.normal(0, 18), -50, 50))
    spread = 3.0 if rng.random() < 0.5 else 25.0
    count = 1 + int(rng.integers(0, 2)) + round(2 * amount)
    layers = []
    for _ in range(count):
        length = float(np.exp(rng.uniform(np.log(8), np.log(45))))
        layers.append(
            RainLayer(
                length=length,
                angle=float(np.clip(direction + rng.uniform(-spread, spread), -60, 60)),
                width=float(np.clip(rng.uniform(0.05, 0.1) * length, 1.0, 3.0)),
                density=float((0.03 + 0.3 * amount) * rng.uniform(0.6, 1.4) / count),
                opacity=float(rng.uniform(0.35, 0.6) + 0.4 * amount),
            )
        )
    veil = Haze(
        beta=float(rng.uniform(0, 0.15 + 0.6 * amount)), nearest=float(rng.uniform(0, 0.5)), airlight=_airlight(rng)
    )
    return Rain(tuple(layers), veil, brightness=float(rng.uniform(0.8, 1.0)))


def draw_haze(rng: np.random.Generator, amount: float) -> Haze:
    """Draw haze of an amount from 0, thin, to 1, dense: the most distant part keeps from 3/4 to 1/20 of its contrast.

    Half of the hazes scatter all colours alike; the others have an Angstrom exponent of up to 1.5.

    Example:
        >>> thin, dense = (draw_haze(np.random.default_rng(0), amount) for amount in (0.0, 1.0))
        >>> thin.beta < 0.4 and dense.beta > 2.4
        True
    """
    beta = (0.3 + 2.4 * amount**1.5) * rng.uniform(0.9, 1.1)
    nearest, airlight = float(rng.uniform(0.1, 1.0)), _airlight(rng)
    angstrom = float(rng.uniform(0, 1.5)) if rng.random() < 0.5 else 0.0
    return Haze(float(beta), nearest, airlight, angstrom)


def _airlight(rng: np.random.Generator) -> tuple[float, float, float]:
    """Grey to white, with a slight tint."""
    red, green, blue = np.clip(rng.uniform(0.6, 0.95) + rng.uniform(-0.02, 0.02, size=3), 0, 1)
    return float(red), float(green), float(blue)


def quantise(image: Image) -> Image:
    """Round to the 256 values of an 8-bit file, in which degraded photographs come.

    Example:
        >>> quantise(np.array([0.5, 1.2], np.float32)).round(4).tolist()
        [0.502, 1.0]
    """
    return np.rint(np.clip(image, 0, 1) * np.float32(255)) / np.float32(255)


def guided_filter(guide: Image, image: Image, radius: int, epsilon: float) -> Image:
    """Smooth an image along the edges of a grey guide (He, Sun and Tang, ECCV 2010): q = mean(a) guide + mean(b).

    In each box of 2 ``radius`` + 1 pixels a = cov(guide, image) / (var(guide) + epsilon), b = mean(image) -
    a mean(guide).

    Args:
        guide: (H, W).
        image: (H, W).
        radius: of the boxes, in pixels.
        epsilon: the variance up to which the guide's detail is smoothed away.

    Example:
        >>> flat = np.full((4, 4), 0.5, np.float32)
        >>> bool(np.allclose(guided_filter(np.eye(4, dtype=np.float32), flat, radius=1, epsilon=1e-4), flat))
        True
    """

    def mean(x: Image) -> Image:
        return ndimage.uniform_filter(x, 2 * radius + 1, mode="reflect")

    average, target = mean(guide), mean(image)
    a = (mean(guide * image) - average * target) / (mean(guide * guide) - average**2 + np.float32(epsilon))
    return mean(a) * guide + mean(target - a * average)


def remove_haze(
    image: Image, radius: int = 7, omega: float = 0.95, lowest_transmission: float = 0.1
) -> tuple[Image, NDArray[np.float64]]:
    """Remove haze from a photograph (3, H, W) by the dark channel prior (He, Sun and Tang, CVPR 2009).

    Without haze, some pixel nearby is dark in some channel. So the airlight A is the mean of the pixels with
    the brightest thousandth of dark channels, and t = 1 - omega dark(I / A), with dark the minimum over the channels
    and a box of 2 ``radius`` + 1 pixels; t is refined by the guided filter (radius 60, epsilon 1e-4) that replaced
    matting in 2010; J = (I - A) / max(t, lowest_transmission) + A.

    Args:
        image: I, in [0, 1].
        radius: of the boxes in which something dark is expected, in pixels.
        omega: share of the haze that is removed.
        lowest_transmission: bound on t, which bounds how much noise is amplified.

    Returns:
        J, like ``image``, and the logarithms of the means of J, I, A and t. J is not clipped: where t is estimated too
        small it leaves [0, 1].

    Example:
        >>> clear = np.zeros((3, 64, 64), np.float32)
        >>> clear[:, ::2] = 0.8
        >>> haze = Haze(beta=1.0, nearest=1.0, airlight=(0.9, 0.9, 0.9))
        >>> hazy = add_haze(clear, haze, np.zeros((64, 64), np.float32))
        >>> estimate, statistics = remove_haze(hazy, omega=1.0)
        >>> bool(abs(estimate - clear).max() < abs(hazy - clear).max()), statistics.shape
        (True, (4,))
    """

    def dark(x: Image) -> Image:
        return ndimage.minimum_filter(x.min(axis=0), 2 * radius + 1, mode="reflect")

    channel = dark(image)
    count = max(1, round(_BRIGHTEST * channel.size))
    brightest = np.argpartition(channel.ravel(), -count)[-count:]
    airlight = np.maximum(image.reshape(3, -1)[:, brightest].mean(axis=1), np.float32(_DARKEST_AIRLIGHT))[:, None, None]
    t = guided_filter(image.mean(axis=0), 1 - np.float32(omega) * dark(image / airlight), radius=60, epsilon=1e-4)
    t = np.maximum(t, np.float32(lowest_transmission))
    clear = (image - airlight) / t + airlight
    means = [float(each.mean()) for each in (clear, image, airlight, t)]
    return clear, np.log(np.maximum(means, _DARKEST_MEAN))


def dark_channel_prior(
    image: Image,
    radius: int = 7,
    omega: float = 0.95,
    lowest_transmission: float = 0.1,
    exposure: Sequence[float] | None = None,
) -> Image:
    """The estimate J of `remove_haze`, with the exposure that photographs have.

    In homogeneous haze only the brightness of the scene separates airlight from transmission, so J's exposure is
    uncertain. Most of J's error is a factor of the whole image. ``exposure`` corrects it as far as it follows from the
    means m of J, I, A and t: J is multiplied by exp(w_0 + w_1 log m_J + w_2 log m_I + w_3 log m_A + w_4 log m_t), and
    by no less than 1/3 and no more than 3. `benchmarks/haze_exposure.py` fits w on photographs.

    Args:
        image, radius, omega, lowest_transmission: as in `remove_haze`.
        exposure: w, five numbers; None leaves J as it is.

    Returns:
        J, like ``image``, not clipped.

    Example:
        >>> hazy = np.full((3, 16, 16), 0.5, np.float32)
        >>> twice = dark_channel_prior(hazy, exposure=(np.log(2), 0, 0, 0, 0))
        >>> bool(np.allclose(twice, 2 * dark_channel_prior(hazy)))
        True
    """
    clear, statistics = remove_haze(image, radius, omega, lowest_transmission)
    if exposure is None:
        return clear
    gain = np.exp(exposure[0] + statistics @ np.asarray(exposure[1:], dtype=np.float64))
    return clear * np.float32(np.clip(gain, 1 / _LARGEST_GAIN, _LARGEST_GAIN))
