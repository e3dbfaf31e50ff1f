"""The tolerances of positions and directions, each just inside and just outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import head, oblique_affine, write_classic

from monai_d3gm.data.formats.dicom.geometry import Plane, is_even, same_orientation, stack_affine
from monai_d3gm.data.formats.dicom.series import find_series

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stack(*positions: tuple[float, float, float]) -> list[Plane]:
    return [Plane(position, AXIAL, (1.0, 1.0)) for position in positions]


@pytest.mark.parametrize(("cosine", "same"), [(0.0009, True), (0.0011, False)])
def test_directions_within_a_thousandth_are_one(cosine: float, same: bool) -> None:
    turned = Plane((0.0, 0.0, 0.0), (1.0, 0.0, cosine, 0.0, 1.0, 0.0), (1.0, 1.0))
    assert same_orientation(stack((0.0, 0.0, 0.0))[0], turned) == same
    assert turned.is_valid  # its row has the length 1 to the square of the cosine
    leaning = Plane((0.0, 0.0, 0.0), (1.0, cosine, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0))
    assert leaning.is_valid == same  # the cosine of the angle between row and column


@pytest.mark.parametrize(("degrees", "reported"), [(0.09, False), (0.11, True)])
def test_a_tilt_of_a_tenth_of_a_degree_is_reported(degrees: float, reported: bool) -> None:
    shift = 3 * np.tan(np.radians(degrees))
    _, warnings = stack_affine(stack((0, 0, 0), (0, shift, 3), (0, 2 * shift, 6)), 1.0)
    assert any("gantry tilt" in text for text in warnings) == reported


@pytest.mark.parametrize(("off", "even"), [(0.009, True), (0.011, False)])
def test_slices_within_a_hundredth_of_their_distance_are_even(off: float, even: bool) -> None:
    planes = stack((0, 0, 0), (0, 0, 1), (0, 0, 2 + off), (0, 0, 3 + off))
    assert is_even(planes) == even
    assert (stack_affine(planes, 1.0)[1] == []) == even


@pytest.mark.parametrize(("apart", "volumes"), [(0.009, 2), (0.011, 1)])
def test_slices_within_a_hundredth_of_a_millimetre_lie_at_one_position(
    tmp_path: Path, apart: float, volumes: int
) -> None:
    """Two slices at one position belong to two volumes; further apart they are two slices of one."""
    affine = oblique_affine()
    paths = write_classic(tmp_path, head((24, 20, 2)), affine)
    header = pydicom.dcmread(paths[1])
    first = np.array(pydicom.dcmread(paths[0]).ImagePositionPatient, dtype=float)
    second = np.array(header.ImagePositionPatient, dtype=float)
    header.ImagePositionPatient = [
        f"{v:.9g}" for v in first + apart * (second - first) / np.linalg.norm(second - first)
    ]
    header.save_as(paths[1])
    series, _ = find_series(tmp_path)
    assert len(series) == volumes
