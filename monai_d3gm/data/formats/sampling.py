"""The sampled part of k-space: masks, and the zeros in the data.

Unmeasured samples are exactly zero; noise is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_d3gm.data.formats.volumes import KspaceFileError

__all__ = ["Survey", "acceleration_of", "is_complete", "refine_mask", "sampling_pattern", "survey"]

_BALANCE = 0.9
"""Lines are complete where one side of the centre has at least this share of the other's: less is partial Fourier."""

_STRAY = 0.01
"""The share of zero samples inside the sampled lines up to which they count as measured."""


def is_complete(lines: NDArray[np.bool_]) -> bool:
    """Whether the lines along an axis have no gap, and nearly as many lie before the centre as after it.

    Zeros at both ends are interpolation. More of them at one end are partial Fourier, which is not complete.

    Args:
        lines: bool (n,), True where a line was sampled, at least one.

    Example:
        >>> is_complete(np.array([0, 1, 1, 1, 1, 0], bool)), is_complete(np.array([0, 0, 1, 1, 1, 1], bool))
        (True, False)
    """
    used = np.flatnonzero(lines)
    before, after = len(lines) // 2 - used[0], used[-1] + 1 - len(lines) // 2
    return bool(len(used) == before + after and min(before, after) >= _BALANCE * max(before, after))


def sampling_pattern(sampled: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The mask that zeros in k-space show: unmeasured samples are exactly zero.

    Args:
        sampled: bool (H, W), True where a sample of any coil is not zero, at least one.

    Returns:
        None where both axes are complete; bool (W,) where whole columns are missing, (H, 1) where whole rows are, and
        (H, W) for any other pattern, such as an ellipse or scattered points.

    Example:
        >>> sampling_pattern(np.ones((4, 6), bool)) is None
        True
        >>> sampling_pattern(np.arange(12).reshape(2, 6) % 3 > 0).astype(int)
        array([0, 1, 1, 0, 1, 1])
    """
    rows: NDArray[np.bool_] = np.any(sampled, axis=1)
    columns: NDArray[np.bool_] = np.any(sampled, axis=0)
    if sampled[np.ix_(rows, columns)].mean() < 1 - _STRAY:
        return sampled
    if is_complete(rows):
        return None if is_complete(columns) else columns
    return rows[:, None] if is_complete(columns) else np.outer(rows, columns)


def acceleration_of(mask: NDArray[np.bool_]) -> float:
    """How many times fewer samples a mask has than the matrix that it covers.

    The matrix reaches as far to both sides of the centre as the outermost sample, so that interpolation does not count.

    Args:
        mask: bool (W,), (H, 1) or (H, W), at least one of them True.

    Example:
        >>> acceleration_of(np.arange(12) % 4 == 0), acceleration_of(np.outer(np.arange(4) % 2, np.ones(4)) > 0)
        (4.0, 2.0)
    """
    pattern, cells = np.atleast_2d(mask), 1
    for axis, size in enumerate(pattern.shape):
        used = np.flatnonzero(pattern.any(axis=1 - axis))
        cells *= min(size, 2 * int(max(size // 2 - used[0], used[-1] + 1 - size // 2)))
    return cells / int(pattern.sum())


@dataclass(frozen=True)
class Survey:
    """The sampling that the zeros of k-space show.

    Attributes:
        patterns: the first slice of each pattern, and `sampling_pattern` there.
        extent: first column that holds samples and the one after the last.
        empty: the slices that are zero everywhere.
    """

    patterns: tuple[tuple[int, NDArray[np.bool_] | None], ...]
    extent: tuple[int, int]
    empty: tuple[int, ...]


def survey(path: Path, count: int, columns: int, read: Callable[[int], NDArray[np.complexfloating]]) -> Survey:
    """Look at the zeros of every slice; one that cannot be read is passed over: it is an error when it is read.

    Args:
        path: the file, for messages.
        count: number of slices.
        columns: W of k-space.
        read: slice number to k-space, complex (..., H, W).

    Raises:
        KspaceFileError: all slices are zero everywhere.

    Example:
        >>> seen = survey(Path("a.npy"), 2, 4, lambda index: index * np.array([[1, 0, 1, 1], [1, 0, 1, 1]]))
        >>> seen.empty, seen.patterns[0][1].tolist()
        ((0,), [True, False, True, True])
    """
    patterns: list[tuple[int, NDArray[np.bool_] | None]] = []
    empty, used = [], np.zeros(columns, dtype=bool)
    for index in range(count):
        try:
            data = read(index)
        except (OSError, RuntimeError):
            continue
        sampled = (data != 0).reshape(-1, *data.shape[-2:]).any(axis=0)
        if not sampled.any():
            empty.append(index)
            continue
        found = sampling_pattern(sampled)
        if not any(np.array_equal(found, known) for _, known in patterns):  # type: ignore[arg-type]  # None == None
            patterns.append((index, found))
        used |= sampled.any(axis=0)
    if len(empty) == count:
        raise KspaceFileError(f"{path}: kspace is zero everywhere.")
    lines = np.flatnonzero(used)
    extent = (int(lines[0]), int(lines[-1]) + 1) if len(lines) else (0, columns)
    return Survey(tuple(patterns), extent, tuple(empty))


def refine_mask(path: Path, mask: NDArray[np.bool_] | None, seen: Survey) -> NDArray[np.bool_] | None:
    """The mask of a file: the stated mask, if any, without the zeros.

    Args:
        path: the file, for messages.
        mask: bool (W,), (H, 1) or (H, W), or None.
        seen: of its k-space.

    Raises:
        KspaceFileError: nothing is left, or there is no mask and the slices have zeros in different places.

    Example:
        >>> seen = survey(Path("a.npy"), 1, 3, lambda index: np.array([[1, 0, 1], [1, 0, 1]]))
        >>> refine_mask(Path("a.npy"), np.array([False, True, True]), seen)
        array([False, False,  True])
    """
    found = seen.patterns[0][1] if len(seen.patterns) == 1 else None
    if mask is None:
        if len(seen.patterns) > 1:
            first, other = (index for index, _ in seen.patterns[:2])
            raise KspaceFileError(
                f"{path}: slice {other} has zeros in other places than slice {first}; accepted: the same lines in all."
            )
        return found
    mask = mask.copy()
    if mask.shape[-1] > 1:
        mask[..., : seen.extent[0]] = mask[..., seen.extent[1] :] = False
    mask = mask if found is None else mask & found
    if not mask.any():
        raise KspaceFileError(f"{path}: kspace is zero on all lines of the mask.")
    return mask if mask.ndim == 1 else sampling_pattern(mask)
