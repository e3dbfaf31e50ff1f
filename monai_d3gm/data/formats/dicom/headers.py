"""Headers of DICOM files: which are MR images, and the attributes of one frame.

Nothing here reads pixels. Functional groups of multi-frame files (PS3.3 C.7.6.16) and the attributes of single-frame
files are read through one face, `FrameHeader`.
"""

from __future__ import annotations

import logging
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_d3gm.files import TooLargeError, check_memory, memory_limit, one_line

MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4")
ENHANCED_MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4.1")
LEGACY_CONVERTED_ENHANCED_MR_IMAGE = UID("1.2.840.10008.5.1.4.1.1.4.4")
MULTI_FRAME = (ENHANCED_MR_IMAGE, LEGACY_CONVERTED_ENHANCED_MR_IMAGE)

MAX_BYTES = 2**32
"""Largest size of the decoded pixels of a file, and of an inflated file; more is refused before memory is taken."""

MAX_COMPRESSION = 1000
"""Compressed pixels of more than 64 MiB that claim a higher ratio are refused as a decompression bomb."""

_PIXEL_TAGS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")


class DicomError(ValueError):
    """A DICOM file or series cannot be used; the message names it and the reason.

    Args:
        subject: the file or the series.
        reason: why it cannot be used, and which values are accepted.

    Example:
        >>> str(DicomError("a.dcm", "CT Image Storage; accepted: MR images."))
        'a.dcm: CT Image Storage; accepted: MR images.'
    """

    def __init__(self, subject: str | os.PathLike[str], reason: str) -> None:
        super().__init__(subject, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{os.fspath(self.args[0])}: {self.reason}"


class ForeignError(DicomError):
    """A DICOM file is sound and no MR image: a segmentation, another modality, a report."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning of values that are out of the standard, and from logging them: they may be personal."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pydicom.pixels.decoders.base")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


@quiet()
def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Tell by its content whether a file is DICOM: a "DICM" preamble, or a data set with a SOP Class UID.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> is_dicom(get_testdata_file("MR_small.dcm")), is_dicom(__file__)
        (True, False)
    """
    path = Path(path)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(132)
        if start[128:] == b"DICM":
            return True
        # Without a preamble a data set begins with the group of its first element.
        if start[:2] not in _FIRST_GROUPS:
            return False
        dataset = pydicom.dcmread(path, force=True, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        return "SOPClassUID" in dataset or bool(dataset.file_meta)
    except Exception:  # pydicom raises many kinds of errors for files that are no DICOM
        return False


def read_header(path: Path) -> Dataset:
    """Read a file up to its pixels and check that it is an MR image whose pixels can be read.

    Raises:
        DicomError: it is damaged, no MR image, has no pixels, or their description is absurd or contradictory.
    """
    try:
        _check_deflated(path)
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            next_tag = file.read(4)
        _check_image(path, dataset, next_tag)
    except DicomError:
        raise
    except TooLargeError as error:
        raise DicomError(path, str(error).removeprefix(f"{path}: ")) from error
    except Exception as error:  # pydicom raises many kinds for a damaged file
        raise DicomError(path, f"cannot be read as DICOM: {one_line(error)}") from error
    return dataset


def transfer_syntax(dataset: Dataset) -> UID:
    """Return the transfer syntax; implicit VR little endian, DICOM's default, where the file does not say."""
    meta = getattr(dataset, "file_meta", None)
    return UID((meta.get("TransferSyntaxUID") if meta else None) or ImplicitVRLittleEndian)


def _check_deflated(path: Path) -> None:
    """Refuse a deflated data set that inflates beyond `MAX_BYTES`: pydicom inflates all of it at once."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        while chunk := inflate.unconsumed_tail or file.read(2**16):
            size += len(inflate.decompress(chunk, 2**20))
            if size > (most := min(MAX_BYTES, memory_limit() // 2)):
                raise DicomError(path, f"inflates to more than {most} bytes.")


def _check_image(path: Path, dataset: Dataset, next_tag: bytes) -> None:
    sop_class = UID(dataset.get("SOPClassUID") or "")
    if not sop_class:
        raise DicomError(path, "no SOP class; accepted: MR images, classic and enhanced.")
    if sop_class not in (MR_IMAGE, *MULTI_FRAME):
        raise ForeignError(path, f"{sop_class.name}; accepted: MR images, classic and enhanced.")
    if dataset.get("Modality", "MR") != "MR":
        raise ForeignError(path, f"Modality is {dataset.Modality}; accepted: MR.")
    syntax = transfer_syntax(dataset)
    if syntax != DeflatedExplicitVRLittleEndian and next_tag not in _PIXEL_TAGS:
        raise DicomError(path, "no pixel data.")
    header = FrameHeader(dataset)
    rows, columns, frames = (int(header.get(k, d)) for k, d in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1)))
    if min(rows, columns, frames) < 1:
        raise DicomError(path, f"{rows} rows, {columns} columns, {frames} frames; accepted: 1 or more.")
    if sop_class == MR_IMAGE and frames > 1:
        raise DicomError(path, f"{frames} frames in a single-frame MR image.")
    samples, colours = header.get("SamplesPerPixel", 1), header.get("PhotometricInterpretation", "MONOCHROME2")
    if samples != 1 or colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomError(path, f"{samples} samples per pixel, {colours}; accepted: MONOCHROME1 and MONOCHROME2.")
    allocated = int(header.get("BitsAllocated", 0))
    stored = int(header.get("BitsStored", allocated))
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or header.get("HighBit", stored - 1) != stored - 1:
        raise DicomError(
            path,
            f"{allocated} bits allocated, {stored} stored, high bit {header.get('HighBit')}; "
            "accepted: 8, 16 or 32 allocated and the stored ones lowest.",
        )
    if "ModalityLUTSequence" in dataset:
        raise DicomError(path, "the pixels have a modality look-up table; accepted: a rescale slope and intercept.")
    size, file_size = rows * columns * frames * allocated // 8, path.stat().st_size
    if size > MAX_BYTES:
        raise DicomError(path, f"{size} bytes of pixels; accepted: up to {MAX_BYTES}.")
    # as stored, as integers of 64 bit, and as float32
    check_memory(path, f"{frames} frames of {rows} x {columns} pixels", size + rows * columns * frames * 12)
    if syntax.is_encapsulated:
        if size > 2**26 and size > MAX_COMPRESSION * file_size:
            raise DicomError(path, f"{size} bytes of pixels in a file of {file_size}; too high a ratio.")
    elif syntax != DeflatedExplicitVRLittleEndian and size > file_size:
        raise DicomError(path, f"{size} bytes of pixels are described; the whole file has {file_size}.")


class FrameHeader:
    """The attributes that hold for one frame, looked up in its functional groups, the shared ones, then the file.

    Args:
        dataset: header of a file.
        number: index of the frame from 0; of no importance for single-frame files.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> header = FrameHeader(pydicom.dcmread(get_testdata_file("MR_small.dcm")))
        >>> header.get("Rows"), header.get("InversionTime", "none")
        (64, 'none')
    """

    def __init__(self, dataset: Dataset, number: int = 0) -> None:
        self.dataset = dataset
        self._layers = [dataset]
        for keyword, index in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", number)):
            groups = dataset.get(keyword)
            if groups:
                self._layers.insert(0, _merge(groups[index]))

    def element(self, keyword: str) -> DataElement | None:
        """The element, or None where it is missing or empty."""
        for layer in self._layers:
            if keyword in layer and layer[keyword].VM:
                return layer[keyword]
        return None

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value, or ``default`` where it is missing or empty."""
        element = self.element(keyword)
        return default if element is None else element.value

    def private(self, creator: str, group: int, offset: int) -> Any:
        """The value of a private element of the file, or None."""
        try:
            return self.dataset.private_block(group, creator)[offset].value
        except KeyError:
            return None

    def floats(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """``count`` finite numbers, or None where there are not as many.

        Text is accepted with backslashes between the numbers, as scanners store them with the VR of text, and with a
        comma for the decimal point, which no decimal string may hold.

        Raises:
            ValueError: the element holds something else than numbers.
        """
        value = self.get(keyword)
        if value is None:
            return None
        parts = [part for v in np.atleast_1d(value).tolist() for part in (v.split("\\") if isinstance(v, str) else [v])]
        try:
            numbers = tuple(float(v.replace(",", ".") if isinstance(v, str) else v) for v in parts)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{keyword} is {'/'.join(map(str, parts))!r}; accepted: numbers.") from error
        return numbers if len(numbers) == count and np.isfinite(numbers).all() else None

    def number(self, keyword: str, default: float = 0.0) -> float:
        """One finite number, or ``default``."""
        numbers = self.floats(keyword, 1)
        return default if numbers is None else numbers[0]


def _merge(groups: Dataset) -> Dataset:
    """The elements of all functional groups, which PS3.3 puts into one-item sequences, side by side."""
    merged = Dataset()
    for group in groups:
        if group.VR == "SQ" and not group.tag.is_private and group.value:
            merged.update({element.tag: element for element in group.value[0]})
    return merged
