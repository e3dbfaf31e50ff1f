"""Photographs to restore, one dict each; clean ones get synthetic rain or haze."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from monai_d3gm.data.collections.pairs import ImagePair
from monai_d3gm.data.formats.base import ImageFormat
from monai_d3gm.data.formats.images import ImageFileError, Photograph
from monai_d3gm.data.formats.registry import format_of, names_of, titles
from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.inputs import find_inputs
from monai_d3gm.transforms.kspace.functional import keyed_generator
from monai_d3gm.transforms.weather import SimulateWeather

__all__ = ["Estimate", "ImageDataset", "ImagePairDataset"]

logger = logging.getLogger(__name__)

Estimate = Callable[[torch.Tensor], torch.Tensor]
"""A degraded photograph (3, H, W) to a first estimate of the clean one, which is then ``mu``."""


class ImageDataset(Dataset):
    """Photographs to restore, read on demand.

    A file that cannot be used is skipped, named in the log and listed in `refused`. The others are restored, and
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
        volumes: the photographs to restore.
        refused: for each file that was left out, why.

    Example:
        >>> from monai_d3gm.data import bundled_photographs
        >>> dataset = ImageDataset(bundled_photographs(["coffee.png"]))
        >>> dataset[0]["key"], dataset[0]["mu"].shape, dataset.volumes[0].format.name
        ('coffee:0', torch.Size([3, 400, 600]), 'image')
    """

    formats = ImageFormat
    """The formats that are read: all of photographs."""

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
        for path in find_inputs(inputs, names_of(self.formats)):
            with self._naming_refused():
                self.volumes.append(_describe(path, _read(path), weather is not None, origin, warnings))
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
        image = _read(volume.path).data
        if self.weather is None:
            return {"mu": torch.from_numpy(image)}
        generator = keyed_generator(self.seed, "weather", volume.stem)
        return {"mu": self.weather(image, generator), "reference": torch.from_numpy(image)}


class ImagePairDataset(ImageDataset):
    """Degraded photographs with the clean ones: an `ImageDataset` with a ``reference`` in each item.

    A pair of two sizes, or with a file that cannot be read, is skipped and listed in `refused`.

    Args:
        pairs: as `monai_d3gm.data.collections.pairs.find_pairs` finds them.
        estimate: as in `ImageDataset`.

    Raises:
        ValueError: there is no pair, or none can be used.

    Example:
        >>> from monai_d3gm.data import bundled_photographs
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
                photograph, clean = _read(pair.degraded), _read(pair.clean)
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
        degraded, clean = _read(self.volumes[index].path), _read(self._clean[index])
        return {"mu": torch.from_numpy(degraded.data), "reference": torch.from_numpy(clean.data)}


def _format(path: Path) -> ImageFormat:
    """The format of a photograph.

    Raises:
        ImageFileError: it is none.
    """
    format = format_of(path)
    if not isinstance(format, ImageFormat):
        title = "not an input" if format is None else format.title
        raise ImageFileError(f"{path}: {title}; accepted: {titles(names_of(ImageFormat))}.")
    return format


def _read(path: Path) -> Photograph:
    return _format(path).read(path)


def _describe(
    path: Path, photograph: Photograph, synthetic: bool, origin: str, warnings: Sequence[str] = ()
) -> InputVolume:
    rows, columns = photograph.data.shape[1:]
    return InputVolume(
        path=path,
        stem=path.stem,
        format=_format(path),
        shape=(rows, columns, 1),
        slices=(0,),
        skipped=(),
        affine=np.eye(4),
        simulated=synthetic,
        coils=0,
        has_truth=origin != "photograph",
        kept_band=(1.0, 1.0),
        attributes={"bits": photograph.bits, "icc_profile": photograph.icc_profile},
        origin=origin,
        warnings=(*warnings, *photograph.remarks),
    )
