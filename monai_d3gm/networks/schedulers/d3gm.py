r"""MONAI's face of a mean-reverting diffusion: training targets, sampling steps and the preconditioned denoiser.

A process gives x_t = a x_0 + b mu + c eps. With the residual r = x_t - (a + b) mu = a (x_0 - mu) + c eps, sigma_d the
standard deviation of x_0 - mu over the training pairs and V = a^2 sigma_d^2 + c^2, a network F becomes the denoiser

    D(x_t, mu, t) = mu + c_skip r + c_out F(cat[c_in r, mu], time(rho)),
    c_in = 1 / sqrt(V),   c_skip = a sigma_d^2 / V,   c_out = sigma_d c / sqrt(V),   rho = ln(a / c),

whose target v = (c (x_0 - mu) / sigma_d - a sigma_d eps) / sqrt(V) has unit variance at every t. It is the
preconditioning of Karras et al. (EDM, NeurIPS 2022) on the residual, and the same for every process, since
r / a = (x_0 - mu) + eps / e^rho.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.schedulers import Scheduler
from torch import Tensor, nn

from monai_d3gm.sde import D3GMProcess, DiffusionProcess, Sampler
from monai_d3gm.sde import sample as draw_sample
from monai_d3gm.sde.device import moved, per_image

__all__ = ["D3GMScheduler", "PREDICTION_TYPES", "crop_to", "pad_to_multiple", "size_multiple"]

PREDICTION_TYPES = ("v_prediction", "sample", "epsilon", "score")

TIME_SCALE = 10.0
"""The network is given TIME_SCALE * rho: sinusoidal embeddings then resolve a tenth of a unit of rho."""

RHO_LIMIT = 20.0
"""rho is given to the network within +-RHO_LIMIT; it is infinite where a or c is zero."""


def size_multiple(network: Any) -> int:
    """The number that every extent of the network's input must be a multiple of.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> size_multiple(ConditionalNAFNet(width=8, encoder_blocks=(1, 1), decoder_blocks=(1, 1)))
        4
    """
    for wrapper in ("_orig_mod", "module"):
        network = getattr(network, wrapper, network)
    if hasattr(network, "size_multiple"):
        return int(network.size_multiple)
    if hasattr(network, "down_blocks"):  # MONAI's DiffusionModelUNet halves the extent between its levels
        return int(2 ** (len(network.down_blocks) - 1))
    return 1


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x (B, C, *spatial) with its last rows, columns and so on repeated, up to extents that are multiples.

    Example:
        >>> pad_to_multiple(torch.zeros(1, 1, 5, 8), 4).shape
        torch.Size([1, 1, 8, 8])
    """
    pad = [amount for size in reversed(x.shape[2:]) for amount in (0, -size % multiple)]
    return F.pad(x, pad, mode="replicate") if any(pad) else x


def crop_to(x: Tensor, extent: Sequence[int]) -> Tensor:
    """The first samples of x (B, C, *spatial) along each spatial axis: undoes :func:`pad_to_multiple`.

    Example:
        >>> crop_to(torch.zeros(1, 1, 8, 8), (5, 8)).shape
        torch.Size([1, 1, 5, 8])
    """
    for axis, size in enumerate(extent, 2):
        x = x.narrow(axis, 0, size)
    return x


class D3GMScheduler(Scheduler):
    """Diffusion scheduler for any of the five processes, with the interface of MONAI's schedulers plus ``mu``.

    Timesteps are integers k = 0..N-1 and stand for the times t = (k + 1) / N.

    Args:
        process: the forward process; ``D3GMProcess()`` when left out.
        num_train_timesteps: N.
        prediction_type: the network's target: ``v_prediction`` (the unit-variance target above), ``sample`` (x_0),
            ``epsilon`` (eps) or ``score`` (-eps / c).
        sigma_data: sigma_d, the standard deviation of x_0 - mu over the training pairs, in image units.
        rho_range: the range of rho = ln(a / c) in which a network was trained; None while it is not known.

    Raises:
        ValueError: an argument out of its range, named.

    Example:
        >>> scheduler = D3GMScheduler(D3GMProcess(tau=1.0))
        >>> x0, mu, eps = torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
        >>> scheduler.add_noise(x0, eps, torch.tensor([999, 999]), mu).mean()  # a(1) = 0.005
        tensor(0.0050)
    """

    def __init__(
        self,
        process: DiffusionProcess | None = None,
        num_train_timesteps: int = 1000,
        prediction_type: str = "v_prediction",
        sigma_data: float = 0.1,
        rho_range: Sequence[float] | None = None,
    ) -> None:
        nn.Module.__init__(self)  # the base class would build a table of betas, which these processes do not have
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps is {num_train_timesteps}; accepted: at least 1.")
        if prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type is {prediction_type!r}; accepted: {', '.join(PREDICTION_TYPES)}.")
        if not (math.isfinite(sigma_data) and sigma_data > 0):
            raise ValueError(f"sigma_data is {sigma_data}; accepted: positive and finite.")
        if rho_range is not None and not (len(rho_range) == 2 and rho_range[0] < rho_range[1]):
            raise ValueError(f"rho_range is {rho_range}; accepted: a pair (lower, upper).")
        self.process = D3GMProcess() if process is None else process
        self.num_train_timesteps = num_train_timesteps
        self.prediction_type = prediction_type
        self.sigma_data = float(sigma_data)
        self.rho_range = None if rho_range is None else (float(rho_range[0]), float(rho_range[1]))
        self.set_timesteps(min(5, num_train_timesteps))

    # --- times -------------------------------------------------------------------------------------------------

    def time_of(self, timesteps: Tensor | int) -> Tensor:
        """t = (k + 1) / N in float64 on the CPU, for integers k in 0..N-1."""
        k = torch.as_tensor(timesteps).detach().cpu()
        if k.numel() and (k.min() < 0 or k.max() >= self.num_train_timesteps):
            raise ValueError(f"timesteps has {k.flatten().tolist()}; accepted: 0..{self.num_train_timesteps - 1}.")
        return (k.double() + 1) / self.num_train_timesteps

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set ``timesteps`` to the times of the rho grid, rounded to the training times.

        Args:
            num_inference_steps: evaluations of the network, 1 to N.
            device: where ``timesteps`` is put; the CPU keeps sampling free of synchronisation.
        """
        n, most = num_inference_steps, self.num_train_timesteps
        if not 1 <= n <= most:
            raise ValueError(f"num_inference_steps is {n}; accepted: 1 to {most}.")
        times = Sampler(steps=n).times(self.process)[:-1]
        k = [min(max(round(t * most) - 1, n - 1 - i), most - 1 - i) for i, t in enumerate(times.tolist())]
        for i in range(1, n):
            k[i] = min(k[i], k[i - 1] - 1)
        self.num_inference_steps = n
        self.timesteps = torch.tensor(k, device=device)

    # --- training ----------------------------------------------------------------------------------------------

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, mu: Tensor) -> Tensor:  # type: ignore[override]
        """x_t = a x_0 + b mu + c eps.

        Args:
            original_samples: x_0, (B, C, *spatial).
            noise: eps, standard normal, of the same shape.
            timesteps: (B,) integers 0..N-1.
            mu: the degraded image, of the same shape.
        """
        a, b, c = self._curves(self.time_of(timesteps), original_samples)
        return a * original_samples + b * mu + c * noise

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor, mu: Tensor) -> Tensor:  # type: ignore[override]
        """v = (c (x_0 - mu) / sigma_d - a sigma_d eps) / sqrt(V), of unit variance."""
        a, _, c = self._curves(self.time_of(timesteps), sample)
        sd = self.sigma_data
        scale = torch.sqrt(a**2 * sd**2 + c**2)
        weight_x0 = torch.where(scale > 0, c / (sd * scale), 1 / sd)  # a = c = 0: the end of a bridge
        weight_noise = torch.where(scale > 0, a * sd / scale, 0.0)
        return weight_x0 * (sample - mu) - weight_noise * noise

    def get_target(self, x0: Tensor, noise: Tensor, timesteps: Tensor, mu: Tensor) -> Tensor:
        """The target of the network, by ``prediction_type``."""
        if self.prediction_type == "v_prediction":
            return self.get_velocity(x0, noise, timesteps, mu)
        if self.prediction_type == "sample":
            return x0
        if self.prediction_type == "epsilon":
            return noise
        _, _, c = self._curves(self.time_of(timesteps), x0)
        if bool((c == 0).any()):
            raise ValueError(
                "timesteps has a time with c = 0, where the score does not exist; accepted: times with c > 0."
            )
        return -noise / c

    def network_input(self, x_t: Tensor, mu: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """cat[c_in r, mu] on channels, and the time given to the network, (B,) or (1,)."""
        t = torch.as_tensor(t, dtype=torch.float64)
        a, b, c = self._curves(t, x_t)
        scale = torch.sqrt(a**2 * self.sigma_data**2 + c**2)
        c_in = torch.where(scale > 0, 1 / scale, 0.0)
        rho = TIME_SCALE * self.process.rho(t).clamp(-RHO_LIMIT, RHO_LIMIT)
        if rho.ndim == 0:
            time = x_t.new_full((1,), float(rho), dtype=torch.float32)
        else:
            time = moved(rho, x_t.new_empty(0, dtype=torch.float32))
        return torch.cat([c_in * (x_t - (a + b) * mu), mu], dim=1), time

    def to_x0(self, model_output: Tensor, x_t: Tensor, mu: Tensor, t: float | Tensor) -> Tensor:
        """x0_hat from the network's output at x_t."""
        if self.prediction_type == "sample":
            return model_output.to(x_t.dtype)
        a, b, c = self._curves(torch.as_tensor(t, dtype=torch.float64), x_t)
        residual = x_t - (a + b) * mu
        output = model_output.to(x_t.dtype)
        if self.prediction_type == "v_prediction":
            sd = self.sigma_data
            variance = a**2 * sd**2 + c**2
            c_skip = torch.where(variance > 0, a * sd**2 / variance, 0.0)
            c_out = torch.where(variance > 0, sd * c / torch.sqrt(variance), sd)
            return mu + c_skip * residual + c_out * output
        if bool((a == 0).any()):
            raise ValueError(
                f"t has a time with a = 0, where {self.prediction_type!r} gives no x0; accepted: times with a > 0."
            )
        noise = output if self.prediction_type == "epsilon" else -c * output
        return mu + (residual - c * noise) / a

    def prior_std(self, t: float | Tensor) -> Tensor:
        """gamma_t = sigma_d c / sqrt(a^2 sigma_d^2 + c^2): what x_t leaves unknown of x_0, were x_0 - mu white.

        Returns:
            float64 CPU tensor of t's shape, in image units; at most sigma_d.
        """
        a, _, c = self.process.curves(t)
        sd = self.sigma_data
        return torch.where((a > 0) | (c > 0), sd * c / torch.sqrt(a**2 * sd**2 + c**2), sd)

    # --- sampling ----------------------------------------------------------------------------------------------

    def denoiser(self, network: nn.Module) -> Callable[[Tensor, Tensor, float | Tensor], Tensor]:
        """D(x_t, mu, t) -> x0_hat around a network F(x, timesteps, context=None).

        The input is padded to the network's multiple by replication, and the output cropped.

        Raises:
            ValueError: the process leaves the range of rho in which the network was trained.
        """
        self.check_coverage()
        multiple = size_multiple(network)

        def denoise(x_t: Tensor, mu: Tensor, t: float | Tensor) -> Tensor:
            inputs, time = self.network_input(x_t, mu, t)
            output = network(pad_to_multiple(inputs, multiple), timesteps=time, context=None)
            return self.to_x0(crop_to(output, inputs.shape[2:]), x_t, mu, t)

        return denoise

    def check_coverage(self) -> None:
        """Raise ValueError where the process needs a rho below or above the trained range."""
        if self.rho_range is None:
            return
        lower, upper = self.rho_range
        start = float(self.process.rho(1.0).clamp(-RHO_LIMIT, RHO_LIMIT))
        if start < lower - 1e-6 or start > upper:
            raise ValueError(
                f"process {self.process!r} starts at rho = ln(a/c) = {start:.4f}, and the network was trained for "
                f"rho from {lower:.4f} to {upper:.4f} (it is off by {min(start - lower, upper - start):.4f}); choose a "
                "process inside that range, or train for it"
            )

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        mu: Tensor,
        eta: float = 0.0,
        seed: int = 0,
        items: Sequence[int | str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One first-order exponential step from ``timestep`` to the next of ``timesteps`` (to t = 0 after the last).

        Args:
            model_output: the network's output at ``sample``, (B, C, *spatial).
            timestep: a member of ``timesteps``.
            sample: x_t.
            mu: the degraded image.
            eta: 0 the probability-flow ODE, 1 ancestral steps.
            seed: with ``items`` and ``timestep``, the key of the noise.
            items: a key per batch element; its index when left out.

        Returns:
            The next sample, and x0_hat.
        """
        k = int(timestep)
        timesteps = self.timesteps.tolist()
        if k not in timesteps:
            raise ValueError(f"timestep is {k}; accepted: the members of timesteps, {timesteps}.")
        following = timesteps[timesteps.index(k) + 1 :]
        t = float(self.time_of(k))
        x0_hat = self.to_x0(model_output, sample, mu, t)
        if not following:
            return x0_hat, x0_hat
        keys = range(len(mu)) if items is None else items
        previous = draw_sample(
            lambda x, mean, time: x0_hat,
            mu,
            self.process,
            times=[t, float(self.time_of(following[0]))],
            state=sample,
            order=1,
            eta=eta,
            seed=seed,
            items=[(key, k) for key in keys],
        )
        return previous, x0_hat

    def _curves(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a, b, c to multiply images with, in ``like``'s dtype."""
        a, b, c = (per_image(curve, like) for curve in self.process.curves(t))
        return a, b, c
