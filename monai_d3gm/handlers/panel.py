"""A picture of one slice of a restored volume: input, restoration, truth, error, standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_d3gm.data.restoration.inputs import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import evaluate_images, psnr

__all__ = ["save_panel", "slice_view"]

_HEIGHT = 3.2
_WINDOW = 99.8
_LARGEST = 1024
"""Photographs are drawn with every n-th pixel, at most this many along a side."""
_SIDES = {
    "left": (0.03, 0.5, "left", "center"),
    "right": (0.97, 0.5, "right", "center"),
    "top": (0.5, 0.97, "center", "top"),
    "bottom": (0.5, 0.03, "center", "bottom"),
}


def save_panel(path: str | PathLike[str], volume: RestoredVolume, *, overwrite: bool = False) -> None:
    """Draw the middle one of the restored slices and write it as PNG, whole or not at all.

    The images share one grey scale; error (the magnitude of the difference to the truth) and standard deviation each
    have a colour bar in the file's units. Pixels have their physical aspect. Slices of NIfTI volumes are drawn in
    radiological orientation, with the letters of the sides; k-space files hold none and are drawn as they are stored.
    Photographs are drawn in colour, their maps as the root mean square over the channels.

    Raises:
        OutputError: the file cannot be written, or is there already and ``overwrite`` is False.
    """
    index = len(volume.source.slices) // 2
    view, aspect, letters = slice_view(volume.source)
    images = {volume.degraded: volume.images[volume.degraded][index], METHOD: volume.images[METHOD][index]}
    if volume.reference is not None:
        images["truth"] = volume.reference[index]
    titles = {name: name + _psnr(image, images.get("truth")) for name, image in images.items()}
    shown = {name: view(image) for name, image in images.items()}
    maps = {}
    if volume.reference is not None:
        maps["error"] = _size(shown[METHOD] - shown["truth"])
    if volume.std is not None:
        maps["standard deviation"] = _size(view(volume.std[index]))

    rows, columns = shown[METHOD].shape[:2]
    width = _HEIGHT * columns / (rows * aspect)
    figure = Figure(figsize=(width * len(shown) + (width + 0.9) * len(maps), _HEIGHT + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(shown) + len(maps), squeeze=False)[0]
    top = float(np.percentile(shown.get("truth", shown[METHOD]), _WINDOW)) or 1.0
    for axis, (name, image) in zip(axes, shown.items(), strict=False):
        axis.imshow(image, cmap="gray", vmin=0.0, vmax=top, aspect=aspect, interpolation="nearest")
        axis.set_title(titles[name], fontsize=9)
        _frame(axis)
    for axis, (name, image) in zip(axes[len(shown) :], maps.items(), strict=True):
        limit = float(np.percentile(image, _WINDOW)) or 1.0
        drawn = axis.imshow(image, cmap="inferno", vmin=0.0, vmax=limit, aspect=aspect, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        _frame(axis)
        figure.colorbar(drawn, ax=axis, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)
    for side, letter in letters.items():
        x, y, horizontal, vertical = _SIDES[side]
        place = {"transform": axes[0].transAxes, "ha": horizontal, "va": vertical}
        axes[0].text(x, y, letter, color="yellow", fontsize=8, **place)
    photograph = volume.source.kind == "image"
    title = volume.source.path.name + ("" if photograph else f", slice {volume.source.slices[index]}")
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


def slice_view(
    source: InputVolume,
) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], float, dict[str, str]]:
    """How a slice (rows, columns) of an input is drawn.

    Returns:
        A function from the slice to the picture's rows and columns; the height of its pixels over their width; the
        letters of the patient's sides (R, L, A, P, S, I), by the picture's side, none where they are not known.
    """
    axes = [axis for axis in range(3) if axis != source.slice_axis]
    spacing = np.linalg.norm(source.affine[:3, axes], axis=0)
    if source.kind == "image":
        every = -(-max(source.shape) // _LARGEST)
        return (lambda image: image[::every, ::every]), 1.0, {}
    if source.kind == "kspace":
        return (lambda image: image), float(spacing[0] / spacing[1]), {}
    world, signs = nibabel.io_orientation(source.affine)[axes].T
    # horizontally x (or y where x is through the plane), the patient's right or front at the left; vertically the
    # other one upwards
    swap = world[0] < world[1]

    def view(image: NDArray[np.float32]) -> NDArray[np.float32]:
        image = image.T if swap else image
        vertical, horizontal = (signs[1], signs[0]) if swap else (signs[0], signs[1])
        image = image[::-1] if vertical > 0 else image
        return image[:, ::-1] if horizontal > 0 else image

    across, up = sorted(int(axis) for axis in world)
    height, width = (spacing[1], spacing[0]) if swap else (spacing[0], spacing[1])
    letters = {"left": "RAS"[across], "right": "LPI"[across], "top": "RAS"[up], "bottom": "LPI"[up]}
    return view, float(height / width), letters
