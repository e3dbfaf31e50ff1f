"""Sampling: from the prior, or from an estimate, back to a clean image, by the curves of a process alone.

With the data prediction ``x0_hat = D(x_t, mu, t)``, ``rho = ln(a / c)`` and ``eta >= 0``, the reverse equations that
share the marginals of the process are, in ``rho`` (which rises as ``t`` falls) and for ``y = (x - b mu) / c``,

    dy = (1 + eta^2) e^rho x0_hat drho - eta^2 y drho + sqrt(2) eta dW:

``eta = 0`` is the probability-flow equation, ``eta = 1`` the reverse equation of the paper. :func:`exponential`
integrates its linear part exactly; at order 1 it is the exact posterior step for ``eta = 1`` and DDIM for ``eta = 0``.
:func:`euler_maruyama` is the paper's solver, the Euler-Maruyama step in ``t``. A solver is a pure function of one
signature that gives the law of the next state; :func:`sample` runs the loop, draws the noise and calls the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_d3gm.sde.device import moved
from monai_d3gm.sde.noise import INITIAL_STEP, Key, batch_noise, resolve_keys
from monai_d3gm.sde.processes import DiffusionProcess, check_images, computing_dtype

T_MIN = 0.02
"""The last time but 0 of the ``rho`` grid."""

_GRIDS = ("rho", "t")
_MAX_ORDER = 3
_NEAREST = 0.9
"""Share of the way in rho to the first time, or to the last, that an image's own factor may take the next to it."""


class Solver(Protocol):
    """One step of a solver, as a pure function: the Gaussian law of the state at ``s``, given that at ``t > s > 0``."""

    def __call__(
        self,
        process: DiffusionProcess,
        x: Tensor,
        mu: Tensor,
        t: float,
        s: float,
        predictions: Sequence[tuple[float, Tensor]],
        *,
        order: int,
        eta: float,
    ) -> tuple[Tensor, float]: ...


def exponential(
    process: DiffusionProcess,
    x: Tensor,
    mu: Tensor,
    t: float,
    s: float,
    predictions: Sequence[tuple[float, Tensor]],
    *,
    order: int,
    eta: float,
) -> tuple[Tensor, float]:
    """Exponential multistep integrator in ``rho`` with the data prediction.

    ``x_s = b_s mu + (c_s / c_t) e^{-eta^2 h} (x_t - b_t mu) + a_s int_0^h k e^{-k (h - v)} p(v) dv
    + c_s sqrt(1 - e^{-2 eta^2 h}) z`` with ``h = rho_s - rho_t``, ``k = 1 + eta^2`` and ``p`` the polynomial in
    ``rho - rho_t`` through the last ``order`` predictions, integrated exactly.

    Args:
        process: gives the curves; a and c must be above 0 at ``t`` and ``s``.
        x: state at ``t`` (B, ...).
        mu: degraded images, of the same shape.
        t: the time of ``x``.
        s: the time to go to, ``0 < s < t``.
        predictions: (time, x0_hat), the latest first, the first one at ``t``.
        order: predictions to use at most, 1 to 3; at most 2 where ``eta > 0``.
        eta: share of noise: 0 deterministic, 1 the reverse equation's own.

    Returns:
        Mean and standard deviation of the state at ``s``.

    >>> from monai_d3gm.sde import D3GMProcess
    >>> x = torch.zeros(1, 1, 2, 2)
    >>> mean, std = exponential(D3GMProcess(), x, x, 0.5, 0.25, [(0.5, x)], order=1, eta=0.0)
    >>> std
    0.0
    """
    (_, b_t, c_t), (a_s, b_s, c_s) = _floats(process, t), _floats(process, s)
    rho_t = float(process.rho(t))
    h = float(process.rho(s)) - rho_t
    used = predictions[:order]
    nodes = [float(process.rho(time)) - rho_t for time, _ in used]
    keep = c_s / c_t * math.exp(-(eta**2) * h)
    mean = keep * x
    mean += (b_s - keep * b_t) * mu  # in place: of a large photograph, each sum takes as much memory as it does
    for weight, (_, x0_hat) in zip(_multistep_weights(nodes, h, 1 + eta**2), used, strict=True):
        mean += (a_s * weight) * x0_hat
    return mean, c_s * math.sqrt(-math.expm1(-2 * eta**2 * h))


def euler_maruyama(
    process: DiffusionProcess,
    x: Tensor,
    mu: Tensor,
    t: float,
    s: float,
    predictions: Sequence[tuple[float, Tensor]],
    *,
    order: int,
    eta: float,
) -> tuple[Tensor, float]:
    """The paper's solver: one Euler-Maruyama step of the reverse equation in ``t``, whatever ``order``.

    With the forward equation ``dx = (f x + h mu) dt + g dW`` and the score that ``x0_hat`` stands for,
    ``x_s = x_t - (t - s) [f x_t + h mu - (1 + eta^2) / 2 g^2 score] + eta g sqrt(t - s) z``; ``eta = 1`` is the
    paper's. Explicit, so it needs many steps, with ``t - s`` small against ``c^2 / g^2``.

    Args:
        process: gives curves and forward equation; a and c must be above 0 at ``t``.
        x: state at ``t`` (B, ...).
        mu: degraded images, of the same shape.
        t: the time of ``x``.
        s: the time to go to, ``0 < s < t``.
        predictions: (time, x0_hat), the latest first, the first one at ``t``.
        order: not used: the method is of one order.
        eta: share of noise: 0 the Euler step of the probability-flow equation, 1 the reverse equation's own.

    Returns:
        Mean and standard deviation of the state at ``s``.

    >>> from monai_d3gm.sde import D3GMProcess
    >>> x = torch.zeros(1, 1, 2, 2)
    >>> mean, std = euler_maruyama(D3GMProcess(), x, x, 0.5, 0.49, [(0.5, x)], order=1, eta=1.0)
    >>> std > 0
    True
    """
    a, b, c = _floats(process, t)
    f, h, g = (float(coefficient) for coefficient in process.forward_sde(t))
    step = t - s
    pull = step * (1 + eta**2) / 2 * (g / c) ** 2
    x0_hat = predictions[0][1]
    mean = (1 - step * f - pull) * x + (pull * b - step * h) * mu + (pull * a) * x0_hat
    return mean, eta * g * math.sqrt(step)


SOLVERS: dict[str, Solver] = {"exponential": exponential, "euler_maruyama": euler_maruyama}
"""The solvers by name."""


@dataclass(frozen=True)
class Step:
    """What :func:`sample`'s ``callback`` sees after each evaluation.

    Attributes:
        index: of the evaluation, from 0.
        t: its time; (B,) where ``noise_factor`` gave the images different ones.
        x: the state there (B, ...).
        x0_hat: the prediction, clipped and corrected as asked for.
    """

    index: int
    t: float | Tensor
    x: Tensor
    x0_hat: Tensor


def time_grid(
    process: DiffusionProcess,
    steps: int,
    grid: str = "rho",
    *,
    start: float = 1.0,
    t_min: float = T_MIN,
    t_first: float | None = None,
    grid_power: float = 1.0,
) -> Tensor:
    """The times of a trajectory of ``steps`` evaluations, one at each time but the last.

    ``t``: uniform in ``t`` from ``start`` to 0. ``rho``: ``steps`` times uniform in ``rho`` from ``start`` to
    ``t_min``, then 0. With ``t_first`` the first step leads from ``start`` straight to it, and the times are uniform in
    rho from there on: where the noise c / a lies far above the spread of ``x0 - mu``, the state says nothing of ``x0``,
    and evaluations between are spent for nothing. Where ``a(start) = 0`` (the bridge at ``t = 1``), rho is not finite
    at ``start``, and ``t_first`` is ``start - t_min`` unless given. With ``grid_power`` p the times have
    ``rho = rho_first + (rho_last - rho_first) u^p`` for uniform u in [0, 1]: below 1 they lie closer towards ``t_min``.

    Args:
        process: gives rho.
        steps: evaluations, at least 1.
        grid: ``rho`` or ``t``.
        start: the first time, in (0, 1].
        t_min: the last time but 0 of the ``rho`` grid, in (0, start).
        t_first: the second time of the ``rho`` grid, in (t_min, start); None spaces the first step as the others.
        grid_power: of the ``rho`` grid's spacing, above 0; 1 is uniform.

    Returns:
        ``steps + 1`` decreasing times, float64 on the CPU: ``start`` first, 0 last.

    Raises:
        ValueError: if an argument is out of range, or the grid unknown.

    >>> from monai_d3gm.sde import D3GMProcess
    >>> time_grid(D3GMProcess(), 4, "t").tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an integer, at least 1, got {steps!r}.")
    if grid not in _GRIDS:
        raise ValueError(f"grid must be one of {', '.join(_GRIDS)}, got {grid!r}.")
    if not 0 < start <= 1:
        raise ValueError(f"start must lie in (0, 1], got {start!r}.")
    if not (math.isfinite(grid_power) and grid_power > 0):
        raise ValueError(f"grid_power must be a finite number above 0, got {grid_power!r}.")
    if grid == "t":
        return torch.linspace(start, 0, steps + 1, dtype=torch.float64)
    if not 0 < t_min < start:
        raise ValueError(f"t_min must lie in (0, start = {start}), got {t_min!r}.")
    if t_first is not None and not t_min < t_first < start:
        raise ValueError(f"t_first must lie in (t_min = {t_min}, start = {start}), got {t_first!r}.")
    leap = t_first is not None or not math.isfinite(float(process.rho(start)))
    first = (start - t_min if t_first is None else t_first) if leap else start
    if not t_min < first:
        raise ValueError(f"t_min must lie below {start / 2} where rho(start) is infinite, got {t_min!r}.")
    rho_first, rho_last = float(process.rho(first)), float(process.rho(t_min))
    # From the end, so that of two times one is t_min: linspace of one point is its first.
    share = torch.linspace(1, 0, steps - 1 if leap else steps, dtype=torch.float64).flip(0) ** grid_power
    inner = process.time_of_rho(rho_first + (rho_last - rho_first) * share)
    times = torch.cat([inner, torch.zeros(1, dtype=torch.float64)])
    if leap:
        return torch.cat([torch.tensor([start], dtype=torch.float64), times])
    times[0] = start  # exactly, and for one evaluation in place of t_min
    return times


@torch.no_grad()
def sample(
    denoiser: Callable[[Tensor, Tensor, Any], Tensor],
    mu: Tensor,
    process: DiffusionProcess,
    *,
    steps: int = 5,
    solver: str = "exponential",
    order: int = 2,
    eta: float | Sequence[float] = 0.0,
    temperature: float = 1.0,
    grid: str = "rho",
    times: Sequence[float] | Tensor | None = None,
    state: Tensor | None = None,
    start: float = 1.0,
    initial: Tensor | None = None,
    seed: int = 0,
    items: Sequence[Key] | None = None,
    clip: tuple[float, float] | None = None,
    correct: Callable[[Tensor, Any], Tensor] | None = None,
    noise_factor: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """Draw clean images given degraded ones, by the reverse process from ``t = 1`` (or ``start``) to 0.

    The step to ``t = 0`` returns the last prediction. Where ``c = 0`` at the first time (the bridge, ``x_1 = mu``), the
    first step draws from the marginal at the next time whatever ``eta`` and ``order``, and multistep history starts
    after it. Noise is keyed by (seed, item, sample, step): a trajectory that is continued from ``state`` counts its
    steps from 0 again, so give it another seed. Computes in ``mu``'s dtype, half precisions in float32; no gradients.

    Args:
        denoiser: ``(x_t, mu, t) -> x0_hat``, with ``t`` a float, or (B,) where ``noise_factor`` gave different times.
        mu: degraded images (B, ...), finite.
        process: the diffusion process.
        steps: evaluations of the denoiser, at least 1.
        solver: name of one of :data:`SOLVERS`.
        order: of the exponential solver, 1 to 3; at most 2 where ``eta > 0``.
        eta: share of noise in each step, at least 0: 0 the probability-flow equation, 1 the reverse equation. Two
            numbers are those of the first and of the last step that draws noise, and the others lie on the line
            between: the equation has the marginals of the process for any eta that depends on time.
        temperature: multiplies all noise drawn, the initial state's too; at least 0.
        grid: ``rho`` or ``t``, see :func:`time_grid`.
        times: decreasing times in [0, 1], at least two, in place of ``steps``, ``grid`` and ``start``. If the last is
            above 0, the state there is returned.
        state: the state at the first time, in place of a drawn one.
        start: the first time, in (0, 1]. Below 1 it needs ``initial`` or ``state``.
        initial: an estimate of the clean images to start from (reverse initialisation): the first state is drawn from
            its marginal at the first time.
        seed: of the noise.
        items: a key per batch element, int, string or (item, sample); by default its index.
        clip: (low, high) to clip each prediction to, or None.
        correct: ``(x0_hat, t) -> x0_hat``, applied to each prediction after clipping: measurement consistency.
        noise_factor: factors (B,), above 0, of c / a at the times between the first and the last, each image's own,
            as a function of the first ``x0_hat - mu`` (before ``correct``). What lies twice as far from mu has the same
            trajectory at twice the noise. A factor is limited so that the times stay between the first and the last.
        callback: called with each :class:`Step`.

    Returns:
        Images of ``mu``'s shape and dtype.

    Raises:
        ValueError: if an argument is out of range, unknown, not finite, does not fit ``mu``, or contradicts another.

    >>> from monai_d3gm.sde import D3GMProcess
    >>> clean, mu = torch.full((1, 1, 4, 4), 0.7), torch.full((1, 1, 4, 4), 0.5)
    >>> restored = sample(lambda x, mu, t: clean, mu, D3GMProcess(), steps=3)
    >>> bool((restored == clean).all())
    True
    """
    check_images(mu=mu)
    ends = tuple(eta) if isinstance(eta, Sequence) else (eta, eta)
    step_of = _check_method(solver, order, ends, temperature, clip)
    moments = _resolve_times(process, steps, grid, times, start)
    last = len(moments) - (3 if moments[-1] == 0 else 2)  # index of the last step that draws noise
    _check_start(moments[0], mu, state, initial)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed must be an integer, got {seed!r}.")
    keys = resolve_keys(items, mu.shape[0])
    condition = mu.detach().to(computing_dtype(mu.dtype))

    def noise(step: int) -> Tensor:
        return moved(batch_noise(mu.shape[1:], seed, keys, step), condition)

    if state is not None:
        x = state.to(condition)
    else:
        if initial is None:
            mean, std = process.prior(condition)
        else:
            mean, std = process.marginal(initial.to(condition), condition, moments[0])
        x = mean + temperature * std * noise(INITIAL_STEP)
        del mean

    grids: list[tuple[Any, list[float]]] = [(slice(None), moments)]  # images, and the times that they share
    predictions: list[tuple[int, Tensor]] = []
    begin = int(float(process.noise_std(moments[0])) == 0)  # where multistep history does

    def law(where: Any, grid: list[float], index: int, eta: float) -> tuple[Tensor, float]:
        t, s = grid[index], grid[index + 1]
        if index < begin:
            a, b, spread = _floats(process, s)
            return a * predictions[0][1][where] + b * condition[where], spread
        past = [(grid[k], x0_hat[where]) for k, x0_hat in predictions if k >= begin]
        return step_of(process, x[where], condition[where], t, s, past, order=order, eta=eta)

    for index, s in enumerate(moments[1:]):
        t = _time_of_each(grids, index, len(mu))
        x0_hat = _fitting("denoiser", denoiser(x, condition, t), x)
        if clip is not None:
            x0_hat = x0_hat.clamp(*clip)
        if noise_factor is not None and index == 0:
            grids = _own_grids(process, moments, noise_factor(x0_hat - condition), len(mu))
        if correct is not None:
            x0_hat = _fitting("correct", correct(x0_hat, t), x)
        if callback is not None:
            callback(Step(index, t, x, x0_hat))
        if s == 0:
            x = x0_hat
            continue
        predictions = [(index, x0_hat), *predictions]
        eta_here = ends[0] + (ends[1] - ends[0]) * index / max(last, 1)
        laws = [(where, *law(where, grid, index, eta_here)) for where, grid in grids]
        if temperature * max(spread for *_, spread in laws) > 0:
            drawn = noise(index)
            for where, mean, spread in laws:
                mean.add_(drawn[where], alpha=temperature * spread)
            del drawn
        if len(laws) > 1:
            x = torch.empty_like(x)
            for where, mean, _ in laws:
                x[where] = mean
        else:
            x = laws[0][1]
        predictions = predictions[: order - 1]
        del laws, x0_hat  # what is not needed for the next evaluation is not kept through it
    return x.to(mu.dtype)


def _check_method(
    solver: str, order: int, eta: tuple[float, ...], temperature: float, clip: tuple[float, float] | None
) -> Solver:
    """The solver of that name, the options checked."""
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {solver!r}.")
    if order not in range(1, _MAX_ORDER + 1):
        raise ValueError(f"order must be 1, 2 or 3, got {order!r}.")
    if len(eta) != 2:
        raise ValueError(f"eta must be a number, or those of the first and of the last step, got {eta}.")
    for name, value in (("eta", eta[0]), ("eta", eta[1]), ("temperature", temperature)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number, at least 0, got {value!r}.")
    if solver == "exponential" and max(eta) > 0 and order > 2:
        raise ValueError(f"order must be at most 2 where eta > 0, got order {order} with eta {max(eta)}.")
    if clip is not None and not (len(clip) == 2 and clip[0] < clip[1]):
        raise ValueError(f"clip must be (low, high) with low < high, got {clip!r}.")
    return SOLVERS[solver]


def _resolve_times(
    process: DiffusionProcess, steps: int, grid: str, times: Sequence[float] | Tensor | None, start: float
) -> list[float]:
    if times is None:
        return [float(time) for time in time_grid(process, steps, grid, start=start, t_min=min(T_MIN, start / 2))]
    moments = [float(time) for time in times]
    decreasing = all(later < earlier for earlier, later in zip(moments, moments[1:], strict=False))
    if len(moments) < 2 or not decreasing or not (moments[0] <= 1 and moments[-1] >= 0):
        raise ValueError(f"times must be at least two decreasing numbers in [0, 1], got {moments}.")
    if start not in (1.0, moments[0]):
        raise ValueError(
            f"start must be left out or equal times[0] = {moments[0]} where times are given, got {start!r}."
        )
    return moments


def _own_grids(
    process: DiffusionProcess, moments: list[float], factors: Tensor, batch: int
) -> list[tuple[Any, list[float]]]:
    """The images of each grid, and the grid: the times at which c / a is a factor times what it is at ``moments``."""
    factors = factors.detach().cpu().double()
    if factors.shape != (batch,) or not bool((torch.isfinite(factors) & (factors > 0)).all()):
        raise ValueError(f"noise_factor must give finite factors above 0 of shape ({batch},), got {factors.tolist()}.")
    rho = process.rho(torch.tensor(moments, dtype=torch.float64))
    most, least = _NEAREST * (rho[1] - rho[0]), _NEAREST * (rho[-2] - rho[-1])
    distinct, which = factors.unique(return_inverse=True)
    inner = process.time_of_rho(rho[1:-1] - distinct.log().clamp(least, most)[:, None]).tolist()
    grids = [[moments[0], *times, moments[-1]] for times in inner]
    if len(grids) == 1:
        return [(slice(None), grids[0])]
    return [((which == k).nonzero()[:, 0], grid) for k, grid in enumerate(grids)]


def _time_of_each(grids: list[tuple[Any, list[float]]], index: int, batch: int) -> float | Tensor:
    """The time of an evaluation, or (B,) where images differ in it."""
    if len({grid[index] for _, grid in grids}) == 1:
        return grids[0][1][index]
    times = torch.empty(batch, dtype=torch.float64)
    for where, grid in grids:
        times[where] = grid[index]
    return times


def _check_start(first: float, mu: Tensor, state: Tensor | None, initial: Tensor | None) -> None:
    if state is not None and initial is not None:
        raise ValueError("state and initial must not both be given: each sets the first state.")
    if first < 1 and state is None and initial is None:
        raise ValueError(f"initial must be given where sampling starts below t = 1, got start {first} and no initial.")
    for name, image in (("mu", mu), ("state", state), ("initial", initial)):
        if image is None:
            continue
        if name != "mu":
            check_images(mu=mu, **{name: image})
        if not bool(torch.isfinite(image).all()):
            raise ValueError(f"{name} must be finite, got nan or infinity among its values.")


def _fitting(name: str, prediction: Tensor, x: Tensor) -> Tensor:
    """A prediction in the state's dtype, its shape checked: broadcasting would hide a mistake."""
    if prediction.shape != x.shape:
        raise ValueError(f"{name} must return the shape of x_t, {tuple(x.shape)}, got {tuple(prediction.shape)}.")
    return prediction.to(x.dtype)


def _floats(process: DiffusionProcess, t: float) -> tuple[float, float, float]:
    a, b, c = process.curves(t)
    return float(a), float(b), float(c)


def _multistep_weights(nodes: Sequence[float], h: float, k: float) -> list[float]:
    """Weights on the values at ``nodes`` of ``int_0^h k e^{-k (h - v)} p(v) dv``, ``p`` their interpolant."""
    # Powers of v against the exponential: int_0^h k e^{-k (h - v)} v^n dv = k h^{n+1} n! phi_{n+1}(-k h).
    moments = [k * h ** (n + 1) * math.factorial(n) * _phi(n + 1, -k * h) for n in range(len(nodes))]
    weights = []
    for i, node in enumerate(nodes):
        coefficients, scale = [1.0], 1.0  # of prod (v - other), the lowest power first
        for other in (*nodes[:i], *nodes[i + 1 :]):
            coefficients = [
                up - other * same for up, same in zip([0.0, *coefficients], [*coefficients, 0.0], strict=True)
            ]
            scale *= node - other
        weights.append(sum(c * m for c, m in zip(coefficients, moments, strict=True)) / scale)
    return weights


def _phi(n: int, z: float) -> float:
    """``phi_n(z) = sum_j z^j / (n + j)!``: the series near 0, elsewhere ``phi_n = (phi_{n-1} - 1/(n-1)!) / z``."""
    if abs(z) < 1:
        return sum(z**j / math.factorial(n + j) for j in range(18))
    value = math.exp(z)
    for m in range(n):
        value = (value - 1 / math.factorial(m)) / z
    return value
