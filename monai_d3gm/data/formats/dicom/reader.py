"""Reading the pixels of an MR series into one volume.

Uncompressed, deflated and RLE files need nothing but pydicom. The extra ``dicom`` brings decoders under permissive
licences: python-gdcm (Apache-2.0) for JPEG baseline, extended and lossless, JPEG-LS and JPEG 2000; pylibjpeg with
pylibjpeg-openjpeg (MIT) for JPEG 2000 and High-Throughput JPEG 2000; highdicom itself brings pyjpegls (MIT) for
JPEG-LS. pylibjpeg-libjpeg (GPL-3.0) is used where it is installed, and not asked for.

Decoders written in C can abort the process on damaged pixels, so that they run in another one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from monai_d3gm.data.formats.dicom.decoder import Decoder, decode
from monai_d3gm.data.formats.dicom.headers import DicomError, FrameHeader, quiet, read_header, transfer_syntax
from monai_d3gm.data.formats.dicom.series import DicomSeries, mosaic_wrapper
from monai_d3gm.files import one_line


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """A magnitude volume of a DICOM series.

    Attributes:
        data: float32 (X, Y, Z): column, row, slice. No axis is flipped: ``data[i, j, k]`` is the pixel in column i and
            row j of the k-th slice along the slices' normal.
        affine: (4, 4); ``affine @ (i, j, k, 1)`` is the centre of that voxel, RAS+ in mm.
        acquired_fraction: share of the band acquired along axes 0 and 1; (1.0, 1.0) where the header does not say.
        source: the series.
        datasets: headers of the files, without pixels, in the order of ``source.files``.
        warnings: oddities of the series.
    """

    data: NDArray[np.float32] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False)
    acquired_fraction: tuple[float, float]
    source: DicomSeries
    datasets: tuple[Dataset, ...] = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Length of the axes' steps in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z


@quiet()
def read_series(series: DicomSeries) -> DicomVolume:
    """Read a series found by `find_series`.

    The value of a voxel is stored value * RescaleSlope + RescaleIntercept (PS3.3 C.11.1) of its own frame; of signed
    and unsigned pixels only the stored bits count. MONOCHROME1 pixels are first inverted over the range of the stored
    bits, so that bright is high, as on a display (PS3.3 C.7.6.3.1.2). Private scale factors are not applied.

    Args:
        series: one volume.

    Returns:
        The volume.

    Raises:
        DicomError: pixels are missing, damaged or in a transfer syntax that nothing installed decodes, or the files
            changed since they were found.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> from monai_d3gm.data.formats.dicom.series import find_series
        >>> volume = read_series(find_series(get_testdata_file("MR_small.dcm"))[0][0])
        >>> volume.data.shape, volume.spacing
        ((64, 64, 1), (0.3125, 0.3125, 0.8))
    """
    data = np.empty(series.shape, dtype=np.float32)
    datasets, notes = [], list(series.warnings)
    with Decoder() as decoder:
        for path in series.files:
            try:
                header, places, values, odd = _read_file(path, series, decoder)
            except DicomError:
                raise
            except Exception as error:  # pydicom converts values when they are asked for
                raise DicomError(path, f"damaged header: {one_line(error)}") from error
            datasets.append(header)
            notes += odd
            data[:, :, places] = values.transpose(2, 1, 0)
    if not np.isfinite(data).all() or not data.any():
        raise DicomError(series.name, "the volume is zero everywhere or not finite.")
    if data.min() < 0:
        notes.append(f"{np.mean(data < 0):.2%} of the voxels are negative, down to {data.min():.6g}.")
    return DicomVolume(data, series.affine, series.acquired_fraction, series, tuple(datasets), tuple(notes))


def _read_file(
    path: Path, series: DicomSeries, decoder: Decoder
) -> tuple[Dataset, list[int], NDArray[np.float32], list[str]]:
    """The header, which slices of the series the file holds, their values (slices, rows, columns), and warnings."""
    header = read_header(path)
    places = [k for k, frame in enumerate(series.frames) if frame.path == path]
    stored, odd = _decode(path, header, decoder)
    values = _values(path, header, stored, [series.frames[k].number for k in places])
    if series.kind == "mosaic":
        values = _tiles(path, header, values[0])
        places = list(range(len(values)))
    if values.shape[2:0:-1] != series.shape[:2] or len(values) != len(places):
        raise DicomError(path, f"frames of {values.shape} where {series.shape} were found; did the file change?")
    return header, places, values, odd


def _decode(path: Path, header: Dataset, decoder: Decoder) -> tuple[NDArray[Any], list[str]]:
    """Stored values (frames, rows, columns) of a file, and what pydicom warns of."""
    syntax, odd = transfer_syntax(header), []
    try:
        if syntax.is_encapsulated and syntax != RLELossless:
            frames = int(header.get("NumberOfFrames") or 1)
            size = frames * int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
            pixels: NDArray[Any] = decoder.decode(path, 2 * size)
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pixels = decode(path)
            odd = [f"{path.name}: {one_line(Exception(warning.message))}" for warning in caught]
    except Exception as error:  # each decoder raises its own kinds
        raise DicomError(
            path, f"the pixels cannot be decoded: {one_line(error)} The extra monai_d3gm[dicom] brings decoders."
        ) from error
    return pixels if pixels.ndim == 3 else pixels[None], odd


def _values(path: Path, dataset: Dataset, stored: NDArray[Any], numbers: Sequence[int]) -> NDArray[np.float32]:
    """The physical values of frames ``numbers``, (frames, rows, columns)."""
    bits, signed = int(dataset.get("BitsStored", dataset.BitsAllocated)), dataset.get("PixelRepresentation") == 1
    if max(numbers) >= len(stored):
        raise DicomError(path, f"frame {max(numbers) + 1} is missing; the pixels have {len(stored)} frames.")
    # Bits above the stored ones may hold overlays.
    pixels = stored[list(numbers)].astype(np.int64) & (2**bits - 1)
    if signed:
        pixels -= (pixels >> (bits - 1)) << bits
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = (-1 if signed else 2**bits - 1) - pixels
    headers = [FrameHeader(dataset, number) for number in numbers]
    slope, intercept = (
        np.array([header.number(keyword, default) for header in headers])[:, None, None]
        for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    return (pixels * slope + intercept).astype(np.float32)


def _tiles(path: Path, dataset: Dataset, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The slices (slices, rows, columns) of a mosaic."""
    wrapper = mosaic_wrapper(path, dataset)
    rows, columns, slices = wrapper.image_shape
    tiles = image.reshape(wrapper.mosaic_size, rows, wrapper.mosaic_size, columns)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, rows, columns)[:slices]
