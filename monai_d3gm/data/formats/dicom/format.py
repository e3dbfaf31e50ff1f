"""DICOM as a format of magnitude volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from monai_d3gm.data.formats.base import VolumeFormat
from monai_d3gm.data.formats.dicom.derived import check_identity
from monai_d3gm.data.formats.dicom.headers import DicomError, is_dicom
from monai_d3gm.data.formats.dicom.parametric_map import write_parametric_map
from monai_d3gm.data.formats.dicom.reader import DicomVolume, read_series
from monai_d3gm.data.formats.dicom.scan import check_scan, write_scan
from monai_d3gm.data.formats.dicom.series import find_series
from monai_d3gm.data.formats.dicom.writer import write_series
from monai_d3gm.data.formats.volumes import Extent, InputVolume, MagnitudeVolume, Problem, Source

__all__ = ["Dicom"]

_LABELS = {"std": "standard deviation", "interval": "half-width of the interval"}


class Dicom(VolumeFormat):
    """DICOM MR series. A restored series is a derived series in a folder, its maps are parametric maps. Of raw data it
    is a series of its own, which the maps refer to."""

    name = "dicom"
    title = "DICOM"
    suffixes = (".dcm",)

    def recognise(self, path: Path, start: bytes) -> bool:
        """`is_dicom`."""
        return is_dicom(path)

    def extent(self, path: Path) -> Extent:
        """The frames of one file."""
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return Extent((int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames", 1))))

    def find(self, files: Sequence[Path]) -> tuple[list[Source], list[Problem]]:
        """The volumes of which all files are given; those of one series have one group."""
        folders = list(dict.fromkeys(file.parent for file in files))
        series, refused = find_series(files if len(files) == 1 else folders)
        wanted = set(files)
        problems = [
            Problem(one.path, one.reason, self.name if one.is_input else None) for one in refused if one.path in wanted
        ]
        sources: list[Source] = []
        for volume in series:
            if wanted.issuperset(volume.files):
                path = volume.files[0] if len(volume.files) == 1 else volume.folder
                sources.append(Source(path, volume.files, volume.name, volume.folder, volume.series_uid, volume))
            else:
                reason = "of a volume of which not all files were given"
                problems += [Problem(path, reason, self.name) for path in volume.files if path in wanted]
        return sources, problems

    def read(self, source: Source, frame: int | None = None) -> MagnitudeVolume:
        """`read_series`, negative values as 0."""
        volume = read_series(source.content)
        data = np.maximum(volume.data, 0)
        if not data.any():
            raise DicomError(source.name, "the volume has no positive value; accepted: a magnitude image.")
        return MagnitudeVolume(data, volume.affine, volume.acquired_fraction, volume, volume.warnings)

    def outputs(self, volume: InputVolume) -> Mapping[str, str]:
        """A folder, and files of parametric maps."""
        stem = volume.stem
        return {"restored": f"{stem}_restored", "std": f"{stem}_std.dcm", "interval": f"{stem}_interval.dcm"}

    def check(self, volume: InputVolume) -> None:
        """`check_identity`, since a derived object refers to its source; of raw data `check_scan`."""
        if isinstance(volume.original, DicomVolume):
            check_identity(volume.original)
        else:
            check_scan(volume.path, volume.original if isinstance(volume.original, Mapping) else {})

    def write(
        self,
        path: Path,
        what: str,
        slices: NDArray[np.float32],
        volume: InputVolume,
        *,
        provenance: Mapping[str, str],
        overwrite: bool,
    ) -> None:
        """`write_series` or `write_parametric_map`; of raw data `write_scan`."""
        data, source = volume.as_volume(slices), volume.original
        if what == "restored" and isinstance(source, DicomVolume):
            write_series(path, data, volume.affine, source, provenance=provenance, overwrite=overwrite)
        elif what == "restored":
            write_scan(path, data, volume.affine, source, provenance=provenance, overwrite=overwrite)
        else:
            if not isinstance(source, DicomVolume):
                source = read_series(find_series(path.with_name(self.outputs(volume)["restored"]))[0][0])
            write_parametric_map(
                path,
                data,
                volume.affine,
                source,
                label=_LABELS[what],
                provenance=provenance,
                overwrite=overwrite,
            )
