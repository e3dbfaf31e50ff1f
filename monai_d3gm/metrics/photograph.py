"""PSNR and SSIM of colour photographs, on RGB and on the luma of BT.601, as deraining and dehazing papers give them.

The data range is 1, the range of the values. PSNR on RGB takes the error over all pixels and channels, SSIM the mean of
the three channels. Luma is Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255 of values in [0, 1] (ITU-R BT.601, studio
range, MATLAB's ``rgb2ycbcr``). SSIM is that of Wang et al. 2004: Gaussian window of standard deviation 1.5 on 11 x 11
pixels, K1 = 0.01, K2 = 0.03, population covariance; the mean of its map less a border of 5 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import structural_similarity

from monai_d3gm.metrics.detail import evaluate_detail

__all__ = ["COLOUR_PROTOCOLS", "evaluate_photograph", "luma", "photograph_detail", "psnr"]

COLOUR_PROTOCOLS = ("rgb", "y")

_WINDOW = 11


def luma(image: ArrayLike) -> NDArray[np.float32]:
    """Y of BT.601 in studio range, float32 (H, W) from 16/255 to 235/255, of RGB (H, W, 3) in [0, 1].

    Example:
        >>> (luma(np.array([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])) * 255).round(2).tolist()
        [[16.0, 235.0]]
    """
    weights = np.array([65.481, 128.553, 24.966], dtype=np.float32) / np.float32(255)
    return np.asarray(image, dtype=np.float32) @ weights + np.float32(16 / 255)


def psnr(prediction: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """-10 log10 of the mean squared error over all values, in dB; infinite for equal images.

    Example:
        >>> round(psnr(np.full((2, 2), 0.1, np.float32), np.zeros((2, 2), np.float32)), 4)
        20.0
    """
    error = float(np.mean(np.square(prediction - reference), dtype=np.float64))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def evaluate_photograph(prediction: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """Take PSNR and SSIM on RGB and on Y over the whole photograph, with the data range 1.

    Args:
        prediction: (H, W, 3) in [0, 1], each side at least 11 pixels.
        reference: the truth, of the same shape.

    Returns:
        ``psnr/rgb/whole``, ``ssim/rgb/whole``, ``psnr/y/whole``, ``ssim/y/whole``; PSNR in dB, infinite where the
        images are equal.

    Raises:
        ValueError: the shapes differ or are not accepted, or a value is not finite.

    Example:
        >>> reference = np.full((16, 16, 3), 0.5)
        >>> round(evaluate_photograph(reference + 0.1, reference)["psnr/rgb/whole"], 6)
        20.0
    """
    predicted, truth = (np.asarray(image, dtype=np.float32) for image in (prediction, reference))
    if truth.ndim != 3 or truth.shape[2] != 3 or min(truth.shape[:2]) < _WINDOW:
        raise ValueError(f"reference has shape {truth.shape}; accepted: (H, W, 3) of {_WINDOW} x {_WINDOW} pixels up.")
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape}; accepted: that of reference, {truth.shape}.")
    for name, image in (("prediction", predicted), ("reference", truth)):
        if not np.isfinite(image).all():
            raise ValueError(f"{name} holds NaN or infinity; accepted: finite values.")
    planes = {"rgb": (predicted, truth), "y": (luma(predicted)[..., None], luma(truth)[..., None])}
    figures: dict[str, float] = {}
    for protocol in COLOUR_PROTOCOLS:
        p, t = planes[protocol]
        figures[f"psnr/{protocol}/whole"] = psnr(p, t)
        figures[f"ssim/{protocol}/whole"] = float(np.mean([_ssim(p[..., c], t[..., c]) for c in range(p.shape[2])]))
    return figures


def photograph_detail(prediction: ArrayLike, reference: ArrayLike) -> dict[str, float]:
    """HFEN, GMSD and the ratio of power spectra of Y: `evaluate_detail` under the names ``measure/y/whole``.

    Args:
        prediction: (H, W, 3) in [0, 1], each side at least 32 pixels.
        reference: the truth, of the same shape.

    Raises:
        ValueError: where `evaluate_detail` raises.

    Example:
        >>> photograph = np.random.default_rng(0).random((32, 32, 3))
        >>> photograph_detail(photograph, photograph)["gmsd/y/whole"]
        0.0
    """
    figures = evaluate_detail(luma(prediction), luma(reference))
    return {name.replace("/slice/", "/y/"): value for name, value in figures.items()}


def _ssim(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(
        structural_similarity(
            truth, prediction, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )
