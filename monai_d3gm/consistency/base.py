"""The common part of all measurement consistencies: the noise level, the prior's width, and the splitting of batches.

Given a prediction x0_hat of the clean image, a linear measurement y = A x + noise and the widths s (`noise_std`) and
gamma_t (`prior_std`), consistency replaces x0_hat by the minimiser over x of

    ||A x - y||^2 / (2 s^2) + ||x - x0_hat||^2 / (2 gamma_t^2).

With the weight w = gamma^2 / (gamma^2 + s^2), the change d = x - x0_hat solves

    ((1 - w) I + w A^H A) d = w A^H (y - A x0_hat),

which at s = 0 (w = 1, whatever gamma) is the least-squares fit of the measurement nearest x0_hat: the hard projection.

The scheduler's gamma_t is the uncertainty of x0 given x_t alone. A network that also gets the measurement is less
uncertain: on data like its training data its error is below the noise, and the correction then puts back noise that it
removed. With ``prior_std="residual"`` gamma is estimated for each image by the method of moments: were the errors of
x0_hat white and independent of those of y, the mean square of A x0_hat - y would be g gamma^2 + s^2, with g = tr(A A^H)
/ m for the m numbers measured. A prediction that explains the measurement to within its noise stays unchanged; another
is drawn to the measurement.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from monai_d3gm.consistency.conjugate_gradient import conjugate_residuals, norm

__all__ = ["DEFAULT_PRIOR_STD", "MeasurementConsistency", "PriorStd", "check_finite", "nearest_solution"]

DEFAULT_PRIOR_STD = 0.1
"""gamma where none is given: the default `sigma_data` of the scheduler, the width of x0 - mu over training pairs."""

PriorStd = Callable[[Any], Any]
"""gamma as a function of time: t, a float or a (B,) tensor, to a float or a tensor of t's shape."""

RESIDUAL = "residual"
"""gamma estimated for each image from the residual: gamma^2 = max(mean |A x0_hat - y|^2 - s^2, 0) / g."""

_HARD_TOLERANCE = 8e-6
"""Residual of the hard projection at which conjugate gradients stop, over ||A^H y||: inside the promised 1e-5."""

_NOISY_TOLERANCE = 1e-6
"""The same where the noise level is positive, and the system better conditioned."""

_ONE = torch.ones((), dtype=torch.float64)

_Self = TypeVar("_Self", bound="MeasurementConsistency")


class MeasurementConsistency(ABC):
    """A measurement of a batch of images, and the correction of predictions by it.

    Args:
        batch_size: B, the number of images measured.
        noise_std: s, the noise's standard deviation per real and imaginary part in the images' units; a float, or one
            per image (B,). 0 asks for the hard projection.
        prior_std: gamma, as a float, as a function of time or "residual", estimated for each image; None means
            `DEFAULT_PRIOR_STD` until `with_prior_std` binds a function. It has no influence where noise_std is 0.

    Raises:
        ValueError: `noise_std` or `prior_std` is negative, not finite, or not of an accepted shape.

    Example:
        >>> from monai_d3gm.consistency import KspaceConsistency
        >>> kspace, mask = torch.ones(2, 4, 4, dtype=torch.complex64), torch.ones(2, 1, 4, dtype=torch.bool)
        >>> measurement = KspaceConsistency(kspace, mask, noise_std=0.1)
        >>> isinstance(measurement, MeasurementConsistency), measurement.select([0]).batch_size
        (True, 1)
    """

    _per_image: tuple[str, ...] = ()
    """Names of the attributes that are tensors with a leading axis of B (or of 1, shared by the batch)."""

    _shared: tuple[str, ...] = ()
    """Names of the other attributes that move with `to`."""

    def __init__(self, batch_size: int, noise_std: float | Tensor, prior_std: float | PriorStd | str | None) -> None:
        noise = torch.as_tensor(noise_std, dtype=torch.float64).detach().cpu()
        if noise.shape not in ((), (batch_size,)):
            raise ValueError(f"noise_std has shape {tuple(noise.shape)}; accepted: a float, or shape ({batch_size},).")
        if not bool((torch.isfinite(noise) & (noise >= 0)).all()):
            raise ValueError(f"noise_std is {noise.tolist()}; accepted: finite and >= 0.")
        number = isinstance(prior_std, int | float) and 0 <= prior_std < float("inf")
        if not (number or callable(prior_std) or prior_std in (None, RESIDUAL)):
            raise ValueError(
                f"prior_std is {prior_std!r}; accepted: finite and >= 0, a function of time or 'residual'."
            )
        self.batch_size = batch_size
        self.noise_std = noise
        self.prior_std = prior_std
        self.prior_scale = 1.0
        self._hard = not bool(noise.any())

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images without the batch axis, (channels, H, W)."""

    @property
    @abstractmethod
    def gain(self) -> float | Tensor:
        """g = tr(A A^H) / m: the mean square of A x over the m numbers measured, for white x of unit variance.

        A number, or float64 on the CPU, (1,) or one for each image (B,). It depends on no other image of the batch.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x: what would be measured, without noise, of the images x (B, channels, H, W)."""

    @abstractmethod
    def adjoint(self, measurement: Tensor | None = None) -> Tensor:
        """A^H of a measurement, by default of the one given at construction, as images (B, channels, H, W)."""

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """The root mean square of A x - y over the real numbers measured, (B,): noise_std where x is the truth."""

    @abstractmethod
    def with_measurement(self: _Self, measurement: Tensor) -> _Self:
        """The same operator and noise with another measurement, of the shape that `forward` returns."""

    @abstractmethod
    def _correct(self, x0_hat: Tensor, weight: Tensor) -> Tensor:
        """The minimiser for the weight w, float64 on the CPU, () or (B,); 1 is the hard projection."""

    def __call__(self, x0_hat: Tensor, t: float | Tensor) -> Tensor:
        """Correct a prediction by the measurement, weighted for time t.

        Differentiable in x0_hat, and affine in it: C(x, t) - C(0, t) is linear in x (with ``prior_std="residual"`` for
        the weight that this x0_hat has, through which no gradient goes).

        Args:
            x0_hat: predicted images, real (B, channels, H, W); half precision is computed in single.
            t: time, a float or a tensor () or (B,).

        Returns:
            corrected images, of x0_hat's shape and dtype.

        Raises:
            ValueError: x0_hat does not have the measured images' shape, or the prior's width at t is not usable.
        """
        expected = (self.batch_size, *self.image_shape)
        if tuple(x0_hat.shape) != expected or not x0_hat.is_floating_point():
            raise ValueError(f"x0_hat is {x0_hat.dtype} {tuple(x0_hat.shape)}; accepted: real of shape {expected}.")
        weight = _ONE if self._hard else self._weight(t, x0_hat)
        with torch.autocast(x0_hat.device.type, enabled=False):  # which would take matrix products in half precision
            return self._correct(x0_hat, weight).to(x0_hat.dtype)

    def _weight(self, t: float | Tensor, x0_hat: Tensor) -> Tensor:
        """w = gamma^2 / (gamma^2 + s^2) as float64 on the CPU, shape () or (B,); 1 where s = 0."""
        gamma: Any
        if self.prior_std == RESIDUAL:
            mean_square = self.residual(x0_hat.detach()).double().cpu().square()
            gamma = ((mean_square - self.noise_std.square()).clamp(min=0) / self.gain).sqrt()
        else:
            gamma = self.prior_std(t) if callable(self.prior_std) else self.prior_std
            gamma = DEFAULT_PRIOR_STD if gamma is None else gamma
        gamma = torch.as_tensor(gamma, dtype=torch.float64).detach().cpu() * self.prior_scale
        if gamma.shape not in ((), (self.batch_size,)) or not bool((torch.isfinite(gamma) & (gamma >= 0)).all()):
            raise ValueError(
                f"prior_std is {gamma.tolist()} at t = {t}; accepted: finite values >= 0 of shape () or "
                f"({self.batch_size},)."
            )
        prior, noise = torch.broadcast_tensors(gamma.square(), self.noise_std.square())
        hard = noise == 0
        return torch.where(hard, 1.0, prior / torch.where(hard, 1.0, prior + noise))

    def with_prior_std(self: _Self, prior_std: PriorStd) -> _Self:
        """The same consistency with gamma bound to a function of time, if none was given at construction.

        Args:
            prior_std: t -> gamma, for example the scheduler's `prior_std`.
        """
        bound = copy.copy(self)
        if bound.prior_std is None:
            bound.prior_std = prior_std
        return bound

    def with_prior_scale(self: _Self, scale: float) -> _Self:
        """The same consistency with gamma multiplied: below 1 it keeps more of the prediction, and less of the noise.

        Args:
            scale: the factor, finite and at least 0. It has no influence where noise_std is 0.

        Raises:
            ValueError: the scale is out of range.

        Example:
            >>> from monai_d3gm.consistency import KspaceConsistency
            >>> kspace, mask = torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, dtype=torch.bool)
            >>> noisy, x0_hat = KspaceConsistency(kspace, mask, noise_std=0.1), torch.zeros(1, 2, 8, 8)
            >>> bool((noisy.with_prior_scale(0.0)(x0_hat, 0.5) == x0_hat).all())
            True
        """
        if not 0 <= scale < float("inf"):
            raise ValueError(f"scale is {scale!r}; accepted: finite and >= 0.")
        scaled = copy.copy(self)
        scaled.prior_scale = float(scale)
        return scaled

    def open_std(self, prior_std: float, probes: int = 4, seed: int = 0) -> Tensor:
        """The uncertainty that the measurement leaves: the standard deviation of each pixel of a white Gaussian image
        given y.

        It is sqrt(diag(C)), C = (I / gamma^2 + A^H A / s^2)^{-1}, estimated by perturbation (Papandreou and Yuille,
        NIPS 2010): for x of standard deviation gamma and y = A x + n the correction of 0 by y errs by a draw from
        N(0, C). The mean square over draws, channels and a Gaussian window of 2 pixels is taken.

        Args:
            prior_std: gamma, above 0.
            probes: number of draws.
            seed: of the draws.

        Returns:
            (B, 1, H, W), between 0 and about gamma: gamma where nothing is measured.

        Example:
            >>> from monai_d3gm.consistency import KspaceConsistency
            >>> kspace, mask = torch.zeros(1, 32, 32, dtype=torch.complex64), torch.ones(32, dtype=torch.bool)
            >>> open_std = KspaceConsistency(kspace, mask, noise_std=0.1).open_std(0.1, probes=16)
            >>> bool((open_std.mean() - 0.1 / 2**0.5).abs() < 0.005)  # gamma s / sqrt(gamma^2 + s^2)
            True
        """
        generator = torch.Generator().manual_seed(seed)
        size = (self.batch_size, *self.image_shape)
        device = self.adjoint().device
        fixed = copy.copy(self)
        fixed.prior_std = prior_std
        square = torch.zeros(self.batch_size, 1, *self.image_shape[1:], device=device)
        for _ in range(probes):
            x = prior_std * torch.randn(size, generator=generator).to(device)
            clean = fixed.forward(x)
            shape = (*clean.shape, 2) if clean.is_complex() else clean.shape
            noise = torch.randn(shape, generator=generator)
            noise = noise.to(device) * self.noise_std.to(device, noise.dtype).reshape(-1, *(1,) * (noise.ndim - 1))
            measured = clean + (torch.view_as_complex(noise) if clean.is_complex() else noise)
            error = x - fixed.with_measurement(measured)(torch.zeros_like(x), 1.0)
            square += error.square().mean(1, keepdim=True) / probes
        return _smooth(square).sqrt()

    def select(self: _Self, indices: Sequence[int] | Tensor) -> _Self:
        """The same consistency for part of the batch.

        Args:
            indices: images to keep, in this order; an index may repeat, so that one measurement serves several samples.

        Raises:
            ValueError: no index, or one outside -B..B-1.
        """
        index = torch.as_tensor(indices, dtype=torch.long).flatten().cpu()
        size = self.batch_size
        if len(index) == 0 or int(index.min()) < -size or int(index.max()) >= size:
            raise ValueError(f"indices is {index.tolist()}; accepted: at least one of {-size}..{size - 1}.")
        index = index % size
        part = copy.copy(self)
        part.batch_size = len(index)
        if self.noise_std.ndim:
            part.noise_std = self.noise_std[index]
            part._hard = not bool(part.noise_std.any())
        for name in self._per_image:
            tensor = getattr(self, name)
            if tensor is not None and size == 1:
                setattr(part, name, tensor.expand(len(index), *tensor.shape[1:]))
            elif tensor is not None and len(tensor) == size:
                setattr(part, name, tensor[index.to(tensor.device)])
        return part

    def to(self: _Self, device: torch.device | str) -> _Self:
        """The same consistency with its tensors on a device."""
        moved = copy.copy(self)
        for name in (*self._per_image, *self._shared):
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(moved, name, tensor.to(device))
        return moved


def nearest_solution(x0: Tensor, data: Tensor, normal: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    """Solve ((1 - w) + w N) x = (1 - w) x0 + w b by conjugate gradients, for the x nearest x0; differentiable in x0.

    Args:
        x0: prediction, real or complex (B, ...).
        data: b = A^H y, like x0.
        normal: N = A^H A, in the precision of its argument.
        weight: w, float64 () or (B,). At 1 the residual is at most 8e-6 ||b||, below 1 at most 1e-6 w ||b||.

    Example:
        >>> x0, data = torch.tensor([[2.0, 5.0]]), torch.tensor([[8.0, 0.0]])
        >>> singular = torch.diag(torch.tensor([4.0, 0.0]))
        >>> nearest_solution(x0, data, lambda x: x @ singular.to(x.dtype), torch.ones(())).tolist()
        [[2.0, 5.0]]
    """
    return _NearestSolution.apply(x0, data, normal, weight)


class _NearestSolution(torch.autograd.Function):
    """The solution's Jacobian is Hermitian, and its product with a gradient is the same solution with b = 0."""

    @staticmethod
    def forward(ctx: Any, x0: Tensor, data: Tensor, normal: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
        ctx.normal, ctx.weight = normal, weight
        size = norm(data)
        size = torch.where(size > 0, size, norm(normal(x0)))
        relative = torch.where(weight == 1, _HARD_TOLERANCE, _NOISY_TOLERANCE * weight)
        column = (-1, *(1 for _ in x0.shape[1:]))
        fit = weight.to(x0.device, x0.real.dtype).reshape(column)
        stay = (1 - weight).to(x0.device, x0.real.dtype).reshape(column)
        return conjugate_residuals(
            lambda x: stay * x + fit * normal(x), stay * x0 + fit * data, x0, relative.to(size.device) * size
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return nearest_solution(gradient, torch.zeros_like(gradient), ctx.normal, ctx.weight), None, None, None


def _smooth(x: Tensor, sigma: float = 2.0, reach: int = 6) -> Tensor:
    """x (B, 1, H, W) after a Gaussian of ``sigma`` pixels, the border repeated."""
    position = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(position**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, pad, mode="replicate"), kernel.reshape(shape))
    return x


def check_finite(name: str, x: Tensor) -> None:
    """Raise ValueError, naming the argument and the number of bad values, if x holds NaN or infinity.

    Example:
        >>> check_finite("kspace", torch.zeros(3))
    """
    bad = x.numel() - int(torch.isfinite(x).sum())
    if bad:
        raise ValueError(f"{name} holds {bad} of {x.numel()} values that are NaN or infinite; accepted: finite values.")
