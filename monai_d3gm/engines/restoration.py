"""The engine that restores data sets of k-space slices, volume by volume.

What a slice goes through (the normalisation, the phase reference and the estimate, measurement consistency at every
step) is in the theory's section on measurement consistency; the engine undoes the normalisation, the crop and the
exchange of axes, and gives whole volumes of magnitude images to its handlers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

from monai_d3gm.data.datasets import InputVolume
from monai_d3gm.engines.prepare import kspace_consistency
from monai_d3gm.inferers.l1_wavelet import l1_wavelet
from monai_d3gm.inferers.restoration import RestorationInferer

__all__ = ["BASELINES", "METHOD", "RestorationEvaluator", "RestorationEvents", "RestoredVolume"]

METHOD = "D3GM"
"""The restoration's name among the images of a `RestoredVolume`."""

BASELINES = ("zero-filled", "L1-wavelet")
"""What it is compared with."""


class RestorationEvents(EventEnum):
    """Events of a `RestorationEvaluator`; at VOLUME_COMPLETED ``engine.state.volume`` is a `RestoredVolume`."""

    VOLUME_COMPLETED = "volume_completed"


@dataclass(frozen=True)
class RestoredVolume:
    """Magnitude images of the restored slices of one input, float32 (S, h, w), in the input's units and orientation.

    Attributes:
        source: the input.
        images: by method: `METHOD`, "zero-filled" and, where it is asked for and a truth is known, "L1-wavelet".
        std: standard deviation of the magnitude over the samples; None for a single sample.
        reference: the truth; None where it is not known.
    """

    source: InputVolume
    images: Mapping[str, NDArray[np.float32]]
    std: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None

    def as_volume(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put images of the slices into a volume (h, w, number of slices), zero where a slice was not restored."""
        volume = np.zeros(self.source.shape, dtype=np.float32)
        volume[:, :, list(self.source.slices)] = np.moveaxis(slices, 0, -1)
        return volume


class RestorationEvaluator(SupervisedEvaluator):
    """Restores the slices of a `KspaceSliceDataset` and fires ``VOLUME_COMPLETED`` after the last one of each volume.

    The restored image is the magnitude of the mean of the complex samples; the standard deviation is that of the
    samples' magnitudes. Both come from one pass over the samples.

    Args:
        device: where the network runs.
        val_data_loader: batches of ``collate_slices``, none with slices of two volumes, in the data set's order.
        network: F(x, timesteps, context=None); moved to the device.
        inferer: draws the samples.
        baseline: also reconstruct by L1-wavelet where a truth is known.
        progress: show a progress bar over slices.
        options: further arguments of ``SupervisedEvaluator``.

    Raises:
        ValueError: the device is unknown or absent.

    >>> from monai_d3gm.data import KspaceSliceDataset, VolumeBatchSampler, bundled_epi_path, collate_slices
    >>> from monai_d3gm.networks.nets import ConditionalNAFNet
    >>> from monai_d3gm.networks.schedulers import D3GMScheduler
    >>> dataset = KspaceSliceDataset(bundled_epi_path(), slices=2)
    >>> loader = DataLoader(dataset, batch_sampler=VolumeBatchSampler(dataset), collate_fn=collate_slices)
    >>> network = ConditionalNAFNet(width=4, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))
    >>> inferer = RestorationInferer(D3GMScheduler(), num_inference_steps=1)
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
        baseline: bool = True,
        progress: bool = True,
        **options: Any,
    ) -> None:
        try:
            place = torch.device(device)
            torch.zeros(1, device=place)
        except (RuntimeError, AssertionError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"device is {device!r}, which cannot be used: {reason}") from error
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
        self.baseline = baseline
        self.progress = progress
        self._slices: list[dict[str, NDArray[np.float32]]] = []
        self._bar: tqdm | None = None
        self.add_event_handler(Events.EPOCH_COMPLETED, self._close_bar)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Restore every volume of the data set."""
        self._slices = []
        try:
            super().run(global_epoch)
        finally:
            self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        if self._bar is None:
            self._bar = tqdm(total=self.num_slices, disable=not self.progress, desc="restoring", unit="slice")
        mu = batchdata["mu"].to(self.state.device)
        with self.mode(self.network):
            mean, std = self.restore.moments(
                mu,
                self.network,
                data_consistency=kspace_consistency(batchdata, self.state.device),
                items=batchdata["key"],
                of=lambda x: torch.cat([x, _magnitude(x)], dim=1),
            )
        mean, std = mean.cpu(), std.cpu()
        images = {"zero-filled": _magnitude(batchdata["zero_filled"]), METHOD: _magnitude(mean[:, :2])}
        if self.restore.num_samples > 1:
            images["std"] = std[:, 2:]
        if "reference" in batchdata:
            images["reference"] = batchdata["reference"][:, None]
            if self.baseline:
                images["L1-wavelet"] = _l1_wavelet(batchdata)
        number = batchdata["volume"][0]
        for index in range(len(mu)):
            self._slices.append({name: _in_file(image[index, 0], batchdata, index) for name, image in images.items()})
        self._bar.update(len(mu))
        if len(self._slices) == len(self.volumes[number].slices):
            self._finish(self.volumes[number])
        return {CommonKeys.IMAGE: mu, CommonKeys.PRED: mean[:, :2], CommonKeys.LABEL: batchdata.get("reference")}

    def _finish(self, source: InputVolume) -> None:
        """Give the volume to the handlers."""
        stacks = {name: np.stack([one[name] for one in self._slices]) for name in self._slices[0]}
        self._slices = []
        std, reference = stacks.pop("std", None), stacks.pop("reference", None)
        self.state.volume = RestoredVolume(source, stacks, std, reference)
        self.fire_event(RestorationEvents.VOLUME_COMPLETED)


def _magnitude(x: Tensor) -> Tensor:
    """(B, 2, H, W) -> (B, 1, H, W)."""
    return x.norm(dim=1, keepdim=True)


def _l1_wavelet(batch: Mapping[str, Any]) -> Tensor:
    maps = batch.get("sensitivity_maps", [None] * len(batch["kspace"]))
    images = [l1_wavelet(k, m, mask=s) for k, m, s in zip(batch["kspace"], maps, batch["mask"], strict=True)]
    return _magnitude(torch.stack([torch.view_as_real(image).movedim(-1, 0) for image in images]))


def _in_file(image: Tensor, batch: Mapping[str, Any], index: int) -> NDArray[np.float32]:
    """An image (H, W) in the units, extent and orientation of the file."""
    crop = batch["crop"][index]
    if crop is not None and image.shape != tuple(crop):
        image = center_crop(image, tuple(crop))
    image = image.T if batch["transposed"][index] else image
    return np.ascontiguousarray((image * batch["scale"][index]).numpy(), dtype=np.float32)
