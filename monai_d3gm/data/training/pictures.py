"""Slices of magnitude volumes for training: drawn by the volumes' weights, and varied."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from monai_d3gm.data.formats.base import ImageFormat
from monai_d3gm.data.formats.images import read_image
from monai_d3gm.data.formats.nifti import read_magnitude
from monai_d3gm.data.formats.registry import format_of
from monai_d3gm.transforms.kspace.functional import crop_to_acquired_band, truncate_band

logger = logging.getLogger(__name__)

_OBJECT_LEVEL = 0.05
_MARGIN = 4


@dataclass(frozen=True)
class _TrainingVolume:
    """A magnitude volume cropped to its object, and the slices with enough of it along each axis."""

    name: str
    data: NDArray[np.float32]
    slices: Mapping[int, NDArray[np.int64]]


class Pictures:
    """Slices of NIfTI magnitude volumes on their acquired band, cropped to the object.

    Args:
        volumes: NIfTI files, or groups of them ``{"paths": [...], "weight": 1.0, "axes": [2]}``; a group is drawn with
            its weight, its slices are taken across one of its ``axes`` (2, the last, if not given); with ``central``
            only that many in the middle of the volume are used, across the group's one axis.
        progress: show a progress bar while the volumes are read, where stderr is a terminal.

    Raises:
        ValueError: there is no volume, one cannot be used, or a group's weight or axes are not accepted.

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> name, picture = Pictures([bundled_epi_path()]).draw(np.random.default_rng(0))
        >>> name, picture.dtype
        ('example4d:2:12', dtype('float32'))
    """

    def __init__(
        self,
        volumes: Sequence[str | PathLike[str]] | Sequence[Mapping[str, Any]],
        progress: bool = False,
    ) -> None:
        if not volumes:
            raise ValueError("volumes is empty; accepted: at least one NIfTI file.")
        groups: list[Mapping[str, Any]] = [g if isinstance(g, Mapping) else {"paths": [g]} for g in volumes]
        for number, group in enumerate(groups):
            if not group["paths"]:
                raise ValueError(f"volumes: group {number} of {len(groups)} has no file: its paths are empty.")
            for path in group["paths"]:
                if not Path(path).is_file():
                    raise ValueError(f"volumes: {path}: no such file.")
        weights = np.array(
            [group.get("weight", len(group["paths"])) for group in groups],
            dtype=np.float64,
        )
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError(f"the groups' weights are {weights.tolist()}; accepted: numbers of at least 0, not all 0.")
        self.weights = weights / weights.sum()
        total = sum(len(group["paths"]) for group in groups)
        with tqdm(total=total, desc="reading volumes", disable=None if progress else True, leave=False) as bar:
            self.groups = []
            for group in groups:
                members = []
                for path in group["paths"]:
                    members.append(_load(Path(path), tuple(group.get("axes", (2,))), group.get("central")))
                    bar.update()
                self.groups.append(members)

    def draw(self, rng: np.random.Generator) -> tuple[str, NDArray[np.float32]]:
        """Draw a slice: its name "volume:axis:number" and its magnitude (H, W), about 1 where it is bright."""
        group = self.groups[rng.choice(len(self.groups), p=self.weights)]
        volume = group[rng.integers(len(group))]
        axis = list(volume.slices)[rng.integers(len(volume.slices))]
        number = int(rng.choice(volume.slices[axis]))
        return f"{volume.name}:{axis}:{number}", np.take(volume.data, number, axis=axis)


def vary(
    picture: NDArray[np.float32],
    limit: tuple[int, int],
    rng: np.random.Generator,
    resolution: tuple[float, float] | None,
) -> NDArray[np.float32]:
    """Turn a picture, change its contrast and resolution, and truncate its band to at most ``limit`` pixels.

    Args:
        picture: magnitude (H, W).
        limit: the most rows and columns.
        rng: source of randomness.
        resolution: range of the share of the band that is kept along each axis; None changes nothing but the size.

    Example:
        >>> vary(np.ones((40, 30), dtype=np.float32), (32, 32), np.random.default_rng(0), None).shape
        (32, 30)
    """
    share = np.ones(2)
    if resolution is not None:
        turn, transpose, contrast, blur = rng.integers(4), rng.random() < 0.5, rng.random(), rng.random() < 0.5
        picture = np.rot90(picture, int(turn))
        picture = picture.T if transpose else picture
        peak = picture.max()
        if contrast < 0.3:
            picture = peak * (picture / peak) ** np.float32(np.exp(rng.uniform(-0.4, 0.4)))
        elif contrast < 0.5:  # a contrast that no volume has: background stays dark, tissues change places
            levels = np.append(0.0, rng.uniform(0.0, 1.0, size=4))
            levels *= peak / levels.max()
            picture = np.interp(picture / peak, np.linspace(0, 1, 5), levels).astype(np.float32)
        if blur:
            share = rng.uniform(*resolution) * rng.uniform(0.85, 1.0, size=2)
    for axis in (0, 1):
        old = picture.shape[axis]
        picture = truncate_band(picture, axis, min(old, limit[axis], max(8, round(share[axis] * old))))
    return picture


def place(
    picture: NDArray[np.float32], shape: tuple[int, int], rng: np.random.Generator, reach: float = 0.1
) -> NDArray[np.float32]:
    """Place a picture into an empty field of view ``shape``, at most the share ``reach`` of it from its centre.

    Example:
        >>> place(np.ones((2, 2), dtype=np.float32), (4, 4), np.random.default_rng(0), reach=0.0)[1].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    canvas = np.zeros(shape, dtype=np.float32)
    corner = []
    for old, new in zip(picture.shape, shape, strict=True):
        far = min((new - old) / 2, reach * new)
        corner.append(int(np.clip(round((new - old) / 2 + rng.uniform(-far, far)), 0, new - old)))
    canvas[corner[0] : corner[0] + picture.shape[0], corner[1] : corner[1] + picture.shape[1]] = picture
    return canvas


def object_mask(picture: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where a picture (H, W) has its object.

    Example:
        >>> object_mask(np.array([[0.0, 1.0], [0.01, 0.5]], dtype=np.float32)).tolist()
        [[False, True], [False, True]]
    """
    return picture > _OBJECT_LEVEL * picture.max()


def central_slices(path: Path, count: int, central: int) -> slice:
    """Return the ``central`` slices in the middle of the ``count`` of the volume ``path``.

    Raises:
        ValueError: it has fewer.

    Example:
        >>> central_slices(Path("a.nii.gz"), 130, 60)
        slice(35, 95, None)
    """
    if not 1 <= central <= count:
        raise ValueError(f"{path}: central is {central}; accepted: 1 to the number of slices, {count}.")
    return slice((count - central) // 2, (count - central) // 2 + central)


def _load(path: Path, axes: tuple[int, ...], central: int | None) -> _TrainingVolume:
    """Read a volume, crop it to the acquired band and to its object, and list the slices with enough of it."""
    if not axes or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"axes is {axes}; accepted: one or more of 0, 1, 2.")
    if isinstance(format_of(path), ImageFormat):
        return _load_photograph(path)
    volume = read_magnitude(path).data
    if central is not None:
        if len(axes) > 1:
            raise ValueError(f"axes is {axes}; accepted with central: one axis.")
        middle = central_slices(path, volume.shape[axes[0]], central)
        volume = volume[tuple(middle if axis == axes[0] else slice(None) for axis in range(3))]
    in_plane = sorted({other for axis in axes for other in {0, 1, 2} - {axis}})
    data, kept, _ = crop_to_acquired_band(volume, in_plane)
    if min(kept) < 1:
        logger.info("%s: interpolated; kept %s of the band along axes %s", path, [round(f, 3) for f in kept], in_plane)
    peak = float(np.percentile(data, 99.5))
    peak = peak if peak > 0 else float(data.max())
    inside = data > _OBJECT_LEVEL * peak
    box = []
    for axis in range(3):
        used = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(0, used[0] - _MARGIN), used[-1] + 1 + _MARGIN))
    data, inside = np.ascontiguousarray(data[tuple(box)] / peak), inside[tuple(box)]
    slices = {}
    for axis in axes:
        area = inside.sum(axis=tuple({0, 1, 2} - {axis}))
        slices[axis] = np.flatnonzero(area >= 0.25 * area.max())
    return _TrainingVolume(path.name.split(".")[0], data, slices)


def _load_photograph(path: Path) -> _TrainingVolume:
    """Read the luma of a photograph as a volume of one slice: shapes and textures that no brain has."""
    data = read_image(path).data.mean(0)[..., None].astype(np.float32)
    return _TrainingVolume(path.name.split(".")[0], data / np.float32(np.percentile(data, 99.5)), {2: np.arange(1)})
