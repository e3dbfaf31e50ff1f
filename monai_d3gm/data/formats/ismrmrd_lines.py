"""The acquisitions of ISMRMRD raw data: which make the image, where their samples go, and what their noise is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.ismrmrd_header import Axis, RawHeader
from monai_d3gm.data.formats.sampling import is_complete
from monai_d3gm.data.formats.volumes import KspaceFileError
from monai_d3gm.files import check_memory, one_line

_CHUNK = 256
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
LINE = np.dtype([(name, np.int64) for name in ("number", "layer", "column", "row", "first", "last", "reverse")])
"""Where an acquisition goes: samples ``first`` to ``last``, turned round before if ``reverse``, from ``row`` on."""


def read_heads(path: Path, table: h5py.Dataset) -> NDArray[np.void]:
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


def flagged(heads: NDArray[np.void], *names: str) -> NDArray[np.bool_]:
    """Which acquisitions have one of ismrmrd's flags ``ACQ_IS_<name>``."""
    import ismrmrd

    bits = sum(1 << (getattr(ismrmrd, f"ACQ_IS_{name}") - 1) for name in names)
    flagged: NDArray[np.bool_] = (heads["flags"] & np.uint64(bits)) != 0
    return flagged


def read_samples(
    path: Path, table: h5py.Dataset, numbers: NDArray[np.int64], coils: int
) -> Iterator[NDArray[np.complex64]]:
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


def stack_geometry(
    path: Path, heads: NDArray[np.void], axes: tuple[Axis, Axis, Axis]
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


def image_orientation(affine: NDArray[np.float64], note: str | None) -> dict[str, list[float]]:
    """ImageOrientationPatient, LPS, of an affine, unless a warning says that it is not known."""
    if note is not None and note.endswith("unknown"):
        return {}
    axes = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :2]
    return {"ImageOrientationPatient": (axes / np.linalg.norm(axes, axis=0)).T.ravel().tolist()}


def common_lines(path: Path, sampled: NDArray[np.bool_], volume: bool) -> NDArray[np.bool_]:
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


def empty_slices(path: Path, table: h5py.Dataset, lines: NDArray[np.void], coils: int, count: int) -> tuple[int, ...]:
    """The slices all of whose samples are 0; one that cannot be read is passed over: it is an error when it is read."""
    empty = []
    for layer in range(count):
        with contextlib.suppress(KspaceFileError):
            numbers = lines["number"][lines["layer"] == layer]
            if not any(samples.any() for samples in read_samples(path, table, numbers, coils)):
                empty.append(layer)
    if len(empty) == count:
        raise KspaceFileError(f"{path}: kspace is zero everywhere.")
    return tuple(empty)


def choose_acquisitions(path: Path, heads: NDArray[np.void], header: RawHeader) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers of the acquisitions that make the image, and what to know about those left out."""
    used = ~flagged(heads, *_EXCLUDED)
    notes = []
    if header.separate_calibration:
        only = flagged(heads, "PARALLEL_CALIBRATION") & ~flagged(heads, "PARALLEL_CALIBRATION_AND_IMAGING")
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


def place_lines(
    path: Path,
    numbers: NDArray[np.int64],
    heads: NDArray[np.void],
    axes: tuple[Axis, Axis, Axis],
    slices: NDArray[np.integer],
) -> NDArray[np.void]:
    """Where the acquisitions ``numbers`` with headers ``heads`` go; ``slices`` are counters in the stack's order."""
    x, y, z = axes
    counters = heads["idx"]
    samples, center, pre, post = (
        heads[name].astype(np.int64) for name in ("number_of_samples", "center_sample", "discard_pre", "discard_post")
    )
    reverse = flagged(heads, "REVERSE")
    center = np.where(reverse, samples - center, center)
    pre, post = np.where(reverse, post, pre), np.where(reverse, pre, post)
    if (pre + post >= samples).any():
        raise KspaceFileError(f"{path}: acquisition {numbers[pre + post >= samples][0]}: all samples are discarded.")
    lines = np.zeros(len(numbers), dtype=LINE)
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


def whitening_of(
    path: Path, table: h5py.Dataset, heads: NDArray[np.void], coils: int
) -> tuple[NDArray[np.complex64] | None, str | None]:
    """The matrix that decorrelates the coils, from the noise scans if there are any, and a warning or None."""
    noise = flagged(heads, "NOISE_MEASUREMENT")
    if coils == 1 or not noise.any():
        return None, None
    fitting = np.flatnonzero(noise & (heads["active_channels"] == coils))
    samples = np.concatenate([np.zeros((coils, 0), np.complex64), *read_samples(path, table, fitting, coils)], axis=1)
    try:
        return _whitening(samples), None
    except np.linalg.LinAlgError:
        return None, "the noise scans do not tell the noise of every coil; the coils are not decorrelated"
