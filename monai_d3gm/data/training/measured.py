"""Training items of measured, fully sampled k-space, such as fastMRI's: undersampled anew, each a pure function of
(seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch

from monai_d3gm.consistency.fourier import ifft2c
from monai_d3gm.consistency.noise import estimate_noise_std
from monai_d3gm.data.formats.fastmri import KspaceFileError, open_kspace
from monai_d3gm.data.restoration.inputs import find_inputs, spread
from monai_d3gm.data.restoration.kspace import AXES
from monai_d3gm.data.training.base import TrainingDataset
from monai_d3gm.data.training.kspace import undersampled_strip
from monai_d3gm.transforms.kspace.functional import (
    MASK_TYPES,
    cartesian_mask,
    crop_readout,
    keyed_generator,
)

__all__ = ["MeasuredKspaceDataset"]


class MeasuredKspaceDataset(TrainingDataset):
    """Strips of measured single-coil k-space, undersampled, from fully sampled fastMRI files.

    Item i depends on ``seed`` and i alone. ``batch_size`` consecutive items have one number of lines: files differ in
    it. Each item is a dict as that of `SimulatedKspaceDataset`, but that ``image`` is the measured image, with its
    noise, and ``acceleration`` and mask are drawn for it.

    Args:
        files: fastMRI files or folders of them, single-coil and without a mask.
        length: number of items.
        batch_size: number of consecutive items with one number of lines (over all processes).
        seed: seed of all that is random.
        accelerations: drawn with equal probability.
        masks: names of fastMRI's masks, drawn with equal probability.
        axis: "phase" undersamples the columns, "frequency" the rows.
        strip: rows kept, at a random place; None keeps all of the final image's.
        slices: of each file: "all", how many, or such as "central:20".

    Raises:
        ValueError: an argument is out of range, or a file cannot be used.

    Example:
        >>> import tempfile
        >>> from monai_d3gm.data import write_kspace
        >>> kspace = np.random.default_rng(0).normal(size=(1, 16, 32)).astype(np.complex64)
        >>> folder = tempfile.mkdtemp()
        >>> write_kspace(f"{folder}/scan.h5", kspace, recon_size=(16, 32))
        >>> data = MeasuredKspaceDataset(folder, 4, batch_size=2, accelerations=[2], strip=8)
        >>> data[0]["image"].shape
        torch.Size([2, 8, 32])
    """

    def __init__(
        self,
        files: str | PathLike[str] | Sequence[str | PathLike[str]],
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        accelerations: Sequence[float] = (8, 16),
        masks: Sequence[str] = ("random",),
        axis: str = "phase",
        strip: int | None = 128,
        slices: str | int = "all",
    ) -> None:
        super().__init__(length, seed, batch_size=batch_size)
        if axis not in AXES:
            raise ValueError(f"axis is {axis!r}; accepted: {', '.join(AXES)}.")
        if not masks or set(masks) - set(MASK_TYPES):
            raise ValueError(f"masks is {masks!r}; accepted: {', '.join(MASK_TYPES)}.")
        self.batch_size = batch_size
        self.accelerations, self.masks = tuple(accelerations), tuple(masks)
        self.transposed, self.strip = axis == "frequency", strip
        groups: dict[int, list[tuple[int, int]]] = {}
        self.files = [open_kspace(path) for path in find_inputs(files, ("fastmri",))]
        for number, file in enumerate(self.files):
            if file.coils or file.mask is not None:
                raise KspaceFileError(f"{file.path}: accepted for training: single-coil files without a mask.")
            rows, width = self._extent(number)
            if strip is not None and not 1 <= strip <= rows:
                raise ValueError(f"strip is {strip}; accepted: 1 to the {rows} rows of {file.path}.")
            for acceleration in self.accelerations:
                cartesian_mask(width, acceleration, self.masks[0])
            groups.setdefault(width, []).extend((number, s) for s in spread(file.num_slices, slices))
        self.groups = [groups[width] for width in sorted(groups)]
        counts = np.array([len(group) for group in self.groups], dtype=np.float64)
        self._weights = counts / counts.sum()

    def _extent(self, number: int) -> tuple[int, int]:
        """Rows of the final image and number of lines, with rows and columns exchanged for the frequency axis."""
        file = self.files[number]
        return (file.crop[1], file.shape[0]) if self.transposed else (file.crop[0], file.shape[1])

    def _draw(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        of_batch = keyed_generator(self.seed, "width", index // self.batch_size)
        group = self.groups[of_batch.choice(len(self.groups), p=self._weights)]
        number, slice_number = group[rng.integers(len(group))]
        file = self.files[number]
        full = file.read_kspace(slice_number)
        noise_std = estimate_noise_std(full)
        full = full.mT if self.transposed else full
        rows, width = self._extent(number)
        full = crop_readout(full, (full.shape[0] - rows) // 2, rows)
        acceleration = self.accelerations[rng.integers(len(self.accelerations))]
        name = self.masks[rng.integers(len(self.masks))]
        mask = cartesian_mask(width, acceleration, name, seed=int(rng.integers(2**32)))
        height = self.strip or rows
        start = int(rng.integers(rows - height + 1))
        item = undersampled_strip(full * mask, ifft2c(full), mask, start, height, noise_std=noise_std)
        return item | {
            "acceleration": torch.tensor(acceleration, dtype=torch.float32),
            "index": index,
            "key": f"{file.path.stem}:{slice_number}:{index}",
        }
