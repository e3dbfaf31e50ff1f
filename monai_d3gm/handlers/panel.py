"""A picture of one slice of a restored volume: input, restored image, truth, and uncertainty."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.files import atomic_path, printable
from monai_d3gm.metrics import evaluate_images, foreground_mask, psnr

__all__ = ["save_panel"]

_HEIGHT = 3.2
_GAP, _HEAD, _BETWEEN, _BAR = 0.05, 0.66, 0.25, 0.8
"""Inches: the upper row's height; the gap between images, the space for titles, between the rows, and for the bar."""
_NARROWEST, _WIDEST = 0.4, 4.0
"""Width over height of a picture, at least and at most; beyond, it is stretched to that."""
_WINDOW = 99.8
_SIDES = {
    "left": (0.03, 0.5, "left", "center"),
    "right": (0.97, 0.5, "right", "center"),
    "top": (0.5, 0.97, "center", "top"),
    "bottom": (0.5, 0.03, "center", "bottom"),
}


def save_panel(
    path: str | PathLike[str],
    volume: RestoredVolume,
    half_width: NDArray[np.float32] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Draw the middle one of the restored slices and write it as PNG, whole or not at all.

    There are at most four columns: the input, the restored image, the truth or else the last of the other
    baselines, and the uncertainty. The lower row enlarges the part in which the restoration gained most (without a
    truth: changed most), inside the object of an MR image; a frame marks it above. The uncertainty is the
    calibrated interval or else the standard deviation over samples. If the truth is known, the error stands below
    it, on the same scale in the file's units. The images share one grey scale. Pixels have their physical aspect,
    unless a picture would be wider than four times its height or narrower than two fifths of it. The input's format
    says how a slice is turned and which sides have letters (`View`). Maps of colour images are drawn as the root
    mean square over the channels.

    Args:
        path: the file.
        volume: the images.
        half_width: of the calibrated intervals, (S, h, w); None where not calibrated.

    Raises:
        OutputError: the file cannot be written, or is there already and ``overwrite`` is False.
    """
    index = len(volume.source.slices) // 2
    view = volume.source.format.view(volume.source)
    images = _images(volume, index)
    shown = {name: view.turn(image) for name, image in images.items()}
    restored, degraded, truth = shown[METHOD], shown[volume.degraded], shown.get("truth")
    maps = {}
    if half_width is not None:
        maps["interval, +-"] = view.turn(half_width[index])
    elif volume.std is not None:
        maps["standard deviation"] = _size(view.turn(volume.std[index]))
    if truth is not None:
        maps["error"] = _size(restored - truth)
    change = _size(restored - degraded) if truth is None else _size(degraded - truth) - _size(restored - truth)
    if restored.ndim == 2:  # the gain inside the object; an empty background gains by being dark
        change = change * foreground_mask(restored if truth is None else truth)
    rows, columns = restored.shape[:2]
    aspect = float(np.clip(view.aspect, columns / (_WIDEST * rows), columns / (_NARROWEST * rows)))
    window = _largest(change, aspect)
    width = _HEIGHT * columns / (rows * aspect)
    below = width * aspect * (window[0].stop - window[0].start) / (window[1].stop - window[1].start)
    below = min(max(below, _HEIGHT / 4), _HEIGHT)
    count = len(shown) + bool(maps)
    extent = (count * (width + _GAP) + _GAP + _BAR * bool(maps), _GAP + below + _BETWEEN + _HEIGHT + _HEAD)
    # One plane in inches: axes for each image, or a layout engine, would take most of the time.
    figure = Figure(figsize=extent)
    FigureCanvasAgg(figure)
    plane = figure.add_axes((0, 0, 1, 1), xlim=(0, extent[0]), ylim=(0, extent[1]))
    plane.set_axis_off()
    corners = [(_GAP + column * (width + _GAP), _GAP + below + _BETWEEN) for column in range(count)]

    def draw(column: int, upper: bool, image: NDArray[np.float32], colours: str, most: float) -> AxesImage:
        left, bottom = corners[column] if upper else (corners[column][0], _GAP)
        height = _HEIGHT if upper else below
        scale = min(width / image.shape[1], height / (image.shape[0] * aspect))
        across, down = image.shape[1] * scale / 2, image.shape[0] * aspect * scale / 2
        x, y = left + width / 2, bottom + height / 2
        place = (x - across, x + across, y - down, y + down)
        plane.add_patch(Rectangle((place[0], place[2]), 2 * across, 2 * down, fill=False, linewidth=0.8))
        options: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "extent": place}
        return plane.imshow(image, cmap=colours, vmin=0.0, vmax=most, **options)

    def name_column(column: int, name: str) -> None:
        left, bottom = corners[column]
        plane.text(left + width / 2, bottom + _HEIGHT + _GAP, name, fontsize=9, ha="center", va="bottom")

    top = float(np.percentile(restored if truth is None else truth, _WINDOW)) or 1.0
    pixel = width / columns, _HEIGHT / rows
    for column, (name, image) in enumerate(shown.items()):
        draw(column, True, image, "gray", top)
        draw(column, False, image[window], "gray", top)
        plane.add_patch(_frame_of(window, corners[column], pixel, rows))
        name_column(column, name + _psnr(images[name], images.get("truth")))
    if maps:
        parts = list(maps.values())
        if len(parts) == 1:
            parts.append(parts[0][window])
        limit = float(np.percentile(np.concatenate([part.ravel() for part in parts]), _WINDOW)) or 1.0
        for upper, part in zip((True, False), parts, strict=True):
            drawn = draw(count - 1, upper, part, "inferno", limit)
        name_column(count - 1, next(iter(maps)))
        if len(maps) > 1:
            left, bottom = corners[-1]
            plane.text(left + width / 2, bottom - _GAP, [*maps][1], fontsize=9, ha="center", va="top")
        left, high = 2 * _GAP + count * (width + _GAP), extent[1] - _GAP - _HEAD
        place = (left / extent[0], _GAP / extent[1], 0.12 / extent[0], high / extent[1])
        bar = figure.colorbar(drawn, cax=figure.add_axes(place))
        bar.set_label("in the image's units", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for side, letter in view.letters.items():
        x, y, horizontal, vertical = _SIDES[side]
        left, bottom = corners[0]
        at = (left + x * width, bottom + y * _HEIGHT)
        plane.text(*at, letter, color="yellow", fontsize=8, ha=horizontal, va=vertical)
    title = printable(volume.source.path.name) + (f", slice {volume.source.slices[index]}" if view.numbered else "")
    title += f" ({volume.source.origin})" if volume.source.simulated else ""
    figure.suptitle(title, fontsize=9, y=1 - _GAP / extent[1], va="top")
    with atomic_path(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _images(volume: RestoredVolume, index: int) -> dict[str, NDArray[np.float32]]:
    """The images of a slice: the input, the restored one, and the truth or else another baseline."""
    names = [volume.degraded, METHOD]
    images = {name: volume.images[name][index] for name in names}
    if volume.reference is not None:
        images["truth"] = volume.reference[index]
    elif others := [name for name in volume.images if name not in names]:
        images[others[-1]] = volume.images[others[-1]][index]
    return images


def _largest(values: NDArray[np.float32], aspect: float) -> tuple[slice, slice]:
    """The window, a third of the image's shorter side, with the largest mean of a map (rows, columns)."""
    rows, columns = values.shape
    side = min(rows * aspect, columns) / 3
    extent = (max(int(side / aspect), 1), max(int(side), 1))
    means = uniform_filter(values, extent, mode="constant")
    inner = tuple(slice(n // 2, size - (n - 1) // 2) for n, size in zip(extent, values.shape, strict=True))
    first = np.unravel_index(np.argmax(means[inner]), means[inner].shape)
    down, across = (slice(int(start), int(start) + n) for start, n in zip(first, extent, strict=True))
    return down, across


def _frame_of(
    window: tuple[slice, slice], corner: tuple[float, float], pixel: tuple[float, float], rows: int
) -> Rectangle:
    """The frame of a window in an image whose lower left corner and size of a pixel are given, in inches."""
    down, across = window
    wide, high = pixel
    place = corner[0] + across.start * wide, corner[1] + (rows - down.stop) * high
    extent = (across.stop - across.start) * wide, (down.stop - down.start) * high
    return Rectangle(place, *extent, fill=False, edgecolor="yellow", linewidth=0.8)


def _psnr(image: NDArray[np.float32], truth: NDArray[np.float32] | None) -> str:
    """The figure in a title, if there is one."""
    if truth is None or truth is image or min(truth.shape[:2]) < 7 or truth.max() <= 0:
        return ""
    if truth.ndim == 3:
        return f"\nPSNR (RGB) {psnr(image, truth):.2f} dB"
    figures = evaluate_images(image, truth)
    inside = figures.get("psnr/slice/foreground")  # absent where the object is too small
    return "" if inside is None else f"\nPSNR inside the object {inside:.2f} dB"


def _size(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The magnitude of a map (h, w), the root mean square over the channels of (h, w, 3)."""
    return np.abs(image) if image.ndim == 2 else np.sqrt(np.mean(np.square(image), axis=-1))
