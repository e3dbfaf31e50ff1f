"""DICOM MR series: found and told apart, read, and written as derived series and as parametric maps."""

from monai_d3gm.data.formats.dicom.derived import check_identity
from monai_d3gm.data.formats.dicom.headers import DicomError, is_dicom
from monai_d3gm.data.formats.dicom.parametric_map import write_parametric_map
from monai_d3gm.data.formats.dicom.reader import DicomVolume, read_series
from monai_d3gm.data.formats.dicom.resolution import acquired_fraction
from monai_d3gm.data.formats.dicom.scan import check_scan, write_scan
from monai_d3gm.data.formats.dicom.series import DicomSeries, Refusal, find_series
from monai_d3gm.data.formats.dicom.slices import Frame
from monai_d3gm.data.formats.dicom.writer import write_series

__all__ = [
    "DicomError",
    "DicomSeries",
    "DicomVolume",
    "Frame",
    "Refusal",
    "acquired_fraction",
    "check_identity",
    "check_scan",
    "find_series",
    "is_dicom",
    "read_series",
    "write_parametric_map",
    "write_scan",
    "write_series",
]
