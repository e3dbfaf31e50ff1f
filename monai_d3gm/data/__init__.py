"""Readers and writers of measured data, and the data sets made from them."""

from __future__ import annotations

from monai_d3gm.data.collections.ixi import ixi_paths
from monai_d3gm.data.collections.pairs import find_pairs
from monai_d3gm.data.collections.samples import bundled_epi_path, bundled_kspace_path, bundled_photographs
from monai_d3gm.data.formats.fastmri import KspaceFileError, open_kspace, write_kspace, write_submission
from monai_d3gm.data.formats.images import ImageFileError, read_image, write_image
from monai_d3gm.data.formats.ismrmrd import open_ismrmrd
from monai_d3gm.data.formats.nifti import VolumeFileError, read_magnitude, write_volume
from monai_d3gm.data.formats.volumes import InputVolume
from monai_d3gm.data.restoration.batches import VolumeBatchSampler, collate_slices
from monai_d3gm.data.restoration.inputs import find_inputs
from monai_d3gm.data.restoration.kspace import KspaceSliceDataset
from monai_d3gm.data.restoration.low_resolution import LowResolutionSliceDataset
from monai_d3gm.data.restoration.photographs import ImageDataset, ImagePairDataset
from monai_d3gm.data.restoration.restored import RestoredVolume
from monai_d3gm.data.training.consecutive import ConsecutiveSampler
from monai_d3gm.data.training.kspace import SimulatedKspaceDataset
from monai_d3gm.data.training.low_resolution import SimulatedLowResolutionDataset
from monai_d3gm.data.training.measured import MeasuredKspaceDataset
from monai_d3gm.data.training.photographs import EstimatedWeatherDataset, ImagePairCropDataset, SimulatedWeatherDataset
from monai_d3gm.data.training.scanner import RandomScannerDataset

__all__ = [
    "ConsecutiveSampler",
    "EstimatedWeatherDataset",
    "ImageDataset",
    "ImageFileError",
    "ImagePairCropDataset",
    "ImagePairDataset",
    "InputVolume",
    "KspaceFileError",
    "KspaceSliceDataset",
    "LowResolutionSliceDataset",
    "MeasuredKspaceDataset",
    "RandomScannerDataset",
    "RestoredVolume",
    "SimulatedKspaceDataset",
    "SimulatedLowResolutionDataset",
    "SimulatedWeatherDataset",
    "VolumeBatchSampler",
    "VolumeFileError",
    "bundled_epi_path",
    "bundled_kspace_path",
    "bundled_photographs",
    "collate_slices",
    "find_inputs",
    "find_pairs",
    "ixi_paths",
    "open_ismrmrd",
    "open_kspace",
    "read_image",
    "read_magnitude",
    "write_image",
    "write_kspace",
    "write_submission",
    "write_volume",
]
