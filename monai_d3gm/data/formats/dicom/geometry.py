"""Where the slices of a series lie.

DICOM's patient coordinates are LPS+ in mm (PS3.3 C.7.6.2.1.1): the centre of the voxel in column i and row j lies at
position + i * column spacing * row cosines + j * row spacing * column cosines. Affines here are RAS+ in mm, as in
NIfTI, for arrays indexed (column, row, slice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

SAME_POSITION = 0.01
"""Slices nearer than this, in mm, lie at one position."""

SAME_ORIENTATION = 1e-3
"""Direction cosines that differ by less are equal: 0.06 degrees."""

_EVEN = 0.01
"""A slice that lies off the regular grid by more than this share of the spacing is reported."""

_TILT = 0.1
"""The smallest angle, in degrees, between the stacking direction and the slices' normal that is reported."""


@dataclass(frozen=True)
class Plane:
    """Where one slice lies: LPS ``position`` of its first voxel in mm, row and column cosines, spacing in mm.

    Attributes:
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient: cosines along a row, then along a column.
        spacing: PixelSpacing: between rows, then between columns.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector along which slices are sorted: row cosines x column cosines."""
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return normal / np.linalg.norm(normal)

    @property
    def is_valid(self) -> bool:
        """The cosines are two perpendicular unit vectors and the spacing is positive."""
        axes = np.reshape(self.orientation, (2, 3))
        return np.allclose(axes @ axes.T, np.eye(2), atol=SAME_ORIENTATION) and min(self.spacing) > 0


def same_orientation(first: Plane, second: Plane) -> bool:
    """Tell whether two slices are parallel and turned alike, to `SAME_ORIENTATION`."""
    return bool(np.abs(np.subtract(first.orientation, second.orientation)).max() < SAME_ORIENTATION)


def distances(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Distance of each slice along the normal of the first, in mm; all are parallel."""
    return np.array([plane.position for plane in planes]) @ planes[0].normal


def is_even(planes: Sequence[Plane]) -> bool:
    """Tell whether slices, no two at one position, lie in equal steps."""
    return not _uneven(np.sort(distances(planes)))


def stack_affine(planes: Sequence[Plane], single_spacing: float) -> tuple[NDArray[np.float64], list[str]]:
    """Return the RAS+ affine of a sorted stack of parallel slices, and warnings about the stack.

    The slice axis goes from the first slice to the last in equal steps, so that both lie where they are; a tilted
    gantry makes it oblique to the slices.

    Args:
        planes: the slices, sorted by `distances`, no two at one position.
        single_spacing: length of the slice axis, in mm, for one slice.

    Returns:
        The affine (4, 4) and the warnings.

    Example:
        >>> planes = [Plane((0, 0, z), (1, 0, 0, 0, 1, 0), (2, 2)) for z in (0.0, 3.0, 9.0)]
        >>> affine, warnings = stack_affine(planes, 1.0)
        >>> affine[2].tolist(), warnings[1]
        ([0.0, 0.0, 4.5, 0.0], 'the affine misplaces slices by up to 1.5 mm.')
        >>> warnings[0]
        '1 slice is missing after slice 2 of 3 (gaps of 3 to 6 mm).'
    """
    first = planes[0]
    positions = np.array([plane.position for plane in planes])
    step = (positions[-1] - positions[0]) / (len(planes) - 1) if len(planes) > 1 else first.normal * single_spacing
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.orientation[:3], first.spacing[1])
    affine[:3, 1] = np.multiply(first.orientation[3:], first.spacing[0])
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    warnings = _uneven(distances(planes)) if len(planes) > 2 else []
    off = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(planes)), step), axis=1).max()
    if off > _EVEN * np.linalg.norm(step):
        warnings.append(f"the affine misplaces slices by up to {off:.3g} mm.")
    tilt = np.degrees(np.arccos(np.clip(step @ first.normal / np.linalg.norm(step), -1, 1)))
    if tilt > _TILT:
        warnings.append(f"gantry tilt: the slices are stacked at {tilt:.2f} degrees to their normal.")
    return LPS_TO_RAS @ affine, warnings


def _uneven(along: NDArray[np.float64]) -> list[str]:
    """Warnings about the slices' distances along the normal."""
    gaps = np.diff(along)
    if np.abs(gaps / np.median(gaps) - 1).max() <= _EVEN:
        return []
    described = f"(gaps of {gaps.min():.3g} to {gaps.max():.3g} mm)"
    # With few gaps the median may be that of a hole; the smallest then is the usual one.
    steps = gaps / gaps.min()
    if np.abs(steps - steps.round()).max() > 10 * _EVEN:
        return [f"the slices are unevenly spaced {described}."]
    missing = int((steps.round() - 1).sum())
    after = ", ".join(str(i + 1) for i in np.flatnonzero(steps.round() > 1)[:8])
    is_missing = "1 slice is" if missing == 1 else f"{missing} slices are"
    return [f"{is_missing} missing after slice {after} of {len(along)} {described}."]
