"""The encoding that an ISMRMRD header (https://ismrmrd.readthedocs.io) states, as fastMRI's files carry it."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastmri.data.mri_data import et_query

from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import one_line

__all__ = ["EncodingHeader", "encoding_header_xml", "parse_encoding_header"]

_LARGEST = 1 << 16
_NAMESPACE = "http://www.ismrm.org/ISMRMRD"


@dataclass(frozen=True)
class EncodingHeader:
    """The fields of the ISMRMRD header that reconstruction needs.

    Sizes are (x, y, z) = (readout, phase encoding, partition). Lines ``padding[0]`` to ``padding[1]`` were encoded;
    those outside are zero in the file. It is None where the header states no limits.
    """

    encoded_size: tuple[int, int, int]
    recon_size: tuple[int, int, int]
    padding: tuple[int, int] | None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


def parse_encoding_header(path: Path, xml: Any) -> EncodingHeader:
    """Read sizes and padding as ``fastmri.data.mri_data.SliceDataset`` does; limits are optional in the format."""
    if not isinstance(xml, bytes | str):
        raise KspaceFileError(f"{path}: ismrmrd_header is no text; accepted: ISMRMRD XML.")
    text = xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise KspaceFileError(f"{path}: ismrmrd_header declares entities; accepted: plain ISMRMRD XML.")

    def triple(space: str, group: str, kind: type) -> tuple[Any, Any, Any]:
        x, y, z = (kind(et_query(root, ["encoding", space, group, axis])) for axis in "xyz")
        return x, y, z

    try:
        root = ElementTree.fromstring(text)
        encoded = triple("encodedSpace", "matrixSize", int)
        recon = triple("reconSpace", "matrixSize", int)
        extent = triple("reconSpace", "fieldOfView_mm", float)
        limits = ["encoding", "encodingLimits", "kspace_encoding_step_1"]
        stated = root.find("/".join(f"{{{_NAMESPACE}}}{name}" for name in limits)) is not None
        center, last = (int(et_query(root, [*limits, name])) if stated else 0 for name in ("center", "maximum"))
    except (ElementTree.ParseError, RuntimeError, ValueError) as error:
        raise KspaceFileError(f"{path}: ismrmrd_header cannot be read: {one_line(error)}") from error
    sizes = encoded + recon
    if not 1 <= min(sizes) <= max(sizes) <= _LARGEST or not all(np.isfinite(mm) and mm > 0 for mm in extent):
        raise KspaceFileError(
            f"{path}: ismrmrd_header gives sizes {encoded}, {recon}, {extent} mm; accepted: 1 to {_LARGEST}, and above "
            "0 mm."
        )
    x, y, z = (mm / size for mm, size in zip(extent, recon, strict=True))
    if not stated:
        return EncodingHeader(encoded, recon, None, (x, y, z))
    left = encoded[1] // 2 - center
    padding = max(left, 0), min(left + last + 1, encoded[1])
    if padding[0] >= padding[1]:
        raise KspaceFileError(
            f"{path}: ismrmrd_header gives lines 0 to {last} around {center} of {encoded[1]}; accepted: some of them."
        )
    return EncodingHeader(encoded, recon, padding, (x, y, z))


def encoding_header_xml(
    shape: tuple[int, int],
    recon_size: tuple[int, int],
    *,
    padding: tuple[int, int] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> bytes:
    """Return an ISMRMRD header for Cartesian data: the elements its schema requires and those fastMRI reads.

    Args:
        shape: rows (readout) and columns (phase encoding) of k-space.
        recon_size: rows and columns of the final image.
        padding: first encoded column and the one after the last; all if None.
        spacing: voxel size of the final image in mm: rows, columns, slices.

    Example:
        >>> b"encodedSpace" in encoding_header_xml((8, 6), (4, 4))
        True
    """
    left, right = (0, shape[1]) if padding is None else padding
    if not 0 <= left < right <= shape[1]:
        raise ValueError(f"padding is {padding}; accepted: two increasing numbers from 0 to {shape[1]}.")
    ElementTree.register_namespace("", _NAMESPACE)
    root = ElementTree.Element(f"{{{_NAMESPACE}}}ismrmrdHeader")

    def add(parent: ElementTree.Element, name: str, text: object = None) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, f"{{{_NAMESPACE}}}{name}")
        element.text = None if text is None else str(text)
        return element

    add(add(root, "experimentalConditions"), "H1resonanceFrequency_Hz", 63870000)
    encoding = add(root, "encoding")
    for name, size in (("encodedSpace", (*shape, 1)), ("reconSpace", (*recon_size, 1))):
        space = add(encoding, name)
        matrix, extent = add(space, "matrixSize"), add(space, "fieldOfView_mm")
        for axis, count, mm in zip("xyz", size, spacing, strict=True):
            add(matrix, axis, count)
            add(extent, axis, count * mm)
    step = add(add(encoding, "encodingLimits"), "kspace_encoding_step_1")
    for name, value in (("minimum", 0), ("maximum", right - left - 1), ("center", shape[1] // 2 - left)):
        add(step, name, value)
    add(encoding, "trajectory", "cartesian")
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
