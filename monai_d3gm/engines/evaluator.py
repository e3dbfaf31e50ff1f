"""The engine that restores data sets of slices, volume by volume: k-space, low-resolution images, photographs.

The theory's section on measurement consistency describes the steps for a slice: the normalisation, the consistency, and
for k-space the phase reference and the estimate. The engine undoes the normalisation, the crop and the exchange of
axes, and passes whole volumes of images to its handlers. Three arguments differ from task
to task: the consistency, how a sample becomes an image, and the baselines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from fastmri.data.transforms import center_crop
from ignite.engine import EventEnum, Events
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from monai_d3gm.baselines import cg_sense, total_variation
from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.restored import METHOD, RestoredVolume
from monai_d3gm.engines.measurement import kspace_consistency
from monai_d3gm.inferers.restoration import RestorationInferer
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight
from monai_d3gm.trust.error_map import ErrorMap

__all__ = [
    "ALL_KSPACE_BASELINES",
    "KSPACE_BASELINES",
    "ResidualError",
    "RestorationEvaluator",
    "RestorationEvents",
    "batch_image",
    "magnitude",
    "nonnegative",
]

logger = logging.getLogger(__name__)

_LONG = 20.0
"""If the rest of a run takes more seconds than this, the time is logged."""

ToImage = Callable[[Tensor], Tensor]
"""Samples (B, C, H, W) to the written images, (B, 1 or 3, H, W)."""

Baseline = Callable[[Mapping[str, Any]], Tensor]
"""A batch to images (B, 1 or 3, H, W) in its scale."""


def magnitude(x: Tensor) -> Tensor:
    """The modulus of complex images: (B, 2, H, W) to (B, 1, H, W).

    Example:
        >>> magnitude(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)).item()
        5.0
    """
    return x.norm(dim=1, keepdim=True)


def nonnegative(x: Tensor) -> Tensor:
    """Magnitude images: negative values of the network become 0.

    Example:
        >>> nonnegative(torch.tensor([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """
    return x.clamp_min(0)


def batch_image(name: str) -> Baseline:
    """A baseline that the data set has computed: the batch's entry of this name.

    Example:
        >>> batch_image("bicubic")({"bicubic": torch.ones(1, 1, 2, 2)}).shape
        torch.Size([1, 1, 2, 2])
    """
    return lambda batch: batch[name]


def _classical(solve: Callable[..., Tensor]) -> Baseline:
    """A classical reconstruction of each slice, with the phase reference in the maps and the phase constraint that the
    measurement allows."""

    def images(batch: Mapping[str, Any]) -> Tensor:
        made = []
        for index, (kspace, mask, phase) in enumerate(zip(batch["kspace"], batch["mask"], batch["phase"], strict=True)):
            maps = batch["sensitivity_maps"][index] * phase if "sensitivity_maps" in batch else phase[None]
            coils = kspace if kspace.ndim == 3 else kspace[None]
            weight = phase_constraint_weight(coils, mask, maps, float(batch["noise_std"][index]))
            made.append(solve(coils, maps, mask=mask, phase_weight=weight))
        return torch.stack(made).abs()[:, None]

    return images


KSPACE_BASELINES: Mapping[str, Baseline] = {
    "zero-filled": lambda batch: magnitude(batch["zero_filled"]),
    "L1-wavelet": lambda batch: magnitude(batch["mu"]),  # the estimate that restoration starts from
}
"""The reconstructions to compare with."""

ALL_KSPACE_BASELINES: Mapping[str, Baseline] = {
    **KSPACE_BASELINES,
    "TV": _classical(total_variation),
    "CG-SENSE": _classical(cg_sense),
}
"""All of them, with the classical reconstructions that are slower or mostly weaker."""


class ResidualError(ValueError):
    """A restored image is further from its measurement than the degraded image was."""


class RestorationEvents(EventEnum):
    """Events of a `RestorationEvaluator`; at VOLUME_COMPLETED ``engine.state.volume`` is a `RestoredVolume`.

    Example:
        >>> RestorationEvents.VOLUME_COMPLETED.value
        'volume_completed'
    """

    VOLUME_COMPLETED = "volume_completed"


def usable_device(device: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: it is unknown or absent.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device is {device!r}, which cannot be used: {str(error).splitlines()[0]}") from error
    return place


class RestorationEvaluator(SupervisedEvaluator):
    """Restores the slices of a data set and fires ``VOLUME_COMPLETED`` after the last one of each volume.

    The restored image is ``to_image`` of the mean of the samples; the standard deviation is that of ``to_image`` of the
    samples. Both come from one pass over them. A batch is a dict with ``mu`` (B, C, H, W), ``key``, ``volume`` (the
    index into the data set's ``volumes``), ``scale`` and, where they apply, ``intensity`` (B, H, W),
    ``reference`` (B, H, W) or (B, C, H, W), ``crop`` and ``transposed`` as a `KspaceSliceDataset` has them, and what
    consistency and baselines take.

    Args:
        device: where the network runs.
        val_data_loader: batches of ``collate_slices``, none with slices of two volumes, in the data set's order.
        network: F(x, timesteps, context=None); moved to the device.
        inferer: draws the samples.
        data_consistency: makes the measurement consistency of a batch on a device; None for none.
        to_image: makes the written image of a sample, such as `magnitude`; None for the sample itself.
        baselines: by name, the reconstructions to compare with; the first is the degraded input itself.
        error_map: predicts the error of each pixel; None for none.
        baseline: also make the other baselines where a truth is known.
        progress: show a progress bar over evaluations of the network, where stderr is a terminal. A long run
            logs its expected time after the first slices.
        worst_residual: an image whose residual exceeds that of ``mu``, and this many times the noise, is an error and
            no result; None never.
        options: further arguments of ``SupervisedEvaluator``.

    Raises:
        ValueError: the device is unknown or absent.

    Example:
        >>> from monai_d3gm.data import KspaceSliceDataset, VolumeBatchSampler, bundled_epi_path, collate_slices
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> from monai_d3gm.networks.schedulers import D3GMScheduler
        >>> from monai_d3gm.sde import Sampler
        >>> dataset = KspaceSliceDataset(bundled_epi_path(), slices=2)
        >>> loader = DataLoader(dataset, batch_sampler=VolumeBatchSampler(dataset), collate_fn=collate_slices)
        >>> network = ConditionalNAFNet(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
        >>> inferer = RestorationInferer(D3GMScheduler(), Sampler(steps=1))
        >>> evaluator = RestorationEvaluator("cpu", loader, network, inferer, baseline=False, progress=False)
        >>> evaluator.run()
        >>> evaluator.state.volume.images["D3GM"].shape
        (2, 128, 96)
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: DataLoader,
        network: nn.Module,
        inferer: RestorationInferer,
        data_consistency: Callable[..., Any] | None = kspace_consistency,
        to_image: ToImage | None = magnitude,
        baselines: Mapping[str, Baseline] = KSPACE_BASELINES,
        error_map: ErrorMap | None = None,
        baseline: bool = True,
        progress: bool = True,
        worst_residual: float | None = None,
        **options: Any,
    ) -> None:
        place = usable_device(device)
        super().__init__(
            place,
            val_data_loader,
            network.to(place),
            inferer=inferer,
            decollate=False,
            event_names=[RestorationEvents],
            **options,
        )
        self.restore = inferer
        self.volumes: list[InputVolume] = val_data_loader.dataset.volumes  # type: ignore[attr-defined]
        self.num_slices = len(val_data_loader.dataset)  # type: ignore[arg-type]
        self.data_consistency = data_consistency
        self.to_image = to_image
        self.error_map = None if error_map is None else error_map.to(place)
        self.baselines = dict(list(baselines.items())[: None if baseline else 1])
        self.progress = progress
        self.worst_residual = worst_residual
        self._slices: list[dict[str, NDArray[np.float32]]] = []
        self._residuals: list[float] = []
        self._coils: list[Mapping[str, Any]] = []
        self._bar: tqdm | None = None
        self._start, self._done = 0.0, 0
        self.add_event_handler(Events.EPOCH_COMPLETED, self._close_bar)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Restore every volume of the data set."""
        self._slices, self._residuals, self._coils = [], [], []
        try:
            super().run(global_epoch)
        finally:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        self.state.volume = self.state.output = None  # the one before, which may be large
        if self._bar is None:
            total = self.num_slices * self.restore.num_samples * (len(self.restore.times) - 1)
            shown = None if self.progress else True  # None: on a terminal alone
            self._bar = tqdm(total=total, disable=shown, unit="evaluation", leave=False)
            self._start, self._done = time.perf_counter(), 0
        self._bar.set_description(self.volumes[batchdata["volume"][0]].path.name, refresh=False)
        mu = batchdata["mu"].to(self.state.device)
        channels = mu.shape[1]
        consistency = None if self.data_consistency is None else self.data_consistency(batchdata, self.state.device)
        to_image = self.to_image
        with self.mode(self.network):
            mean, std = self.restore.moments(
                mu,
                self.network,
                data_consistency=consistency,
                items=batchdata["key"],
                of=None if to_image is None else lambda x: torch.cat([x, to_image(x)], dim=1),
                advance=self._bar.update,
            )
        predicted = None
        if self.error_map is not None:
            with torch.no_grad(), self.mode(self.error_map):
                predicted = self.error_map(self.error_map.features(mean[:, :channels], mu, consistency)).cpu()
        if consistency is not None:
            self._residuals += self._check_residual(consistency, mu, mean[:, :channels], batchdata["key"])
        self._coils += batchdata.get("coils", [])
        mean, std = mean[:, :channels].cpu(), std[:, 0 if to_image is None else channels :].cpu()
        known = "reference" in batchdata
        names = [name for number, name in enumerate(self.baselines) if known or number == 0]
        images = {name: self.baselines[name](batchdata) for name in names}
        images[METHOD] = mean if to_image is None else to_image(mean)
        if self.restore.num_samples > 1:
            images["std"] = std
        if predicted is not None:
            images["predicted_error"] = predicted
        if known:
            truth = batchdata["reference"]
            images["reference"] = truth[:, None] if truth.ndim == 3 else truth
        number = batchdata["volume"][0]
        for index in range(len(mu)):
            self._slices.append({name: _in_file(image[index], batchdata, index) for name, image in images.items()})
        images.clear()  # frees memory: only the copies are kept
        del std
        self._estimate(len(mu))
        if len(self._slices) == len(self.volumes[number].slices):
            self._finish(self.volumes[number])
        return {CommonKeys.IMAGE: mu, CommonKeys.PRED: mean, CommonKeys.LABEL: batchdata.get("reference")}

    def _check_residual(self, consistency: Any, mu: Tensor, restored: Tensor, keys: list[str]) -> list[float]:
        """The residual over noise of each image; none where the noise is 0.

        Raises:
            ResidualError: an image is too far from its measurement.
        """
        noise = consistency.noise_std.expand(len(keys))
        before, after = (consistency.residual(x).double().cpu() for x in (mu, restored))
        if self.worst_residual is not None:
            for key, level, first, last in zip(keys, noise.tolist(), before.tolist(), after.tolist(), strict=True):
                if last > max(first, self.worst_residual * level):
                    raise ResidualError(
                        f"{key}: the restored image is further from its measurement than the input was: a residual of "
                        f"{last:.3g}, where the input has {first:.3g} and the noise {level:.3g}; accepted: up to the "
                        f"input's, or {self.worst_residual:g} times the noise. It is not written."
                    )
        return (after / noise).tolist() if bool((noise > 0).all()) else []

    def _estimate(self, count: int) -> None:
        """Log, after the first slices, how long the others will take, if that is long."""
        self._done += count
        left = self.num_slices - self._done
        seconds = (time.perf_counter() - self._start) / self._done
        if self._done == count and left * seconds > _LONG:
            rest = _span(left * seconds)
            logger.info("%.1f s a slice on %s: about %s for %d more", seconds, self.state.device, rest, left)

    def _finish(self, source: InputVolume) -> None:
        """Give the volume to the handlers."""
        stacks = {name: _stacked([one.pop(name) for one in self._slices]) for name in list(self._slices[0])}
        residual = np.array(self._residuals, dtype=np.float32) if self._residuals else None
        coils = tuple(self._coils)
        self._slices, self._residuals, self._coils = [], [], []
        std, reference, predicted = (stacks.pop(name, None) for name in ("std", "reference", "predicted_error"))
        self.state.volume = RestoredVolume(source, stacks, std, reference, residual, predicted, coils)
        self.fire_event(RestorationEvents.VOLUME_COMPLETED)


def _span(seconds: float) -> str:
    """A length of time in words.

    Example:
        >>> _span(40), _span(400), _span(40000)
        ('40 s', '7 min', '11.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _stacked(images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Images as one array, without a copy of a single one, which may be large."""
    return images[0][None] if len(images) == 1 else np.stack(images)


def _in_file(image: Tensor, batch: Mapping[str, Any], index: int) -> NDArray[np.float32]:
    """An image (1 or 3, H, W) in the units, extent and orientation of the file: (h, w), or (h, w, 3)."""
    crop = batch["crop"][index] if "crop" in batch else None
    if crop is not None and image.shape[1:] != tuple(crop):
        image = center_crop(image, tuple(crop))
    image = image * batch["scale"][index]
    if "intensity" in batch:
        image = image * center_crop(batch["intensity"][index], image.shape[1:])
    image = image.mT if "transposed" in batch and batch["transposed"][index] else image
    image = image[0] if len(image) == 1 else image.movedim(0, -1)
    return np.ascontiguousarray(image.numpy(), dtype=np.float32)
