"""A picture of one slice of a restored volume: input, restored image, truth, and uncertainty."""

from __future__ import annotations

from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.files import atomic_path, printable
from monai_d3gm.metrics import evaluate_images, psnr

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

    There are at most four columns: the input, the restored image, the truth or else the last of the other baselines,
    and the uncertainty. The lower row enlarges the part in which the restoration gained most (without a truth: changed
    most); a frame marks it above. The uncertainty is the calibrated interval or else the standard deviation over
    samples. If the truth is known, the error stands below it, on the same scale in the file's units. The images share
    one grey scale. Pixels have their physical aspect, unless a picture would be wider than four times its height or
    narrower than two fifths of it. The input's format says how a slice is turned and which sides have letters (`View`).
    Maps of colour images are drawn as the root mean square over the channels.

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
    rows, columns = restored.shape[:2]
    aspect = float(np.clip(view.aspect, columns / (_WIDEST * rows), columns / (_NARROWEST * rows)))
    window = _largest(change, aspect)
    width = _HEIGHT * columns / (rows * aspect)
    below = width * aspect * (window[0].stop - window[0].start) / (window[1].stop - window[1].start)
    below = min(max(below, _HEIGHT / 4), _HEIGHT)
    count = len(shown) + bool(maps)
    extent = (count * (width + _GAP) + _GAP + _BAR * bool(maps), _GAP + below + _BETWEEN + _HEIGHT + _HEAD)
    # All places are known: a layout engine would draw the figure once more to find them.
    figure = Figure(figsize=extent)
    FigureCanvasAgg(figure)

    def axes_at(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / extent[0], bottom / extent[1], wide / extent[0], high / extent[1]))

    axes = np.array(
        [
            [axes_at(_GAP + column * (width + _GAP), bottom, width, height) for column in range(count)]
            for bottom, height in ((_GAP + below + _BETWEEN, _HEIGHT), (_GAP, below))
        ]
    )
    top = float(np.percentile(restored if truth is None else truth, _WINDOW)) or 1.0
    for column, (name, image) in enumerate(shown.items()):
        for axis, part in ((axes[0, column], image), (axes[1, column], image[window])):
            axis.imshow(part, cmap="gray", vmin=0.0, vmax=top, aspect=aspect, interpolation="nearest")
        axes[0, column].add_patch(_frame_of(window))
        axes[0, column].set_title(name + _psnr(images[name], images.get("truth")), fontsize=9)
    if maps:
        parts = list(maps.values())
        if len(parts) == 1:
            parts.append(parts[0][window])
        limit = float(np.percentile(np.concatenate([part.ravel() for part in parts]), _WINDOW)) or 1.0
        for axis, part in zip(axes[:, -1], parts, strict=True):
            drawn = axis.imshow(part, cmap="inferno", vmin=0.0, vmax=limit, aspect=aspect, interpolation="nearest")
        for axis, name in zip(axes[:, -1], maps, strict=False):
            axis.set_title(name, fontsize=9)
        bar = figure.colorbar(
            drawn, cax=axes_at(2 * _GAP + count * (width + _GAP), _GAP, 0.12, extent[1] - _GAP - _HEAD)
        )
        bar.set_label("in the image's units", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    for axis in axes.ravel():
        axis.set_xticks([])
        axis.set_yticks([])
    for side, letter in view.letters.items():
        x, y, horizontal, vertical = _SIDES[side]
        place = {"transform": axes[0, 0].transAxes, "ha": horizontal, "va": vertical}
        axes[0, 0].text(x, y, letter, color="yellow", fontsize=8, **place)
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


def _frame_of(window: tuple[slice, slice]) -> Rectangle:
    down, across = window
    corner = (across.start - 0.5, down.start - 0.5)
    return Rectangle(corner, across.stop - across.start, down.stop - down.start, fill=False, edgecolor="yellow", lw=0.8)


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
