"""A bundle's trained model in Python: one object that restores, and its parts for other code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow
from numpy.typing import NDArray
from torch import nn

from monai_d3gm.bundle.errors import BundleError, did_you_mean, root_cause
from monai_d3gm.bundle.find import INFERENCE, find_bundle_root, read_config
from monai_d3gm.bundle.run import make_workflow
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.evaluator import RestorationEvents, usable_device
from monai_d3gm.handlers.metrics import Figures
from monai_d3gm.handlers.panel import save_panel
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.networks.checkpoint import load_checkpoint
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import Sampler
from monai_d3gm.trust.calibration import Calibration
from monai_d3gm.trust.intervals import CalibratedUncertainty

__all__ = ["Restoration", "TrainedModel", "load_model"]


@dataclass(frozen=True)
class Restoration:
    """One restored input: images of its restored slices, float32 (S, h, w), in the file's units and orientation.

    Photographs have colours: (1, h, w, 3).

    Attributes:
        volume: all images of the restoration, including the input's and the baselines'.
        uncertainty: the calibrated interval and the lower bounds.
        figures: by method, the figures against the truth, measure/protocol/region; empty where no truth is known.
        warnings: remarks for a reader of the image.
    """

    volume: RestoredVolume
    uncertainty: CalibratedUncertainty
    figures: Figures
    warnings: tuple[str, ...]

    @property
    def image(self) -> NDArray[np.float32]:
        """The restored image."""
        return self.volume.images[METHOD]

    @property
    def truth(self) -> NDArray[np.float32] | None:
        """The image that the input was made from; None if it is not known."""
        return self.volume.reference

    @property
    def interval(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The lower and the upper end of each pixel's interval; None if the settings are not calibrated."""
        half_width = self.uncertainty.half_width
        return None if half_width is None else (self.image - half_width, self.image + half_width)

    def plot(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Draw the middle slice and write it as PNG: see `monai_d3gm.handlers.panel.save_panel`.

        Raises:
            OutputError: the file cannot be written, or is there already and ``overwrite`` is False.
        """
        save_panel(path, self.volume, self.uncertainty.half_width, overwrite=overwrite)


@dataclass(frozen=True)
class TrainedModel:
    """A bundle's network with its weights, and what belongs to it.

    Attributes:
        root: the bundle's folder.
        settings: keys of ``configs/inference.json`` that differ from the file.
        network: F(x, timesteps, context=None), with the trained weights.
        scheduler: the process, and the denoiser around the network.
        inferer: draws the samples; ``inferer(mu, network, data_consistency)``.
        calibration: the intervals' calibration; None for a bundle that has none.
    """

    root: Path
    settings: Mapping[str, Any] = field(repr=False)
    network: nn.Module = field(repr=False)
    scheduler: D3GMScheduler = field(repr=False)
    inferer: RestorationInferer = field(repr=False)
    calibration: Calibration | None = field(repr=False)

    @property
    def sampler(self) -> Sampler:
        """Every option of a trajectory."""
        return self.inferer.sampler

    def restore(self, path: str | PathLike[str], **settings: Any) -> Restoration:
        """Restore one file, or the folder of one DICOM series, as the bundle's own workflow does. Nothing is written.

        Args:
            path: an input of the bundle; `monai_d3gm.data.write_kspace` makes a file of an array of k-space.
            settings: keys of the bundle's ``configs/inference.json``, such as ``acceleration`` or ``num_samples``.

        Raises:
            BundleError: a setting that the bundle does not have, or a folder with several inputs.
            ValueError: a setting is out of range, or the input cannot be used; the message names it.
        """
        known = _check(self.root, settings)
        attached = [name for name in ("trust", "figures") if name in known]
        inputs = {"inputs": [path], "dataset_dir": Path(path).parent, "handlers": [f"@{name}" for name in attached]}
        with _unwrapped():
            parser = _workflow(self.root, {"progress": False, **self.settings, **settings, **inputs}).parser
            evaluator = parser.get_parsed_content("evaluator")
            judges = {name: parser.get_parsed_content(name) for name in attached}
        if len(evaluator.volumes) > 1:
            raise BundleError(f"{path}: {len(evaluator.volumes)} inputs; restore takes one at a time.")
        evaluator.network = self.network
        restored: list[Restoration] = []

        def take(engine: Any) -> None:
            volume: RestoredVolume = engine.state.volume
            stem, warnings = volume.source.stem, [*volume.source.warnings]
            if "trust" in judges:
                warnings += judges["trust"].warnings[stem]
            uncertainty = getattr(engine.state, "uncertainty", CalibratedUncertainty())
            restored.append(Restoration(volume, uncertainty, judges["figures"].by_input.get(stem, {}), tuple(warnings)))

        evaluator.add_event_handler(RestorationEvents.VOLUME_COMPLETED, take)
        evaluator.run()
        return restored[0]


def load_model(name: str | PathLike[str], **settings: Any) -> TrainedModel:
    """Load a bundle with its trained weights: see `monai_d3gm.load`."""
    root = Path(find_bundle_root(name)).absolute()
    _check(root, settings)
    with _unwrapped():
        parsed = _workflow(root, settings).parser.get_parsed_content
        network, scheduler, inferer = (parsed(part) for part in ("network_def", "scheduler", "inferer"))
        load_checkpoint(parsed("weights"), network, scheduler)
        network = network.to(usable_device(parsed("device"))).eval()
    calibration = root / "models" / "calibration.json"
    return TrainedModel(
        root=root,
        settings=settings,
        network=network,
        scheduler=scheduler,
        inferer=inferer,
        calibration=Calibration.load(calibration) if calibration.exists() else None,
    )


def _workflow(root: Path, settings: Mapping[str, Any]) -> ConfigWorkflow:
    """The bundle's workflow for inference; the loggers of the process are left alone."""
    return make_workflow(root, INFERENCE, {"logging_file": False, **settings})


def _check(root: Path, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The bundle's config; settings that it does not have are refused."""
    known = read_config(root, INFERENCE)
    for key in settings:
        if key.partition("::")[0] not in known:
            raise BundleError(f"bundle {root.name} has no setting {key!r}; {did_you_mean(key, known)}")
    return known


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise a component's own exception, without MONAI's wrapping."""
    try:
        yield
    except RuntimeError as error:
        raise root_cause(error) from None
