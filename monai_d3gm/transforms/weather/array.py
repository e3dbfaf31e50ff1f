"""MONAI array transforms that add weather to photographs or remove it; the models are in `weather.functional`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.transforms import Randomizable, Transform

from monai_d3gm.transforms.weather import functional

__all__ = ["DarkChannelPrior", "SimulateHaze", "SimulateRain", "SimulateWeather"]


def _checked_photograph(img: NdarrayOrTensor) -> functional.Image:
    image = np.asarray(img, dtype=np.float32)
    if image.ndim != 3 or len(image) != 3 or image.size == 0:
        raise ValueError(f"img has shape {tuple(image.shape)}; accepted: (3, H, W).")
    low, high = float(image.min()), float(image.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"img has values from {low:g} to {high:g}; accepted: 0 to 1.")
    return image


class SimulateWeather(Randomizable, Transform):
    """Add weather of a random amount to a photograph (3, H, W) with values in [0, 1].

    Args:
        amount: range of the amount, which is drawn uniformly: 0 is light, 1 is heavy.

    Attributes:
        description: names the degradation in reports.

    Raises:
        ValueError: ``amount`` is out of range.

    Example:
        >>> rain = SimulateRain(amount=(0.5, 0.5)).set_random_state(0)
        >>> isinstance(rain, SimulateWeather), rain(torch.full((3, 16, 24), 0.5)).shape
        (True, torch.Size([3, 16, 24]))
    """

    description: str

    def __init__(self, amount: Sequence[float] = (0.0, 1.0)) -> None:
        self.amount = functional.check_amount(amount)

    def randomize(self, data: Any = None) -> None:
        """Seed the generator of the next call from the transform's random state."""
        self.generator = np.random.default_rng(self.R.randint(2**32, dtype=np.uint64))

    def __call__(self, img: NdarrayOrTensor, generator: np.random.Generator | None = None) -> torch.Tensor:
        """Return the degraded photograph, float32 (3, H, W) on the 256 values of an 8-bit file.

        Args:
            img: the photograph.
            generator: source of randomness instead of the transform's own.

        Raises:
            ValueError: ``img`` has another shape, or values outside [0, 1].
        """
        if generator is None:
            self.randomize()
            generator = self.generator
        image = _checked_photograph(img)
        return torch.from_numpy(functional.quantise(self.degrade(image, generator)))

    @abstractmethod
    def degrade(self, image: functional.Image, generator: np.random.Generator) -> functional.Image:
        """Return the photograph with the weather, before rounding."""


class SimulateRain(SimulateWeather):
    """Rain: streak layers over a veil, see `functional.draw_rain` and `functional.add_rain`.

    Example:
        >>> rain = SimulateRain(amount=(0.5, 1.0)).set_random_state(0)
        >>> rain(torch.zeros(3, 16, 24)).shape
        torch.Size([3, 16, 24])
    """

    description = "synthetic rain"

    def degrade(self, image: functional.Image, generator: np.random.Generator) -> functional.Image:
        """Draw rain and add it."""
        rain = functional.draw_rain(generator, generator.uniform(*self.amount))
        return functional.add_rain(image, rain, generator)


class SimulateHaze(SimulateWeather):
    """Haze by atmospheric scattering, see `functional.draw_haze` and `functional.add_haze`; half of it is patchy.

    Example:
        >>> haze = SimulateHaze(amount=(1.0, 1.0)).set_random_state(0)
        >>> bool(haze(torch.zeros(3, 16, 24)).mean() > 0.2)
        True
    """

    description = "synthetic haze"

    def degrade(self, image: functional.Image, generator: np.random.Generator) -> functional.Image:
        """Draw haze, the scene's depth and the haze's density, and add it."""
        shape = (image.shape[1], image.shape[2])
        haze = functional.draw_haze(generator, generator.uniform(*self.amount))
        depth = functional.depth_map(shape, generator)
        density = functional.density_map(shape, generator) if generator.random() < 0.5 else None
        return functional.add_haze(image, haze, depth, density)


class DarkChannelPrior(Transform):
    """A first estimate of a photograph (3, H, W) without its haze, see `functional.dark_channel_prior`.

    It takes airlight and transmission from the whole photograph, which no window of a network sees.

    Args:
        radius: of the boxes in which something dark is expected, in pixels, 1 or more.
        omega: share of the haze that is removed, above 0 and up to 1.
        lowest_transmission: bound on the transmission, above 0 and up to 1.
        exposure: five coefficients that give the estimate the exposure of photographs; None leaves it as it is.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> DarkChannelPrior()(torch.full((3, 16, 24), 0.5)).shape
        torch.Size([3, 16, 24])
    """

    def __init__(
        self,
        radius: int = 7,
        omega: float = 0.95,
        lowest_transmission: float = 0.1,
        exposure: Sequence[float] | None = None,
    ) -> None:
        if isinstance(radius, bool) or not isinstance(radius, int) or radius < 1:
            raise ValueError(f"radius is {radius!r}; accepted: an integer of at least 1.")
        shares = {"omega": omega, "lowest_transmission": lowest_transmission}
        for name, value in shares.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} is {value}; accepted: above 0 and up to 1.")
        if exposure is not None and (np.shape(exposure) != (5,) or not np.isfinite(exposure).all()):
            raise ValueError(f"exposure is {exposure}; accepted: five finite numbers, or None.")
        self.options: dict[str, Any] = {"radius": radius, **shares, "exposure": exposure}

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Return the estimate, float32 (3, H, W); it is not clipped.

        Args:
            img: the photograph.

        Raises:
            ValueError: ``img`` has another shape, or values outside [0, 1].
        """
        estimate = functional.dark_channel_prior(_checked_photograph(img), **self.options)
        return torch.from_numpy(estimate)
