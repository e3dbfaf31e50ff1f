"""MONAI dictionary transforms of resolution: a dict with ``image``, ``low_resolution``, ``mu`` and so on.

With ``seed``, the random numbers of a slice depend only on ``(seed, slice["key"])``; without it, on MONAI's random
state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from monai_d3gm.transforms.kspace.functional import keyed_generator
from monai_d3gm.transforms.resolution import array, functional

__all__ = ["LowerResolutiond", "SimulateLowResolutiond", "UpsampleLowResolutiond"]


class LowerResolutiond(MapTransform):
    """Dictionary form of `array.LowerResolution`.

    Example:
        >>> LowerResolutiond("image", 2)({"image": torch.ones(1, 8, 8)})["image"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(
        self,
        keys: KeysCollection,
        factor: int | Sequence[int],
        kernel: torch.Tensor | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.LowerResolution(factor, kernel)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Lower the resolution of each of ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class SimulateLowResolutiond(Randomizable, MapTransform):
    """Dictionary form of `array.SimulateLowResolution`: reads a magnitude, writes its noisy low-resolution image.

    Writes ``low_resolution``, ``noise_std`` and, unless k-space was truncated, ``kernel``; the magnitude is cropped to
    the pixels that were measured. A blur belongs to ``(seed, key)`` up to its last colon: slices of a volume share it.

    Args:
        keys: the magnitude's key, one.
        factor, degradation, snr, magnitude, sigma: as in the array form.
        seed: None, or seed that is combined with ``data["key"]``.

    Example:
        >>> item = SimulateLowResolutiond("image", 2, seed=0)({"image": torch.ones(1, 9, 8), "key": "file:0"})
        >>> sorted(item), item["image"].shape, item["low_resolution"].shape
        (['image', 'key', 'low_resolution', 'noise_std'], torch.Size([1, 8, 8]), torch.Size([1, 4, 4]))
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        factor: int | Sequence[int] = 2,
        degradation: str = "truncation",
        snr: float = 50.0,
        magnitude: bool = True,
        sigma: tuple[float, float] = functional.KERNEL_SIGMA,
        seed: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.SimulateLowResolution(factor, degradation, snr, magnitude, sigma)
        self.seed = seed

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> SimulateLowResolutiond:
        """Set the random state that is used without ``seed``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate the acquisition of the magnitude."""
        result = dict(data)
        for key in self.key_iterator(result):
            noise = blur = None
            if self.seed is not None:
                name = str(result["key"])
                noise = keyed_generator(self.seed, "noise", name)
                blur = keyed_generator(self.seed, "kernel", name.rpartition(":")[0])
            result["low_resolution"], result["noise_std"], kernel = self.transform(result[key], noise, blur)
            if kernel is not None:
                result["kernel"] = kernel
            result[key] = functional.crop_to_multiple(result[key], self.transform.factors)
        return result


class UpsampleLowResolutiond(MapTransform):
    """Dictionary form of `array.UpsampleLowResolution`: writes the interpolated image under another name.

    Args:
        keys: the low-resolution image's key, one.
        factor, mode, blocks: as in the array form.
        output: the new entry's key.

    Example:
        >>> item = UpsampleLowResolutiond("low_resolution", 2)({"low_resolution": torch.ones(1, 4, 4)})
        >>> item["mu"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(
        self,
        keys: KeysCollection = "low_resolution",
        factor: int | Sequence[int] = 2,
        mode: str = "sinc",
        blocks: bool = False,
        output: str = "mu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.UpsampleLowResolution(factor, mode, blocks)
        self.output = output

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write ``output``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[self.output] = self.transform(result[key])
        return result
