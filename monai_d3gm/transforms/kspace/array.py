"""MONAI array transforms of images and k-space; the mathematics is in `monai_d3gm.transforms.kspace.functional`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform

from monai_d3gm.baselines import l1_wavelet
from monai_d3gm.consistency.fourier import complex_to_channels
from monai_d3gm.transforms.kspace import functional
from monai_d3gm.transforms.kspace.phase import phase_constraint_weight, phase_reference

__all__ = [
    "CartesianMask",
    "CropReadout",
    "CropToAcquiredBand",
    "NormalizeKspace",
    "CompressedSensing",
    "SimulateKspace",
    "ZeroFilled",
]


class CropToAcquiredBand(Transform):
    """Undo the scanner's interpolation of a channel-first magnitude image by truncating its k-space.

    The affine of a `monai.data.MetaTensor` follows: voxel 0 stays in place.

    Args:
        axes: spatial axes along which interpolation is looked for.

    Example:
        >>> CropToAcquiredBand()(torch.ones(1, 8, 8, 3)).shape
        torch.Size([1, 8, 8, 3])
    """

    def __init__(self, axes: Sequence[int] = (0, 1)) -> None:
        self.axes = tuple(axes)

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Return the image (C, ...) on the voxels that were acquired; the first channel is examined."""
        data = np.asarray(img)
        affine = img.affine.numpy() if isinstance(img, MetaTensor) else None
        meta = {k: v for k, v in img.meta.items() if k != "affine"} if isinstance(img, MetaTensor) else None
        first, shares, new_affine = functional.crop_to_acquired_band(data[0], self.axes, affine)
        channels = [first]
        for channel in data[1:]:
            for axis in self.axes:
                channel = functional.truncate_band(channel, axis, first.shape[axis])
            channels.append(channel)
        result = torch.from_numpy(np.stack(channels))
        if new_affine is None:
            return result
        return MetaTensor(result, affine=torch.from_numpy(new_affine), meta=meta)


class SimulateKspace(Randomizable, Transform):
    """Fully sampled k-space of a magnitude image: smooth random phase, complex Gaussian noise, coil maps.

    See `functional.simulate_kspace` for the model.

    Args:
        snr: mean of the foreground over the noise's standard deviation per real and imaginary part.
        phase: largest amplitude of the phase in radians.
        coils: number of coils.

    Example:
        >>> simulate = SimulateKspace(snr=30.0).set_random_state(0)
        >>> kspace, image, noise_std, maps = simulate(torch.ones(16, 16))
        >>> kspace.shape, image.shape, maps is None
        (torch.Size([16, 16]), torch.Size([2, 16, 16]), True)
    """

    def __init__(self, snr: float = 50.0, phase: float = np.pi, coils: int = 1) -> None:
        functional.check_simulation(snr, coils)
        self.snr, self.phase, self.coils = snr, phase, coils

    def randomize(self, data: Any = None) -> None:
        """Seed the generator of the next call from the transform's random state."""
        self.generator = np.random.default_rng(self.R.randint(2**32, dtype=np.uint64))

    def __call__(
        self, img: NdarrayOrTensor, generator: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, float, torch.Tensor | None]:
        """Return k-space, the noise-free image (2, H, W), the noise's standard deviation and the coil maps.

        Args:
            img: magnitude (H, W) or (1, H, W).
            generator: source of randomness in place of the transform's own.
        """
        if generator is None:
            self.randomize()
            generator = self.generator
        magnitude = np.asarray(img, dtype=np.float32)
        magnitude = magnitude[0] if magnitude.ndim == 3 and len(magnitude) == 1 else magnitude
        if magnitude.ndim != 2:
            raise ValueError(f"img has shape {tuple(magnitude.shape)}; accepted: (H, W) or (1, H, W).")
        kspace, image, noise_std, maps = functional.simulate_kspace(
            magnitude, generator, snr=self.snr, phase=self.phase, coils=self.coils
        )
        return kspace, complex_to_channels(image), noise_std, maps


class CartesianMask(Randomizable, Transform):
    """Keep the lines of one of fastMRI's masks along the last axis of k-space.

    Args:
        acceleration: at least 1.
        mask: one of `functional.MASK_TYPES`.
        center_fraction: share of the lines sampled around the centre; 0.32 / acceleration if None.

    Example:
        >>> masked, mask = CartesianMask(4).set_random_state(0)(torch.ones(8, 64, dtype=torch.complex64))
        >>> mask.shape, bool((masked[:, ~mask[0]] == 0).all())
        (torch.Size([1, 64]), True)
    """

    def __init__(self, acceleration: float = 4, mask: str = "random", center_fraction: float | None = None) -> None:
        self.acceleration, self.mask, self.center_fraction = acceleration, mask, center_fraction

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of the next mask from the transform's random state."""
        self.seed = int(self.R.randint(2**32, dtype=np.uint64))

    def __call__(
        self,
        kspace: torch.Tensor,
        seed: int | tuple[int, ...] | None = None,
        padding: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return masked k-space and the mask, bool (1, W) or (1, 1, W).

        Args:
            kspace: complex (H, W) or (coils, H, W).
            seed: fastMRI's seed, in place of the transform's own.
            padding: columns before the first and from the second are not sampled, as in ``fastmri``'s ``apply_mask``.
        """
        if seed is None:
            self.randomize()
            seed = self.seed
        columns = functional.cartesian_mask(
            kspace.shape[-1], self.acceleration, self.mask, center_fraction=self.center_fraction, seed=seed
        )
        if padding is not None:
            columns[: max(padding[0], 0)] = False
            columns[max(padding[1], 0) :] = False
        mask = columns.reshape((1,) * (kspace.ndim - 1) + (-1,))
        return kspace * mask, mask


class CropReadout(Transform):
    """Crop the image to its central rows, as ``fastmri.data.transforms.center_crop`` does; exact (`functional`).

    Args:
        height: number of rows to keep.

    Example:
        >>> CropReadout(4)(torch.ones(8, 6, dtype=torch.complex64)).shape
        torch.Size([4, 6])
    """

    def __init__(self, height: int) -> None:
        self.height = height

    def __call__(self, kspace: torch.Tensor) -> torch.Tensor:
        """Return the k-space (..., height, W) of the cropped image."""
        return functional.crop_readout(kspace, (kspace.shape[-2] - self.height) // 2, self.height)


class ZeroFilled(Transform):
    """The image A^H y of masked k-space as (real, imaginary) channels.

    Example:
        >>> ZeroFilled()(torch.ones(8, 6, dtype=torch.complex64)).shape
        torch.Size([2, 8, 6])
    """

    def __call__(self, kspace: torch.Tensor, sensitivity_maps: torch.Tensor | None = None) -> torch.Tensor:
        """Return float32 (2, H, W) of k-space (H, W), or (coils, H, W) with coil maps of the same shape."""
        return complex_to_channels(functional.zero_filled(kspace, sensitivity_maps))


class CompressedSensing(Transform):
    """The phase reference of masked k-space, and an L1-wavelet estimate of the image divided by it.

    How hard the estimate is pulled to a real image follows from the measurement. See `phase.phase_reference`,
    `phase.phase_constraint_weight` and `monai_d3gm.baselines.l1_wavelet`.

    Example:
        >>> kspace = torch.randn(16, 16, dtype=torch.complex64)
        >>> estimate, phase = CompressedSensing()(kspace, torch.ones(1, 16, dtype=torch.bool))
        >>> estimate.shape, phase.shape
        (torch.Size([2, 16, 16]), torch.Size([16, 16]))
    """

    def __call__(  # type: ignore[override]
        self,
        kspace: torch.Tensor,
        mask: torch.Tensor,
        sensitivity_maps: torch.Tensor | None = None,
        noise_std: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 (2, H, W) and complex64 (H, W), of k-space (H, W), or (coils, H, W) with coil maps."""
        if kspace.ndim != (2 if sensitivity_maps is None else 3):
            raise ValueError(f"kspace has shape {tuple(kspace.shape)}; accepted: (H, W), or (coils, H, W) with maps.")
        phase = phase_reference(kspace, mask, sensitivity_maps)
        if sensitivity_maps is None:
            kspace, sensitivity_maps = kspace[None], torch.ones_like(kspace[None])
        maps = sensitivity_maps * phase
        weight = phase_constraint_weight(kspace, mask, maps, noise_std)
        image = l1_wavelet(kspace, maps, mask=mask, phase_weight=weight)
        return complex_to_channels(image), phase


class NormalizeKspace(Transform):
    """Divide by one real number, so that a percentile of the zero-filled magnitude is 1 and the phase stays.

    Args:
        percentile: in (0, 100].

    Example:
        >>> normalize = NormalizeKspace()
        >>> kspace = torch.randn(8, 6, dtype=torch.complex64)
        >>> normalized, scale = normalize(kspace)
        >>> torch.allclose(normalize.inverse(normalized, scale), kspace)
        True
    """

    def __init__(self, percentile: float = 99.5) -> None:
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile is {percentile}; accepted: above 0, at most 100.")
        self.percentile = percentile

    def __call__(self, data: torch.Tensor, mu: torch.Tensor | None = None) -> tuple[torch.Tensor, float]:
        """Return ``data`` / scale and the scale.

        Args:
            data: k-space, complex (H, W) or (coils, H, W).
            mu: the zero-filled image (2, H, W); that of single-coil ``data`` if None.
        """
        scale = functional.magnitude_scale((ZeroFilled()(data) if mu is None else mu).norm(dim=-3), self.percentile)
        return data / scale, scale

    def inverse(self, data: torch.Tensor, scale: float) -> torch.Tensor:
        """Return ``data``, k-space or image, in physical units."""
        return data * scale
