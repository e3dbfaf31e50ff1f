"""Consistency of images with a measurement of lower resolution.

Two ways in which a scanner or a camera loses resolution, for images of N = f n pixels along an axis and a factor f:

- truncation of k-space, the way of MR: the low-resolution image is the fine one's trigonometric interpolant without the
  frequencies above n / 2, sampled at the pixels 0, f, 2 f, ... The first pixel's centre stays in place. For even n the
  frequencies n / 2 and -n / 2 of the fine image alias to one; they enter with weight 1/2 each, the real part of the
  plain crop of the centred spectrum, so that real images stay real;
- blur by a kernel, reflected at the border, and the mean over blocks of f pixels. The first pixel's centre moves by
  (f - 1) / 2 fine pixels.

For truncation A A^T is diagonal in the Fourier basis of the low-resolution image, with 1/f (1/2f at n / 2) for each
axis, and the formula of `monai_d3gm.consistency.base` has the closed form

    x = x0_hat + A^T (w / ((1 - w) + w A A^T)) (y - A x0_hat).

For blur it is solved by conjugate gradients.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_d3gm.consistency.base import MeasurementConsistency, PriorStd, check_finite, nearest_solution
from monai_d3gm.sde.device import per_image

__all__ = ["DownsamplingConsistency"]


class DownsamplingConsistency(MeasurementConsistency):
    """Corrects predicted images by measured ones of lower resolution.

    On magnitude images, photographs and images that the scanner interpolated the model holds approximately only:
    give `noise_std` > 0 there.

    Args:
        low_resolution: measured images y, real (B, C, h, w), in the images' scale.
        factor: f, fine pixels per measured pixel: an integer >= 1, or one for each axis (H, W). The images that are
            corrected have f h x f w pixels.
        kernel: blur before the mean over blocks, real (kh, kw) with odd sides, in fine pixels; a kernel of one pixel
            leaves the mean over blocks alone. None means truncation of k-space.
        noise_std: standard deviation of the measurement's noise; a float or (B,). With 0 the result has y as its
            low-resolution image: exactly by truncation, with ||A^T (A x - y)|| <= 1e-5 ||A^T y|| by a blur.
        prior_std: gamma, the standard deviation of x0 - x0_hat: a float, a function of time, or "residual", estimated
            for each image. None means 0.1 until `with_prior_std` binds a function.

    Raises:
        ValueError: shapes or dtypes that do not fit, values that are not finite, a factor below 1, or noise_std or
            prior_std out of range.

    Example:
        >>> from monai_d3gm.consistency import DownsamplingConsistency
        >>> consistency = DownsamplingConsistency(torch.rand(1, 1, 4, 4), factor=2)
        >>> restored = consistency(torch.rand(1, 1, 8, 8), 0.5)
        >>> torch.allclose(consistency.forward(restored), consistency.low_resolution, atol=1e-5)
        True
    """

    _per_image = ("low_resolution", "_back_projected")
    _shared = ("_operator",)

    def __init__(
        self,
        low_resolution: Tensor,
        factor: int | tuple[int, int],
        *,
        kernel: Tensor | None = None,
        noise_std: float | Tensor = 0.0,
        prior_std: float | PriorStd | str | None = None,
    ) -> None:
        low_resolution = low_resolution.as_subclass(Tensor)
        if not low_resolution.is_floating_point() or low_resolution.ndim != 4:
            raise ValueError(
                f"low_resolution is {low_resolution.dtype} {tuple(low_resolution.shape)}; accepted: real of shape "
                "(B, C, h, w)."
            )
        check_finite("low_resolution", low_resolution)
        factors = factor if isinstance(factor, (tuple, list)) else (factor, factor)
        if len(factors) != 2 or any(not isinstance(f, int) or f < 1 for f in factors):
            raise ValueError(f"factor is {factor}; accepted: an integer >= 1 or two of them.")
        super().__init__(len(low_resolution), noise_std, prior_std)
        self.low_resolution = low_resolution.to(torch.promote_types(low_resolution.dtype, torch.float32))
        shape = tuple(low_resolution.shape[-2:])
        self._operator: _Truncation | _BlurDecimation
        if kernel is None:
            self._operator = _Truncation(shape, factors, self.low_resolution)
        else:
            self._operator = _BlurDecimation(shape, factors, kernel.as_subclass(Tensor).to(self.low_resolution))
        self._back_projected = self._operator.adjoint(self.low_resolution)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, f h, f w)."""
        return tuple(self._back_projected.shape[1:])

    @property
    def gain(self) -> float:
        """tr(A A^T) / m; of a blur without what its reflection at the border changes."""
        return self._operator.gain

    def forward(self, x: Tensor) -> Tensor:
        """A x: images (B, C, f h, f w) to low-resolution images (B, C, h, w)."""
        return self._operator.forward(x)

    def adjoint(self, measurement: Tensor | None = None) -> Tensor:
        """A^T of low-resolution images, by default of the measured ones, as (B, C, f h, f w)."""
        return self._back_projected if measurement is None else self._operator.adjoint(measurement)

    def residual(self, x: Tensor) -> Tensor:
        """The root mean square of A x - y over the low-resolution pixels, (B,)."""
        return (self.forward(x) - self.low_resolution).square().flatten(1).mean(1).sqrt()

    def with_measurement(self, measurement: Tensor) -> DownsamplingConsistency:
        """The same operator and noise with other low-resolution images, (B, C, h, w)."""
        other = copy.copy(self)
        other.low_resolution = measurement
        other._back_projected = self._operator.adjoint(measurement)
        return other

    def _correct(self, x0_hat: Tensor, weight: Tensor) -> Tensor:
        image = x0_hat.to(torch.promote_types(x0_hat.dtype, self.low_resolution.dtype))
        if isinstance(self._operator, _Truncation):
            residual = self.low_resolution - self._operator.forward(image)
            return image + self._operator.adjoint(self._operator.regularised_inverse(residual, weight))
        operator = self._operator
        return nearest_solution(image, self._back_projected, lambda x: operator.adjoint(operator.forward(x)), weight)


class _Truncation:
    """Truncation of k-space as one real matrix for each axis; `like` gives the dtype and the device."""

    def __init__(self, shape: tuple[int, ...], factors: tuple[int, ...], like: Tensor) -> None:
        self._shape = shape
        rows, columns = (_truncation_matrix(n, f) for n, f in zip(shape, factors, strict=True))
        self._rows, self._columns = rows.to(like), columns.to(like)
        gain_rows, gain_columns = (_truncation_gain(n, f) for n, f in zip(shape, factors, strict=True))
        self._gain = (gain_rows[:, None] * gain_columns[None, : shape[1] // 2 + 1]).to(like)
        self.gain = float(gain_rows.mean() * gain_columns.mean())

    def to(self, device: torch.device | str) -> _Truncation:
        moved = copy.copy(self)
        moved._rows, moved._columns, moved._gain = (x.to(device) for x in (self._rows, self._columns, self._gain))
        return moved

    def forward(self, x: Tensor) -> Tensor:
        return self._rows.to(x.dtype) @ x @ self._columns.to(x.dtype).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self._rows.to(y.dtype).mT @ y @ self._columns.to(y.dtype)

    def regularised_inverse(self, y: Tensor, weight: Tensor) -> Tensor:
        """w ((1 - w) + w A A^T)^{-1} y."""
        fit, stay = (per_image(w, y) for w in (weight, 1 - weight))
        spectrum = torch.fft.rfft2(y) * (fit / (stay + fit * self._gain))
        return torch.fft.irfft2(spectrum, s=self._shape)


class _BlurDecimation:
    """Blur and the mean over blocks as one strided correlation of the image, reflected at its border."""

    def __init__(self, shape: tuple[int, ...], factors: tuple[int, ...], kernel: Tensor) -> None:
        if kernel.ndim != 2 or any(side % 2 == 0 for side in kernel.shape):
            raise ValueError(f"kernel has shape {tuple(kernel.shape)}; accepted: (kh, kw) with odd sides.")
        check_finite("kernel", kernel)
        self._margins = tuple(side // 2 for side in kernel.shape)
        fine = tuple(n * f for n, f in zip(shape, factors, strict=True))
        if any(margin >= n for margin, n in zip(self._margins, fine, strict=True)):
            raise ValueError(
                f"kernel has shape {tuple(kernel.shape)}; accepted: sides below twice those of the images, {fine}."
            )
        self._factors = factors
        mean = kernel.new_full((1, 1, *factors), 1 / math.prod(factors))
        self._kernel = F.conv_transpose2d(kernel.flip(0, 1)[None, None], mean)
        self.gain = float(self._kernel.square().sum())

    def to(self, device: torch.device | str) -> _BlurDecimation:
        moved = copy.copy(self)
        moved._kernel = self._kernel.to(device)
        return moved

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self._margins
        padded = F.pad(x.flatten(0, 1)[:, None], (columns, columns, rows, rows), mode="reflect")
        return F.conv2d(padded, self._kernel.to(x.dtype), stride=self._factors).reshape(*x.shape[:2], *self._low(x))

    def _low(self, x: Tensor) -> tuple[int, int]:
        return x.shape[-2] // self._factors[0], x.shape[-1] // self._factors[1]

    def adjoint(self, y: Tensor) -> Tensor:
        padded = F.conv_transpose2d(y.flatten(0, 1)[:, None], self._kernel.to(y.dtype), stride=self._factors)
        x = _unreflect(_unreflect(padded, -2, self._margins[0]), -1, self._margins[1])
        return x.reshape(*y.shape[:2], *x.shape[-2:])


def _truncation_matrix(n: int, factor: int) -> Tensor:
    """R[i, j] = (1/N) sum_k u_k cos(2 pi k (f i - j) / N) over |k| <= n / 2, u = 1/2 at |k| = n / 2; float64 (n, N)."""
    size = n * factor
    if factor == 1:
        return torch.eye(n, dtype=torch.float64)
    frequency = torch.arange(n // 2 + 1, dtype=torch.float64)
    multiplicity = torch.where((frequency == 0) | (frequency == n / 2), 1.0, 2.0)
    # Phases are reduced modulo N in integers, so that the cosines are accurate at any size.
    phase = (torch.arange(size)[:, None] * torch.arange(n // 2 + 1)) % size
    interpolant = (torch.cos(phase.double() * (2 * math.pi / size)) * multiplicity).sum(1) / size
    return interpolant[(factor * torch.arange(n)[:, None] - torch.arange(size)) % size]


def _truncation_gain(n: int, factor: int) -> Tensor:
    """Eigenvalues of R R^T in the Fourier basis of n points: 1/f, and 1/(2 f) at n / 2; float64 (n,)."""
    gain = torch.full((n,), 1 / factor, dtype=torch.float64)
    if n % 2 == 0 and factor > 1:
        gain[n // 2] /= 2
    return gain


def _unreflect(x: Tensor, dim: int, margin: int) -> Tensor:
    """Adjoint of reflection padding along an axis: the margins are folded back onto the pixels they came from."""
    size = x.shape[dim] - 2 * margin
    folded = x.narrow(dim, margin, size).clone()
    if margin:
        folded.narrow(dim, 1, margin).add_(x.narrow(dim, 0, margin).flip(dim))
        folded.narrow(dim, size - 1 - margin, margin).add_(x.narrow(dim, margin + size, margin).flip(dim))
    return folded
