"""Small structures: how much of the contrast of pasted discs each reconstruction returns.

    python benchmarks/lesions.py --dataset-dir $D3GM_DATA/mri --output benchmarks/results/mri_recon/lesions.json \
        --picture bundles/mri_recon/docs/lesions.png

Into the middle slice of each development subject of ds002748, 16 discs are pasted inside the brain: a quarter brighter
than the tissue around, four of each radius of 1.5, 2.5, 4 and 6 pixels, their edges smoothed over one pixel. k-space is
simulated as by the bundle (one coil, random mask, SNR 50), and restored with its default settings. The contrast of a
disc is its mean less that of a ring of 3 pixels around it, a pixel away. The share returned is 1 plus the error of this
contrast over the contrast that was pasted: 1 is all of it, 0 is none. Covered is the share of the disc's pixels whose
truth lies in the calibrated interval.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from common import set_threads, shipped_weights, write_result
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from monai_d3gm import load
from monai_d3gm.data.restoration.restored import METHOD
from monai_d3gm.metrics import foreground_mask

SUBJECTS = ("22", "33", "40", "47", "50", "58")
RADII = (1.5, 2.5, 4.0, 6.0)
DISCS = 16
CONTRAST = 0.25
RING = (1.0, 4.0)
"""The ring's inner and outer distance from the disc's edge, in pixels."""

METHODS = ("zero-filled", "L1-wavelet", METHOD)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset-dir", type=Path, required=True)
    parser.add_argument("--accelerations", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    set_threads()
    model = load("mri_recon", device="cpu")
    rows: list[dict[str, Any]] = []
    shown = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in tqdm(SUBJECTS):
            path, discs = _pasted(arguments.dataset_dir / f"ds002748/sub-{subject}_T1w.nii.gz", subject, Path(folder))
            for acceleration in arguments.accelerations:
                result = model.restore(path, acceleration=acceleration)
                images = {name: result.volume.images[name][0] for name in METHODS}
                assert result.truth is not None
                truth, interval = result.truth[0], result.interval
                rows += _rows(subject, acceleration, images, truth, interval, discs)
                if subject == SUBJECTS[0]:
                    shown.append((acceleration, truth, images))
    summary = _summary(rows)
    result = {"protocol": __doc__, "summary": summary, "rows": rows}
    write_result(arguments.output, result, {METHOD: shipped_weights("mri_recon")})
    _draw(arguments.picture, shown)
    for line in summary:
        print(line)


def _pasted(path: Path, subject: str, folder: Path) -> tuple[Path, list[tuple[float, float, float, float]]]:
    """A volume of one slice with discs, and their (row, column, radius, what was added)."""
    volume = nibabel.load(path)
    image = np.array(volume.dataobj[:, :, volume.shape[2] // 2], dtype=np.float32)
    depth = ndimage.distance_transform_edt(foreground_mask(image[None])[0])
    rng = np.random.default_rng(int(subject))
    discs: list[tuple[float, float, float, float]] = []
    for radius in np.repeat(RADII[::-1], DISCS // len(RADII)):
        free = depth > radius + RING[1] + 2
        for row, column, other, _ in discs:
            grid = np.indices(image.shape)
            free &= np.hypot(grid[0] - row, grid[1] - column) > radius + other + RING[1] + 2
        row, column = rng.choice(np.argwhere(free))
        distance = np.hypot(*(np.indices(image.shape) - np.array([row, column])[:, None, None]))
        around = image[(distance > radius + RING[0]) & (distance < radius + RING[1])].mean()
        image += CONTRAST * around * np.clip(radius + 0.5 - distance, 0, 1)
        discs.append((float(row), float(column), float(radius), float(CONTRAST * around)))
    target = folder / f"sub-{subject}_T1w.nii.gz"
    nibabel.save(nibabel.Nifti1Image(image[:, :, None], volume.affine), target)
    return target, discs


def _rows(
    subject: str,
    acceleration: float,
    images: Mapping[str, NDArray[np.float32]],
    truth: NDArray[np.float32],
    interval: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    discs: Sequence[tuple[float, float, float, float]],
) -> list[dict[str, Any]]:
    rows = []
    for row, column, radius, added in discs:
        distance = np.hypot(*(np.indices(truth.shape) - np.array([row, column])[:, None, None]))
        inside = distance <= radius
        ring = (distance > radius + RING[0]) & (distance < radius + RING[1])

        def contrast(image: NDArray[np.float32], a: NDArray[Any] = inside, b: NDArray[Any] = ring) -> float:
            return float(image[a].mean() - image[b].mean())

        entry: dict[str, Any] = {"subject": subject, "acceleration": acceleration, "radius": radius}
        pasted = added * float(np.clip(radius + 0.5 - distance, 0, 1)[inside].mean())
        entry |= {name: 1 + (contrast(image) - contrast(truth)) / pasted for name, image in images.items()}
        if interval is not None:
            low, high = (end[0] for end in interval)
            entry["covered"] = float(((truth >= low) & (truth <= high))[inside].mean())
        rows.append(entry)
    return rows


def _summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over discs, for each acceleration and radius."""
    found = []
    for acceleration in dict.fromkeys(row["acceleration"] for row in rows):
        for radius in RADII:
            part = [row for row in rows if (row["acceleration"], row["radius"]) == (acceleration, radius)]
            names = [name for name in (*METHODS, "covered") if name in part[0]]
            means = {name: round(float(np.mean([row[name] for row in part])), 3) for name in names}
            spread = {f"{name}, std": round(float(np.std([row[name] for row in part])), 3) for name in METHODS}
            found.append({"acceleration": acceleration, "radius": radius, "discs": len(part), **means, **spread})
    return found


def contrast_table(summary: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row for each acceleration and radius: the share of the contrast that comes back, and the share covered."""
    return [
        {
            "acceleration": f"{line['acceleration']:g}x",
            "radius (pixels)": f"{line['radius']:g}",
            **{name: f"{line[name]:.2f}" for name in (*METHODS, "covered") if name in line},
        }
        for line in summary
    ]


def _draw(path: Path, shown: Sequence[tuple[float, NDArray[np.float32], Mapping[str, NDArray[np.float32]]]]) -> None:
    """A row for each acceleration: the truth and what the methods make of it."""
    figure, axes = plt.subplots(len(shown), 4, figsize=(12, 3.4 * len(shown)), squeeze=False, layout="constrained")
    for line, (acceleration, truth, images) in zip(axes, shown, strict=True):
        rows, columns = (slice(*np.flatnonzero(foreground_mask(truth[None])[0].any(axis))[[0, -1]]) for axis in (1, 0))
        for place, (name, image) in zip(line, {"truth": truth, **images}.items(), strict=True):
            place.imshow(image[rows, columns].T[::-1], cmap="gray", vmin=0, vmax=np.percentile(truth, 99.8))
            place.set_title(name if name == "truth" else f"{name}, {acceleration:g}x", fontsize=10)
            place.set_axis_off()
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
