"""MONAI array transforms of resolution; the mathematics is in `monai_d3gm.transforms.resolution.functional`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import Randomizable, Transform
from numpy.typing import NDArray

from monai_d3gm.transforms.resolution import functional

__all__ = ["LowerResolution", "SimulateLowResolution", "UpsampleLowResolution"]


def _channel_first(img: NdarrayOrTensor) -> torch.Tensor:
    """A plain float32 tensor of an image (C, H, W), checked."""
    image = torch.as_tensor(np.asarray(img, dtype=np.float32))
    if image.ndim != 3:
        raise ValueError(f"img has shape {tuple(image.shape)}; accepted: (C, H, W).")
    return image


def _with_affine(
    image: torch.Tensor, source: Any, change: Callable[[NDArray[np.floating]], NDArray[np.float64]]
) -> torch.Tensor:
    """The image as a MetaTensor with the changed affine of the source, if that is one."""
    if not isinstance(source, MetaTensor):
        return image
    meta = {key: value for key, value in source.meta.items() if key != "affine"}
    return MetaTensor(image, affine=torch.from_numpy(change(source.affine.numpy())), meta=meta)


class LowerResolution(Transform):
    """Lower the resolution of an image (C, H, W), without noise (`functional.degrade`).

    Rows and columns that fill no low-resolution pixel are left out. The affine of a `monai.data.MetaTensor` follows.

    Args:
        factor: f, or one for each axis.
        kernel: None truncates k-space; one of a single pixel takes the mean over blocks; others blur first.

    Example:
        >>> LowerResolution(2)(torch.ones(1, 8, 9)).shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, factor: int | Sequence[int], kernel: torch.Tensor | None = None) -> None:
        self.factors, self.kernel = functional.pair(factor), kernel

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Return the image (C, H // f, W // f)."""
        image = functional.crop_to_multiple(_channel_first(img), self.factors)
        low = functional.degrade(image, self.factors, self.kernel)
        factors, blocks = (*self.factors, 1), self.kernel is not None
        return _with_affine(low, img, lambda a: functional.low_resolution_affine(a, factors, blocks=blocks))


class SimulateLowResolution(Randomizable, Transform):
    """A noisy acquisition of an image (C, H, W) at lower resolution: degradation, then noise.

    Args:
        factor: f, or one for each axis.
        degradation: one of `functional.DEGRADATIONS`; ``kernel`` draws a blur.
        snr: mean of the low-resolution foreground over the noise's standard deviation; infinity for no noise.
        magnitude: the noise is Rician, as in scanners' images; False adds real Gaussian noise.
        sigma: range of the blur's standard deviations in fine pixels.

    Example:
        >>> simulate = SimulateLowResolution(2, snr=30.0).set_random_state(0)
        >>> low, noise_std, kernel = simulate(torch.ones(1, 16, 16))
        >>> low.shape, round(noise_std, 4), kernel
        (torch.Size([1, 8, 8]), 0.0333, None)
    """

    def __init__(
        self,
        factor: int | Sequence[int],
        degradation: str = "truncation",
        snr: float = 50.0,
        magnitude: bool = True,
        sigma: tuple[float, float] = functional.KERNEL_SIGMA,
    ) -> None:
        if degradation not in functional.DEGRADATIONS:
            raise ValueError(f"degradation is {degradation!r}; accepted: {', '.join(functional.DEGRADATIONS)}.")
        if not snr > 0:
            raise ValueError(f"snr is {snr}; accepted: a number above 0, infinity for no noise.")
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(f"sigma is {sigma}; accepted: two increasing numbers above 0.")
        self.factors, self.degradation = functional.pair(factor), degradation
        self.snr, self.magnitude, self.sigma = snr, magnitude, sigma

    def randomize(self, data: Any = None) -> None:
        """Seed the generator of the next call from the transform's random state."""
        self.generator = np.random.default_rng(self.R.randint(2**32, dtype=np.uint64))

    def __call__(
        self,
        img: NdarrayOrTensor,
        generator: np.random.Generator | None = None,
        kernel_generator: np.random.Generator | None = None,
    ) -> tuple[torch.Tensor, float, torch.Tensor | None]:
        """Return the noisy image (C, H // f, W // f), the noise's standard deviation and `LowerResolution`'s kernel.

        Args:
            img: magnitude image.
            generator: source of randomness instead of the transform's own.
            kernel_generator: source of the blur's, so that it is shared by slices; ``generator`` if None.
        """
        if generator is None:
            self.randomize()
            generator = self.generator
        kernel = functional.degradation_kernel(self.degradation, kernel_generator or generator, self.sigma)
        low = LowerResolution(self.factors, kernel)(img)
        noisy, noise_std = functional.add_noise(_channel_first(low), generator, self.snr, magnitude=self.magnitude)
        return _with_affine(noisy, low, lambda affine: np.asarray(affine, dtype=np.float64)), noise_std, kernel


class UpsampleLowResolution(Transform):
    """An image (C, h, w) interpolated on the fine grid (`functional.upsample`); undoes `LowerResolution`'s geometry.

    Args:
        factor: f, or one for each axis.
        mode: ``sinc`` or ``bicubic``.
        blocks: the low-resolution pixels are means over blocks, whose centres they lie on; False: pixel 0 stays.

    Example:
        >>> UpsampleLowResolution(2)(torch.ones(1, 4, 4)).shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, factor: int | Sequence[int], mode: str = "sinc", blocks: bool = False) -> None:
        if mode not in functional.UPSAMPLINGS:
            raise ValueError(f"mode is {mode!r}; accepted: {', '.join(functional.UPSAMPLINGS)}.")
        self.factors, self.mode, self.blocks = functional.pair(factor), mode, blocks

    def __call__(self, img: NdarrayOrTensor) -> torch.Tensor:
        """Return the image (C, f h, f w)."""
        image = functional.upsample(_channel_first(img), self.factors, self.mode, blocks=self.blocks)
        factors = (*self.factors, 1)
        return _with_affine(image, img, lambda a: functional.high_resolution_affine(a, factors, blocks=self.blocks))
