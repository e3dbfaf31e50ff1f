"""The Fourier transform of MR data, and complex images as two real channels.

The transforms are centred (zero frequency and image origin at index N // 2) and orthonormal, the convention of
`fastmri.fft2c`: X[k] = N^{-1/2} sum_j x[j] exp(-2 pi i (j - N//2)(k - N//2) / N) along each axis. Being unitary, their
adjoint is their inverse and they preserve norms and noise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fft import fft, fft2, fftshift, ifft, ifft2, ifftshift

__all__ = ["channels_to_complex", "complex_to_channels", "fft1c", "fft2c", "ifft1c", "ifft2c"]

_PLANE = (-2, -1)


def fft2c(x: Tensor) -> Tensor:
    """Centred orthonormal Fourier transform over the last two axes.

    Args:
        x: image, complex (..., H, W).

    Returns:
        k-space, complex (..., H, W), zero frequency at (H // 2, W // 2).

    Example:
        >>> impulse = torch.zeros(4, 4, dtype=torch.complex64)
        >>> impulse[2, 2] = 1
        >>> torch.allclose(fft2c(impulse), torch.full((4, 4), 0.25 + 0j))
        True
    """
    return fftshift(fft2(ifftshift(x, dim=_PLANE), norm="ortho"), dim=_PLANE)


def ifft2c(x: Tensor) -> Tensor:
    """Inverse, and adjoint, of `fft2c`.

    Example:
        >>> x = torch.arange(15.0).reshape(3, 5).to(torch.complex64)
        >>> torch.allclose(ifft2c(fft2c(x)), x, atol=1e-5)
        True
    """
    return fftshift(ifft2(ifftshift(x, dim=_PLANE), norm="ortho"), dim=_PLANE)


def fft1c(x: Tensor, dim: int = -1) -> Tensor:
    """Centred orthonormal Fourier transform along one axis.

    `fft2c` is `fft1c` along the last axis and then along the one before it; data transformed along one axis only are
    in hybrid space, where a mask constant along the other axis separates into independent lines.

    Example:
        >>> x = torch.arange(15.0).reshape(3, 5).to(torch.complex64)
        >>> torch.allclose(fft1c(fft1c(x, dim=-1), dim=-2), fft2c(x), atol=1e-5)
        True
    """
    return fftshift(fft(ifftshift(x, dim=dim), dim=dim, norm="ortho"), dim=dim)


def ifft1c(x: Tensor, dim: int = -1) -> Tensor:
    """Inverse, and adjoint, of `fft1c`.

    Example:
        >>> x = torch.arange(15.0).reshape(3, 5).to(torch.complex64)
        >>> torch.allclose(ifft1c(fft1c(x, dim=0), dim=0), x, atol=1e-5)
        True
    """
    return fftshift(ifft(ifftshift(x, dim=dim), dim=dim, norm="ortho"), dim=dim)


def complex_to_channels(x: Tensor) -> Tensor:
    """Complex image (..., H, W) as real channels (..., 2, H, W): real part, imaginary part.

    Example:
        >>> complex_to_channels(torch.tensor([[1 + 2j]])).tolist()
        [[[1.0]], [[2.0]]]
    """
    return torch.stack((x.real, x.imag), dim=-3)


def channels_to_complex(x: Tensor) -> Tensor:
    """Real channels (..., 2, H, W) as a complex image (..., H, W); inverse of `complex_to_channels`.

    Raises:
        ValueError: the third axis from the end is not of length 2.

    Example:
        >>> channels_to_complex(torch.tensor([[[1.0]], [[2.0]]])).tolist()
        [[(1+2j)]]
    """
    if x.ndim < 3 or x.shape[-3] != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; accepted: (..., 2, H, W) with channels (real, imaginary).")
    return torch.complex(x[..., 0, :, :], x[..., 1, :, :])
