"""Sampling: from the prior, or from an estimate, back to a clean image, by the curves of a process alone.

A trajectory has three parts. The start is the state at the first time (:func:`_start`). The grid is the times of its
evaluations (:meth:`Sampler.times <monai_d3gm.sde.Sampler.times>`). The step leads from one time to the next: the
denoiser gives ``x0_hat = D(x_t, mu, t)``, a solver the Gaussian law of the next state, from which it is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_d3gm.sde.device import moved
from monai_d3gm.sde.image_grids import Grids, Images, noise_factors
from monai_d3gm.sde.noise import INITIAL_STEP, Key, batch_noise, resolve_keys
from monai_d3gm.sde.process import DiffusionProcess, check_images, computing_dtype
from monai_d3gm.sde.sampler import Sampler
from monai_d3gm.sde.solvers import SOLVERS, marginal_step

Correction = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class Step:
    """The argument of :func:`sample`'s ``callback``, after each evaluation.

    Attributes:
        index: of the evaluation, from 0.
        t: its time; (B,) where ``noise_scaling`` gave the images different ones.
        x: the state there (B, ...).
        x0_hat: the prediction, clipped and corrected as asked for.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> steps: list[Step] = []
        >>> mu = torch.zeros(1, 1, 4, 4)
        >>> _ = sample(lambda x, mu, t: mu, mu, D3GMProcess(), steps=2, callback=steps.append)
        >>> [(step.index, round(step.t, 2)) for step in steps]
        [(0, 1.0), (1, 0.02)]
    """

    index: int
    t: float | Tensor
    x: Tensor
    x0_hat: Tensor


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor, Any], Tensor],
    mu: Tensor,
    process: DiffusionProcess,
    *,
    sampler: Sampler | None = None,
    times: Sequence[float] | Tensor | None = None,
    state: Tensor | None = None,
    initial: Tensor | None = None,
    seed: int = 0,
    items: Sequence[Key] | None = None,
    correct: Correction | None = None,
    callback: Callable[[Step], None] | None = None,
    **options: Any,
) -> Tensor:
    """Draw clean images given degraded ones, by the reverse process from ``t = 1`` (or the sampler's start) to 0.

    The step to ``t = 0`` returns the last prediction. Noise is keyed by (seed, item, sample, step): a trajectory that
    is continued from ``state`` counts its steps from 0 again, so give it another seed. Computes in ``mu``'s dtype, half
    precisions in float32; no gradients.

    Args:
        denoiser: ``(x_t, mu, t) -> x0_hat``, with ``t`` a float, or (B,) where ``noise_scaling`` gave different times.
        mu: degraded images (B, ...), finite.
        process: the diffusion process.
        sampler: the options of the trajectory; ``Sampler(**options)`` unless given.
        times: decreasing times in [0, 1], at least two, instead of the sampler's. If the last is above 0, the state
            there is returned.
        state: the state at the first time, instead of a drawn one.
        initial: an estimate of the clean images to start from (reverse initialisation): the first state is drawn from
            its marginal at the first time. A start below 1 needs it, or ``state``.
        seed: of the noise.
        items: a key per batch element, int, string or (item, sample); by default its index.
        correct: ``(x0_hat, t) -> x0_hat``, applied to each prediction after clipping: measurement consistency. It needs
            a method ``with_prior_scale(scale)`` where the sampler has ``last_prior_scales``.
        callback: called with each :class:`Step`.
        options: of a :class:`Sampler`, as a short form.

    Returns:
        Images of ``mu``'s shape and dtype.

    Raises:
        ValueError: an argument is out of range, unknown, not finite, does not fit ``mu``, or contradicts another.

    Example:
        >>> from monai_d3gm.sde import D3GMProcess
        >>> clean, mu = torch.full((1, 1, 4, 4), 0.7), torch.full((1, 1, 4, 4), 0.5)
        >>> restored = sample(lambda x, mu, t: clean, mu, D3GMProcess(), steps=3)
        >>> bool((restored == clean).all())
        True
    """
    if sampler is not None and options:
        raise ValueError(
            f"sampler is given together with {', '.join(options)}; accepted: a sampler, or options of one."
        )
    sampler = Sampler(**options) if sampler is None else sampler
    check_images(mu=mu)
    moments = sampler.times(process).tolist() if times is None else _check_times(times, sampler.start)
    _check_start(moments[0], mu, state, initial)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; accepted: an integer.")
    keys = resolve_keys(items, len(mu))
    condition = mu.detach().to(computing_dtype(mu.dtype))

    def noise(step: int, images: Images = slice(None)) -> Tensor:
        chosen = keys[images] if isinstance(images, slice) else [keys[i] for i in images.tolist()]
        return moved(batch_noise(mu.shape[1:], seed, chosen, step), condition)

    def advance(images: Images, times: list[float]) -> Tensor:
        """The state at the next time, drawn from the law that the solver gives."""
        t, s = times[index], times[index + 1]
        eta = _eta(sampler, index, moments)
        past = [(times[k], x0_hat[images]) for k, x0_hat in history if k >= begin]
        if past:
            mean, std = solver(process, x[images], condition[images], t, s, past, order=sampler.order, eta=eta)
        else:
            mean, std = marginal_step(process, history[0][1][images], condition[images], s)
        if sampler.temperature * std > 0:
            mean.add_(noise(index, images), alpha=sampler.temperature * std)
        return mean

    solver = SOLVERS[sampler.solver]
    corrections = _corrections(correct, sampler.last_prior_scales, len(moments) - 1)
    grids = Grids.shared(moments, len(mu))
    x = _start(process, condition, moments[0], sampler.temperature, state, initial, noise)
    begin = int(float(process.noise_std(moments[0])) == 0)  # the first evaluation that enters a history
    history: list[tuple[int, Tensor]] = []  # evaluation and prediction, the latest first
    for index, correction in enumerate(corrections):
        t = grids.time(index)
        x0_hat = _fitting("denoiser", denoiser(x, condition, t), x)
        if sampler.clip is not None:
            x0_hat = x0_hat.clamp(*sampler.clip)
        if index == 0 and sampler.noise_scaling is not None:
            grids = grids.scaled(process, noise_factors(x0_hat - condition, *sampler.noise_scaling))
        if correction is not None:
            x0_hat = _fitting("correct", correction(x0_hat, t), x)
        if callback is not None:
            callback(Step(index, t, x, x0_hat))
        if moments[index + 1] == 0:
            return x0_hat.to(mu.dtype)
        history = [(index, x0_hat), *history]
        x = grids.map(advance)
        history = history[: sampler.order - 1]
        del x0_hat  # frees memory before the next evaluation
    return x.to(mu.dtype)


def _start(
    process: DiffusionProcess,
    mu: Tensor,
    t: float,
    temperature: float,
    state: Tensor | None,
    initial: Tensor | None,
    noise: Callable[[int], Tensor],
) -> Tensor:
    """The state at the first time: given, or drawn from the prior ("Three curves, five processes" in the theory), or
    from the marginal of an estimate ("Reverse initialisation")."""
    if state is not None:
        return state.to(mu)
    mean, std = process.prior(mu) if initial is None else process.marginal(initial.to(mu), mu, t)
    return mean + temperature * std * noise(INITIAL_STEP)


def _eta(sampler: Sampler, index: int, times: list[float]) -> float:
    """eta of a step ("Noise that changes on the way"), on the line from the first to the last step that draws noise;
    that to t = 0 draws none."""
    first, last = sampler.eta_ends
    return first + (last - first) * index / max(len(times) - (3 if times[-1] == 0 else 2), 1)


def _corrections(correct: Correction | None, scales: Sequence[float], count: int) -> list[Correction | None]:
    """The correction of each evaluation ("The last corrections"): gamma scaled in the last, but never in the first."""
    used = tuple(scales)[max(len(scales) - count + 1, 0) :]
    if correct is None or not used:
        return [correct] * count
    scaled = getattr(correct, "with_prior_scale", None)
    if scaled is None:
        raise ValueError(
            f"correct is a {type(correct).__name__}; accepted where last_prior_scales is {tuple(scales)}: an object "
            "with a method with_prior_scale(scale)."
        )
    return [*[correct] * (count - len(used)), *(scaled(scale) for scale in used)]


def _check_times(times: Sequence[float] | Tensor, start: float) -> list[float]:
    moments = [float(time) for time in times]
    decreasing = all(later < earlier for earlier, later in zip(moments, moments[1:], strict=False))
    if len(moments) < 2 or not decreasing or not (moments[0] <= 1 and moments[-1] >= 0):
        raise ValueError(f"times is {moments}; accepted: at least two decreasing numbers in [0, 1].")
    if start not in (1.0, moments[0]):
        raise ValueError(f"start is {start!r}; accepted where times are given: none, or times[0] = {moments[0]}.")
    return moments


def _check_start(first: float, mu: Tensor, state: Tensor | None, initial: Tensor | None) -> None:
    if state is not None and initial is not None:
        raise ValueError("state and initial are both given; accepted: one of them, since each sets the first state.")
    if first < 1 and state is None and initial is None:
        raise ValueError(f"initial is None; accepted where sampling starts at {first}, below t = 1: an estimate.")
    for name, image in (("mu", mu), ("state", state), ("initial", initial)):
        if image is None:
            continue
        if name != "mu":
            check_images(mu=mu, **{name: image})
        if not bool(torch.isfinite(image).all()):
            raise ValueError(f"{name} holds NaN or infinity; accepted: finite values.")


def _fitting(name: str, prediction: Tensor, x: Tensor) -> Tensor:
    """A prediction in the state's dtype, its shape checked: broadcasting would hide a mistake."""
    if prediction.shape != x.shape:
        raise ValueError(f"{name} returned shape {tuple(prediction.shape)}; accepted: that of x_t, {tuple(x.shape)}.")
    return prediction.to(x.dtype)
