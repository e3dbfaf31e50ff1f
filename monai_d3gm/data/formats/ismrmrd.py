"""ISMRMRD raw data: Cartesian acquisitions sorted into the slices of k-space that reconstruction needs.

The format is that of https://ismrmrd.readthedocs.io (Inati et al., MRM 77, 2017): in an HDF5 file a group, usually
``dataset``, with an XML header ``xml`` and a table ``data`` of acquisitions, one readout of all coils each. Sample i of
a line lies at the row ``rows // 2 - center_sample + i``, line n at the column ``columns // 2 - center + n`` with the
center of the header's encoding limits; the image is the inverse Fourier transform,
as in `monai_d3gm.data.formats.fastmri`.

The package ismrmrd (extra ``ismrmrd``) describes the header and the flags. The table is read with h5py: ismrmrd's own
reader opens files for writing, follows links to other files and reads one acquisition at a time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from monai_d3gm.consistency.fourier import ifft1c
from monai_d3gm.data.formats.base import KspaceFormat
from monai_d3gm.data.formats.encoding import EncodingHeader
from monai_d3gm.data.formats.hdf5 import HDF5, small_dataset, stored_dataset
from monai_d3gm.data.formats.ismrmrd_header import Axis, parse_header
from monai_d3gm.data.formats.ismrmrd_lines import (
    choose_acquisitions,
    common_lines,
    empty_slices,
    image_orientation,
    place_lines,
    read_heads,
    read_samples,
    stack_geometry,
    whitening_of,
)
from monai_d3gm.data.formats.sampling import is_complete
from monai_d3gm.data.formats.volumes import Extent, KspaceFileError, Source
from monai_d3gm.files import TooLargeError, check_memory, one_line

logger = logging.getLogger(__name__)

_COPIES = 6
"""Arrays of k-space that lie in memory at once: sums, counts, transforms, and those of the coils' maps."""


@dataclass(frozen=True)
class IsmrmrdFile:
    """Checked ISMRMRD raw data with the interface of a fastMRI `KspaceFile`; slices are read when asked for.

    Rows are the readout with its oversampling, columns the phase encoding; `crop` is the field of view of the header's
    ``reconSpace``. Unmeasured samples are zero: columns outside `mask`, and rows that a partial echo left out.

    Attributes:
        path: the file.
        num_slices: number of slices: of a 3-D acquisition, the partitions in the field of view.
        coils: number of coils; 0 for a single one, whose k-space then has no coil axis.
        shape: rows (readout) and columns (phase encoding) of k-space.
        header: sizes, padding and spacing.
        mask: bool (W,), True where a line was sampled; None for fully sampled data.
        crop: rows and columns of the final image.
        affine: (4, 4), from voxels of the final volume to world in mm (RAS+); spacing only where the file has no
            positions.
        warnings: which parts were left out or could not be used.
        attributes: ``acquisition``, the name of the protocol.
        reconstruction: None: raw data have no reference image.
        empty: numbers of the slices that are zero everywhere; of a 3-D acquisition none.
        identity: patient, study and scan of the header, by DICOM keyword; with ImageOrientationPatient where
            the file gives place and directions.
    """

    path: Path
    num_slices: int
    coils: int
    shape: tuple[int, int]
    header: EncodingHeader
    mask: NDArray[np.bool_] | None
    crop: tuple[int, int]
    affine: NDArray[np.float64]
    warnings: tuple[str, ...]
    attributes: Mapping[str, Any]
    _group: str
    _lines: NDArray[np.void] = field(repr=False)
    _partitions: Axis | None
    _whitening: NDArray[np.complex64] | None = field(repr=False)
    reconstruction: None = None
    empty: tuple[int, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def padding(self) -> tuple[int, int]:
        """First column that was sampled and the one after the last."""
        assert self.header.padding is not None
        return self.header.padding

    def read_kspace(self, index: int) -> torch.Tensor:
        """Return slice ``index``: complex64 (H, W) or (coils, H, W); coils are decorrelated where noise was measured.

        A 3-D acquisition is read and transformed along its partitions once, and kept.

        Raises:
            KspaceFileError: the slice cannot be read, holds NaN or infinity, or is zero everywhere.
        """
        if not 0 <= index < self.num_slices:
            raise KspaceFileError(f"{self.path}: slice {index}: accepted: 0 to {self.num_slices - 1}.")
        if self._partitions is None:
            lines = self._lines[self._lines["layer"] == index]
            data = self._assemble(lines, index, 1)[0]
        else:
            data = self._volume[index + self._partitions.start]
        if not data.any():
            raise KspaceFileError(f"{self.path}: slice {index}: kspace is zero everywhere.")
        return torch.from_numpy(data if self.coils else data[0])

    def read_reconstruction(self, index: int) -> None:
        """Return None: raw data have no reference image."""

    def read_maps(self, index: int) -> None:
        """Return None: raw data have no coil sensitivity maps."""

    @cached_property
    def _volume(self) -> NDArray[np.complex64]:
        """All partitions of a 3-D acquisition, an image along the first axis."""
        assert self._partitions is not None
        partitions = self._assemble(self._lines, 0, self._partitions.size)
        volume: NDArray[np.complex64] = ifft1c(torch.from_numpy(partitions), dim=0).numpy()
        return volume

    def _assemble(self, lines: NDArray[np.void], first: int, layers: int) -> NDArray[np.complex64]:
        """Place the acquisitions ``lines`` on ``layers`` grids, from the layer ``first``, and average repeated ones."""
        coils = max(1, self.coils)
        total = np.zeros((layers, coils, *self.shape), np.complex64)
        count = np.zeros((layers, 1, *self.shape), np.float32)
        for line, samples in self._samples(lines):
            rows = slice(line["row"], line["row"] + samples.shape[1])
            place = line["layer"] - first, slice(None), rows, line["column"]
            total[place] += samples
            count[place] += 1
        total /= np.maximum(count, 1)
        return total if self._whitening is None else np.einsum("dc,lcxy->ldxy", self._whitening, total)

    def _samples(self, lines: NDArray[np.void]) -> Iterator[tuple[np.void, NDArray[np.complex64]]]:
        """The acquisitions ``lines`` with their samples (coils, n), in the order of k-space."""
        with _opened(self.path) as file:
            table = stored_dataset(self.path, file[self._group], "data")
            for line, samples in zip(
                lines, read_samples(self.path, table, lines["number"], max(1, self.coils)), strict=True
            ):
                samples = samples[:, :: -1 if line["reverse"] else 1]
                yield line, samples[:, line["first"] : line["last"]]


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise KspaceFileError(f"{path}: not an HDF5 file, or damaged: {one_line(error)}") from error


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

    Example:
        >>> from monai_d3gm.data import bundled_epi_path
        >>> is_ismrmrd(bundled_epi_path())
        False
    """
    try:
        with h5py.File(Path(path), "r") as file:
            return bool(_groups(file))
    except (OSError, RuntimeError, KeyError):
        return False


def open_ismrmrd(path: str | os.PathLike[str], measurement: str | None = None) -> IsmrmrdFile:
    """Check ISMRMRD raw data and return a lazy reader of them.

    Used are the acquisitions of the first encoding space that hold lines of the image, parallel calibration included
    unless the header says that it was scanned separately. Averages are averaged; of several repetitions, contrasts,
    cardiac phases and sets the first is used, with a warning. Noise scans, if any, decorrelate the coils. Lines
    flagged as reversed are turned round; their ``center_sample``, ``discard_pre`` and ``discard_post`` count in the
    order in which they are stored. A 3-D acquisition needs all its partitions.

    Args:
        path: HDF5 file.
        measurement: name of the group with the acquisitions; None for the only one of a file.

    Raises:
        KspaceFileError: the package ismrmrd is missing; there is no such measurement, or several and none is chosen;
            the file is damaged or links to others; the trajectory is not Cartesian; lines do not fit the header's
            matrix, or differ between slices; or partitions are missing.

    Example:
        >>> import ismrmrd, tempfile
        >>> from monai_d3gm.data.formats.fastmri import encoding_header_xml
        >>> target = Path(tempfile.mkdtemp()) / "raw.h5"
        >>> with ismrmrd.Dataset(target) as file:
        ...     file.write_xml_header(encoding_header_xml((8, 6), (4, 4)))
        ...     for line in range(6):
        ...         acquisition = ismrmrd.Acquisition.from_array(np.ones((2, 8), np.complex64), center_sample=4)
        ...         acquisition.idx.kspace_encode_step_1 = line
        ...         file.append_acquisition(acquisition)
        >>> raw = open_ismrmrd(target)
        >>> raw.num_slices, raw.coils, raw.shape, raw.crop, raw.mask
        (1, 2, (8, 6), (4, 4), None)
    """
    path = Path(path)
    if not path.is_file():
        raise KspaceFileError(f"{path}: no such file.")
    with _opened(path) as file:
        try:
            return _check(path, file, measurement)
        except (KspaceFileError, TooLargeError):
            raise
        except Exception as error:  # h5py and ismrmrd raise many kinds for a damaged file
            raise KspaceFileError(f"{path}: damaged: {one_line(error)}") from error


def _check(path: Path, file: h5py.File, measurement: str | None) -> IsmrmrdFile:
    groups = _groups(file)
    if measurement is not None and measurement not in groups:
        raise KspaceFileError(f"{path}: measurement is {measurement!r}; the file has {', '.join(groups) or 'none'}.")
    if measurement is None and len(groups) != 1:
        raise KspaceFileError(f"{path}: the measurements are {', '.join(groups) or 'none'}; choose one: measurement.")
    groups = groups if measurement is None else [measurement]
    xml = np.ravel(small_dataset(path, stored_dataset(path, file[groups[0]], "xml"), "xml"))
    table = stored_dataset(path, file[groups[0]], "data")
    header = parse_header(path, xml[0] if xml.size else None)
    heads = read_heads(path, table)
    numbers, notes = choose_acquisitions(path, heads, header)
    used = heads[numbers]
    coils = np.unique(used["active_channels"])
    if len(coils) > 1 or coils[0] < 1:
        raise KspaceFileError(f"{path}: acquisitions have {coils.tolist()} coils; accepted: the same number in all.")

    slices = np.unique(used["idx"]["slice"])
    x, y, z = header.axes
    volume = z.encoded > 1
    first = np.array([used[used["idx"]["slice"] == number][0] for number in slices])
    if volume and len(slices) > 1:
        raise KspaceFileError(f"{path}: {len(slices)} slabs of a 3-D acquisition; accepted: one.")
    affine, order, note = stack_geometry(path, first, header.axes)
    lines = place_lines(path, numbers, used, header.axes, slices[order])
    sampled = np.zeros((z.size if volume else len(slices), y.size), dtype=bool)
    sampled[lines["layer"], lines["column"]] = True
    phase = common_lines(path, sampled, volume)
    whitening, noise_note = whitening_of(path, table, heads, int(coils[0]))
    notes += [text for text in (note, noise_note) if text is not None]
    for text in notes:
        logger.warning("%s: %s.", path, text)
    layers = z.size if volume else 1
    check_memory(
        path,
        f"k-space of {layers} x {coils[0]} x {x.size} x {y.size} samples",
        _COPIES * 8 * layers * int(coils[0]) * x.size * y.size,
    )
    empty = () if volume else empty_slices(path, table, lines, int(coils[0]), len(slices))
    extent = np.flatnonzero(phase)[[0, -1]]
    num_slices = z.crop if volume else len(slices)
    return IsmrmrdFile(
        path=path,
        num_slices=num_slices,
        coils=int(coils[0]) if coils[0] > 1 else 0,
        shape=(x.size, y.size),
        header=EncodingHeader(
            encoded_size=(x.size, y.size, z.size if volume else 1),
            recon_size=(x.crop, y.crop, num_slices),
            padding=(int(extent[0]), int(extent[1]) + 1),
            spacing=(x.spacing, y.spacing, float(np.linalg.norm(affine[:3, 2]))),
        ),
        mask=None if is_complete(phase) else phase,
        crop=(x.crop, y.crop),
        affine=affine,
        warnings=tuple(notes),
        attributes={"acquisition": header.protocol},
        empty=empty,
        identity={**header.identity, **image_orientation(affine, note)},
        _group=groups[0],
        _lines=lines,
        _partitions=z if volume else None,
        _whitening=whitening,
    )


class Ismrmrd(KspaceFormat):
    """ISMRMRD raw data."""

    name = "ismrmrd"
    title = "ISMRMRD raw data"
    suffixes = (".mrd",)

    def recognise(self, path: Path, start: bytes) -> bool:
        """`is_ismrmrd`."""
        return start.startswith(HDF5) and is_ismrmrd(path)

    def extent(self, path: Path) -> Extent:
        """From the headers of the file and of its acquisitions."""
        file = open_ismrmrd(path)
        return Extent((*file.shape, file.num_slices), max(1, file.coils))

    def open(self, source: Source, *, measurement: str | None = None, axes: str | None = None) -> IsmrmrdFile:
        """`open_ismrmrd`."""
        return open_ismrmrd(source.path, measurement)
