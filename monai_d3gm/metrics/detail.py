"""Measures of detail that need no trained weights: HFEN, GMSD and the ratio of radial power spectra.

PSNR rewards a blurred image; these three say whether edges and texture are there. Each is taken slice by slice on
magnitude images and averaged over the slices (protocol ``slice``, region ``whole``; a slice whose reference is zero
everywhere is left out).

- HFEN, the high-frequency error norm: Ravishankar and Bresler, "MR image reconstruction from highly undersampled
  k-space data by dictionary learning", IEEE TMI 30(5), 2011, with the norm taken relative to the reference's.
- GMSD, the gradient magnitude similarity deviation: Xue, Zhang, Mou and Bovik, "Gradient magnitude similarity
  deviation: a highly efficient perceptual image quality index", IEEE TIP 23(2), 2014, arXiv 1308.3052.
- The ratio of radial power spectra in dB: negative where the prediction lacks power (too smooth), positive where it
  has too much (noise, artefacts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from monai_d3gm.metrics.arrays import as_slices, image_pair

__all__ = ["SpectrumRatio", "evaluate_detail", "gmsd", "hfen", "radial_power_spectrum", "spectrum_ratio_db"]

LOG_SIZE = 15
LOG_SIGMA = 1.5
GMSD_CONSTANT = 170.0 / 255.0**2  # 170 for images on 0..255
POWER_FLOOR = 1e-10  # of the reference's mean power: -100 dB


def hfen(prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor) -> float:
    """Take the high-frequency error norm, relative to the reference.

    With L the Laplacian of Gaussian of 15 x 15 pixels and standard deviation 1.5 (the taps sum to 0; the image is
    continued by its border values)::

        HFEN = ||L * prediction - L * reference||_2 / ||L * reference||_2

    Args:
        prediction: magnitude, (H, W) or (S, H, W).
        reference: the truth, of the same shape and in the same unit.

    Returns:
        0 for equal images (or images that differ by a constant), 1 for a prediction without edges; the mean over the
        slices.

    Raises:
        ValueError: for shapes that differ, complex or non-finite values, or a reference without a positive value or
            without an edge.

    Example:
        >>> reference = np.zeros((32, 32))
        >>> reference[8:24, 8:24] = 1.0
        >>> round(hfen(0.5 * reference, reference), 6)
        0.5
    """
    return _mean_over_slices(_hfen, prediction, reference)


def gmsd(prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor) -> float:
    """Take the gradient magnitude similarity deviation.

    Both images are divided by the maximum of the reference slice, averaged over blocks of 2 x 2, and their gradient
    magnitudes m taken with the Prewitt filter (taps 1/3, zeros beyond the border). With c = 170 / 255^2::

        GMS  = (2 m_p m_r + c) / (m_p^2 + m_r^2 + c)        at every pixel
        GMSD = standard deviation of GMS over the pixels    (divided by their number)

    Args:
        prediction: magnitude, (H, W) or (S, H, W).
        reference: the truth, of the same shape and in the same unit.

    Returns:
        0 for equal images, larger for worse ones, below 0.5; the mean over the slices.

    Raises:
        ValueError: for shapes that differ, complex or non-finite values, or a reference without a positive value.

    Example:
        >>> reference = np.zeros((32, 32))
        >>> reference[8:24, 8:24] = 1.0
        >>> gmsd(reference, reference)
        0.0
    """
    return _mean_over_slices(_gmsd, prediction, reference)


def radial_power_spectrum(
    image: ArrayLike | torch.Tensor, bands: int = 16
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average the power of an image's orthonormal Fourier transform over rings of spatial frequency.

    Ring k of n holds the frequencies of length [k, k + 1) / (2 n) cycles per pixel, so that the rings reach the
    Nyquist frequency 0.5; the corners beyond it are left out. The first ring holds the mean of the image.

    Args:
        image: magnitude, (H, W), or (S, H, W) for the average over the slices.
        bands: the number of rings n, 1 up to half the shorter side.

    Returns:
        The rings' central frequencies in cycles per pixel and their mean power, each of shape (bands,).

    Raises:
        ValueError: for a complex or non-finite image, or more rings than half the shorter side.

    Example:
        >>> frequencies, power = radial_power_spectrum(np.ones((8, 8)), bands=2)
        >>> frequencies.tolist(), bool(power[1] < 1e-12 < power[0])
        ([0.125, 0.375], True)
    """
    slices = as_slices(image)
    height, width = slices.shape[1:]
    if not 1 <= bands <= min(height, width) // 2:
        raise ValueError(f"bands is {bands}; accepted for {height} x {width} pixels: 1 to {min(height, width) // 2}.")
    power = (np.abs(np.fft.fft2(slices, norm="ortho")) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    ring = np.floor(2 * bands * radius + 1e-9).astype(np.int64)  # a frequency on a boundary is in the outer ring
    inside = ring < bands
    total = np.bincount(ring[inside], weights=power[inside], minlength=bands)
    return (np.arange(bands) + 0.5) / (2 * bands), total / np.bincount(ring[inside], minlength=bands)


@dataclass(frozen=True)
class SpectrumRatio:
    """The ratio of two radial power spectra.

    Attributes:
        frequencies: the rings' central frequencies in cycles per pixel, shape (bands,).
        ratio_db: 10 log10(prediction / reference) in every ring, in dB, shape (bands,).

    Example:
        >>> ratio = SpectrumRatio(np.array([0.125, 0.375]), np.array([0.0, -3.0]))
        >>> ratio.mean_db, ratio.max_abs_db
        (-1.5, 3.0)
    """

    frequencies: NDArray[np.float64]
    ratio_db: NDArray[np.float64]

    @property
    def mean_db(self) -> float:
        """The mean of the ratio over the rings: negative for a prediction that is too smooth."""
        return float(self.ratio_db.mean())

    @property
    def max_abs_db(self) -> float:
        """The largest deviation from 0 dB in any ring."""
        return float(np.abs(self.ratio_db).max())


def spectrum_ratio_db(
    prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor, bands: int = 16
) -> SpectrumRatio:
    """Compare the radial power spectra of a prediction and its reference.

    A floor of 1e-10 of the reference's mean power is added to both, so that rings that hold nothing (interpolated
    images) compare as equal.

    Args:
        prediction: magnitude, (H, W) or (S, H, W); spectra are averaged over the slices before the ratio.
        reference: the truth, of the same shape and in the same unit.
        bands: the number of rings, see :func:`radial_power_spectrum`.

    Returns:
        The ratio in dB for every ring, with its mean and its largest absolute value.

    Raises:
        ValueError: where :func:`radial_power_spectrum` raises, for shapes that differ, or a reference without a
            positive value.

    Example:
        >>> reference = np.random.default_rng(0).random((16, 16))
        >>> ratio = spectrum_ratio_db(0.1 * reference, reference, bands=4)
        >>> round(ratio.mean_db, 3), round(ratio.max_abs_db, 3)
        (-20.0, 20.0)
    """
    predicted, truth = image_pair(prediction, reference)
    frequencies, numerator = radial_power_spectrum(predicted, bands)
    _, denominator = radial_power_spectrum(truth, bands)
    floor = POWER_FLOOR * np.mean(truth**2)
    return SpectrumRatio(frequencies, 10 * np.log10((numerator + floor) / (denominator + floor)))


def evaluate_detail(prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor) -> dict[str, float]:
    """Take all measures of detail, named like the figures of :func:`monai_d3gm.metrics.image.evaluate_images`.

    Args:
        prediction: magnitude, (H, W) or (S, H, W), each side at least 32 pixels.
        reference: the truth, of the same shape and in the same unit.

    Returns:
        ``hfen/slice/whole``, ``gmsd/slice/whole``, and in dB ``spectrum_mean_db/slice/whole`` and
        ``spectrum_max_abs_db/slice/whole``.

    Raises:
        ValueError: where :func:`hfen`, :func:`gmsd` and :func:`spectrum_ratio_db` raise.

    Example:
        >>> reference = np.random.default_rng(0).random((32, 32))
        >>> figures = evaluate_detail(reference, reference)
        >>> figures["hfen/slice/whole"], figures["spectrum_max_abs_db/slice/whole"]
        (0.0, 0.0)
    """
    figures = {
        "hfen": hfen(prediction, reference),
        "gmsd": gmsd(prediction, reference),
        "spectrum_mean_db": _mean_over_slices(_spectrum_mean_db, prediction, reference),
        "spectrum_max_abs_db": _mean_over_slices(_spectrum_max_abs_db, prediction, reference),
    }
    return {f"{name}/slice/whole": value for name, value in figures.items()}


def _mean_over_slices(
    measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
    prediction: ArrayLike | torch.Tensor,
    reference: ArrayLike | torch.Tensor,
) -> float:
    """Average a measure of one slice over the slices whose reference is not zero everywhere."""
    predicted, truth = image_pair(prediction, reference)
    return float(np.mean([measure(p, r) for p, r in zip(predicted, truth, strict=True) if r.max() > 0]))


def _hfen(prediction: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Take the relative high-frequency error norm of one slice."""
    kernel = _log_kernel()
    norm = float(np.linalg.norm(ndimage.convolve(reference, kernel, mode="nearest")))
    if norm <= 1e-12 * float(np.linalg.norm(reference)):
        raise ValueError(
            "reference has no edge: its Laplacian of Gaussian is 0 everywhere; accepted by HFEN: an image with edges."
        )
    return float(np.linalg.norm(ndimage.convolve(prediction - reference, kernel, mode="nearest"))) / norm


def _log_kernel() -> NDArray[np.float64]:
    """Sample the Laplacian of Gaussian, less its mean so that the taps sum to 0 (MATLAB's fspecial('log', 15, 1.5))."""
    offset = np.arange(LOG_SIZE) - LOG_SIZE // 2
    square = offset[:, None] ** 2 + offset[None, :] ** 2
    gauss = np.exp(-square / (2 * LOG_SIGMA**2))
    kernel = gauss / gauss.sum() * (square - 2 * LOG_SIGMA**2) / LOG_SIGMA**4
    return np.asarray(kernel - kernel.mean(), dtype=np.float64)


def _gmsd(prediction: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Take the gradient magnitude similarity deviation of one slice."""
    scale = float(reference.max())
    m_p, m_r = _gradient_magnitude(prediction / scale), _gradient_magnitude(reference / scale)
    similarity = (2 * m_p * m_r + GMSD_CONSTANT) / (m_p**2 + m_r**2 + GMSD_CONSTANT)
    return float(similarity.std())


def _gradient_magnitude(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Halve the resolution by block means and take the Prewitt gradient's magnitude."""
    height, width = image.shape
    even = np.pad(image, ((0, height % 2), (0, width % 2)))
    half = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    rows, columns = (ndimage.prewitt(half, axis=axis, mode="constant") / 3 for axis in (0, 1))
    return np.asarray(np.hypot(rows, columns), dtype=np.float64)


def _spectrum_mean_db(prediction: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Average a slice's ratio of spectra over the rings."""
    return spectrum_ratio_db(prediction, reference).mean_db


def _spectrum_max_abs_db(prediction: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Take the largest deviation of a slice's ratio of spectra from 0 dB."""
    return spectrum_ratio_db(prediction, reference).max_abs_db
