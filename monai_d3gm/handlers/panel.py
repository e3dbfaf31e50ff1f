"""A picture of one slice of a restored volume: input, restoration, truth, error, standard deviation."""

from __future__ import annotations

from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import evaluate_images, psnr

__all__ = ["save_panel"]

_HEIGHT = 3.2
_WINDOW = 99.8
_SIDES = {
    "left": (0.03, 0.5, "left", "center"),
    "right": (0.97, 0.5, "right", "center"),
    "top": (0.5, 0.97, "center", "top"),
    "bottom": (0.5, 0.03, "center", "bottom"),
}


def save_panel(path: str | PathLike[str], volume: RestoredVolume, *, overwrite: bool = False) -> None:
    """Draw the middle one of the restored slices and write it as PNG, whole or not at all.

    The images share one grey scale; error (the magnitude of the difference to the truth) and standard deviation each
    have a colour bar in the file's units. Pixels have their physical aspect. The input's format says how a slice is
    turned and which sides have letters (`View`). Maps of colour images are drawn as the root mean square over the
    channels.

    Raises:
        OutputError: the file cannot be written, or is there already and ``overwrite`` is False.
    """
    index = len(volume.source.slices) // 2
    view = volume.source.format.view(volume.source)
    images = {volume.degraded: volume.images[volume.degraded][index], METHOD: volume.images[METHOD][index]}
    if volume.reference is not None:
        images["truth"] = volume.reference[index]
    titles = {name: name + _psnr(image, images.get("truth")) for name, image in images.items()}
    shown = {name: view.turn(image) for name, image in images.items()}
    maps = {}
    if volume.reference is not None:
        maps["error"] = _size(shown[METHOD] - shown["truth"])
    if volume.std is not None:
        maps["standard deviation"] = _size(view.turn(volume.std[index]))

    rows, columns = shown[METHOD].shape[:2]
    width = _HEIGHT * columns / (rows * view.aspect)
    figure = Figure(figsize=(width * len(shown) + (width + 0.9) * len(maps), _HEIGHT + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown) + len(maps), squeeze=False)[0]
    top = float(np.percentile(shown.get("truth", shown[METHOD]), _WINDOW)) or 1.0
    for axis, (name, image) in zip(axes, shown.items(), strict=False):
        axis.imshow(image, cmap="gray", vmin=0.0, vmax=top, aspect=view.aspect, interpolation="nearest")
        axis.set_title(titles[name], fontsize=9)
        _frame(axis)
    for axis, (name, image) in zip(axes[len(shown) :], maps.items(), strict=True):
        limit = float(np.percentile(image, _WINDOW)) or 1.0
        drawn = axis.imshow(image, cmap="inferno", vmin=0.0, vmax=limit, aspect=view.aspect, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        _frame(axis)
        figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
    for side, letter in view.letters.items():
        x, y, horizontal, vertical = _SIDES[side]
        place = {"transform": axes[0].transAxes, "ha": horizontal, "va": vertical}
        axes[0].text(x, y, letter, color="yellow", fontsize=8, **place)
    title = volume.source.path.name + (f", slice {volume.source.slices[index]}" if view.numbered else "")
    figure.suptitle(title + (f" ({volume.source.origin})" if volume.source.simulated else ""), fontsize=9)
    with atomic_path(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _psnr(image: NDArray[np.float32], truth: NDArray[np.float32] | None) -> str:
    """The figure in a title, where there is one to give."""
    if truth is None or truth is image or min(truth.shape[:2]) < 7 or truth.max() <= 0:
        return ""
    if truth.ndim == 3:
        return f"\nPSNR (RGB) {psnr(image, truth):.2f} dB"
    return f"\nPSNR {evaluate_images(image, truth)['psnr/slice/whole']:.2f} dB"


def _size(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The magnitude of a map (h, w), the root mean square over the channels of (h, w, 3)."""
    return np.abs(image) if image.ndim == 2 else np.sqrt(np.mean(np.square(image), axis=-1))


def _frame(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
