"""Fit the exposure of dehazed photographs: the coefficients ``exposure`` of `DarkChannelPrior`.

The dark channel prior leaves the brightness of the whole photograph uncertain. For each photograph and synthetic haze
the best factor is a = <J, clean> / <J, J>. Ridge regression fits log a to the logarithms of the means of J, the hazy
photograph, its airlight and its transmission. The figures are of each photograph under coefficients that were fitted on
all others.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import write_result
from tqdm import tqdm

from monai_d3gm.data import read_image
from monai_d3gm.metrics import psnr
from monai_d3gm.transforms.weather import SimulateHaze
from monai_d3gm.transforms.weather.functional import remove_haze

_RIDGE = 1.0


def _fit(statistics: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The coefficients w_0 to w_4 of one fit; the ridge is on standardised statistics and not on w_0."""
    centre, spread = statistics.mean(0), statistics.std(0)
    z = (statistics - centre) / spread
    slopes = np.linalg.solve(z.T @ z + _RIDGE * np.eye(z.shape[1]), z.T @ (target - target.mean())) / spread
    return np.concatenate(([target.mean() - slopes @ centre], slopes))


def main() -> None:
    """Parse the command line, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="+", type=Path, help="clean photographs to fit on")
    parser.add_argument("--hazes", type=int, default=4, help="synthetic hazes over each (default %(default)s)")
    parser.add_argument("--radius", type=int, default=15, help="of the dark channel (default %(default)s)")
    parser.add_argument("--output", type=Path, help="JSON file for coefficients and figures")
    arguments = parser.parse_args()

    rows, target, owner, pairs = [], [], [], []
    for number, path in enumerate(tqdm(arguments.photographs, desc="photographs")):
        clean = read_image(path).data
        for haze in range(arguments.hazes):
            hazy = SimulateHaze()(clean, np.random.default_rng([haze, number])).numpy()
            estimate, statistics = remove_haze(hazy, arguments.radius)
            rows.append(statistics)
            target.append(np.log((estimate * clean).sum() / (estimate**2).sum()))
            owner.append(number)
            pairs.append((estimate[:, ::4, ::4], clean[:, ::4, ::4]))
    table, log_gain, owners = np.array(rows), np.array(target), np.array(owner)

    left_out = np.zeros_like(log_gain)
    for number in np.unique(owners):
        w = _fit(table[owners != number], log_gain[owners != number])
        left_out[owners == number] = w[0] + table[owners == number] @ w[1:]
    figures = {}
    for name, gains in (("as estimated", 0 * log_gain), ("fitted on others", left_out), ("best factor", log_gain)):
        images = zip(gains, pairs, strict=True)
        figures[name] = float(np.mean([psnr(np.clip(np.exp(g) * j, 0, 1), clean) for g, (j, clean) in images]))
    w = [round(float(each), 3) for each in _fit(table, log_gain)]
    print(f"exposure: {w}")
    for name, figure in figures.items():
        print(f"{name}: {figure:.2f} dB (PSNR of RGB, every fourth pixel)")
    if arguments.output:
        result = {"exposure": w, "psnr": figures, "photographs": sorted(p.stem for p in arguments.photographs)}
        write_result(arguments.output, result | {"hazes": arguments.hazes, "radius": arguments.radius}, {})


if __name__ == "__main__":
    main()
