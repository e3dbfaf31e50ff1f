"""MONAI dictionary transforms of a slice: a dict with ``kspace``, ``mask``, ``mu``, ``image`` and so on.

With ``seed``, a slice's random numbers depend on ``(seed, slice["key"])`` alone. A mask that the slices of a volume
share depends on ``(seed, slice["source"])``. Without a seed they come from MONAI's random state.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform, Randomizable

from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels
from monai_d3gm.transforms.kspace import array
from monai_d3gm.transforms.kspace.functional import MASK_PER, keyed_generator

__all__ = [
    "CartesianMaskd",
    "CropReadoutd",
    "CropToAcquiredBandd",
    "NormalizeKspaced",
    "CompressedSensingd",
    "SimulateKspaced",
    "ZeroFilledd",
]


class CropToAcquiredBandd(MapTransform):
    """Dictionary form of `array.CropToAcquiredBand`.

    Example:
        >>> import torch
        >>> CropToAcquiredBandd("image")({"image": torch.ones(1, 8, 8)})["image"].shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, keys: KeysCollection, axes: Sequence[int] = (0, 1), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.CropToAcquiredBand(axes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each of ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class SimulateKspaced(Randomizable, MapTransform):
    """Dictionary form of `array.SimulateKspace`: reads a magnitude, writes the simulated acquisition.

    Writes ``kspace``, ``noise_std``, ``sensitivity_maps`` (several coils) and replaces the magnitude by the noise-free
    complex image (2, H, W).

    Args:
        keys: the magnitude's key, one.
        snr, phase, coils: as in the array form.
        seed: None, or seed that is combined with ``data["key"]``.

    Example:
        >>> import torch
        >>> item = SimulateKspaced("image", seed=0)({"image": torch.ones(8, 8), "key": "file:0"})
        >>> sorted(item), item["image"].shape
        (['image', 'key', 'kspace', 'noise_std'], torch.Size([2, 8, 8]))
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        snr: float = 50.0,
        phase: float = np.pi,
        coils: int = 1,
        seed: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.SimulateKspace(snr, phase, coils)
        self.seed = seed

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SimulateKspaced:
        """Set the random state that is used without ``seed``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Simulate the acquisition of the magnitude."""
        result = dict(data)
        for key in self.key_iterator(result):
            generator = None if self.seed is None else keyed_generator(self.seed, "simulation", str(result["key"]))
            result["kspace"], result[key], result["noise_std"], maps = self.transform(result[key], generator)
            if maps is not None:
                result["sensitivity_maps"] = maps
        return result


class CartesianMaskd(Randomizable, MapTransform):
    """Dictionary form of `array.CartesianMask`: masks k-space and writes ``mask``.

    Args:
        keys: the k-space's key, one.
        acceleration, mask, center_fraction: as in the array form.
        seed: None, or seed that is combined with ``data["key"]``.
        padding: columns outside are not sampled.
        per: with a seed, ``slice`` draws a mask for each key. ``volume`` draws one for all slices of the file
            ``data["source"]``: with seed 0 the mask that fastMRI's transforms draw for a file of this name.

    Raises:
        ValueError: ``per`` is another word.

    Example:
        >>> import torch
        >>> item = {"kspace": torch.ones(8, 64, dtype=torch.complex64), "key": "a:0"}
        >>> CartesianMaskd("kspace", 4, seed=0)(item)["mask"].shape
        torch.Size([1, 64])
    """

    def __init__(
        self,
        keys: KeysCollection = "kspace",
        acceleration: float = 4,
        mask: str = "random",
        center_fraction: float | None = None,
        seed: int | None = None,
        padding: tuple[int, int] | None = None,
        per: str = "slice",
        allow_missing_keys: bool = False,
    ) -> None:
        if per not in MASK_PER:
            raise ValueError(f"mask_per is {per!r}; accepted: {', '.join(MASK_PER)}.")
        super().__init__(keys, allow_missing_keys)
        self.transform = array.CartesianMask(acceleration, mask, center_fraction)
        self.seed, self.padding, self.per = seed, padding, per

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> CartesianMaskd:
        """Set the random state that is used without ``seed``."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mask k-space."""
        result = dict(data)
        for key in self.key_iterator(result):
            seed = None if self.seed is None else self._seed(self.seed, result)
            result[key], result["mask"] = self.transform(result[key], seed, self.padding)
        return result

    def _seed(self, seed: int, data: Mapping[Hashable, Any]) -> int | tuple[int, ...]:
        """The seed of a slice's mask; that of a volume is fastMRI's, the file's name in numbers."""
        if self.per == "slice":
            return int(keyed_generator(seed, "mask", str(data["key"])).integers(2**32))
        name = tuple(map(ord, Path(str(data["source"])).name))
        return (*name, seed) if seed else name


class CropReadoutd(MapTransform):
    """Dictionary form of `array.CropReadout`.

    Example:
        >>> import torch
        >>> CropReadoutd("kspace", 4)({"kspace": torch.ones(8, 6, dtype=torch.complex64)})["kspace"].shape
        torch.Size([4, 6])
    """

    def __init__(self, keys: KeysCollection, height: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.CropReadout(height)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each of ``keys``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class ZeroFilledd(MapTransform):
    """Dictionary form of `array.ZeroFilled`: writes ``mu`` from k-space and, where there are any, the coil maps.

    Example:
        >>> import torch
        >>> ZeroFilledd("kspace")({"kspace": torch.ones(8, 6, dtype=torch.complex64)})["mu"].shape
        torch.Size([2, 8, 6])
    """

    def __init__(self, keys: KeysCollection = "kspace", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.ZeroFilled()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write ``mu``."""
        result = dict(data)
        for key in self.key_iterator(result):
            result["mu"] = self.transform(result[key], result.get("sensitivity_maps"))
        return result


class CompressedSensingd(MapTransform):
    """Dictionary form of `array.CompressedSensing`: estimates ``mu`` and divides images by the phase reference.

    Of ``kspace``, ``mask`` and, where present, ``sensitivity_maps`` and ``noise_std`` it makes ``phase`` and the new
    ``mu``; what ``mu`` was, the zero-filled image, becomes ``zero_filled``.

    Args:
        keys: images (2, H, W) to divide by the phase reference, such as the truth.

    Example:
        >>> import torch
        >>> item = {"kspace": torch.randn(16, 16, dtype=torch.complex64), "mask": torch.ones(1, 16, dtype=torch.bool)}
        >>> sorted(CompressedSensingd("image", allow_missing_keys=True)(item | {"mu": torch.ones(2, 16, 16)}))
        ['kspace', 'mask', 'mu', 'phase', 'zero_filled']
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.CompressedSensing()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Estimate, and divide each of ``keys``."""
        result = dict(data)
        result["zero_filled"] = result["mu"]
        result["mu"], result["phase"] = self.transform(
            result["kspace"], result["mask"], result.get("sensitivity_maps"), float(result.get("noise_std", 0.0))
        )
        for key in self.key_iterator(result):
            image = channels_to_complex(result[key]) * result["phase"].conj()
            result[key] = complex_to_channels(image)
        return result


class NormalizeKspaced(InvertibleTransform, MapTransform):
    """Dictionary form of `array.NormalizeKspace`: divides each of ``keys`` by the scale of ``mu`` and writes ``scale``.

    `inverse` multiplies them again.

    Args:
        keys: of the values in the image's units: k-space, images, ``noise_std``.
        percentile: as in the array form.

    Example:
        >>> import torch
        >>> kspace, mu = torch.ones(8, 6, dtype=torch.complex64), torch.full((2, 8, 6), 3.0)
        >>> item = {"kspace": kspace, "mu": mu, "noise_std": 0.5}
        >>> normalize = NormalizeKspaced(("kspace", "mu", "noise_std"))
        >>> round(normalize(item)["scale"], 4), normalize.inverse(normalize(item))["noise_std"]
        (4.2426, 0.5)
    """

    def __init__(self, keys: KeysCollection, percentile: float = 99.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = array.NormalizeKspace(percentile)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Normalise each of ``keys``."""
        result = dict(data)
        _, result["scale"] = self.transform(result["mu"], result["mu"])
        for key in self.key_iterator(result):
            result[key] = result[key] / result["scale"]
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return each of ``keys`` to physical units."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key], result["scale"])
        return result
