"""PSNR, SSIM and NMSE of magnitude images, each under a named protocol and inside a named region.

A figure depends on the data range, on how slices are combined and on how much empty background is counted, so each is
returned under the name ``measure/protocol/region``.

Protocols:

- ``slice``: every slice is judged alone, its data range is the maximum of its reference, and the figures are averaged
  over slices. A slice whose reference is zero everywhere has no data range and is left out.
- ``volume``: the protocol of fastMRI (``fastmri.evaluate``; Zbontar et al., "fastMRI: An Open Dataset and Benchmarks
  for Accelerated MRI", arXiv 1811.08839). The data range is the maximum of the reference volume; PSNR and NMSE take
  the error over the whole volume; SSIM is averaged over all slices.

Regions: ``whole``, and ``foreground``, the pixels of :func:`foreground_mask` of the reference. A background that is
exactly zero inflates PSNR and SSIM over the whole image.

With the error e = prediction - reference over the region, the data range R and the reference y::

    PSNR = 10 log10(R^2 / mean(e^2))      in dB, infinite for equal images
    NMSE = sum(e^2) / sum(y^2)
    SSIM = Wang et al. 2004, 7 x 7 uniform window, K1 = 0.01, K2 = 0.03, sample covariance

Inside the foreground both sums and the mean run over the mask alone, the data range stays that of the whole image.
SSIM is scikit-image's, with the parameters of fastMRI. Over the whole image it is the mean of the SSIM map less a
border of 3 pixels; inside the foreground it is the mean of the map over the mask.
"""

from __future__ import annotations

import fastmri.evaluate
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.metrics import structural_similarity

from monai_d3gm.metrics.arrays import as_slices, image_pair

__all__ = ["PROTOCOLS", "evaluate_images", "foreground_mask"]

PROTOCOLS = ("slice", "volume")

OTSU_FRACTION = 0.5
MEDIAN_SIZE = 5
CLOSING_RADIUS = 3
SMALLEST_REGION = 0.02
SSIM_WINDOW = 7


def foreground_mask(reference: ArrayLike | torch.Tensor) -> NDArray[np.bool_]:
    """Find the object in a magnitude image: background 0 of skull-stripped data and noisy air are both outside.

    The rule, with one threshold for the whole array and the rest slice by slice in two dimensions:

    1. smooth every slice with a 5 x 5 median, which lowers the tail of the noise in air;
    2. threshold at half of Otsu's threshold of the values clipped at their 99.5th percentile (half: dark tissue and
       fluid stay inside, and on brain images air stays outside down to an SNR of 5);
    3. close gaps with a disk of radius 3 pixels and fill holes;
    4. drop connected regions smaller than 2 % of the largest in the slice.

    Args:
        reference: magnitude, (H, W) or (S, H, W).

    Returns:
        The mask, of the reference's shape; empty where the reference is zero everywhere.

    Raises:
        ValueError: for a complex, non-finite or empty reference, or one of another number of dimensions.

    Example:
        >>> image = np.zeros((32, 32))
        >>> image[8:24, 8:24] = 1.0
        >>> image[14:18, 14:18] = 0.0  # a dark hole inside the object belongs to it
        >>> int(foreground_mask(image).sum())
        244
    """
    slices = as_slices(reference, "reference")
    smooth = ndimage.median_filter(slices, size=(1, MEDIAN_SIZE, MEDIAN_SIZE))
    threshold = OTSU_FRACTION * threshold_otsu(np.minimum(smooth, np.percentile(smooth, 99.5)))
    mask = np.stack([_solid(image) for image in smooth > threshold])
    return mask.reshape(np.shape(reference))


def _solid(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Close gaps, fill holes and drop specks of one slice's mask."""
    rows, columns = np.ogrid[-CLOSING_RADIUS : CLOSING_RADIUS + 1, -CLOSING_RADIUS : CLOSING_RADIUS + 1]
    disk = rows**2 + columns**2 <= CLOSING_RADIUS**2
    padded = np.pad(mask, CLOSING_RADIUS)  # else the erosion of the closing eats the object at the image's border
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, disk))
    filled = filled[CLOSING_RADIUS:-CLOSING_RADIUS, CLOSING_RADIUS:-CLOSING_RADIUS]
    labels, _ = ndimage.label(filled)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(1.0, SMALLEST_REGION * sizes.max())
    return np.asarray(kept[labels], dtype=np.bool_)


def evaluate_images(
    prediction: ArrayLike | torch.Tensor, reference: ArrayLike | torch.Tensor, protocol: str = "slice"
) -> dict[str, float]:
    """Take PSNR, SSIM and NMSE over the whole image and inside the reference's foreground.

    Args:
        prediction: magnitude, (H, W) or (S, H, W), each side at least 7 pixels.
        reference: the truth, of the same shape and in the same unit.
        protocol: ``slice`` or ``volume``, see the module's description.

    Returns:
        Six figures, named measure (``psnr``, ``ssim``, ``nmse``), protocol and region (``whole``, ``foreground``) as in
        ``psnr/slice/whole``. PSNR is in dB and infinite where the images are equal; SSIM is at most 1; NMSE is at
        least 0. Where the reference's object is too small for a foreground, the foreground's figures are absent.

    Raises:
        ValueError: for an unknown protocol, shapes that differ or are too small for SSIM's window, complex or
            non-finite values, or a reference without a positive value.

    Example:
        >>> reference = np.zeros((32, 32))
        >>> reference[8:24, 8:24] = 1.0
        >>> figures = evaluate_images(reference + 0.1, reference)
        >>> round(figures["psnr/slice/whole"], 6), round(figures["nmse/slice/foreground"], 6)
        (20.0, 0.01)
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; accepted: one of {', '.join(PROTOCOLS)}.")
    predicted, truth = image_pair(prediction, reference)
    if min(truth.shape[1:]) < SSIM_WINDOW:
        raise ValueError(f"reference has shape {truth.shape}; accepted: slices of {SSIM_WINDOW} x {SSIM_WINDOW} up.")
    if protocol == "volume":
        each = [_figures(predicted, truth)]
    else:
        each = [_figures(predicted[i : i + 1], truth[i : i + 1]) for i in range(len(truth)) if truth[i].max() > 0]
    return {
        f"{measure}/{protocol}/{region}": float(np.mean([one[region][measure] for one in each if region in one]))
        for region in ("whole", "foreground")
        if any(region in one for one in each)
        for measure in ("psnr", "ssim", "nmse")
    }


def _figures(prediction: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Take all figures of a stack as one, with its maximum as the data range, by region and measure."""
    data_range = float(truth.max())
    maps = [
        structural_similarity(t, p, data_range=data_range, win_size=SSIM_WINDOW, full=True)
        for t, p in zip(truth, prediction, strict=True)
    ]
    figures = {
        "whole": {
            "psnr": _psnr(prediction, truth, data_range),
            "ssim": float(np.mean([mean for mean, _ in maps])),
            "nmse": float(fastmri.evaluate.nmse(truth, prediction)),
        }
    }
    mask = foreground_mask(truth)
    if mask.any():
        inside = [ssim_map[m].mean() for (_, ssim_map), m in zip(maps, mask, strict=True) if m.any()]
        figures["foreground"] = {
            "psnr": _psnr(prediction[mask], truth[mask], data_range),
            "ssim": float(np.mean(inside)),
            "nmse": float(fastmri.evaluate.nmse(truth[mask], prediction[mask])),
        }
    return figures


def _psnr(prediction: NDArray[np.float64], truth: NDArray[np.float64], data_range: float) -> float:
    """Take fastMRI's PSNR; infinite for equal images, where the library's would warn of a division by zero."""
    if np.array_equal(prediction, truth):
        return float("inf")
    return float(fastmri.evaluate.psnr(truth, prediction, maxval=data_range))
