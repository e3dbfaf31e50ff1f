"""ISMRMRD raw data: Cartesian acquisitions as the slices of k-space that reconstruction needs.

The format is that of https://ismrmrd.readthedocs.io (Inati et al., MRM 77, 2017): in an HDF5 file a group, usually
``dataset``, with an XML header ``xml`` and a table ``data`` of acquisitions, one readout of all coils each.
"""

from __future__ import annotations

import os
from pathlib import Path

import h5py


def _groups(file: h5py.File) -> list[str]:
    """Names of the groups with a header and acquisitions; links to other files are not followed."""
    return [
        name
        for name in file
        if isinstance(file.get(name, getlink=True), h5py.HardLink)
        and isinstance(file[name], h5py.Group)
        and {"xml", "data"} <= set(file[name])
    ]


def is_ismrmrd(path: str | os.PathLike[str]) -> bool:
    """Whether the content is ISMRMRD raw data: an HDF5 file with a group that holds ``xml`` and ``data``.

    >>> from monai_d3gm.data import bundled_epi_path
    >>> is_ismrmrd(bundled_epi_path())
    False
    """
    try:
        with h5py.File(Path(path), "r") as file:
            return bool(_groups(file))
    except (OSError, RuntimeError, KeyError):
        return False
