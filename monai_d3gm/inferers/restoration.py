"""Restoration by sampling: one inferer for k-space, super-resolution and photographs.

It splits the work (slices of volumes, several samples, batches that fit into memory), tiles the denoiser for large
images, keeps to the measurement at every step, and gathers samples into mean and standard deviation.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor, nn
from tqdm import tqdm

from monai_d3gm.inferers.diffusion import autocast_dtype
from monai_d3gm.networks.schedulers import D3GMScheduler, crop_to, pad_to_multiple, size_multiple
from monai_d3gm.sde import Sampler, Step, sample

__all__ = ["RestorationInferer"]

logger = logging.getLogger(__name__)

Correction = Callable[[Tensor, Any], Tensor]
Denoiser = Callable[[Tensor, Tensor, Any], Tensor]


MAX_SAMPLES = 10_000
"""The most samples of an image."""

MAX_TILES = 4096
"""The most tiles of an image or a volume; more would take too long."""


class RestorationInferer(Inferer):
    r"""Restores degraded images by sampling x_0 given mu; keeps no state between calls.

    Args:
        scheduler: the process and its preconditioning.
        sampler: how a trajectory is made; ``Sampler()`` when left out.
        fidelity: from 0, full sampling, to 1, one evaluation at the start (the expected image). Between them sampling
            stops earlier and returns x0_hat there: see `Sampler.times`.
        num_samples: samples over which mean and standard deviation are taken.
        roi_size: extent of the tiles in which the *denoiser* is evaluated at every step, an integer or one for each
            spatial axis; None for whole images. Noise and consistency stay global: no seams.
        batch_size: images that go through the network at once; None for all (eight where volumes are cut into slices).
        seed: seed of the noise, together with the items' keys.
        amp: dtype in which the network runs under autocast, ``bfloat16`` or ``float16``; the state stays in float32.
        compile: compile the network with ``torch.compile``; the first call with a new extent waits for it. A mode of
            ``torch.compile`` may be named, such as ``reduce-overhead``, which on a GPU captures the network as a CUDA
            graph.
        progress: show a progress bar over evaluations of the network.
        overlap: share by which tiles overlap, in [0, 1).
        halve_on_out_of_memory: when memory runs out, halve the batch with a message.

    Attributes:
        times: the decreasing times of a trajectory: the network is evaluated at all but the last, which is 0.

    Raises:
        ValueError: an argument out of its range, named.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> net = ConditionalNAFNet(in_channels=2, out_channels=1, width=8, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> restore = RestorationInferer(D3GMScheduler(), Sampler(steps=2), num_samples=3)
        >>> mean, std = restore.moments(torch.rand(2, 1, 8, 8), net)
        >>> mean.shape, std.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        scheduler: D3GMScheduler,
        sampler: Sampler | None = None,
        fidelity: float = 0.0,
        num_samples: int = 1,
        roi_size: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        amp: torch.dtype | str | None = None,
        compile: bool | str = False,
        progress: bool = False,
        overlap: float = 0.25,
        halve_on_out_of_memory: bool = True,
    ) -> None:
        super().__init__()
        if sampler is not None and not isinstance(sampler, Sampler):
            raise ValueError(f"sampler is {sampler!r}; accepted: a Sampler.")
        for name, value in {"num_samples": num_samples, "batch_size": batch_size}.items():
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise ValueError(f"{name} is {value!r}; accepted: an integer of at least 1.")
        if num_samples > MAX_SAMPLES:
            raise ValueError(f"num_samples is {num_samples}; accepted: up to {MAX_SAMPLES}.")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}; accepted: 0 to below 1.")
        sizes = roi_size if isinstance(roi_size, Sequence) else (roi_size,)
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"roi_size is {roi_size}; accepted: extents of at least 1.")
        self.scheduler = scheduler
        self.sampler = Sampler() if sampler is None else sampler
        self.fidelity = float(fidelity)
        self.num_samples = num_samples
        self.roi_size = roi_size
        self.batch_size = batch_size
        self.seed = seed
        self.amp = autocast_dtype(amp)
        self.compile = compile
        self.progress = progress
        self.overlap = overlap
        self.halve_on_out_of_memory = halve_on_out_of_memory
        self.times: list[float] = self.sampler.times(scheduler.process, self.fidelity).tolist()

    def config(self) -> dict[str, Any]:
        """The options that determine a restored image besides the network and its input, as plain containers.

        The entries are ``sampler`` and ``process``, each by its own ``config()``, and the arguments ``fidelity``,
        ``num_samples``, ``seed``, ``roi_size``, ``overlap``, ``batch_size``, ``amp`` and ``compile``. Reports,
        calibrations and comparisons record this and keep no copy of their own.

        Example:
            >>> RestorationInferer(D3GMScheduler(), Sampler(eta=1.0), fidelity=0.5).config()["sampler"]["eta"]
            1.0
        """
        roi = list(self.roi_size) if isinstance(self.roi_size, Sequence) else self.roi_size
        return {
            "sampler": self.sampler.config(),
            "fidelity": self.fidelity,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "roi_size": roi,
            "overlap": self.overlap,
            "batch_size": self.batch_size,
            "amp": None if self.amp is None else str(self.amp).removeprefix("torch."),
            "compile": self.compile,
            "process": self.scheduler.process.config(),
        }

    def __call__(  # type: ignore[override]
        self,
        mu: Tensor,
        network: nn.Module,
        data_consistency: Correction | None = None,
        items: Sequence[int | str] | None = None,
        initial: Tensor | None = None,
    ) -> Tensor:
        """The restored images: one sample each, or the mean of ``num_samples``.

        Arguments and errors are those of :meth:`moments`.
        """
        return self.moments(mu, network, data_consistency, items, initial)[0]

    @torch.no_grad()
    def moments(
        self,
        mu: Tensor,
        network: nn.Module,
        data_consistency: Correction | None = None,
        items: Sequence[int | str] | None = None,
        initial: Tensor | None = None,
        of: Callable[[Tensor], Tensor] | None = None,
        advance: Callable[[int], object] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over ``num_samples``, without keeping the samples.

        Args:
            mu: degraded images (B, C, *spatial). Volumes (B, C, H, W, D) are cut along D into slices where the network
                is 2-D.
            network: F(x, timesteps, context=None).
            data_consistency: a correction (x0_hat, t) -> x0_hat made at every step, for the whole batch (for all
                slices, volume after volume, where volumes are cut). With a method ``select(indices)`` it can be split
                into batches; with ``with_prior_std`` it is given gamma_t.
            items: a key for each of the B images, which with the seed determines its noise; its index when left out.
            initial: the estimate from which sampling starts (reverse initialisation), if the sampler's ``start`` is
                below 1.
            of: a function of a sample (n, C, *spatial) whose moments are taken; the sample itself when left out.
            advance: called after each evaluation of the network with the number of images that it was for.

        Returns:
            Mean, and standard deviation with n - 1 (zero for one sample), of mu's shape and dtype where ``of`` is left
            out.

        Raises:
            ValueError: the shapes do not fit, mu is not finite, or the network was not trained for the process.
        """
        keys = list(range(len(mu)) if items is None else items)
        if len(keys) != len(mu):
            raise ValueError(f"items has {len(keys)} keys; accepted: one for each of the {len(mu)} images of mu.")
        if (self.sampler.start < 1) != (initial is not None):
            raise ValueError(
                f"start is {self.sampler.start}; accepted: an initial estimate with a start below 1, none with 1."
            )
        volume = mu.ndim == 5 and _spatial_dims(network) == 2
        if volume:
            depth = mu.shape[-1]
            keys = [f"{key}/{d}" for key in keys for d in range(depth)]
            mu = _to_slices(mu)
            initial = None if initial is None else _to_slices(initial)
        if data_consistency is not None and hasattr(data_consistency, "with_prior_std"):
            data_consistency = data_consistency.with_prior_std(self.scheduler.prior_std)

        mean: Tensor | None = None
        squares = torch.zeros(())
        count = [0] * len(mu)
        for indices, images in self._samples(mu, network, data_consistency, keys, initial, volume, advance):
            images = images if of is None else of(images)
            if mean is None:
                mean = images.new_zeros((len(mu), *images.shape[1:]))
                squares = torch.zeros_like(mean)
            for index, image in zip(indices, images, strict=True):
                count[index] += 1
                for value, average, square in zip(image, mean[index], squares[index], strict=True):
                    # channel by channel: the differences of a large photograph take as much memory as it does
                    deviation = value - average
                    average += deviation / count[index]
                    square += deviation * (value - average)
            del images, image, value, deviation  # not to be kept while the next ones are drawn
        assert mean is not None
        std = squares.div_(max(self.num_samples - 1, 1)).sqrt_()
        if volume:
            mean, std = (x.unflatten(0, (-1, depth)).movedim(1, -1) for x in (mean, std))
        return mean, std

    def _samples(
        self,
        mu: Tensor,
        network: nn.Module,
        correction: Correction | None,
        keys: Sequence[int | str],
        initial: Tensor | None,
        volume: bool,
        tell: Callable[[int], object] | None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Samples in batches, with the indices of their images."""
        jobs = [(index, number) for number in range(self.num_samples) for index in range(len(mu))]
        select = getattr(correction, "select", None)
        splits = correction is None or select is not None
        size = self.batch_size or (8 if volume and splits else len(mu))
        if not splits and size != len(mu):
            raise ValueError(
                f"batch_size is {size} for {len(mu)} images; accepted where data_consistency has no select(indices): "
                "the whole batch."
            )
        if self.compile:  # the compiled network is kept with the network
            network = torch.compile(network, mode=self.compile if isinstance(self.compile, str) else None)  # type: ignore[assignment]
        denoise = self._denoiser(network)
        total = len(jobs) * (len(self.times) - 1)
        with tqdm(total=total, disable=not self.progress, desc="restoring", unit="evaluation") as bar:

            def advance(step: Step) -> None:
                bar.update(len(step.x))
                if tell is not None:
                    tell(len(step.x))

            while jobs:
                batch = jobs[:size]
                indices = [index for index, _ in batch]
                try:
                    images = sample(
                        denoise,
                        mu if indices == list(range(len(mu))) else mu[indices],  # without a copy where it is all
                        self.scheduler.process,
                        sampler=self.sampler,
                        times=self.times,
                        initial=None if initial is None else initial[indices],
                        seed=self.seed,
                        items=[(keys[index], number) for index, number in batch],
                        correct=select(indices) if select else correction,
                        callback=advance,
                    )
                except RuntimeError as error:
                    out_of_memory = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
                    if not (out_of_memory and self.halve_on_out_of_memory and splits and len(batch) > 1):
                        raise
                    size = len(batch) // 2
                    logger.warning("out of memory with a batch of %d; going on with %d", len(batch), size)
                    continue
                yield indices, images
                del images  # not to be kept while the next ones are drawn
                jobs = jobs[len(batch) :]

    def _denoiser(self, network: nn.Module) -> Denoiser:
        """D(x_t, mu, t), tiled and under autocast as configured."""
        whole = self.scheduler.denoiser(network)
        if self.roi_size is None:
            evaluate = whole
        else:
            evaluate = _tiled(whole, self.roi_size, self.overlap, size_multiple(network))

        def denoise(x_t: Tensor, mu: Tensor, t: Any) -> Tensor:
            with torch.autocast(mu.device.type, self.amp, enabled=self.amp is not None):
                return evaluate(x_t, mu, t)

        return denoise


def _tiled(denoise: Denoiser, roi_size: int | Sequence[int], overlap: float, multiple: int) -> Denoiser:
    """The denoiser evaluated tile by tile. Tiles lie on multiples of the network's stride, as the whole image does."""

    def evaluate(x_t: Tensor, mu: Tensor, t: Any) -> Tensor:
        extent = mu.shape[2:]
        sizes = (roi_size,) * len(extent) if isinstance(roi_size, int) else tuple(roi_size)
        if len(sizes) != len(extent):
            raise ValueError(
                f"roi_size is {sizes}; accepted: one extent, or one for each of the {len(extent)} spatial axes."
            )
        state, condition = pad_to_multiple(x_t, multiple), pad_to_multiple(mu, multiple)
        roi = [min(size + -size % multiple, whole) for size, whole in zip(sizes, state.shape[2:], strict=True)]
        steps = [max(int(size * (1 - overlap)) // multiple, 1) * multiple for size in roi]
        tiles = math.prod(
            -(-max(whole - size, 0) // step) + 1 for whole, size, step in zip(state.shape[2:], roi, steps, strict=True)
        )
        if tiles > MAX_TILES:
            raise ValueError(
                f"roi_size is {roi_size}: {tiles} tiles of an image of {tuple(extent)}; accepted: up to {MAX_TILES}."
            )
        time_of = t if isinstance(t, Tensor) else torch.tensor([t] * len(state), dtype=torch.float64)
        restored = sliding_window_inference(
            state,
            roi_size=roi,
            sw_batch_size=1,
            predictor=lambda tile, places: denoise(tile, condition[tuple(places[0])], float(time_of[places[0][0]])),
            with_coord=True,
            overlap=[1 - (step + 0.5) / size for step, size in zip(steps, roi, strict=True)],  # MONAI rounds down
            roi_weight_map=_blending_weights(roi).to(mu.device),
        )
        assert isinstance(restored, Tensor)
        return crop_to(restored, extent)

    return evaluate


def _blending_weights(roi: Sequence[int]) -> Tensor:
    """Gaussian weights of a tile, of standard deviation 1/8 of its extent, as MONAI's but not cut off from below.

    Cut off, tiles that meet at the image's border would count alike there, whichever has its own border near.
    """
    weights = torch.ones(())
    for size in roi:
        position = torch.arange(size) - (size - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (position / (size / 8)) ** 2)
    return weights


def _to_slices(volume: Tensor) -> Tensor:
    """(B, C, H, W, D) -> (B D, C, H, W)."""
    return volume.movedim(-1, 1).flatten(0, 1)


def _spatial_dims(network: nn.Module) -> int:
    """Spatial axes of the network's first convolution."""
    return next((weight.ndim - 2 for weight in network.parameters() if weight.ndim > 2), 0)
