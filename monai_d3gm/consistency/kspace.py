"""Consistency of MR images with measured k-space.

The measurement is y = M F S x + n: coil sensitivities S (1 for one coil), the centred orthonormal Fourier transform F
and the sampling mask M; n is complex Gaussian with standard deviation `noise_std` per real and imaginary part. With
w = gamma^2 / (gamma^2 + noise_std^2), the formula of `monai_d3gm.consistency.base` is

- for one coil, where F^H M F is a projection, x = x0_hat + w F^H M (y - F x0_hat): on the mask k-space is the weighted
  mean of measurement and prediction, elsewhere the prediction (Song et al., ICLR 2022; noise_std = 0 replaces it); a
  coil map of modulus 1, such as a phase reference, leaves A^H A a projection;
- for several coils the solution of ((1 - w) + w A^H A) d = w A^H (y - A x0_hat), by conjugate gradients (Pruessmann et
  al., MRM 46, 2001), x = x0_hat + d.

Centring is a modulation that commutes with M, so that the projections need no shifts; and an axis along which the mask
is constant needs no Fourier transform in them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from monai_d3gm.consistency.base import MeasurementConsistency, PriorStd, check_finite, nearest_solution
from monai_d3gm.consistency.fourier import channels_to_complex, complex_to_channels, fft2c, ifft2c
from monai_d3gm.sde.device import per_image

__all__ = ["KspaceConsistency"]


class KspaceConsistency(MeasurementConsistency):
    """Corrects predicted MR images by Cartesian k-space measurements.

    Args:
        kspace: measured k-space, complex (B, H, W) or, with sensitivity maps, (B, coils, H, W), centred, in the images'
            scale. Values outside the mask are ignored.
        mask: True where k-space was measured; boolean of shape (W,), (1 or H, W), (1 or B, 1 or H, W) or
            (1 or B, 1 or coils, 1 or H, W). Three axes are always batch, H, W.
        sensitivity_maps: complex (coils, H, W) or (1 or B, coils, H, W), sum of squares over the coils 1 where they
            are defined, less towards the air around the object; needed for four-dimensional k-space. See
            `estimate_maps`.
        noise_std: standard deviation of the noise per real and imaginary part; a float or (B,). With 0 the result has
            the measured k-space: exactly for one coil, in the least-squares sense for several, where the solution
            nearest the prediction is taken and ||A^H (A x - y)|| <= 1e-5 ||A^H y||.
        prior_std: gamma, the standard deviation of x0 - x0_hat: a float, a function of time, or "residual", estimated
            for each image. None means 0.1 until `with_prior_std` binds a function.

    Raises:
        ValueError: shapes or dtypes that do not fit, k-space or maps that are not finite, an image without any sample,
            or noise_std or prior_std out of range.

    Example:
        >>> from monai_d3gm.consistency import KspaceConsistency, channels_to_complex, fft2c
        >>> truth, prediction = torch.randn(1, 8, 8, dtype=torch.complex64), torch.randn(1, 2, 8, 8)
        >>> mask = torch.arange(8) % 2 == 0
        >>> consistency = KspaceConsistency(fft2c(truth), mask)
        >>> restored = fft2c(channels_to_complex(consistency(prediction, 0.5)))
        >>> torch.allclose(restored[..., mask], fft2c(truth)[..., mask], atol=1e-5)
        True
    """

    _per_image = ("kspace", "mask", "_pattern", "_zero_filled", "sensitivity_maps")

    def __init__(
        self,
        kspace: Tensor,
        mask: Tensor,
        sensitivity_maps: Tensor | None = None,
        noise_std: float | Tensor = 0.0,
        *,
        prior_std: float | PriorStd | str | None = None,
    ) -> None:
        kspace = kspace.as_subclass(Tensor)
        if not kspace.is_complex() or kspace.ndim != (3 if sensitivity_maps is None else 4):
            wanted = "(B, H, W), or (B, coils, H, W) with sensitivity_maps"
            raise ValueError(f"kspace is {kspace.dtype} {tuple(kspace.shape)}; accepted: complex of shape {wanted}.")
        check_finite("kspace", kspace)
        super().__init__(len(kspace), noise_std, prior_std)
        self.sensitivity_maps = (
            None if sensitivity_maps is None else _fit_maps(sensitivity_maps.as_subclass(Tensor), kspace)
        )
        maps = self.sensitivity_maps
        # one coil without attenuation, which has a phase reference at most: A^H A is a projection
        self._projects = maps is None or (
            maps.shape[1] == 1 and torch.allclose(maps.abs(), torch.ones_like(maps.real), rtol=0, atol=1e-6)
        )
        self.mask = _fit_mask(mask.as_subclass(Tensor), tuple(kspace.shape)).to(kspace.device)
        varies = [dim for dim in (-2, -1) if not bool((self.mask == self.mask.narrow(dim, 0, 1)).all())] or [-1]
        self._axes = tuple(varies)
        pattern = self.mask
        for dim in {-2, -1} - set(varies):
            pattern = pattern.narrow(dim, 0, 1)
        self._pattern = torch.fft.ifftshift(pattern, dim=self._axes).to(kspace.real.dtype)
        self.kspace = kspace * self.mask
        self._zero_filled = self._adjoint(kspace)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(2, H, W)."""
        return (2, *self._zero_filled.shape[-2:])

    @property
    def gain(self) -> float | Tensor:
        """tr(A A^H) / m of each image: the mean over coils and pixels of |S|^2, and 1 without maps."""
        if self.sensitivity_maps is None:
            return 1.0
        return self.sensitivity_maps.abs().square().flatten(1).mean(1, dtype=torch.float64).cpu()

    def forward(self, x: Tensor) -> Tensor:
        """A x = M F S x: images (B, 2, H, W) to k-space, complex (B, H, W) or (B, coils, H, W), zero off the mask."""
        image = channels_to_complex(x)
        if self.sensitivity_maps is not None:
            image = self.sensitivity_maps * image[:, None]
        return fft2c(image) * self.mask

    def adjoint(self, measurement: Tensor | None = None) -> Tensor:
        """A^H k = S^H F^H M k as (B, 2, H, W); of the measurement itself, the zero-filled image, when none is given."""
        return complex_to_channels(self._zero_filled if measurement is None else self._adjoint(measurement))

    def residual(self, x: Tensor) -> Tensor:
        """The root mean square of A x - y over the real and imaginary parts of the samples, (B,)."""
        difference = torch.view_as_real(self.forward(x) - self.kspace)
        sampled = 2 * self.mask.expand(self.kspace.shape).flatten(1).sum(1)
        return (difference.square().flatten(1).sum(1) / sampled).sqrt()

    def with_measurement(self, measurement: Tensor) -> KspaceConsistency:
        """The same mask, maps and noise with other k-space, complex (B, H, W) or (B, coils, H, W)."""
        other = copy.copy(self)
        other.kspace = measurement * self.mask
        other._zero_filled = self._adjoint(measurement)
        return other

    def _adjoint(self, kspace: Tensor) -> Tensor:
        image = ifft2c(kspace * self.mask)
        return image if self.sensitivity_maps is None else (self.sensitivity_maps.conj() * image).sum(1)

    def _normal(self, image: Tensor) -> Tensor:
        """A^H A."""
        if self.sensitivity_maps is None:
            return self._project(image)
        return (self.sensitivity_maps.conj() * self._project(self.sensitivity_maps * image[:, None])).sum(1)

    def _project(self, image: Tensor) -> Tensor:
        """F^H M F, without the shifts and axes on which it does not depend."""
        spectrum = torch.fft.fftn(image, dim=self._axes, norm="ortho")
        return torch.fft.ifftn(spectrum * self._pattern, dim=self._axes, norm="ortho")

    def _correct(self, x0_hat: Tensor, weight: Tensor) -> Tensor:
        image = channels_to_complex(x0_hat.to(torch.promote_types(x0_hat.dtype, self._pattern.dtype)))
        if not self._projects:
            return complex_to_channels(nearest_solution(image, self._zero_filled, self._normal, weight))
        change = self._zero_filled - self._normal(image)
        return complex_to_channels(image + per_image(weight, change.real) * change)


def _fit_maps(maps: Tensor, kspace: Tensor) -> Tensor:
    """The maps as (1 or B, coils, H, W), checked."""
    fitted = maps[None] if maps.ndim == 3 else maps
    if not maps.is_complex() or fitted.shape[1:] != kspace.shape[1:] or len(fitted) not in (1, len(kspace)):
        raise ValueError(
            f"sensitivity_maps is {maps.dtype} {tuple(maps.shape)}; accepted: complex of shape {tuple(kspace.shape)}, "
            f"{(1, *kspace.shape[1:])} or {tuple(kspace.shape[1:])}."
        )
    check_finite("sensitivity_maps", fitted)
    return fitted.to(kspace.device)


def _fit_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask with k-space's number of axes, each of k-space's length or 1, checked."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask is {mask.dtype}; accepted: boolean.")
    fitted = mask
    if len(shape) == 3 and mask.ndim == 4 and mask.shape[1] == 1:
        fitted = mask[:, 0]
    elif len(shape) == 4 and mask.ndim == 3:
        fitted = mask[:, None]
    fitted = fitted.reshape(*(1,) * (len(shape) - fitted.ndim), *fitted.shape)
    if (
        mask.ndim == 0
        or fitted.ndim != len(shape)
        or any(m not in (1, n) for m, n in zip(fitted.shape, shape, strict=True))
    ):
        raise ValueError(f"mask has shape {tuple(mask.shape)}; accepted: broadcastable to kspace, {shape}.")
    empty = (~fitted.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"mask samples no point of the batch elements {empty}; accepted: at least one of each image.")
    return fitted
