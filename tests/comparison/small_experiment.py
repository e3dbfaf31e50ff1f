"""A small experiment on generated photographs: networks of a few weights, a few steps, crops of 32 pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from monai_d3gm.data import write_image

RAIN = {"_target_": "monai_d3gm.transforms.weather.SimulateRain", "amount": [0.5, 0.5]}


def write_photographs(folder: Path, count: int, size: int = 48) -> Path:
    """Smooth coloured pictures, each another."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:size, :size] / size
    for number in range(count):
        waves = [np.sin((2 + c + number) * x + (3 + number) * y + c) for c in range(3)]
        write_image(folder / f"p{number}.png", 0.5 + 0.3 * np.stack(waves).astype(np.float32))
    return folder


def images(folder: Path, names: str) -> dict[str, Any]:
    """A condition: photographs under synthetic rain."""
    inputs = f"$[str(p) for p in sorted(Path({str(folder)!r}).glob('{names}'))]"
    return {"data": {"_target_": "monai_d3gm.data.ImageDataset", "inputs": inputs, "weather": RAIN}}


def write_experiment(path: Path, photographs: Path, **changes: Any) -> Path:
    """Two processes and one that coincides, two settings, two seeds."""
    content: dict[str, Any] = {
        "title": "A small comparison",
        "bundle": "derain",
        "imports": ["$from pathlib import Path"],
        "common": {
            "photographs": f"$sorted(Path({str(photographs)!r}).glob('p[0-3].png'))",
            "crop": 32,
            "batch_size": 2,
            "max_epochs": 3,
            "epoch_length": 2,
            "amp": None,
            "network_def::width": 4,
            "network_def::encoder_blocks": [1],
            "network_def::middle_blocks": 1,
            "network_def::decoder_blocks": [1],
        },
        "networks": {
            "SGM": {"process": {"_target_": "monai_d3gm.sde.VariancePreservingProcess"}},
            "OU": {"process": {"_target_": "monai_d3gm.sde.OrnsteinUhlenbeckProcess", "stationary_std": 0.08}},
            "D3GM": {"process": {"_target_": "monai_d3gm.sde.D3GMProcess", "stationary_std": 0.04, "tau": 2.0}},
        },
        "settings": [{"steps": [1, 3], "order": 1, "eta": 1.0, "first_noise": 0.2}],
        "choosing": {"two others": images(photographs, "p[45].png")},
        "final": {"rain": {**images(photographs, "p[67].png"), "x": 0.5, "group": "rain"}},
        "seeds": [0, 1],
        "clip": [0.0, 1.0],
    }
    path.write_text(json.dumps({**content, **changes}))
    return path
