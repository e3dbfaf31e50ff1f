"""A bundle's training statistics: what its training volumes were like.

    python benchmarks/training_statistics.py bundles/mri_recon --dataset-dir $D3GM_DATA/mri

Reads the volumes that ``configs/train.json`` trains on, across each of their axes and as the data sets do (cropped to
the acquired band), takes `monai_d3gm.trust.training_statistics.volume_statistics` of evenly spaced
slices, writes ``models/training_statistics.json``, and prints the warnings that each would give if the statistics
were those of the others.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from monai_d3gm.data import read_magnitude
from monai_d3gm.transforms.kspace.functional import crop_to_acquired_band
from monai_d3gm.trust import TrainingStatistics, range_warnings
from monai_d3gm.trust.training_statistics import volume_statistics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dataset-dir", type=Path, default=Path(os.environ.get("D3GM_DATA", ".")) / "mri")
    parser.add_argument("--slices", type=int, default=16, help="of each volume, evenly spaced")
    arguments = parser.parse_args()

    config = ConfigParser()
    config.read_config(str(arguments.bundle / "configs" / "train.json"))
    config["dataset_dir"] = str(arguments.dataset_dir)
    volumes = [
        (Path(path), axis)
        for group in config.get_parsed_content("volumes")
        for path in group["paths"]
        for axis in group.get("axes", [2])
    ]
    statistics = {}
    for path, axis in tqdm(volumes):
        name = path.name.split(".")[0] + ("" if axis == 2 else f" across axis {axis}")
        statistics[name] = statistics_of(path, axis, arguments.slices)
    TrainingStatistics.fit(statistics).save(arguments.bundle / "models" / "training_statistics.json", overwrite=True)

    warned = 0
    for name, own in statistics.items():
        training = TrainingStatistics.fit({other: values for other, values in statistics.items() if other != name})
        for reason in range_warnings(training, own):
            warned += 1
            print(f"{name}: {reason}")
    print(f"{warned} warnings when each of {len(statistics)} volumes is compared with the others")


def statistics_of(path: Path, axis: int, count: int) -> dict[str, float]:
    """Statistics of the middles of equal parts of a volume's slices across an axis that are not zero everywhere."""
    volume = read_magnitude(path)
    in_plane = [other for other in range(3) if other != axis]
    data, _, affine = crop_to_acquired_band(volume.data, in_plane, volume.affine)
    assert affine is not None
    slices = np.moveaxis(data, axis, 0)
    used = np.flatnonzero(np.moveaxis(volume.data, axis, 0).any(axis=(1, 2)))
    count = min(count, len(used))
    chosen = used[[int((i + 0.5) * len(used) / count) for i in range(count)]]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    return volume_statistics(slices[chosen], [*steps[in_plane].tolist(), float(steps[axis])])


if __name__ == "__main__":
    main()
