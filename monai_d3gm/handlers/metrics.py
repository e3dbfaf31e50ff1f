"""Takes the metrics of restored volumes with a truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.evaluator import RestorationEvents
from monai_d3gm.metrics import (
    PROTOCOLS,
    evaluate_detail,
    evaluate_images,
    evaluate_photograph,
    lpips,
    photograph_detail,
)

__all__ = ["Figures", "RestorationFigures", "mean"]

Figures = dict[str, dict[str, float]]
"""method -> name of a figure (measure/protocol/region) -> value."""


class RestorationFigures:
    """Takes the figures of every volume with a truth: all protocols of `evaluate_images`, and measures of detail.

    ``by_input`` holds them by the input's stem. ``measurement`` needs no truth: the residual over noise of each slice,
    and the processing of its coils. At the end of a run ``engine.state.metrics`` has the restoration's means over
    inputs, each under its name (``psnr/slice/whole`` and so on).

    Example:
        >>> from types import SimpleNamespace
        >>> from monai_d3gm.data import KspaceSliceDataset, bundled_epi_path
        >>> (source,) = KspaceSliceDataset(bundled_epi_path(), slices=1).volumes
        >>> truth = np.zeros((1, 128, 96), np.float32)
        >>> truth[:, 32:96, 24:72] = 1
        >>> volume = RestoredVolume(source, {"zero-filled": truth / 2, METHOD: 0.9 * truth}, None, truth)
        >>> figures = RestorationFigures()
        >>> figures.take(SimpleNamespace(state=SimpleNamespace(volume=volume)))
        >>> round(figures.by_input["example4d"][METHOD]["psnr/slice/foreground"], 2)
        20.0
    """

    def __init__(self) -> None:
        self.by_input: dict[str, Figures] = {}
        self.problems: dict[str, str] = {}
        self.measurement: dict[str, dict[str, Any]] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a `RestorationEvaluator`."""
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(RestorationEvents.VOLUME_COMPLETED, self.take)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.publish)

    def clear(self, engine: Any) -> None:
        """Forget an earlier run."""
        self.by_input, self.problems, self.measurement = {}, {}, {}

    def take(self, engine: Any) -> None:
        """Take the figures of the completed volume."""
        volume: RestoredVolume = engine.state.volume
        self._take_measurement(volume)
        if volume.reference is None:
            return
        stem, truth = volume.source.stem, volume.reference
        try:
            self.by_input[stem] = {method: _figures(image, truth) for method, image in volume.images.items()}
        except ValueError as error:  # too small for the measures, or a truth without signal
            self.problems[stem] = f"no figures: {error}"
            return
        if truth.ndim == 4:
            self._take_lpips(volume, truth)

    def _take_measurement(self, volume: RestoredVolume) -> None:
        """Each slice's agreement with its measurement, and the processing of its coils."""
        about: dict[str, Any] = {}
        if volume.residual is not None:
            about["residual over noise"] = [round(value, 4) for value in volume.residual.tolist()]
        if volume.coils:
            about["coils"] = [dict(each) for each in volume.coils]
        if about:
            self.measurement[volume.source.stem] = {"slices": list(volume.source.slices), **about}

    def _take_lpips(self, volume: RestoredVolume, truth: NDArray[np.float32]) -> None:
        stem = volume.source.stem
        try:
            for method, image in volume.images.items():
                self.by_input[stem][method]["lpips/rgb/whole"] = lpips(image[0], truth[0])
        except ValueError as error:  # no weights, or too small
            self.problems[stem] = str(error)

    def publish(self, engine: Any) -> None:
        """Put the means over inputs into the engine's metrics."""
        engine.state.metrics.update(mean([figures[METHOD] for figures in self.by_input.values()]))


def _figures(image: NDArray[np.float32], truth: NDArray[np.float32]) -> dict[str, float]:
    figures: dict[str, float] = {}
    if truth.ndim == 4:
        figures |= mean([evaluate_photograph(i, t) for i, t in zip(image, truth, strict=True)])
        if min(truth.shape[1:3]) >= 32:
            figures |= mean([photograph_detail(i, t) for i, t in zip(image, truth, strict=True)])
        return figures
    for protocol in PROTOCOLS:
        figures |= evaluate_images(image, truth, protocol)
    if min(truth.shape[1:]) >= 32:
        figures |= evaluate_detail(image, truth)
    return figures


def mean(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of the figures that all inputs have."""
    if not figures:
        return {}
    names = [name for name in figures[0] if all(name in other for other in figures)]
    return {name: float(np.mean([each[name] for each in figures])) for name in names}
