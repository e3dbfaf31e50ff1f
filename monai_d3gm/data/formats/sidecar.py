"""JSON sidecars of NIfTI files, as dcm2niix and BIDS have them: acquisition and contrast.

A file's fields are those of ``NAME.json`` beside it. In a BIDS data set they are inherited (its specification, section
"The Inheritance Principle"): a sidecar with the same suffix and no other entities, in the file's folder or in one
above, holds too, and the nearer one wins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_d3gm.data.formats.base import stem_of
from monai_d3gm.files import load_json, one_line

__all__ = ["DESCRIPTION", "bids_root", "read_sidecar", "sidecar_acquired", "sidecar_texts"]

logger = logging.getLogger(__name__)

DESCRIPTION = "dataset_description.json"
"""The file that makes a folder a BIDS data set."""

_DEEPEST = 8
_LARGEST = 1 << 22
_TEXTS = ("ProtocolName", "SeriesDescription")


def bids_root(folder: str | os.PathLike[str]) -> Path | None:
    """The BIDS data set that a folder is or lies in, or None.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp()).resolve()
        >>> bids_root(root) is None
        True
        >>> _ = (root / DESCRIPTION).write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
        >>> bids_root(root / "sub-01" / "anat") == root
        True
    """
    for place in [Path(folder), *Path(folder).parents][:_DEEPEST]:
        if "BIDSVersion" in _fields(place / DESCRIPTION):
            return place
    return None


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a NIfTI file's sidecars; empty where there are none. One that cannot be read is named in the log.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "sub-01_T1w.json").write_text('{"ProtocolName": "mprage"}')
        >>> read_sidecar(folder / "sub-01_T1w.nii.gz")
        {'ProtocolName': 'mprage'}
    """
    path = Path(path)
    stem = stem_of(path)
    own = path.with_name(f"{stem}.json")
    root = bids_root(path.parent)
    if root is None:
        return _fields(own)
    entities, suffix = _parts(stem)
    found: dict[str, Any] = {}
    folders = [place for place in (*reversed(path.parent.parents), path.parent) if place.is_relative_to(root)]
    for folder in folders:
        candidates = [file for file in _json_files(folder) if _holds(file.stem, entities, suffix)]
        for file in sorted(candidates, key=lambda file: (len(_parts(file.stem)[0]), file.name)):
            found |= _fields(file)
    return found


def sidecar_texts(fields: Mapping[str, Any]) -> dict[str, str]:
    """The fields that say of which contrast an image is.

    Example:
        >>> sidecar_texts({"ProtocolName": "t2_tse", "EchoTime": 0.09})
        {'ProtocolName': 't2_tse'}
    """
    return {name: fields[name] for name in _TEXTS if isinstance(fields.get(name), str)}


def sidecar_acquired(fields: Mapping[str, Any], shape: Sequence[int]) -> tuple[float, float]:
    """The share of the band that was acquired along the first two axes.

    dcm2niix gives the lines acquired and reconstructed along the phase encoding (``AcquisitionMatrixPE``,
    ``ReconMatrixPE``), the samples along the readout (``BaseResolution``), and which axis is which
    (``PhaseEncodingDirection`` or ``PhaseEncodingAxis``, i or j).

    Args:
        fields: of the sidecar.
        shape: of the volume.

    Returns:
        Two numbers above 0, at most 1; 1 where the sidecar does not say, or says it of another matrix.

    Example:
        >>> fields = {"AcquisitionMatrixPE": 192, "ReconMatrixPE": 256, "PhaseEncodingDirection": "j-"}
        >>> sidecar_acquired(fields, (256, 256, 9))
        (1.0, 0.75)
    """
    direction = str(fields.get("PhaseEncodingDirection", fields.get("PhaseEncodingAxis", "")))
    axis = {"i": 0, "j": 1}.get(direction.rstrip("-"))
    acquired, stored, base = (_count(fields.get(n)) for n in ("AcquisitionMatrixPE", "ReconMatrixPE", "BaseResolution"))
    shares = [1.0, 1.0]
    if axis is not None and stored == shape[axis]:
        shares[axis] = min(1.0, acquired / stored) if acquired else 1.0
        shares[1 - axis] = min(1.0, base / shape[1 - axis]) if base else 1.0
    return shares[0], shares[1]


def _count(value: Any) -> int:
    """A number above 0 as a sidecar gives it; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _parts(stem: str) -> tuple[frozenset[str], str]:
    """The entities of a BIDS name, and its suffix."""
    *entities, suffix = stem.split("_")
    return frozenset(entities), suffix


def _holds(stem: str, entities: frozenset[str], suffix: str) -> bool:
    others, own = _parts(stem)
    return own == suffix and others <= entities


def _json_files(folder: Path) -> list[Path]:
    try:
        return [file for file in folder.iterdir() if file.suffix == ".json" and not file.name.startswith(".")]
    except OSError:
        return []


def _fields(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            return {}
        content = load_json(file)
    except (OSError, ValueError) as error:
        logger.warning("%s: the sidecar is not used: %s", file, one_line(error))
        return {}
    return content if isinstance(content, dict) else {}
