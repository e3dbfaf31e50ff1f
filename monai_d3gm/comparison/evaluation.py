"""Figures of a network under a process and a setting on a condition's items; they are stored on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastmri.data.transforms import center_crop
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_d3gm.comparison.experiment import Condition, Experiment
from monai_d3gm.comparison.settings import Setting
from monai_d3gm.data import collate_slices
from monai_d3gm.files import atomic_path
from monai_d3gm.metrics import (
    LpipsWeightsError,
    evaluate_detail,
    evaluate_images,
    evaluate_photograph,
    foreground_mask,
    lpips,
    photograph_detail,
)
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import DiffusionProcess, Sampler

__all__ = ["FIGURES", "Evaluator", "Item", "crps", "means", "process_scheduler"]

logger = logging.getLogger(__name__)

Row = dict[str, Any]

_KEPT = 64
"""Data sets of up to this many images are kept in memory."""

FIGURES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "crps": "CRPS (1000ths of the range)",
    "psnr_mean": "PSNR of the samples' mean (dB)",
    "spread": "spread of the samples (1000ths of the range)",
    "spectrum": "power spectrum over the truth's (dB)",
    "gmsd": "GMSD",
}
"""The names of an image's figures. PSNR, SSIM, LPIPS, the spectrum and GMSD are of the first sample; the CRPS is the
mean over pixels of the fair continuous ranked probability score of the samples, the spread the root mean square of
their standard deviation; for MR images the data range is the maximum of the reference slice, for photographs 1."""


class Item:
    """An image to restore, read on demand.

    Args:
        dataset: that it is of.
        index: in the data set.
        crop: extent of the central crop of a photograph, or None.
    """

    def __init__(self, dataset: Any, index: int, crop: int | None) -> None:
        self._dataset, self._index, self._crop = dataset, index, crop

    @cached_property
    def content(self) -> dict[str, Any]:
        """The data set's item, with ``mu``, ``reference`` and ``key``; read once."""
        content: dict[str, Any] = self._dataset[self._index]
        if self._crop is None:
            return content
        size = (self._crop, self._crop)
        return content | {name: center_crop(content[name], size) for name in ("mu", "reference")}

    @property
    def key(self) -> str:
        """Its name."""
        return str(self.content["key"])

    @property
    def digest(self) -> str:
        """The hash of the degraded image and the truth."""
        digest = hashlib.sha256(self.key.encode())
        for name in ("mu", "reference"):
            digest.update(np.ascontiguousarray(self.content[name]).tobytes())
        return digest.hexdigest()[:16]

    @property
    def reference(self) -> Tensor:
        """The truth, (H, W) or (3, H, W)."""
        return torch.as_tensor(self.content["reference"])


def crps(samples: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """The mean over pixels of the fair CRPS of an ensemble (Ferro 2014).

    ``mean_i |x_i - y| - mean_{i<j} |x_i - x_j| / 2``, unbiased for any number of samples; of a single one it is the
    absolute error.

    Args:
        samples: (S, ...).
        truth: (...).

    Example:
        >>> float(crps(np.array([[0.0], [2.0]]), np.array([1.0])))
        0.0
    """
    count = len(samples)
    error = np.abs(samples - truth).mean(0)
    ordered = np.sort(samples, axis=0)
    weights = (2 * np.arange(1, count + 1) - count - 1).reshape(-1, *(1,) * truth.ndim)
    pairs = (weights * ordered).sum(0) / max(count * (count - 1), 1)
    return float((error - pairs).mean())


class Evaluator:
    """Computes figures and stores them in ``folder``, one file for each network, process, setting, seed and image.

    A file's name determines its content: the hash of the weights, the inferer's configuration and the hash of the
    image. So a killed run resumes, and a change of any of these is computed anew.

    Args:
        experiment: the comparison.
        folder: where the figures are kept; it is there.
        device: where the network runs.
    """

    def __init__(self, experiment: Experiment, folder: Path, device: str = "cpu") -> None:
        self.experiment = experiment
        self.folder = folder
        self.device = device
        self.remarks: list[str] = []
        self._items: dict[Condition, list[Item]] = {}
        self._consistency: Callable[..., Any] | None = experiment.component("data_consistency")
        self._to_image: Callable[[Tensor], Tensor] | None = experiment.component("to_image")
        self._clip = experiment.component("clip")
        self._roi_size = experiment.component("roi_size")

    def items(self, condition: Condition) -> Iterable[Item]:
        """The items of a condition; those of small data sets are kept in memory."""
        if condition in self._items:
            return self._items[condition]
        dataset = self.experiment.dataset(condition)
        items = (Item(dataset, index, condition.crop) for index in range(len(dataset)))
        if len(dataset) > _KEPT:
            return items
        return self._items.setdefault(condition, list(items))

    def image(self, x: Tensor, item: Item) -> Tensor:
        """Samples (B, C, H, W) of an item as images for the figures, (B, 1 or 3, H, W)."""
        x = x if self._to_image is None else self._to_image(x)
        crop = item.content.get("crop")
        return x if crop is None else center_crop(x, tuple(crop))

    def degraded(self, condition: Condition) -> list[Row]:
        """Figures of the degraded image."""
        rows = []
        for item in self.items(condition):
            images = self.image(item.content["mu"][None], item)
            rows.append(self._row(item, images))
        return rows

    def restored(
        self,
        network: nn.Module,
        scheduler: D3GMScheduler,
        weights: str,
        setting: Setting,
        seed: int,
        condition: Condition,
    ) -> list[Row]:
        """Figures of a network's samples, read from the folder if they are there.

        Args:
            network: F(x, timesteps, context=None), in evaluation mode.
            scheduler: with the process of the sampling.
            weights: hash of the network's file.
            setting: how images are drawn.
            seed: of the noise.
            condition: the data.
        """
        inferer = setting.inferer(scheduler, seed, self._clip, self._roi_size)
        besides = {"consistency": setting.consistency, "start_noise": setting.start_noise}
        made_by = {"weights": weights, **inferer.config(), **besides}
        rows: list[Row] = []
        for item in self.items(condition):
            unit = {**made_by, "item": item.key, "content": item.digest}
            name = hashlib.sha256(json.dumps(unit, sort_keys=True).encode()).hexdigest()[:24]
            file = self.folder / f"{name}.json"
            if not file.is_file():
                row = self._row(item, self._draw(network, scheduler, inferer, setting, item))
                with atomic_path(file) as temporary:
                    temporary.write_text(json.dumps({**unit, "row": row}), encoding="utf-8")
            rows.append(json.loads(file.read_text(encoding="utf-8"))["row"])
        return rows

    def _row(self, item: Item, images: Tensor) -> Row:
        subject = self.experiment.subject(item.key)
        return {"item": item.key, "subject": subject, **self._figures(images, item.reference)}

    def _draw(self, network: nn.Module, scheduler: D3GMScheduler, inferer: Any, setting: Setting, item: Item) -> Tensor:
        """The samples of an item as images, (S, 1 or 3, H, W)."""
        batch = collate_slices([item.content])
        mu = batch["mu"].to(self.device)
        hold = self._consistency if setting.consistency else None
        consistency = None if hold is None else hold(batch, self.device)
        seen: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            seen.append(self.image(x, item).cpu())
            return x

        initial = None
        if setting.start_noise is not None:
            one = Setting(Sampler(steps=1), samples=1)
            first = one.inferer(scheduler, inferer.seed, self._clip, self._roi_size)
            initial = first(mu, network, consistency, items=[item.key])
        inferer.moments(mu, network, consistency, items=[item.key], initial=initial, of=keep)
        return torch.cat(seen)

    def _figures(self, images: Tensor, reference: Tensor) -> dict[str, float]:
        """The `FIGURES` of samples (S, 1 or 3, H, W)."""
        samples = images.movedim(1, -1).double().numpy()
        truth = (reference if reference.ndim == 3 else reference[None]).movedim(0, -1).double().numpy()
        photograph = truth.shape[-1] == 3
        figures = _photograph(samples, truth) if photograph else _slice(samples[..., 0], truth[..., 0])
        scale = 1.0 if photograph else float(truth.max())
        figures["crps"] = 1000 * crps(samples / scale, truth / scale)
        if len(samples) > 1:
            figures["spread"] = 1000 * float(np.sqrt(np.mean(samples.var(0, ddof=1)))) / scale
        try:
            shown = [np.broadcast_to((x / scale).clip(0, 1), (*truth.shape[:2], 3)) for x in (samples[0], truth)]
            figures["lpips"] = lpips(shown[0].copy(), shown[1].copy())
        except LpipsWeightsError as error:
            self._remark(str(error))
        except ValueError:
            self._remark("no LPIPS: it needs images of 64 x 64 pixels up")
        return figures

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)
            logger.warning("%s", text)


def _photograph(samples: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    """Figures of samples (S, H, W, 3): PSNR and SSIM on RGB, detail on Y."""
    first = evaluate_photograph(samples[0], truth)
    detail = photograph_detail(samples[0].clip(0, 1), truth)
    return {
        "psnr": first["psnr/rgb/whole"],
        "ssim": first["ssim/rgb/whole"],
        "psnr_y": first["psnr/y/whole"],
        "psnr_mean": evaluate_photograph(samples.mean(0), truth)["psnr/rgb/whole"],
        "spectrum": detail["spectrum_mean_db/y/whole"],
        "gmsd": detail["gmsd/y/whole"],
    }


def _slice(samples: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    """Figures of samples (S, H, W) of a magnitude image, by the slice protocol."""
    first, detail = evaluate_images(samples[0], truth, "slice"), evaluate_detail(samples[0], truth)
    figures = {
        "psnr": first["psnr/slice/whole"],
        "ssim": first["ssim/slice/whole"],
        "psnr_mean": evaluate_images(samples.mean(0), truth, "slice")["psnr/slice/whole"],
        "spectrum": detail["spectrum_mean_db/slice/whole"],
        "gmsd": detail["gmsd/slice/whole"],
    }
    if foreground_mask(truth).any():
        figures["psnr_foreground"] = first["psnr/slice/foreground"]
    return figures


def process_scheduler(process: DiffusionProcess, information: Mapping[str, Any]) -> D3GMScheduler:
    """The scheduler of a process for a trained network.

    Args:
        process: that images are drawn under.
        information: the entry ``d3gm`` of the network's checkpoint.

    Raises:
        ValueError: the network does not cover the process.
    """
    scheduler = D3GMScheduler(
        process,
        prediction_type=information["prediction_type"],
        sigma_data=information["sigma_data"],
        rho_range=information["rho_range"],
    )
    scheduler.check_coverage()
    return scheduler


def means(rows: Iterable[Row], figure: str) -> dict[str, float]:
    """A figure by subject: the mean over its items."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if figure in row:
            values.setdefault(row["subject"], []).append(row[figure])
    return {subject: float(np.mean(found)) for subject, found in values.items()}
