"""Readers and writers of measured data, and the data sets made from them."""

from __future__ import annotations

from monai_d3gm.data.files import OutputError, atomic_path, writable_folder
from monai_d3gm.data.nifti import Volume, VolumeFileError, bundled_epi_path, read_magnitude, write_volume
from monai_d3gm.data.simulation import SimulatedKspaceDataset

__all__ = [
    "OutputError",
    "SimulatedKspaceDataset",
    "Volume",
    "VolumeFileError",
    "atomic_path",
    "bundled_epi_path",
    "read_magnitude",
    "writable_folder",
    "write_volume",
]
