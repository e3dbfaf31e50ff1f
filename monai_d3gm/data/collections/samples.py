"""Samples that ship with this package and with those that it needs; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import skimage

__all__ = ["DEMO_PHOTOGRAPHS", "bundled_epi_path", "bundled_kspace_path", "bundled_photographs"]

DEMO_PHOTOGRAPHS = ("astronaut.png", "coffee.png", "rocket.jpg")
"""Photographs in scikit-image's wheel on which no weights of the package were trained."""


def bundled_photographs(names: Sequence[str] = DEMO_PHOTOGRAPHS) -> list[Path]:
    """Return the paths of photographs that lie inside scikit-image's wheel; nothing is downloaded.

    Raises:
        ValueError: the installed scikit-image has no such file.

    Example:
        >>> [path.name for path in bundled_photographs()]
        ['astronaut.png', 'coffee.png', 'rocket.jpg']
    """
    folder = Path(skimage.__file__).parent / "data"
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: the installed scikit-image comes without the photograph {name}.")
    return [folder / name for name in names]


def bundled_epi_path() -> Path:
    """Return the T2*-weighted EPI brain volume in nibabel's wheel: 128x96x24 voxels, two time points.

    Example:
        >>> bundled_epi_path().name
        'example4d.nii.gz'
    """
    return Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def bundled_kspace_path() -> Path:
    """Return the fully sampled k-space of a brain slice, 8 coils, 232x230, in the fastMRI layout.

    It was measured (LIBREhub, MRI-processing-2023, CC BY 4.0; ``ATTRIBUTION.txt`` beside it). No weights of the package
    were trained on it.

    Example:
        >>> bundled_kspace_path().name
        'brain_8coil_full.h5'
    """
    return Path(__file__).parent / "kspace" / "brain_8coil_full.h5"
