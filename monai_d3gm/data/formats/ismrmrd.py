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
import warnings
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
from monai_d3gm.data.formats.base import Extent, KspaceFormat, Source
from monai_d3gm.data.formats.fastmri import (
    HDF5,
    EncodingHeader,
    KspaceFileError,
    is_complete,
    one_line,
    small_dataset,
    stored_dataset,
)
from monai_d3gm.files import TooLargeError, check_memory

logger = logging.getLogger(__name__)

_MAX_XML = 2**22
_MAX_SIZE = 4096
_CHUNK = 256
_COPIES = 6
"""Arrays of k-space that lie in memory at once: sums, counts, transforms, and those of the coils' maps."""
_MOST_RATIO = 1000
_NOISE_SAMPLES = 10
_DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")
_EXCLUDED = (
    "NOISE_MEASUREMENT",
    "NAVIGATION_DATA",
    "PHASECORR_DATA",
    "HPFEEDBACK_DATA",
    "DUMMYSCAN_DATA",
    "RTFEEDBACK_DATA",
    "SURFACECOILCORRECTIONSCAN_DATA",
    "PHASE_STABILIZATION_REFERENCE",
    "PHASE_STABILIZATION",
)
_LINE = np.dtype([(name, np.int64) for name in ("number", "layer", "column", "row", "first", "last", "reverse")])
"""Where an acquisition goes: samples ``first`` to ``last``, turned round before if ``reverse``, from ``row`` on."""


@dataclass(frozen=True)
class _Axis:
    """One axis of the encoding.

    Attributes:
        size: samples of the grid that k-space is placed on: the encoded ones, or more where the image is interpolated.
        crop: voxels of the image that lie in the field of view asked for.
        spacing: of the voxels, in mm.
        center: number of the line at the centre of k-space.
        encoded: samples of the encoded matrix.
    """

    size: int
    crop: int
    spacing: float
    center: int
    encoded: int

    @property
    def start(self) -> int:
        """First voxel of the central crop, as in ``fastmri.data.transforms.center_crop``."""
        return (self.size - self.crop) // 2

    @property
    def origin(self) -> int:
        """Voxel of the crop at the centre of the field of view."""
        return self.size // 2 - self.start


@dataclass(frozen=True)
class _Header:
    """What reconstruction needs of the XML header: axes of readout, phase encoding and partition."""

    axes: tuple[_Axis, _Axis, _Axis]
    separate_calibration: bool
    protocol: str


@dataclass(frozen=True)
class IsmrmrdFile:
    """Checked ISMRMRD raw data with the interface of a fastMRI `KspaceFile`; slices are read when asked for.

    Rows are the readout with its oversampling, columns the phase encoding; `crop` is the field of view of the header's
    ``reconSpace``. What was not measured is zero: columns outside `mask`, and rows that a partial echo left out.

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
        warnings: what was left out or could not be used.
        attributes: ``acquisition``, the name of the protocol.
        reconstruction: None: raw data have no reference image.
        empty: no slice is zero everywhere.
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
    _partitions: _Axis | None
    _whitening: NDArray[np.complex64] | None = field(repr=False)
    reconstruction: None = None
    empty: tuple[int, ...] = ()

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
            for line, samples in zip(lines, _read(self.path, table, lines["number"], max(1, self.coils)), strict=True):
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

    >>> from monai_d3gm.data import bundled_epi_path
    >>> is_ismrmrd(bundled_epi_path())
    False
    """
    try:
        with h5py.File(Path(path), "r") as file:
            return bool(_groups(file))
    except (OSError, RuntimeError, KeyError):
        return False


def _axis(name: str, encoded: Any, recon: Any, limits: Any) -> _Axis:
    """Compare the encoded matrix and field of view with those of the image along the axis ``name``."""
    counts = tuple(int(getattr(space.matrixSize, name)) for space in (encoded, recon))
    lengths = tuple(float(getattr(space.fieldOfView_mm, name)) for space in (encoded, recon))
    if not all(1 <= n <= _MAX_SIZE for n in counts) or not all(np.isfinite(mm) and mm > 0 for mm in lengths):
        raise ValueError(f"{counts} samples over {lengths} mm along {name}; accepted: 1 to {_MAX_SIZE}, above 0 mm")
    # voxels as small as the image's, but never fewer samples than were encoded
    size = max(counts[0], round(counts[1] * lengths[0] / lengths[1]))
    if size > _MAX_SIZE:
        raise ValueError(f"the image's voxels are too small for the encoded field of view along {name}")
    crop = min(size, max(1, round(size * lengths[1] / lengths[0])))
    center = counts[0] // 2 if limits is None else int(limits.center)
    if not 0 <= center <= _MAX_SIZE:
        raise ValueError(f"the centre along {name} is line {center}; accepted: 0 to {_MAX_SIZE}")
    return _Axis(size, crop, lengths[0] / size, center, counts[0])


def _parse_header(path: Path, xml: Any) -> _Header:
    """Read the header with ismrmrd's schema."""
    try:
        from ismrmrd.xsd import CreateFromDocument
    except ImportError as error:
        raise KspaceFileError(
            f"{path}: reading ISMRMRD raw data needs the package ismrmrd: pip install 'monai_d3gm[ismrmrd]'."
        ) from error
    if not isinstance(xml, bytes | str) or len(xml) > _MAX_XML:
        raise KspaceFileError(f"{path}: xml is no text or longer than {_MAX_XML} bytes; accepted: an ISMRMRD header.")
    text = xml.decode("utf-8", errors="replace") if isinstance(xml, bytes) else xml
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise KspaceFileError(f"{path}: xml declares entities; accepted: a plain ISMRMRD header.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that are not used; those that are used are checked below
            header = CreateFromDocument(text)
        encoding = header.encoding[0]
        trajectory = str(getattr(encoding.trajectory, "value", encoding.trajectory))
        limits = (None, encoding.encodingLimits.kspace_encoding_step_1, encoding.encodingLimits.kspace_encoding_step_2)
        x, y, z = (
            _axis(name, encoding.encodedSpace, encoding.reconSpace, limit)
            for name, limit in zip("xyz", limits, strict=True)
        )
        mode = encoding.parallelImaging and encoding.parallelImaging.calibrationMode
        protocol = header.measurementInformation and header.measurementInformation.protocolName
    except Exception as error:  # xsdata, expat and missing parts raise many kinds for a damaged header
        raise KspaceFileError(f"{path}: the ISMRMRD header cannot be read: {one_line(error)}") from error
    if trajectory != "cartesian":
        raise KspaceFileError(f"{path}: the trajectory is {trajectory!r}; accepted: 'cartesian'.")
    separate = getattr(mode, "value", None) in ("separate", "external")
    return _Header((x, y, z), separate, str(protocol or "unknown"))


def _read_heads(path: Path, table: h5py.Dataset) -> NDArray[np.void]:
    """The headers of all acquisitions."""
    from ismrmrd.hdf5 import acquisition_header_dtype

    parts = table.dtype.names or ()
    if table.ndim != 1 or not {"head", "data"} <= set(parts):
        raise KspaceFileError(f"{path}: data has the parts {parts}; accepted: a table of ISMRMRD acquisitions.")
    if table.dtype["head"].names != acquisition_header_dtype.names:
        raise KspaceFileError(f"{path}: data has other headers than ismrmrd's AcquisitionHeader.")
    if h5py.check_vlen_dtype(table.dtype["data"]) != np.float32:
        raise KspaceFileError(f"{path}: data holds samples of type {table.dtype['data']}; accepted: lists of float32.")
    # lists of varying length lie in the file themselves; what describes them must too
    if len(table) * table.dtype.itemsize > path.stat().st_size * _MOST_RATIO:
        raise KspaceFileError(f"{path}: {len(table)} acquisitions are described in {path.stat().st_size} bytes.")
    check_memory(path, f"a table of {len(table)} acquisitions", 3 * len(table) * acquisition_header_dtype.itemsize)
    heads: NDArray[np.void] = table.fields("head")[:].astype(acquisition_header_dtype)
    return heads


def _flagged(heads: NDArray[np.void], *names: str) -> NDArray[np.bool_]:
    """Which acquisitions have one of ismrmrd's flags ``ACQ_IS_<name>``."""
    import ismrmrd

    bits = sum(1 << (getattr(ismrmrd, f"ACQ_IS_{name}") - 1) for name in names)
    flagged: NDArray[np.bool_] = (heads["flags"] & np.uint64(bits)) != 0
    return flagged


def _read(path: Path, table: h5py.Dataset, numbers: NDArray[np.int64], coils: int) -> Iterator[NDArray[np.complex64]]:
    """The samples (coils, n) of the acquisitions ``numbers``, which are in increasing order."""
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        try:
            rows = table.fields(["head", "data"])[chunk]
        except (OSError, RuntimeError) as error:
            raise KspaceFileError(f"{path}: acquisition {chunk[0]}: cannot be read: {one_line(error)}") from error
        for number, head, data in zip(chunk, rows["head"], rows["data"], strict=True):
            expected = 2 * coils * int(head["number_of_samples"])
            if data.size != expected:
                raise KspaceFileError(f"{path}: acquisition {number}: {data.size} values; accepted: {expected}.")
            if not np.isfinite(data).all():
                raise KspaceFileError(f"{path}: acquisition {number} holds NaN or infinity.")
            yield data.astype(np.float32, copy=False).view(np.complex64).reshape(coils, -1)


def _whitening(samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The matrix that makes the coils' noise uncorrelated and equal, and keeps its mean power.

    With the covariance C = L L^H of the noise it is L^{-1} sqrt(tr C / coils) (Pruessmann et al., MRM 46, 2001).

    Args:
        samples: noise, (coils, n).

    Raises:
        numpy.linalg.LinAlgError: there are too few samples, or a coil has no noise of its own.
    """
    if samples.shape[1] < _NOISE_SAMPLES * len(samples):
        raise np.linalg.LinAlgError(f"{samples.shape[1]} samples of {len(samples)} coils")
    covariance = (samples @ samples.conj().T).astype(np.complex128) / samples.shape[1]
    level = np.sqrt(np.trace(covariance).real / len(covariance))
    inverse: NDArray[np.complex64] = (level * np.linalg.inv(np.linalg.cholesky(covariance))).astype(np.complex64)
    return inverse


def _geometry(
    path: Path, heads: NDArray[np.void], axes: tuple[_Axis, _Axis, _Axis]
) -> tuple[NDArray[np.float64], NDArray[np.intp], str | None]:
    """The affine of a stack of slices, or of the slab of a 3-D acquisition.

    ISMRMRD gives the centre of the field of view and the directions in LPS coordinates; world is RAS.

    Args:
        path: the file.
        heads: an acquisition of each slice.
        axes: of readout, phase encoding and partition.

    Returns:
        The affine (4, 4), the order of the slices along the normal, and a warning or None.
    """
    x, y, z = axes
    order = np.arange(len(heads))
    plain = np.diag([x.spacing, y.spacing, z.spacing, 1.0])
    frames = np.stack([heads[name] for name in _DIRECTIONS], axis=1).astype(np.float64)
    positions = heads["position"].astype(np.float64)
    if not np.isfinite(frames).all() or not np.isfinite(positions).all():
        raise KspaceFileError(f"{path}: positions or directions hold NaN or infinity.")
    if np.abs(frames - frames[0]).max() > 1e-3:
        raise KspaceFileError(f"{path}: the slices have different directions; accepted: a stack of parallel slices.")
    if np.abs(frames[0] @ frames[0].T - np.eye(3)).max() > 1e-2:
        return plain, order, "the file gives no directions: the volume's orientation and place are unknown"
    read, phase, normal = frames[0]
    step, warning = normal * z.spacing, None
    if len(heads) > 1:
        order = np.argsort(positions @ normal, kind="stable")
        positions = positions[order]
        gaps = np.diff(positions @ normal)
        if gaps.min() < 1e-3 * z.spacing:
            return plain, np.arange(len(heads)), "slices share a position: the volume's place is unknown"
        if np.ptp(gaps) > 0.05 * gaps.mean():
            warning = f"slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart; the volume has them evenly spaced"
        step = (positions[-1] - positions[0]) / (len(positions) - 1)
    corner = positions[0] - x.origin * x.spacing * read - y.origin * y.spacing * phase
    if z.encoded > 1:
        corner = corner - z.origin * step
    lps = np.eye(4)
    lps[:3] = np.column_stack([x.spacing * read, y.spacing * phase, step, corner])
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, order, warning


def _common_lines(path: Path, sampled: NDArray[np.bool_], volume: bool) -> NDArray[np.bool_]:
    """The lines that are sampled in every slice, or in every partition that was encoded.

    Args:
        path: the file.
        sampled: (slices or partitions, columns).
        volume: the rows of ``sampled`` are partitions.

    Raises:
        KspaceFileError: the lines are not the same in all, or partitions are missing.
    """
    what, used = "partition" if volume else "slice", np.any(sampled, axis=1)
    first, *others = np.flatnonzero(used)
    for other in others:
        if (sampled[other] != sampled[first]).any():
            raise KspaceFileError(
                f"{path}: {what} {other} has other lines than {what} {first}; accepted: the same lines in all."
            )
    if volume and not is_complete(used):
        raise KspaceFileError(
            f"{path}: {int(used.sum())} of {len(used)} partitions are sampled, with gaps or on one side of the centre; "
            "accepted: 3-D acquisitions that are fully sampled along kspace_encode_step_2."
        )
    lines: NDArray[np.bool_] = sampled[first]
    return lines


def _place(path: Path, name: str, positions: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Check that ``positions`` lie on a grid of ``size``."""
    if positions.min() < 0 or positions.max() >= size:
        raise KspaceFileError(
            f"{path}: {name} {positions.min()} to {positions.max()} around the centre given do not lie in the header's "
            f"matrix of {size}."
        )
    return positions


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
    header = _parse_header(path, xml[0] if xml.size else None)
    heads = _read_heads(path, table)
    numbers, notes = _choose(path, heads, header)
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
    affine, order, note = _geometry(path, first, header.axes)
    lines = _sort(path, numbers, used, header.axes, slices[order])
    sampled = np.zeros((z.size if volume else len(slices), y.size), dtype=bool)
    sampled[lines["layer"], lines["column"]] = True
    phase = _common_lines(path, sampled, volume)
    whitening, noise_note = _whiten_from(path, table, heads, int(coils[0]))
    notes += [text for text in (note, noise_note) if text is not None]
    for text in notes:
        logger.warning("%s: %s.", path, text)
    layers = z.size if volume else 1
    check_memory(
        path,
        f"k-space of {layers} x {coils[0]} x {x.size} x {y.size} samples",
        _COPIES * 8 * layers * int(coils[0]) * x.size * y.size,
    )
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
        _group=groups[0],
        _lines=lines,
        _partitions=z if volume else None,
        _whitening=whitening,
    )


def _choose(path: Path, heads: NDArray[np.void], header: _Header) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers of the acquisitions that make the image, and what to know about those left out."""
    used = ~_flagged(heads, *_EXCLUDED)
    notes = []
    if header.separate_calibration:
        only = _flagged(heads, "PARALLEL_CALIBRATION") & ~_flagged(heads, "PARALLEL_CALIBRATION_AND_IMAGING")
        used &= ~only
    if (heads["encoding_space_ref"][used] != 0).any():
        used &= heads["encoding_space_ref"] == 0
        notes.append("several encoding spaces; the first is used")
    for name in ("repetition", "contrast", "phase", "set"):
        counter = heads["idx"][name]
        values = np.unique(counter[used])
        if len(values) > 1:
            used &= counter == values[0]
            notes.append(f"{len(values)} values of {name}; the first is used")
    if not used.any():
        raise KspaceFileError(f"{path}: none of {len(heads)} acquisitions holds a line of the image.")
    return np.flatnonzero(used), notes


def _sort(
    path: Path,
    numbers: NDArray[np.int64],
    heads: NDArray[np.void],
    axes: tuple[_Axis, _Axis, _Axis],
    slices: NDArray[np.integer],
) -> NDArray[np.void]:
    """Where the acquisitions ``numbers`` with headers ``heads`` go; ``slices`` are counters in the stack's order."""
    x, y, z = axes
    counters = heads["idx"]
    samples, center, pre, post = (
        heads[name].astype(np.int64) for name in ("number_of_samples", "center_sample", "discard_pre", "discard_post")
    )
    reverse = _flagged(heads, "REVERSE")
    center = np.where(reverse, samples - center, center)
    pre, post = np.where(reverse, post, pre), np.where(reverse, pre, post)
    if (pre + post >= samples).any():
        raise KspaceFileError(f"{path}: acquisition {numbers[pre + post >= samples][0]}: all samples are discarded.")
    lines = np.zeros(len(numbers), dtype=_LINE)
    lines["number"], lines["reverse"] = numbers, reverse
    lines["first"], lines["last"] = pre, samples - post
    lines["row"] = _place(path, "samples", x.size // 2 - center + pre, x.size)
    _place(path, "samples", x.size // 2 - center + samples - post - 1, x.size)
    lines["column"] = _place(
        path, "lines", y.size // 2 - y.center + counters["kspace_encode_step_1"].astype(np.int64), y.size
    )
    partitions = counters["kspace_encode_step_2"].astype(np.int64)
    if z.encoded > 1:
        lines["layer"] = _place(path, "partitions", z.size // 2 - z.center + partitions, z.size)
    elif partitions.any():
        raise KspaceFileError(f"{path}: partitions up to {partitions.max()}, but the header's matrix has one.")
    else:
        layer = {int(counter): place for place, counter in enumerate(slices)}
        lines["layer"] = [layer[int(counter)] for counter in counters["slice"]]
    return lines


def _whiten_from(
    path: Path, table: h5py.Dataset, heads: NDArray[np.void], coils: int
) -> tuple[NDArray[np.complex64] | None, str | None]:
    """The matrix that decorrelates the coils, from the noise scans if there are any, and a warning or None."""
    noise = _flagged(heads, "NOISE_MEASUREMENT")
    if coils == 1 or not noise.any():
        return None, None
    fitting = np.flatnonzero(noise & (heads["active_channels"] == coils))
    samples = np.concatenate([np.zeros((coils, 0), np.complex64), *_read(path, table, fitting, coils)], axis=1)
    try:
        return _whitening(samples), None
    except np.linalg.LinAlgError:
        return None, "the noise scans do not tell the noise of every coil; the coils are not decorrelated"


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

    def open(self, source: Source, measurement: str | None = None) -> IsmrmrdFile:
        """`open_ismrmrd`."""
        return open_ismrmrd(source.path, measurement)
