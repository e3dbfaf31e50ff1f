"""The resolution a scanner's image was acquired at, which its rows and columns do not tell.

Scanners zero-fill k-space to a larger matrix. AcquisitionMatrix (0018,1310) of a classic image, and the encoding steps
(0018,9058) and (0018,9231) of an enhanced one, are the numbers before that (PS3.3 C.8.3.1, C.8.13.5.12).
"""

from __future__ import annotations

import numpy as np

from monai_d3gm.data.formats.dicom.headers import FrameHeader

_REFORMATTED = frozenset({"MPR", "CSA MPR", "MIP", "PROJECTION IMAGE", "RESAMPLED", "CSA RESAMPLED", "REFORMATTED"})


def acquired_fraction(header: FrameHeader, shape: tuple[int, int]) -> tuple[float, float]:
    """Return the share of the band that was acquired along a row (axis 0) and along a column (axis 1).

    Where the image is wider along the phase encoding than PercentPhaseFieldOfView says, it was padded with nothing
    there, and the encodings are spread over the encoded part alone.

    PercentSampling is taken into account for 2-D scans without partial Fourier: of 3-D scans and with partial Fourier
    it counts lines whose absence does not lower the resolution. Some scanners have already multiplied the number of
    phase encodings by it; of the two readings the one nearer to the stated phase field of view is taken.

    Args:
        header: of a frame.
        shape: number of columns and of rows.

    Returns:
        Two numbers above 0, at most 1; (1.0, 1.0) where the header does not say, and for reformatted images, whose axes
        are not those of the acquisition.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.AcquisitionMatrix, dataset.InPlanePhaseEncodingDirection = [256, 0, 0, 192], "COL"
        >>> acquired_fraction(FrameHeader(dataset), (512, 512))
        (0.5, 0.375)
    """
    encodings = _encodings(header)
    if encodings is None or _REFORMATTED.intersection(np.atleast_1d(header.get("ImageType", "")).tolist()):
        return 1.0, 1.0
    frequency, phase, phase_axis = encodings
    row_spacing, column_spacing = header.floats("PixelSpacing", 2) or (1.0, 1.0)
    fields = (shape[0] * column_spacing, shape[1] * row_spacing)
    encoded = _percent(header, "PercentPhaseFieldOfView")
    if encoded < 1:
        encoded = min(1.0, encoded * fields[1 - phase_axis] / fields[phase_axis])
    fractions = [0.0, 0.0]
    fractions[1 - phase_axis] = min(1.0, frequency / shape[1 - phase_axis])
    fractions[phase_axis] = min(1.0, phase * _sampled(header, frequency, phase) / (shape[phase_axis] * encoded))
    return fractions[0], fractions[1]


def _percent(header: FrameHeader, keyword: str) -> float:
    """A percentage as a share; 1 where it is missing or out of range."""
    percent = header.number(keyword, 100.0)
    return percent / 100 if 0 < percent < 100 else 1.0


def _encodings(header: FrameHeader) -> tuple[float, float, int] | None:
    """Numbers of frequency and phase encodings, and the axis of the latter: 0 along a row, 1 along a column."""
    direction = str(header.get("InPlanePhaseEncodingDirection", ""))
    axis = {"ROW": 0, "COL": 1, "COLUMN": 1}.get(direction)
    matrix = header.floats("AcquisitionMatrix", 4)  # frequency rows, frequency columns, phase rows, phase columns
    if matrix is not None:
        frequency, phase = max(matrix[:2]), max(matrix[2:])
        axis = (0 if matrix[2] > 0 else 1) if axis is None else axis
    else:
        frequency = header.number("MRAcquisitionFrequencyEncodingSteps")
        phase = header.number("MRAcquisitionPhaseEncodingStepsInPlane")
    return (frequency, phase, axis) if frequency > 0 and phase > 0 and axis is not None else None


def _sampled(header: FrameHeader, frequency: float, phase: float) -> float:
    """The factor by which PercentSampling lowers the number of phase encodings further."""
    sampling = _percent(header, "PercentSampling")
    partial = header.get("PartialFourier") == "YES" or "PFP" in str(header.get("ScanOptions", ""))
    if partial or header.get("MRAcquisitionType") == "3D":
        return 1.0
    full = frequency * _percent(header, "PercentPhaseFieldOfView")
    return 1.0 if abs(phase - full * sampling) <= abs(phase - full) else sampling
