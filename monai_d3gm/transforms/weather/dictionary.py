"""MONAI dictionary transforms that add weather to photographs or remove it.

With ``seed``, the random numbers of an item depend only on ``(seed, item["key"])``; without it, on MONAI's random
state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from monai_d3gm.transforms.kspace.functional import keyed_generator
from monai_d3gm.transforms.weather import array

__all__ = ["DarkChannelPriord", "SimulateHazed", "SimulateRaind"]


class _SimulateWeatherd(Randomizable, MapTransform):
    """Reads a photograph, adds weather to it and writes it as ``mu``.

    Args:
        keys: the photograph's key, one.
        amount: as in the array form.
        seed: None, or seed that is combined with ``data["key"]``.
    """

    weather: type[array.SimulateWeather]

    def __init__(
        self,
        keys: KeysCollection = "image",
        amount: Sequence[float] = (0.0, 1.0),
        seed: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = self.weather(amount)
        self.seed = seed

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> _SimulateWeatherd:
        """Set the random state that is used without ``seed``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write ``mu``."""
        result = dict(data)
        for key in self.key_iterator(result):
            generator = None if self.seed is None else keyed_generator(self.seed, "weather", str(result["key"]))
            result["mu"] = self.transform(result[key], generator)
        return result


class SimulateRaind(_SimulateWeatherd):
    """Dictionary form of `array.SimulateRain`: reads a photograph, writes it in the rain as ``mu``.

    Example:
        >>> import torch
        >>> item = SimulateRaind(seed=0)({"image": torch.zeros(3, 16, 24), "key": "a"})
        >>> item["mu"].shape
        torch.Size([3, 16, 24])
    """

    weather = array.SimulateRain


class SimulateHazed(_SimulateWeatherd):
    """Dictionary form of `array.SimulateHaze`: reads a photograph, writes it in haze as ``mu``.

    Example:
        >>> import torch
        >>> item = SimulateHazed(seed=0)({"image": torch.zeros(3, 16, 24), "key": "a"})
        >>> item["mu"].shape
        torch.Size([3, 16, 24])
    """

    weather = array.SimulateHaze


class DarkChannelPriord(MapTransform):
    """Dictionary form of `array.DarkChannelPrior`: replaces ``mu`` by the estimate, and keeps it as ``degraded``.

    Args:
        keys: the hazy photograph's key, one.
        options: as in the array form.

    Example:
        >>> import torch
        >>> item = DarkChannelPriord()({"mu": torch.full((3, 16, 24), 0.5)})
        >>> item["mu"].shape, float(item["degraded"].mean())
        (torch.Size([3, 16, 24]), 0.5)
    """

    def __init__(self, keys: KeysCollection = "mu", allow_missing_keys: bool = False, **options: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.DarkChannelPrior(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write ``mu`` and ``degraded``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result["degraded"] = result[key]
            result["mu"] = self.transform(result["degraded"])
        return result
