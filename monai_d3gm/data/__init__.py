"""Readers and writers of measured data, and the data sets made from them."""

from __future__ import annotations

from monai_d3gm.data.batches import VolumeBatchSampler, collate_slices
from monai_d3gm.data.datasets import InputVolume, KspaceSliceDataset, find_inputs
from monai_d3gm.data.fastmri import (
    EncodingHeader,
    KspaceFile,
    KspaceFileError,
    open_kspace,
    write_kspace,
    write_submission,
)
from monai_d3gm.data.files import OutputError, atomic_path, writable_folder
from monai_d3gm.data.images import ImageFileError, read_image, write_image
from monai_d3gm.data.ismrmrd import IsmrmrdFile, is_ismrmrd, open_ismrmrd
from monai_d3gm.data.ixi import IxiError, IxiFile, find_ixi, ixi_paths, ixi_split
from monai_d3gm.data.low_resolution import LowResolutionSliceDataset
from monai_d3gm.data.measured import MeasuredKspaceDataset
from monai_d3gm.data.nifti import Volume, VolumeFileError, bundled_epi_path, read_magnitude, write_volume
from monai_d3gm.data.pairs import ImagePair, PairError, find_pairs
from monai_d3gm.data.photographs import (
    EstimatedWeatherDataset,
    ImageDataset,
    ImagePairCropDataset,
    ImagePairDataset,
    SimulatedWeatherDataset,
    bundled_photographs,
)
from monai_d3gm.data.sampler import ConsecutiveSampler
from monai_d3gm.data.simulation import SimulatedKspaceDataset
from monai_d3gm.data.super_resolution import SimulatedLowResolutionDataset

__all__ = [
    "ConsecutiveSampler",
    "EncodingHeader",
    "EstimatedWeatherDataset",
    "ImageDataset",
    "ImageFileError",
    "ImagePair",
    "ImagePairCropDataset",
    "ImagePairDataset",
    "InputVolume",
    "IsmrmrdFile",
    "IxiError",
    "IxiFile",
    "KspaceFile",
    "KspaceFileError",
    "KspaceSliceDataset",
    "LowResolutionSliceDataset",
    "MeasuredKspaceDataset",
    "OutputError",
    "SimulatedKspaceDataset",
    "SimulatedWeatherDataset",
    "SimulatedLowResolutionDataset",
    "Volume",
    "PairError",
    "VolumeBatchSampler",
    "VolumeFileError",
    "atomic_path",
    "bundled_epi_path",
    "bundled_photographs",
    "collate_slices",
    "find_inputs",
    "find_ixi",
    "find_pairs",
    "is_ismrmrd",
    "ixi_paths",
    "ixi_split",
    "open_ismrmrd",
    "open_kspace",
    "read_image",
    "read_magnitude",
    "writable_folder",
    "write_image",
    "write_kspace",
    "write_submission",
    "write_volume",
]
