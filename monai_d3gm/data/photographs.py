"""Photographs to restore and to train on, one dict each; rain and haze on clean ones are synthetic."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch.utils.data import Dataset

from monai_d3gm.data.datasets import InputVolume, find_inputs
from monai_d3gm.data.images import ImageFileError, Photograph, read_image
from monai_d3gm.data.pairs import ImagePair
from monai_d3gm.data.training import TrainingDataset, check_counts
from monai_d3gm.transforms.kspace.functional import keyed_generator
from monai_d3gm.transforms.weather import SimulateWeather

__all__ = [
    "DEMO_PHOTOGRAPHS",
    "EstimatedWeatherDataset",
    "ImageDataset",
    "ImagePairCropDataset",
    "ImagePairDataset",
    "SimulatedWeatherDataset",
    "bundled_photographs",
]

logger = logging.getLogger(__name__)

Estimate = Callable[[torch.Tensor], torch.Tensor]
"""A degraded photograph (3, H, W) to a first estimate of the clean one, which is then ``mu``."""

DEMO_PHOTOGRAPHS = ("astronaut.png", "coffee.png", "rocket.jpg")
"""Photographs in scikit-image's wheel that no weights of the package were trained on."""


def bundled_photographs(names: Sequence[str] = DEMO_PHOTOGRAPHS) -> list[Path]:
    """Return the paths of photographs that lie inside scikit-image's wheel; nothing is downloaded.

    Raises:
        ValueError: the installed scikit-image has no such file.

    >>> [path.name for path in bundled_photographs()]
    ['astronaut.png', 'coffee.png', 'rocket.jpg']
    """
    folder = Path(skimage.__file__).parent / "data"
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: the installed scikit-image comes without the photograph {name}.")
    return [folder / name for name in names]


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

    Item i is a pure function of ``seed`` and i, so that a run that was killed goes on with the same items, whatever the
    workers. It is a dict: ``image`` float32 (3, crop, crop) in [0, 1], the clean crop; ``mu``, the same degraded, on
    the 256 values of an 8-bit file; ``scale`` 1; ``index``; ``key``.

    Args:
        photographs: files; one that is named twice is drawn twice as often.
        length: number of items.
        weather: what is put on them, such as `monai_d3gm.transforms.weather.SimulateRain`.
        seed: seed of all that is random.
        crop: extent of the crops in pixels.

    Raises:
        ValueError: an argument is out of range, or a photograph cannot be used.

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
            what cannot be seen is then not learned by heart.

    Raises:
        ValueError: an argument is out of range, or a photograph cannot be used; or, of an item: ``augment`` leaves less
            than a crop.

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
        pairs: as `monai_d3gm.data.pairs.find_pairs` finds them.
        length: number of items.
        seed: seed of all that is random.
        crop: extent of the crops in pixels.
        estimate: makes ``mu`` of the whole degraded photograph, before it is cut; None takes the degraded photograph.

    Raises:
        ValueError: an argument is out of range; or, of an item: a file cannot be read, the two differ in size, or are
            smaller than the crop.

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


class ImageDataset(Dataset):
    """Photographs to restore, each read when asked for.

    A file that cannot be used is left out, named in the log and listed in `refused`, so that the others are done;
    `check_refused` then ends the run with an error.

    An item is a dict: ``mu`` float32 (3, H, W) in [0, 1], the degraded photograph; ``reference`` of the same shape, the
    clean one, where it is known; ``scale`` 1.0; ``key`` "stem:0"; ``source``; ``slice`` 0; ``volume``, index into
    `volumes`.

    Args:
        inputs: files or folders of PNG, JPEG and TIFF files.
        weather: degrades the photographs, which are then clean ones; None takes them as degraded.
        seed: seed of the weather, together with the file's name.
        estimate: makes ``mu`` of the degraded photograph, which is then in the item as ``degraded``; None takes the
            degraded photograph itself.

    Raises:
        ValueError: there is no input, or none can be used.

    Attributes:
        kinds: of inputs that it takes.
        volumes: the photographs to restore.
        refused: for each file that was left out, why.

    >>> dataset = ImageDataset(bundled_photographs(["coffee.png"]))
    >>> dataset[0]["key"], dataset[0]["mu"].shape, dataset.volumes[0].kind
    ('coffee:0', torch.Size([3, 400, 600]), 'image')
    """

    kinds = ("image",)

    def __init__(
        self,
        inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        weather: SimulateWeather | None = None,
        seed: int = 0,
        estimate: Estimate | None = None,
    ) -> None:
        self.weather, self.seed, self.estimate = weather, seed, estimate
        origin, warnings = "photograph", []
        if weather is not None:
            origin = f"clean photograph, {weather.description}"
            warnings = [f"{weather.description}: figures are not those of real weather"]
        self.volumes: list[InputVolume] = []
        self.refused: list[str] = []
        for path in find_inputs(inputs, ("image",)):
            with self._naming_refused():
                photograph = read_image(path)
                self.volumes.append(_describe(path, photograph, weather is not None, origin, warnings))
        if not self.volumes:
            self.check_refused()

    @contextmanager
    def _naming_refused(self) -> Iterator[None]:
        try:
            yield
        except ImageFileError as error:
            self.refused.append(str(error))
            logger.error("%s", error)

    def check_refused(self) -> None:
        """Raise ImageFileError if files were refused, naming each."""
        if self.refused:
            raise ImageFileError(f"{len(self.refused)} not restored: " + " | ".join(self.refused))

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        return {
            "key": f"{volume.stem}:0",
            "source": str(volume.path),
            "slice": 0,
            "volume": index,
            "scale": 1.0,
        } | self._with_estimate(self._images(index))

    def _with_estimate(self, images: dict[str, Any]) -> dict[str, Any]:
        if self.estimate is None:
            return images
        return images | {"degraded": images["mu"], "mu": self.estimate(images["mu"])}

    def _images(self, index: int) -> dict[str, Any]:
        """``mu``, the degraded photograph, and, where it is known, ``reference``."""
        volume = self.volumes[index]
        image = read_image(volume.path).data
        if self.weather is None:
            return {"mu": torch.from_numpy(image)}
        generator = keyed_generator(self.seed, "weather", volume.stem)
        return {"mu": self.weather(image, generator), "reference": torch.from_numpy(image)}


class ImagePairDataset(ImageDataset):
    """Degraded photographs with the clean ones: an `ImageDataset` with a ``reference`` in each item.

    A pair of two sizes, or with a file that cannot be read, is left out and listed in `refused`.

    Args:
        pairs: as `monai_d3gm.data.pairs.find_pairs` finds them.
        estimate: as in `ImageDataset`.

    Raises:
        ValueError: there is no pair, or none can be used.

    >>> (path,) = bundled_photographs(["coffee.png"])
    >>> dataset = ImagePairDataset([ImagePair("coffee", path, path)])
    >>> bool((dataset[0]["mu"] == dataset[0]["reference"]).all())
    True
    """

    def __init__(self, pairs: Sequence[ImagePair], estimate: Estimate | None = None) -> None:
        if not pairs:
            raise ValueError("pairs is empty; accepted: at least one pair.")
        self.weather, self.seed, self.estimate = None, 0, estimate
        self.volumes, self.refused = [], []
        self._clean: list[Path] = []
        for pair in pairs:
            with self._naming_refused():
                photograph, clean = read_image(pair.degraded), read_image(pair.clean)
                if photograph.data.shape != clean.data.shape:
                    sizes = " and ".join(f"{p.data.shape[2]} x {p.data.shape[1]}" for p in (photograph, clean))
                    raise ImageFileError(
                        f"{pair.degraded}: it and {pair.clean} have {sizes} pixels; accepted: one size."
                    )
                self.volumes.append(_describe(pair.degraded, photograph, False, "photograph with a clean one"))
                self._clean.append(pair.clean)
        if not self.volumes:
            self.check_refused()

    def _images(self, index: int) -> dict[str, Any]:
        degraded, clean = read_image(self.volumes[index].path), read_image(self._clean[index])
        return {"mu": torch.from_numpy(degraded.data), "reference": torch.from_numpy(clean.data)}


def _describe(
    path: Path, photograph: Photograph, synthetic: bool, origin: str, warnings: Sequence[str] = ()
) -> InputVolume:
    rows, columns = photograph.data.shape[1:]
    return InputVolume(
        path=path,
        stem=path.stem,
        kind="image",
        shape=(rows, columns, 1),
        slices=(0,),
        skipped=(),
        affine=np.eye(4),
        header=None,
        simulated=synthetic,
        coils=0,
        has_truth=origin != "photograph",
        kept_band=(1.0, 1.0),
        attributes={"bits": photograph.bits, "icc_profile": photograph.icc_profile},
        origin=origin,
        warnings=(*warnings, *photograph.remarks),
    )
