"""Photographs to train on, one dict each; rain and haze on clean ones are synthetic."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray

from monai_d3gm.data.collections.pairs import ImagePair
from monai_d3gm.data.formats.images import ImageFileError, read_image
from monai_d3gm.data.restoration.photographs import Estimate
from monai_d3gm.data.training.base import TrainingDataset, check_counts
from monai_d3gm.transforms.kspace.functional import keyed_generator
from monai_d3gm.transforms.weather import SimulateWeather

__all__ = ["EstimatedWeatherDataset", "ImagePairCropDataset", "SimulatedWeatherDataset"]


def _turned_crop(
    extent: Sequence[int], crop: int, rng: np.random.Generator
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A square crop at a random place, turned by a random multiple of 90 degrees and mirrored or not."""
    top, left = (int(rng.integers(size - crop + 1)) for size in extent)
    quarters, mirrored = int(rng.integers(4)), rng.random() < 0.5

    def cut(image: NDArray[np.float32]) -> NDArray[np.float32]:
        image = np.rot90(image[:, top : top + crop, left : left + crop], quarters, axes=(1, 2))
        return (image[:, :, ::-1] if mirrored else image).copy()

    return cut


def _item(key: str, index: int, image: torch.Tensor, mu: torch.Tensor) -> dict[str, Any]:
    return {"image": image, "mu": mu, "scale": torch.tensor(1.0), "index": index, "key": key}


class SimulatedWeatherDataset(TrainingDataset):
    """Training pairs: crops of clean photographs, turned, and degraded by freshly drawn weather.

    Item i is a pure function of ``seed`` and i, so that a resumed run sees the same items, whatever the
    workers. It is a dict: ``image`` float32 (3, crop, crop) in [0, 1], the clean crop; ``mu``, the same degraded, on
    the 256 values of an 8-bit file; ``scale`` 1; ``index``; ``key``.

    Args:
        photographs: files; one that is named twice is drawn twice as often.
        length: number of items.
        weather: added to them, such as `monai_d3gm.transforms.weather.SimulateRain`.
        seed: seed of all that is random.
        crop: extent of the crops in pixels.

    Raises:
        ValueError: an argument is out of range, or a photograph cannot be used.

    Example:
        >>> from monai_d3gm.data import bundled_photographs
        >>> from monai_d3gm.transforms.weather import SimulateHaze
        >>> dataset = SimulatedWeatherDataset(bundled_photographs(), 4, SimulateHaze(), crop=32)
        >>> dataset[3]["image"].shape, dataset[3]["mu"].shape
        (torch.Size([3, 32, 32]), torch.Size([3, 32, 32]))
    """

    def __init__(
        self,
        photographs: Sequence[str | os.PathLike[str]],
        length: int,
        weather: SimulateWeather,
        seed: int = 0,
        crop: int = 128,
    ) -> None:
        if not photographs:
            raise ValueError("photographs is empty; accepted: at least one file.")
        super().__init__(length, seed, crop=crop)
        self.weather, self.crop = weather, crop
        self.files = [Path(path) for path in photographs]
        self._clean = {path: read_image(path).data for path in dict.fromkeys(self.files)}
        for path, data in self._clean.items():
            if min(data.shape[1:]) < crop:
                raise ValueError(f"{path}: {data.shape[2]} x {data.shape[1]} pixels; accepted: from crop, {crop}, up.")

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        path = self.files[rng.integers(len(self.files))]
        image = _turned_crop(self._clean[path].shape[1:], self.crop, rng)(self._clean[path])
        return _item(f"{path.stem}:{index}", index, torch.from_numpy(image), self.weather(image, rng))


@dataclass(frozen=True)
class _Scene:
    """A whole photograph, clean and as it is estimated from the degraded one."""

    path: Path
    clean: NDArray[np.float32]
    estimate: NDArray[np.float32]


class EstimatedWeatherDataset(SimulatedWeatherDataset):
    """Training pairs: crops of clean photographs, and of first estimates that were made of the whole degraded ones.

    The weather is put on whole photographs, since the estimate looks at all of one; ``mu`` is cut from the estimate.
    Items are otherwise like those of `SimulatedWeatherDataset`, and as reproducible.

    Args:
        photographs, length, weather: as in `SimulatedWeatherDataset`.
        estimate: makes ``mu`` of the degraded photograph, such as `monai_d3gm.transforms.weather.DarkChannelPrior`.
        seed, crop: as in `SimulatedWeatherDataset`.
        crops: number of consecutive items that are cut from one photograph in one weather.
        augment: MONAI's random transform of a clean photograph, such as a ``Compose`` of ``RandZoom`` and
            ``RandAdjustContrast``, before the weather.
        match_exposure: multiply the estimate so that its mean is the clean photograph's. Haze leaves the exposure open;
            without it the network would memorise the exposure of the training photographs.

    Raises:
        ValueError: an argument is out of range, or a photograph cannot be used; or, of an item: ``augment`` leaves less
            than a crop.

    Example:
        >>> from monai_d3gm.data import bundled_photographs
        >>> from monai_d3gm.transforms.weather import DarkChannelPrior, SimulateHaze
        >>> files = bundled_photographs(["coffee.png"])
        >>> EstimatedWeatherDataset(files, 4, SimulateHaze(), DarkChannelPrior(), crop=32, crops=2)[3]["mu"].shape
        torch.Size([3, 32, 32])
    """

    def __init__(
        self,
        photographs: Sequence[str | os.PathLike[str]],
        length: int,
        weather: SimulateWeather,
        estimate: Estimate,
        seed: int = 0,
        crop: int = 128,
        crops: int = 1,
        augment: Compose | None = None,
        match_exposure: bool = False,
    ) -> None:
        super().__init__(photographs, length, weather, seed, crop)
        check_counts(crops=crops)
        self.estimate, self.crops, self.augment, self.match_exposure = estimate, crops, augment, match_exposure
        self._last: tuple[int, _Scene] | None = None

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        scene = self._scene(index // self.crops)
        cut = _turned_crop(scene.clean.shape[1:], self.crop, rng)
        image, mu = (torch.from_numpy(cut(each)) for each in (scene.clean, scene.estimate))
        return _item(f"{scene.path.stem}:{index}", index, image, mu)

    def _scene(self, number: int) -> _Scene:
        """Photograph ``number`` in its weather; the last one is kept."""
        if self._last is None or self._last[0] != number:
            rng = keyed_generator(self.seed, "scene", number)
            path = self.files[rng.integers(len(self.files))]
            clean = self._clean[path]
            if self.augment is not None:
                self.augment.set_random_state(int(rng.integers(2**32)))
                clean = np.clip(np.asarray(self.augment(clean), dtype=np.float32), 0, 1)
                if min(clean.shape[1:]) < self.crop:
                    extent = f"{clean.shape[2]} x {clean.shape[1]}"
                    raise ValueError(f"{path}: augment leaves {extent} pixels; accepted: from crop, {self.crop}, up.")
            estimated = self.estimate(self.weather(clean, rng)).numpy()
            if self.match_exposure:
                estimated = estimated * (clean.mean() / np.maximum(estimated.mean(), np.float32(1e-3)))
            self._last = number, _Scene(path, clean, estimated)
        return self._last[1]


class ImagePairCropDataset(TrainingDataset):
    """Training pairs: crops of degraded photographs and of the clean ones, turned and mirrored alike.

    Item i is a pure function of ``seed`` and i, as in `SimulatedWeatherDataset`, whose items these are like. Files are
    read when asked for.

    Args:
        pairs: as `monai_d3gm.data.collections.pairs.find_pairs` finds them.
        length: number of items.
        seed: seed of all that is random.
        crop: extent of the crops in pixels.
        estimate: makes ``mu`` of the whole degraded photograph, before it is cut; None takes the degraded photograph.

    Raises:
        ValueError: an argument is out of range; or, of an item: a file cannot be read, the two differ in size, or are
            smaller than the crop.

    Example:
        >>> from monai_d3gm.data import bundled_photographs
        >>> (path,) = bundled_photographs(["coffee.png"])
        >>> item = ImagePairCropDataset([ImagePair("coffee", path, path)], 4, crop=32)[3]
        >>> bool((item["mu"] == item["image"]).all()), item["image"].shape
        (True, torch.Size([3, 32, 32]))
    """

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        length: int,
        seed: int = 0,
        crop: int = 128,
        estimate: Estimate | None = None,
    ) -> None:
        if not pairs:
            raise ValueError("pairs is empty; accepted: at least one pair.")
        super().__init__(length, seed, crop=crop)
        self.pairs, self.crop, self.estimate = list(pairs), crop, estimate

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        pair = self.pairs[rng.integers(len(self.pairs))]
        degraded, clean = read_image(pair.degraded).data, read_image(pair.clean).data
        if degraded.shape != clean.shape or min(clean.shape[1:]) < self.crop:
            sizes = " and ".join(f"{image.shape[2]} x {image.shape[1]}" for image in (degraded, clean))
            raise ImageFileError(
                f"{pair.degraded}: it and {pair.clean} have {sizes} pixels; accepted: one size, from {self.crop} up."
            )
        mu = degraded if self.estimate is None else self.estimate(torch.from_numpy(degraded)).numpy()
        cut = _turned_crop(clean.shape[1:], self.crop, rng)
        image, estimated = (torch.from_numpy(cut(each)) for each in (clean, mu))
        return _item(f"{pair.degraded.stem}:{index}", index, image, estimated)
