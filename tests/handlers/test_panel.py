"""The picture of a slice: radiological orientation, physical aspect."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from monai_d3gm.data import InputVolume
from monai_d3gm.data.formats.base import FORMATS
from monai_d3gm.data.restoration.restored import RestoredVolume
from monai_d3gm.handlers.panel import save_panel


def source(affine: np.ndarray, name: str = "nifti", shape: tuple[int, int, int] = (24, 16, 1)) -> InputVolume:
    return InputVolume(
        path=Path("a.nii"),
        stem="a",
        format=FORMATS[name],
        shape=shape,
        slices=(0,),
        skipped=(),
        affine=affine,
        simulated=name == "nifti",
        coils=1,
        has_truth=True,
        kept_band=(1.0, 1.0),
        attributes={},
    )


def columns(*axes: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(axes).T
    return affine


R, A, S = (2.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 5.0)
L, P = (-2.0, 0.0, 0.0), (0.0, -3.0, 0.0)


@pytest.mark.parametrize(
    ("affine", "corner", "aspect", "letters"),
    [
        (columns(R, A, S), (-1, -1), 3 / 2, "RLAP"),  # rows to the right, columns to the front
        (columns(L, P, S), (0, 0), 3 / 2, "RLAP"),
        (columns(A, R, S), (-1, -1), 3 / 2, "RLAP"),
        (columns(P, L, S), (0, 0), 3 / 2, "RLAP"),
        (columns(A, S, R), (-1, -1), 5 / 3, "APSI"),  # sagittal
        (columns(S, L, A), (-1, 0), 5 / 2, "RLSI"),  # coronal
    ],
)
def test_the_patients_right_or_front_is_at_the_left_and_the_front_or_head_on_top(
    affine: np.ndarray, corner: tuple[int, int], aspect: float, letters: str
) -> None:
    """The voxel furthest to the right (or front) and to the front (or head) must be drawn in the upper left corner."""
    image = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    volume = source(affine)
    view = volume.format.view(volume)
    drawn = view.turn(image)
    assert drawn[0, 0] == image[corner]
    horizontal_first = np.argmax(np.abs(affine[:3, 0])) < np.argmax(np.abs(affine[:3, 1]))
    assert drawn.shape == ((16, 24) if horizontal_first else (24, 16))
    assert view.aspect == pytest.approx(aspect)
    assert "".join(view.letters[side] for side in ("left", "right", "top", "bottom")) == letters


def test_slices_along_the_second_axis_show_the_other_two() -> None:
    """(x, z) planes: the patient's right at the left, the head on top, 4 mm over 2 mm."""
    image = np.arange(24 * 8, dtype=np.float32).reshape(24, 8)
    through = replace(source(np.diag([2.0, 3.0, 4.0, 1.0]), shape=(24, 1, 8)), slice_axis=1)
    view = through.format.view(through)
    assert view.turn(image).shape == (8, 24) and view.turn(image)[0, 0] == image[-1, -1]
    assert view.aspect == 2 and "".join(view.letters[side] for side in ("left", "right", "top", "bottom")) == "RLSI"


def test_kspace_files_are_drawn_as_they_are_stored() -> None:
    image = np.arange(24 * 16, dtype=np.float32).reshape(24, 16)
    volume = source(np.diag([2.0, 1.0, 3.0, 1.0]), "fastmri")
    view = volume.format.view(volume)
    assert np.array_equal(view.turn(image), image) and view.aspect == 2 and view.letters == {}


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((4096, 2), 1.0), ((2, 4096), 1.0), ((1, 1), 1.0), ((1, 3000), 1000.0), ((64, 64), 1e-6), ((64, 64), 1e6)],
)
def test_a_picture_of_extreme_aspect_stays_small(shape: tuple[int, int], spacing: float, tmp_path: Path) -> None:
    """Four columns of at most 12.8 inches, two rows of at most 3.2, with gaps, bar and titles; 150 dots an inch."""
    truth = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
    images = {"zero-filled": truth / 4, "D3GM": truth / 2}
    volume = source(np.diag([spacing, 1.0, 1.0, 1.0]), "fastmri", (*shape, 1))
    save_panel(tmp_path / "a.png", RestoredVolume(volume, images, None, truth))
    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
    assert width <= 150 * (4 * 12.8 + 2) and height <= 150 * 8


def test_images_share_one_grey_scale(tmp_path: Path) -> None:
    """The restoration is half as bright as the truth, and is drawn half as bright."""
    truth = np.full((1, 24, 16), 8.0, dtype=np.float32)
    truth[0, :4] = 0
    images = {"zero-filled": truth / 4, "D3GM": truth / 2}
    volume = RestoredVolume(source(np.diag([1.0, 1.0, 1.0, 1.0]), "fastmri"), images, 0 * truth + 1, truth)
    save_panel(tmp_path / "a.png", volume)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"), dtype=int)
    line = picture[int(0.4 * len(picture))]  # through the middle of the upper row
    for grey in (255 / 4, 255 / 2, 255):  # each part has a tenth of the width or more
        assert (np.abs(line - grey) <= 1).mean() > 0.08


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are written from now on."""
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path, **_: Any) -> None:
        drawn.append(figure)
        Path(path).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def parts(figure: Figure) -> dict[str, list[np.ndarray]]:
    """What is drawn by column, the upper image and then the lower; the names of the columns are written first."""
    plane = figure.axes[0]
    columns = len(plane.images) // 2
    names = [text.get_text().split("\n")[0] for text in plane.texts[:columns]]
    drawn = [np.asarray(image.get_array()) for image in plane.images]
    return {name: drawn[2 * n : 2 * n + 2] for n, name in enumerate(names)}


def test_four_columns_the_part_with_the_largest_gain_and_one_scale_for_trust(
    tmp_path: Path, figures: list[Figure]
) -> None:
    truth = np.full((1, 60, 30), 5.0, dtype=np.float32)
    degraded, restored = truth.copy(), truth - 0.5
    degraded[0, 40:50, 10:20] = 0  # what the restoration repairs: a square of the window's extent, a third of 30
    images = {"zero-filled": degraded, "L1-wavelet": truth, "D3GM": restored}
    volume = RestoredVolume(source(np.eye(4), "fastmri", (60, 30, 1)), images, truth, truth)
    save_panel(tmp_path / "a.png", volume, 0 * truth + 2)
    drawn = parts(figures[0])
    assert list(drawn) == ["zero-filled", "D3GM", "truth", "interval, +-"]
    for name, whole in {"zero-filled": degraded, "D3GM": restored, "truth": truth}.items():
        np.testing.assert_array_equal(drawn[name][0], whole[0])
        np.testing.assert_array_equal(drawn[name][1], whole[0, 40:50, 10:20])
    interval, error = drawn["interval, +-"]
    assert (interval == 2).all() and (error == 0.5).all()
    trust = [image.get_clim() for image in figures[0].axes[0].images if image.get_cmap().name == "inferno"]
    assert trust[0] == trust[1] == (0, 2)
    assert figures[0].axes[-1].get_ylabel() == "in the image's units"


def test_a_dark_background_is_not_the_largest_gain(tmp_path: Path, figures: list[Figure]) -> None:
    """The input errs by 3 in the air and by 1 in a part of the object; the part is enlarged."""
    truth = np.zeros((1, 60, 60), dtype=np.float32)
    truth[0, 20:60] = 5
    degraded = truth.copy()
    degraded[0, :20, :20] = 3
    degraded[0, 38:58, 30:50] -= 1
    images = {"zero-filled": degraded, "D3GM": truth}
    save_panel(tmp_path / "a.png", RestoredVolume(source(np.eye(4), "fastmri", (60, 60, 1)), images, None, truth))
    np.testing.assert_array_equal(parts(figures[0])["zero-filled"][1], degraded[0, 38:58, 30:50])


def test_without_a_truth_another_baseline_takes_its_place(tmp_path: Path, figures: list[Figure]) -> None:
    image = np.ones((1, 24, 16), dtype=np.float32)
    changed = image.copy()
    changed[0, 2:7, 8:13] = 3
    images = {"zero-filled": image, "L1-wavelet": 2 * image, "D3GM": changed}
    volume = RestoredVolume(source(np.eye(4), "fastmri"), images, None, None)
    save_panel(tmp_path / "a.png", volume)
    drawn = parts(figures[0])
    assert list(drawn) == ["zero-filled", "D3GM", "L1-wavelet"]
    np.testing.assert_array_equal(drawn["D3GM"][1], changed[0, 2:7, 8:13])
    save_panel(tmp_path / "b.png", replace(volume, std=image))
    assert list(parts(figures[1])) == ["zero-filled", "D3GM", "L1-wavelet", "standard deviation"]


def test_two_pictures_of_one_volume_are_one_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((1, 24, 16), dtype=np.float32)
    volume = RestoredVolume(source(np.eye(4)), {"zero-filled": truth, "D3GM": truth}, None, None)
    for name in ("a.png", "b.png"):
        save_panel(tmp_path / name, volume)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
