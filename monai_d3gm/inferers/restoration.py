"""Restoration by sampling: the one door for k-space, super-resolution and photographs.

Splits the work (slices of volumes, several samples, batches that fit into memory), tiles the denoiser where an image is
too large, holds the measurement at every step, and gathers samples into mean and standard deviation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor, nn
from tqdm import tqdm

from monai_d3gm.inferers.diffusion import autocast_dtype
from monai_d3gm.networks.schedulers import D3GMScheduler, crop_to, pad_to_multiple, size_multiple
from monai_d3gm.sde import T_MIN, Step, sample, time_grid

__all__ = ["RestorationInferer"]

logger = logging.getLogger(__name__)

Correction = Callable[[Tensor, Any], Tensor]
Denoiser = Callable[[Tensor, Tensor, Any], Tensor]


class RestorationInferer(Inferer):
    r"""Restores degraded images by sampling x_0 given mu; keeps no state between calls.

    Args:
        scheduler: the process and its preconditioning.
        num_inference_steps: evaluations of the network for a sample.
        order: order of the exponential solver, 1 to 3 (at most 2 where ``eta`` > 0).
        eta: 0 the probability-flow ODE, 1 the exact posterior; two numbers, those of the first and of the last step,
            between which it runs evenly.
        fidelity: from 0, full sampling, to 1, one evaluation at the start (the expected image). Between them sampling
            stops at rho = rho(first) + (1 - fidelity) (rho_end - rho(first)) and returns x0_hat there, with ``first``
            the start, or ``t_first`` where it is given: before that the state says nothing that mu does not.
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
        solver: name of the solver, ``exponential`` or ``euler_maruyama``.
        grid: ``rho`` or ``t``.
        t_min: the last time at which the rho grid evaluates the network; sets rho_end.
        t_first: where the first step of the rho grid leads (`time_grid`); None spaces it as the others.
        grid_power: of the rho grid's spacing: 1 uniform in rho, below 1 closer towards ``t_min``.
        noise_scaling: two numbers, a reference r > 0 and an exponent p >= 0: an image's own grid has
            (d / r)^p times the noise c / a of the grid described by the above at every time between the first and the
            last, an eighth to eight times, where d is the amplitude of the change that the first evaluation makes to
            it (`change_amplitude`). What the measurement leaves open spreads further where the change is large, and
            steps are well spent only where the noise is like that spread. None for the same grid for all images.
        last_prior_scales: factors of the consistency's gamma (``prior_std``) in the last corrections, as many as there
            are factors, but never in the first. The network removes the noise that a correction puts back with the
            measurement only as far as it is evaluated afterwards; below 1 less of it stays in the image. No influence
            where the measurement is held exactly (``noise_std`` 0).
        start: time at which sampling starts; below 1 a call needs ``initial``.
        temperature: factor of all noise drawn.
        clip: range (lower, upper) to which x0_hat is clipped, or None.
        overlap: share by which tiles overlap, in [0, 1).
        halve_on_out_of_memory: halve the batch when memory runs out, say so, and go on.

    Raises:
        ValueError: an argument out of its range, named.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> net = ConditionalNAFNet(in_channels=2, out_channels=1, width=8, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> restore = RestorationInferer(D3GMScheduler(), num_inference_steps=2, num_samples=3)
        >>> mean, std = restore.moments(torch.rand(2, 1, 8, 8), net)
        >>> mean.shape, std.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        scheduler: D3GMScheduler,
        num_inference_steps: int = 5,
        order: int = 2,
        eta: float | Sequence[float] = 0.0,
        fidelity: float = 0.0,
        num_samples: int = 1,
        roi_size: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        amp: torch.dtype | str | None = None,
        compile: bool | str = False,
        progress: bool = False,
        solver: str = "exponential",
        grid: str = "rho",
        t_min: float = T_MIN,
        t_first: float | None = None,
        grid_power: float = 1.0,
        noise_scaling: Sequence[float] | None = None,
        last_prior_scales: Sequence[float] = (),
        start: float = 1.0,
        temperature: float = 1.0,
        clip: tuple[float, float] | None = None,
        overlap: float = 0.25,
        halve_on_out_of_memory: bool = True,
    ) -> None:
        super().__init__()
        counts = {"num_inference_steps": num_inference_steps, "num_samples": num_samples, "batch_size": batch_size}
        for name, value in counts.items():
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least 1")
        if not 0 <= fidelity <= 1:
            raise ValueError(f"fidelity is {fidelity}; accepted is 0 to 1")
        if 0 < fidelity < 1 and grid != "rho":
            raise ValueError(f"grid is {grid!r}; a fidelity between 0 and 1 ({fidelity}) needs the grid 'rho'")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}; accepted is 0 to below 1")
        if not all(0 <= scale < float("inf") for scale in last_prior_scales):
            raise ValueError(f"last_prior_scales is {last_prior_scales}; accepted are finite numbers of at least 0")
        within = noise_scaling is None or (
            len(noise_scaling) == 2 and 0 < noise_scaling[0] < float("inf") and 0 <= noise_scaling[1] < float("inf")
        )
        if not within:
            raise ValueError(
                f"noise_scaling is {noise_scaling}; accepted are a reference above 0 and an exponent of at least 0"
            )
        sizes = roi_size if isinstance(roi_size, Sequence) else (roi_size,)
        if any(size is not None and size < 1 for size in sizes):
            raise ValueError(f"roi_size is {roi_size}; every extent must be at least 1")
        self.scheduler = scheduler
        self.num_samples = num_samples
        self.roi_size = roi_size
        self.batch_size = batch_size
        self.amp = autocast_dtype(amp)
        self.compile = compile
        self.progress = progress
        self.overlap = overlap
        self.start = start
        self.last_prior_scales = tuple(last_prior_scales)
        self.noise_scaling = noise_scaling
        self.halve_on_out_of_memory = halve_on_out_of_memory
        spacing = {"grid": grid, "start": start, "t_first": t_first, "grid_power": grid_power}
        self.times = self._times(num_inference_steps, t_min, fidelity, spacing)
        self.options: dict[str, Any] = {"solver": solver, "order": order, "eta": eta, "temperature": temperature}
        self.options |= {"seed": seed, "clip": clip}

    def _times(self, steps: int, t_min: float, fidelity: float, spacing: dict[str, Any]) -> list[float]:
        """The decreasing times of a sample: the network is evaluated at all but the last, which is 0."""
        start, t_first = spacing["start"], spacing["t_first"]
        if fidelity == 1:
            return [start, 0.0]
        process = self.scheduler.process
        times = time_grid(process, steps, t_min=t_min, **spacing)
        if fidelity > 0 and steps > 1:
            first = t_first if t_first is not None else start
            known = first if torch.isfinite(process.rho(first)) else first - t_min
            rho = process.rho(torch.tensor([known, t_min], dtype=torch.float64))
            stop = float(process.time_of_rho(rho[0] + (1 - fidelity) * (rho[1] - rho[0])))
            times = time_grid(process, steps, t_min=stop, **spacing)
        return [float(t) for t in times]

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
            initial: with ``start`` < 1, the estimate from which sampling starts (reverse initialisation).
            of: what the moments are taken of, a function of a sample (n, C, *spatial); the sample itself when left out.

        Returns:
            Mean, and standard deviation with n - 1 (zero for one sample), of mu's shape and dtype where ``of`` is left
            out.

        Raises:
            ValueError: the shapes do not fit, mu is not finite, or the network was not trained for the process.
        """
        keys = list(range(len(mu)) if items is None else items)
        if len(keys) != len(mu):
            raise ValueError(f"items has {len(keys)} keys; mu has a batch of {len(mu)}")
        if (self.start < 1) != (initial is not None):
            raise ValueError(f"start is {self.start}; initial is to be given if and only if start is below 1")
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
        for indices, images in self._samples(mu, network, data_consistency, keys, initial, volume):
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
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Samples in batches, with the indices of their images."""
        jobs = [(index, number) for number in range(self.num_samples) for index in range(len(mu))]
        select = getattr(correction, "select", None)
        splits = correction is None or select is not None
        size = self.batch_size or (8 if volume and splits else len(mu))
        if not splits and size != len(mu):
            raise ValueError(
                f"batch_size is {size} for {len(mu)} images; a data_consistency without select(indices) needs the "
                "whole batch at once"
            )
        if self.compile:  # what was compiled for a network stays with it
            network = torch.compile(network, mode=self.compile if isinstance(self.compile, str) else None)  # type: ignore[assignment]
        denoise = self._denoiser(network)
        total = len(jobs) * (len(self.times) - 1)
        with tqdm(total=total, disable=not self.progress, desc="restoring", unit="evaluation") as bar:

            def advance(step: Step) -> None:
                bar.update(len(step.x))

            while jobs:
                batch = jobs[:size]
                indices = [index for index, _ in batch]
                try:
                    images = sample(
                        denoise,
                        mu if indices == list(range(len(mu))) else mu[indices],  # without a copy where it is all
                        self.scheduler.process,
                        times=self.times,
                        start=self.start,
                        initial=None if initial is None else initial[indices],
                        items=[(keys[index], number) for index, number in batch],
                        correct=self._correction(select(indices) if select else correction),
                        noise_factor=self._noise_factor,
                        callback=advance,
                        **self.options,
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

    def _correction(self, correction: Correction | None) -> Correction | None:
        """The correction of each step, to be called in their order, the last ones with gamma scaled."""
        scales = self.last_prior_scales[-(len(self.times) - 2) :] if len(self.times) > 2 else ()
        if correction is None or not scales:
            return correction
        scaled = getattr(correction, "with_prior_scale", None)
        if scaled is None:
            raise ValueError(
                f"last_prior_scales is {self.last_prior_scales}; a data_consistency without with_prior_scale(scale) "
                "takes none"
            )
        first = [correction] * (len(self.times) - 1 - len(scales))
        steps = iter([*first, *(scaled(scale) for scale in scales)])
        return lambda x0_hat, t: next(steps)(x0_hat, t)

    @property
    def _noise_factor(self) -> Callable[[Tensor], Tensor] | None:
        """The factors of noise of `noise_scaling`, as a function of the change that the first evaluation makes."""
        if self.noise_scaling is None:
            return None
        reference, exponent = self.noise_scaling
        return lambda change: ((change_amplitude(change) / reference) ** exponent).clamp(1 / 8, 8)

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
            raise ValueError(f"roi_size is {sizes}; the images have {len(extent)} spatial axes")
        state, condition = pad_to_multiple(x_t, multiple), pad_to_multiple(mu, multiple)
        roi = [min(size + -size % multiple, whole) for size, whole in zip(sizes, state.shape[2:], strict=True)]
        steps = [max(int(size * (1 - overlap)) // multiple, 1) * multiple for size in roi]
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


def change_amplitude(change: Tensor) -> Tensor:
    """Amplitude of images where they have one: sqrt(sum d^4 / sum d^2), the root mean square weighted by energy.

    Background, where nothing changes, does not count: a crop around the object has the same amplitude.

    Args:
        change: d, (B, C, *spatial).

    Returns:
        (B,) float32, in the images' units; the smallest positive normal number where an image is zero everywhere.

    >>> change = torch.tensor([[[0.0, 0.0, 0.25, -0.25]], [[0.5, 0.5, 0.5, 0.5]]])
    >>> change_amplitude(change)
    tensor([0.2500, 0.5000])
    """
    least = torch.finfo(torch.float32).tiny
    energy = change.flatten(1).float().square()
    return (energy.square().sum(1) / energy.sum(1).clamp(min=least)).sqrt().clamp(min=least)


def _to_slices(volume: Tensor) -> Tensor:
    """(B, C, H, W, D) -> (B D, C, H, W)."""
    return volume.movedim(-1, 1).flatten(0, 1)


def _spatial_dims(network: nn.Module) -> int:
    """Spatial axes of the network's first convolution."""
    return next((weight.ndim - 2 for weight in network.parameters() if weight.ndim > 2), 0)
