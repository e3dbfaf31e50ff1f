"""D3GM behind MONAI's DiffusionInferer interface: a training step, and sampling with a scheduler's timesteps.

The degraded image mu is the condition: it shapes the forward process and is joined to the network's input, MONAI's
concat mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import DiffusionInferer
from torch import Tensor, nn
from tqdm import tqdm

from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.sde import Sampler, Step, sample

__all__ = ["D3GMInferer"]


class D3GMInferer(DiffusionInferer):
    """Training steps and samples of a mean-reverting diffusion.

    Args:
        scheduler: the process, its preconditioning and its timesteps.
        amp: dtype in which the network runs under autocast, ``torch.bfloat16`` or ``torch.float16`` (or its name);
            None for the inputs' own.

    Example:
        >>> from monai_d3gm.networks.nets import ConditionalNAFNet
        >>> net = ConditionalNAFNet(in_channels=2, out_channels=1, width=8, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> inferer = D3GMInferer(D3GMScheduler())
        >>> x0, mu = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
        >>> k = torch.tensor([10, 999])
        >>> inferer(inputs=x0, diffusion_model=net, noise=torch.randn_like(x0), timesteps=k, condition=mu).shape
        torch.Size([2, 1, 8, 8])
        >>> inferer.sample(diffusion_model=net, conditioning=mu, verbose=False).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, scheduler: D3GMScheduler, amp: torch.dtype | str | None = None) -> None:
        super().__init__(scheduler)
        self.scheduler: D3GMScheduler = scheduler
        self.amp = autocast_dtype(amp)

    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        diffusion_model: nn.Module,
        noise: Tensor,
        timesteps: Tensor,
        condition: Tensor | None = None,
        mode: str = "concat",
        seg: Tensor | None = None,
        data_consistency: Callable[[Tensor, Tensor], Tensor] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The network's prediction for x_t = a x_0 + b mu + c eps.

        Args:
            inputs: x_0, (B, C, *spatial).
            diffusion_model: the network F(x, timesteps, context=None).
            noise: eps, standard normal, of x_0's shape.
            timesteps: (B,) integers 0..N-1.
            condition: mu, of x_0's shape.
            mode: ``concat``; mu has no other way in.
            seg: not accepted; MONAI's SPADE networks have it.
            data_consistency: an affine correction (x0_hat, t) -> x0_hat. Its linear part is applied to the prediction;
                with :func:`linear_part` applied to the target, the loss is that of the corrected x0_hat, in the
                target's units.
            weight: (B,), a factor of the prediction, as the target was multiplied by.

        Returns:
            (B, C, *spatial), to be compared with ``scheduler.get_target``.
        """
        if mode != "concat":
            raise ValueError(f"mode is {mode!r}; accepted: 'concat'.")
        if seg is not None:
            raise ValueError("seg is given; accepted: None, since these networks take no segmentation.")
        if condition is None:
            raise ValueError("condition is None; accepted: mu, the degraded image.")
        x_t = self.scheduler.add_noise(inputs, noise, timesteps, condition)
        t = self.scheduler.time_of(timesteps)
        network_input, time = self.scheduler.network_input(x_t, condition, t)
        with torch.autocast(inputs.device.type, self.amp, enabled=self.amp is not None):
            prediction = diffusion_model(x=network_input, timesteps=time, context=None)
        prediction = prediction.to(inputs.dtype)
        if data_consistency is not None:
            prediction = linear_part(data_consistency, prediction, t)
        return prediction if weight is None else prediction * weight.reshape(-1, *(1,) * (prediction.ndim - 1))

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        input_noise: Tensor | None = None,
        diffusion_model: nn.Module | None = None,
        scheduler: D3GMScheduler | None = None,
        save_intermediates: bool | None = False,
        intermediate_steps: int | None = 100,
        conditioning: Tensor | None = None,
        mode: str = "concat",
        verbose: bool = True,
        sampler: Sampler | None = None,
        **arguments: Any,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Sample x_0 given mu over ``scheduler.timesteps`` (5 until ``set_timesteps`` says otherwise).

        Args:
            input_noise: the standard normal noise of the initial state, of mu's shape; drawn by key when left out.
            diffusion_model: the network.
            scheduler: in place of the inferer's own.
            save_intermediates: also return x_t at the members of ``timesteps`` divisible by ``intermediate_steps``.
            intermediate_steps: see above.
            conditioning: mu.
            mode: ``concat``.
            verbose: show a progress bar.
            sampler: the options of the trajectory except its times; ``Sampler()`` when left out.
            arguments: further ones of :func:`monai_d3gm.sde.sample`: seed, items, correct.

        Returns:
            (B, C, *spatial); with ``save_intermediates`` a pair of it and the list of intermediate states.
        """
        if mode != "concat":
            raise ValueError(f"mode is {mode!r}; accepted: 'concat'.")
        if diffusion_model is None or conditioning is None:
            missing = "diffusion_model" if diffusion_model is None else "conditioning"
            raise ValueError(f"{missing} is None; accepted: the network, and mu, the degraded image.")
        scheduler = self.scheduler if scheduler is None else scheduler
        sampler = Sampler() if sampler is None else sampler
        timesteps = scheduler.timesteps.tolist()
        times = [*scheduler.time_of(scheduler.timesteps).tolist(), 0.0]
        if input_noise is not None:
            mean, std = scheduler.process.prior(conditioning)
            arguments["state"] = mean + sampler.temperature * std * input_noise
        intermediates: list[Tensor] = []
        with tqdm(total=len(timesteps), disable=not verbose, desc="sampling", leave=False) as bar:

            def report(step: Step) -> None:
                if save_intermediates and timesteps[step.index] % (intermediate_steps or 1) == 0:
                    intermediates.append(step.x)
                bar.update()

            with torch.autocast(conditioning.device.type, self.amp, enabled=self.amp is not None):
                image = sample(
                    scheduler.denoiser(diffusion_model),
                    conditioning,
                    scheduler.process,
                    sampler=sampler,
                    times=times,
                    callback=report,
                    **arguments,
                )
        return (image, intermediates) if save_intermediates else image


def linear_part(correction: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """L x for an affine correction C(x, t) = L x + d.

    Two predictions corrected by C differ by L times their difference.

    Example:
        >>> linear_part(lambda x, t: 3 * x + 1, torch.tensor([2.0]), torch.tensor(0.5))
        tensor([6.])
    """
    return correction(x, t) - correction(torch.zeros_like(x), t)


def autocast_dtype(amp: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype named by ``amp``: bfloat16, float16, or None."""
    dtype = getattr(torch, amp, amp) if isinstance(amp, str) else amp
    if dtype not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"amp is {amp!r}; accepted: None, 'bfloat16' or 'float16'.")
    return dtype
