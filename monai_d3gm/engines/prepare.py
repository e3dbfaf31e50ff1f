"""The batch of a training step, for MONAI's SupervisedTrainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch, PrepareBatch
from torch import Tensor, nn

from monai_d3gm.inferers import RestorationInferer, linear_part
from monai_d3gm.networks.checkpoint import trained_range
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import DiffusionProcess, Sampler, sample
from monai_d3gm.trust.error_map import ErrorMap

__all__ = [
    "D3GMPrepareBatch",
    "ErrorMapPrepareBatch",
    "MeanPathPrepareBatch",
    "ProcessMixturePrepareBatch",
    "RegressionPrepareBatch",
]


class D3GMPrepareBatch(DiffusionPrepareBatch):
    """Draws noise and timesteps and gives the inferer mu as its condition.

    A share of the batch is drawn at t = 1, where one evaluation is E[x_0 | mu]: the faithful end of the fidelity dial
    is learned there. The rest is uniform in t, or in rho = ln(a / c).

    Args:
        scheduler: gives the process and the target.
        condition_name: key of mu in the batch.
        image_name: key of x_0 in the batch.
        share_at_one: share of the batch at t = 1, from 0 to 1.
        spread: the rest is uniform in ``t`` or in ``rho``. ``rho`` covers the range from t = 1 to ``t_min``.
        t_min: the earliest time drawn where the spread is ``rho``.
        data_consistency: makes an affine correction from the batch and the device, such as
            :func:`monai_d3gm.engines.kspace_consistency`. Its linear part is then applied to the prediction and to the
            target, so that the loss counts only what the measurement leaves open. None for none; it may return
            None to train on a batch without it.
        weighting: a factor w(scheduler, timesteps) of prediction and target, such as those of `monai_d3gm.losses`;
            None for the unit weight.
        equal_images: divide prediction and target of each image by the root mean square of (x_0 - mu) / sigma_d, so
            that the loss counts relative errors, as PSNR does, and the hardest images do not drown the others.
        seed: seeds noise and times with the number of the batch: a step's draw does not depend on earlier steps, so a
            resumed run draws the same as an uninterrupted one.

    Example:
        >>> prepare = D3GMPrepareBatch(D3GMScheduler(), share_at_one=1.0)
        >>> batch = {"image": torch.ones(2, 1, 4, 4), "mu": torch.zeros(2, 1, 4, 4)}
        >>> image, target, args, kwargs = prepare(batch, "cpu")
        >>> kwargs["timesteps"]
        tensor([999, 999])
    """

    def __init__(
        self,
        scheduler: D3GMScheduler,
        condition_name: str = "mu",
        image_name: str = "image",
        share_at_one: float = 0.0,
        spread: str = "t",
        t_min: float = 0.02,
        data_consistency: Callable[[Mapping[str, Any], torch.device | str | None], Any] | None = None,
        weighting: Callable[[D3GMScheduler, Tensor], Tensor] | None = None,
        equal_images: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(scheduler.num_train_timesteps, condition_name)
        if not 0 <= share_at_one <= 1:
            raise ValueError(f"share_at_one is {share_at_one}; accepted: 0 to 1.")
        if spread not in ("t", "rho"):
            raise ValueError(f"spread is {spread!r}; accepted: 't' or 'rho'.")
        if not 0 < t_min < 1:
            raise ValueError(f"t_min is {t_min}; accepted: 0 to 1, both excluded.")
        self.scheduler = scheduler
        self.condition_name: str = condition_name
        self.image_name = image_name
        self.share_at_one = share_at_one
        self.spread = spread
        self.t_min = t_min
        self.data_consistency = data_consistency
        self.weighting = weighting
        self.equal_images = equal_images
        self.seed = seed
        self._generator: torch.Generator | None = None

    def get_noise(self, images: Tensor) -> Tensor:
        """Standard normal noise of the images' shape."""
        return torch.randn(images.shape, generator=self._generator, dtype=images.dtype)

    def get_timesteps(self, images: Tensor) -> Tensor:
        """(B,) integers: the first ``share_at_one`` of the batch, on average, at t = 1."""
        count, most = len(images), self.num_train_timesteps
        uniform = torch.rand(count, generator=self._generator, dtype=torch.float64)
        if self.spread == "t":
            k = (uniform * most).floor()
        else:
            process = self.scheduler.process
            upper = process.rho(self.t_min)
            lower = process.rho(1.0).clamp(min=-upper.abs() - 20)
            k = (process.time_of_rho(lower + uniform * (upper - lower)) * most).round() - 1
        at_one = torch.rand(count, generator=self._generator) < self.share_at_one
        return torch.where(at_one, most - 1, k.clamp(0, most - 1)).long()

    def draw(self, x0: Tensor, mu: Tensor, batchdata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The timesteps (B,) and the noise of x_0's shape and device."""
        timesteps = self.get_timesteps(x0)
        return timesteps, self.get_noise(x0).to(x0.device)

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple, dict]:
        """The batch for the inferer: x_0, the target, and noise, timesteps and condition as keywords."""
        if self.seed is not None:
            self._generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(batchdata["index"][0]))
        x0 = batchdata[self.image_name].to(device, non_blocking=non_blocking, **kwargs)
        mu = batchdata[self.condition_name].to(device, non_blocking=non_blocking, **kwargs)
        correction = None if self.data_consistency is None else self.data_consistency(batchdata, device)
        timesteps, noise = self.draw(x0, mu, batchdata)
        target = self.scheduler.get_target(x0, noise, timesteps, mu)
        options: dict[str, Any] = {"noise": noise, "timesteps": timesteps, "condition": mu}
        if correction is not None:
            correction = correction.with_prior_std(self.scheduler.prior_std)
            target = linear_part(correction, target, self.scheduler.time_of(timesteps))
            options["data_consistency"] = correction
        weights = []
        if self.weighting is not None:
            weights.append(self.weighting(self.scheduler, timesteps).to(x0))
        if self.equal_images:
            size = (x0 - mu).flatten(1).square().mean(1).sqrt() / self.scheduler.sigma_data
            weights.append(1 / size.clamp_min(0.1))
        if weights:
            options["weight"] = torch.stack(weights).prod(0)
            target = target * options["weight"].reshape(-1, *(1,) * (target.ndim - 1))
        return x0, target, (), options


class MeanPathPrepareBatch(D3GMPrepareBatch):
    """The same, with a share of the batch at states that the mean path of a sampler visits.

    A sampler without noise does not visit the states x_t of the forward law: its state at t is what the evaluations
    before made of mu, corrected by the measurement. The network as it is makes that state, without gradients, up to one
    of the sampler's times, drawn for the batch. The noise that is returned for it is (x_t - a x_0 - b mu) / c, so that
    inferer and target are those of any other state, and the network learns to correct the errors that it leaves.

    Args:
        scheduler: gives the process and the target.
        network: the network that is trained.
        sampler: of temperature 0; the mean path.
        measurement: makes the correction of the path from the batch and the device, or None for a batch without one.
        share_on_path: share of the batch on the path, from 0 to 1, rounded to images.
        options: further arguments of :class:`D3GMPrepareBatch`.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> from monai_d3gm.sde import Sampler
        >>> net = ConditionalNAFNet(in_channels=2, out_channels=1, width=4, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> path = Sampler(steps=2, order=1, eta=1.0, temperature=0.0)
        >>> prepare = MeanPathPrepareBatch(D3GMScheduler(), net, path, share_on_path=0.5)
        >>> batch = {"image": torch.ones(2, 1, 8, 8), "mu": torch.zeros(2, 1, 8, 8)}
        >>> prepare(batch, "cpu")[1].shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        scheduler: D3GMScheduler,
        network: nn.Module,
        sampler: Sampler,
        measurement: Callable[[Mapping[str, Any], torch.device | str | None], Any] | None = None,
        share_on_path: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(scheduler, **options)
        if sampler.temperature != 0:
            raise ValueError(f"sampler has the temperature {sampler.temperature}; accepted: 0, a path without noise")
        if not 0 <= share_on_path <= 1:
            raise ValueError(f"share_on_path is {share_on_path}; accepted: 0 to 1")
        self.network, self.sampler, self.measurement = network, sampler, measurement
        self.share_on_path = share_on_path

    def draw(self, x0: Tensor, mu: Tensor, batchdata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The timesteps (B,) and the noise of x_0's shape; the first images of the batch are on the path."""
        timesteps, noise = super().draw(x0, mu, batchdata)
        count = round(self.share_on_path * len(x0))
        path = self.sampler.times(self.scheduler.process).tolist()[:-1]
        reached = int(torch.randint(len(path), (1,), generator=self._generator))
        timesteps[:count] = step = min(
            max(round(path[reached] * self.num_train_timesteps) - 1, 0), self.num_train_timesteps - 1
        )
        t = float(self.scheduler.time_of(step))
        state = self._state(mu[:count], [*path[:reached], t], batchdata) if count else mu[:0]
        a, b, c = (float(curve) for curve in self.scheduler.process.curves(t))
        noise[:count] = (state - a * x0[:count] - b * mu[:count]) / c
        return timesteps, noise

    def _state(self, mu: Tensor, times: list[float], batchdata: Mapping[str, Any]) -> Tensor:
        """The state at the last of ``times``."""
        if len(times) == 1:
            return mu
        correct = None if self.measurement is None else self.measurement(batchdata, mu.device)
        if correct is not None:
            correct = correct.select(range(len(mu))).with_prior_std(self.scheduler.prior_std)
        training = self.network.training
        self.network.eval()
        denoiser = self.scheduler.denoiser(self.network)
        state = sample(denoiser, mu, self.scheduler.process, sampler=self.sampler, times=times, correct=correct)
        self.network.train(training)
        return state


class RegressionPrepareBatch(DiffusionPrepareBatch):
    """The batch of a training step of `monai_d3gm.inferers.RegressionInferer`: mu, and (x_0 - mu) / sigma_d.

    Args:
        scheduler: gives sigma_d and gamma_1.
        condition_name: key of mu in the batch.
        image_name: key of x_0 in the batch.
        data_consistency: as for :class:`D3GMPrepareBatch`.

    Example:
        >>> prepare = RegressionPrepareBatch(D3GMScheduler(sigma_data=0.1))
        >>> mu, target, args, kwargs = prepare({"image": torch.ones(1, 1, 2, 2), "mu": torch.zeros(1, 1, 2, 2)}, "cpu")
        >>> float(target[0, 0, 0, 0])
        10.0
    """

    def __init__(
        self,
        scheduler: D3GMScheduler,
        condition_name: str = "mu",
        image_name: str = "image",
        data_consistency: Callable[[Mapping[str, Any], torch.device | str | None], Any] | None = None,
    ) -> None:
        super().__init__(scheduler.num_train_timesteps, condition_name)
        self.scheduler = scheduler
        self.condition_name: str = condition_name
        self.image_name = image_name
        self.data_consistency = data_consistency

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple, dict]:
        """The batch for the inferer: mu, the target, and the consistency as a keyword."""
        x0 = batchdata[self.image_name].to(device, non_blocking=non_blocking, **kwargs)
        mu = batchdata[self.condition_name].to(device, non_blocking=non_blocking, **kwargs)
        target = (x0 - mu) / self.scheduler.sigma_data
        if self.data_consistency is None:
            return mu, target, (), {}
        correction = self.data_consistency(batchdata, device).with_prior_std(self.scheduler.prior_std)
        target = linear_part(correction, target, torch.tensor(1.0))
        return mu, target, (), {"data_consistency": correction}


class ErrorMapPrepareBatch(PrepareBatch):
    """The batch of a training step of `monai_d3gm.trust.ErrorMap`: its input, and the errors of restored images.

    The trained network restores each batch as at inference; its weights stay fixed.

    Args:
        restore: the inferer of the bundle.
        network: the trained network.
        error_map: gives the features, and the image whose errors are predicted.
        data_consistency: makes the measurement of a batch on a device.
        condition_name: key of mu in the batch.
        image_name: key of x_0 in the batch.

    Example:
        >>> from monai_d3gm.inferers import RestorationInferer
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> from monai_d3gm.sde import Sampler
        >>> from monai_d3gm.trust import ErrorMap
        >>> net = ConditionalNAFNet(in_channels=2, out_channels=1, width=4, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> restore = RestorationInferer(D3GMScheduler(), Sampler(steps=1))
        >>> prepare = ErrorMapPrepareBatch(restore, net, ErrorMap(net, 0.1))
        >>> batch = {"image": torch.ones(2, 1, 8, 8), "mu": torch.zeros(2, 1, 8, 8), "key": ["a", "b"]}
        >>> features, error = prepare(batch, "cpu")
        >>> features.shape, error.shape
        (torch.Size([2, 5, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        restore: RestorationInferer,
        network: nn.Module,
        error_map: ErrorMap,
        data_consistency: Callable[[Mapping[str, Any], torch.device | str | None], Any] | None = None,
        condition_name: str = "mu",
        image_name: str = "image",
    ) -> None:
        self.restore, self.network, self.error_map = restore, network, error_map
        self.data_consistency = data_consistency
        self.condition_name, self.image_name = condition_name, image_name

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """The features (B, 5, H, W) and the errors (B, 1, H, W), the mean over channels of colour images."""
        mu = batchdata[self.condition_name].to(device, non_blocking=non_blocking, **kwargs)
        truth = batchdata[self.image_name].to(device, non_blocking=non_blocking, **kwargs)
        consistency = None if self.data_consistency is None else self.data_consistency(batchdata, device)
        self.network.eval()
        restored = self.restore(mu, self.network, consistency, items=batchdata["key"])
        to_image = self.error_map.to_image
        images = (restored, truth) if to_image is None else (to_image(restored), to_image(truth))
        error = (images[0] - images[1]).abs().mean(1, keepdim=True)
        return self.error_map.features(restored, mu, consistency), error


class ProcessMixturePrepareBatch(D3GMPrepareBatch):
    """Trains one network for several processes: each batch is drawn under one of them, in turn.

    Every process here is the same denoising problem at noise level c / a, and the network is conditioned on that level
    alone. So training under one process serves all. The scheduler's ``rho_range`` becomes the span of theirs.

    Args:
        scheduler: its process is replaced for each batch; the train inferer must have the same object.
        processes: the processes.
        options: further arguments of :class:`D3GMPrepareBatch`.

    Raises:
        ValueError: there is no process, or an option is out of range.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess, VariancePreservingProcess
        >>> scheduler = D3GMScheduler()
        >>> prepare = ProcessMixturePrepareBatch(scheduler, [D3GMProcess(), VariancePreservingProcess()], seed=0)
        >>> batch = {"image": torch.ones(2, 1, 4, 4), "mu": torch.zeros(2, 1, 4, 4), "index": [2, 3]}
        >>> _ = prepare(batch, "cpu")
        >>> scheduler.process
        VariancePreservingProcess(schedule='cosine', terminal_decay=0.005)
    """

    def __init__(self, scheduler: D3GMScheduler, processes: Sequence[DiffusionProcess], **options: Any) -> None:
        super().__init__(scheduler, **options)
        if not processes:
            raise ValueError("processes is empty; accepted: at least one process")
        self.processes = list(processes)
        ranges = [trained_range(process, scheduler.num_train_timesteps) for process in processes]
        scheduler.rho_range = (min(low for low, _ in ranges), max(high for _, high in ranges))

    def __call__(
        self, batchdata: Mapping[str, Any], *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor, tuple, dict]:
        """As :class:`D3GMPrepareBatch`, under the process whose turn it is by the number of the batch."""
        batch = int(batchdata["index"][0]) // len(batchdata["index"])
        self.scheduler.process = self.processes[batch % len(self.processes)]
        return super().__call__(batchdata, *arguments, **options)
