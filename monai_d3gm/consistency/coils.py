"""White virtual coils with sensitivity maps from the coils of a scan, for the reconstruction.

With the noise covariance C (`monai_d3gm.consistency.noise`) the coils are whitened; with the eigenvectors V of the
signal's covariance over all samples they are compressed to the few virtual ones that hold its energy (Buehrer et al.,
MRM 57, 2007; Zhang et al., MRM 69, 2013); the maps are then estimated for these. In all, y' = V^H L^{-1} y.

The coils of a scan and the white ones shade an image differently. An image times ``intensity`` is the root sum of
squares of the scan's own coils.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_d3gm.consistency.maps import CoilMaps, estimate_maps, given_maps
from monai_d3gm.consistency.noise import noise_covariance, outer_samples, whitening_matrix

__all__ = ["COMPRESS_FROM", "ENERGY", "CoilSystem", "compression_matrix", "prepare_coils", "virtual_coils"]

COMPRESS_FROM = 8
"""Scans with this number of coils or more are compressed."""

ENERGY = 0.999
"""The virtual coils hold at least this share of the signal's energy."""


@dataclass(frozen=True)
class CoilSystem:
    """White virtual coils and their maps.

    Attributes:
        matrix: complex64 (virtual coils, coils): times k-space it gives that of the virtual coils.
        sensitivity: the maps (virtual coils, H, W), and how well they explain the data.
        noise_std: standard deviation of the noise per real and imaginary part, the same in every virtual coil and
            about that of the scan's own coils, in their unit.
        intensity: float32 (H, W): an image times this is the root sum of squares of the scan's own coils.
        energy: share of the signal's energy that the virtual coils hold.

    Example:
        >>> maps = CoilMaps(torch.full((2, 4, 4), 0.5**0.5, dtype=torch.complex64), "given", 0.0, (0, 0))
        >>> system = CoilSystem(torch.eye(2, dtype=torch.complex64), maps, 0.1, torch.ones(4, 4), energy=1.0)
        >>> system.apply(torch.ones(2, 4, 4, dtype=torch.complex64)).shape, system.describe()["virtual_coils"]
        (torch.Size([2, 4, 4]), 2)
    """

    matrix: Tensor
    sensitivity: CoilMaps
    noise_std: float
    intensity: Tensor
    energy: float

    def apply(self, kspace: Tensor) -> Tensor:
        """K-space of the scan's coils, complex (coils, H, W), to that of the virtual ones."""
        return torch.einsum("vc,chw->vhw", self.matrix, kspace)

    def describe(self) -> dict[str, int | float | str]:
        """For reports: number of coils and virtual coils, energy, estimator and unexplained share."""
        virtual, coils = self.matrix.shape
        return {
            "coils": coils,
            "virtual_coils": virtual,
            "energy_kept": round(self.energy, 5),
            "maps": self.sensitivity.estimator,
            "unexplained": round(self.sensitivity.unexplained, 5),
        }


def compression_matrix(kspace: Tensor, noise_std: float, count: int | None = None) -> tuple[Tensor, float]:
    """The orthonormal combinations of white coils that hold most of the signal's energy.

    Args:
        kspace: complex (coils, H, W), 0 where not sampled, with white noise.
        noise_std: of the noise, per real and imaginary part; its energy does not count.
        count: how many; by default the fewest that hold `ENERGY`, at least two.

    Returns:
        complex128 (virtual coils, coils) and the share of the energy held.

    Example:
        >>> kspace = torch.randn(1, 8, 8, dtype=torch.complex64) * torch.tensor([1.0, 2.0, 2.0])[:, None, None]
        >>> matrix, share = compression_matrix(kspace, 0.0)
        >>> tuple(matrix.shape), round(share, 6)
        ((2, 3), 1.0)
    """
    samples = kspace[:, (kspace != 0).any(0)].to(torch.complex128)
    values, vectors = torch.linalg.eigh(samples @ samples.mH)
    signal = (values.flip(0) - 2 * noise_std**2 * samples.shape[1]).clamp_min(0)
    held = signal.cumsum(0) / signal.sum().clamp_min(1e-300)
    count = max(2, int((held < ENERGY).sum()) + 1) if count is None else count
    count = min(count, len(values))
    return vectors.flip(1)[:, :count].mH, float(held[count - 1])


def virtual_coils(kspace: Tensor) -> int:
    """How many virtual coils a slice needs to hold `ENERGY`.

    Args:
        kspace: complex (coils, H, W), at least two coils, 0 where not sampled.

    Example:
        >>> kspace = 0.01 * torch.randn(9, 32, 32, dtype=torch.complex64)
        >>> kspace[:, 14:18, 14:18] += torch.linspace(1, 2, 9)[:, None, None]
        >>> virtual_coils(kspace)
        2
    """
    white, level, _ = _white(kspace, noise_covariance(outer_samples(kspace)))
    return len(compression_matrix(white, level)[0])


def _white(kspace: Tensor, covariance: Tensor) -> tuple[Tensor, float, Tensor]:
    """Whitened coils, complex128, of the coils' mean noise; its standard deviation per part; the matrix."""
    level = float((covariance.diagonal().real.mean() / 2).sqrt())
    matrix = level * whitening_matrix(covariance)
    return torch.einsum("vc,chw->vhw", matrix, kspace.cpu().to(torch.complex128)), level, matrix


def prepare_coils(
    kspace: Tensor,
    mask: Tensor | None = None,
    *,
    covariance: Tensor | None = None,
    noise_std: float | None = None,
    maps: Tensor | None = None,
    virtual: int | None = None,
) -> CoilSystem:
    """Whiten the coils of a slice, compress eight or more, and find their sensitivity maps.

    Args:
        kspace: complex (coils, H, W), at least two coils, 0 where not sampled.
        mask: where k-space was measured, as for `estimate_maps`.
        covariance: of the noise, as `noise_covariance` gives it; by default from the outermost samples of kspace.
        noise_std: of the noise, averaged over the coils, per real and imaginary part; it overrides the covariance's.
        maps: sensitivity maps of the scan's own coils, complex (coils, H, W), instead of estimated ones.
        virtual: number of virtual coils; by default all below eight coils, else as many as hold `ENERGY`.

    Returns:
        the system of virtual coils.

    Raises:
        CoilMapError: no maps explain the data.
        ValueError: k-space does not fit, or ``noise_std`` is not above 0: without noise nothing says how far to trust
            each coil, and several coils cannot be solved exactly.

    Example:
        >>> from monai_d3gm.consistency.fourier import fft2c
        >>> maps = torch.stack([torch.linspace(0.1, 1, 48), torch.linspace(1, 0.1, 48)])[:, None].expand(2, 48, 48)
        >>> noise = 0.01 * torch.randn(2, 48, 48, dtype=torch.complex64)
        >>> system = prepare_coils(fft2c(maps.to(torch.complex64)) + noise)
        >>> system.sensitivity.maps.shape, system.matrix.shape
        (torch.Size([2, 48, 48]), torch.Size([2, 2]))
    """
    if noise_std is not None and not 0 < noise_std < float("inf"):
        raise ValueError(
            f"noise_std is {noise_std} with {len(kspace)} coils; accepted: above 0, or None to estimate it: an exact "
            "fit of several noisy coils amplifies their noise"
        )
    if covariance is None:
        covariance = noise_covariance(outer_samples(kspace.cpu()))
    white, level, matrix = _white(kspace, covariance)
    whole, held = torch.linalg.inv(matrix), 1.0
    if virtual is not None or len(kspace) >= COMPRESS_FROM:
        compression, held = compression_matrix(white, level, virtual)
        matrix, whole = compression @ matrix, whole @ compression.mH
    matrix = matrix.to(kspace.device, torch.complex64)
    data = torch.einsum("vc,chw->vhw", matrix, kspace)
    if maps is None:
        sensitivity = estimate_maps(data, mask)
    else:
        sensitivity = given_maps(torch.einsum("vc,chw->vhw", matrix, maps.to(matrix)), data, mask)
    own = torch.einsum("cv,vhw->chw", whole.to(matrix), sensitivity.maps).abs().square().sum(0)
    size = sensitivity.maps.abs().square().sum(0)
    mean = own.sum() / size.sum()
    intensity = torch.where(size > 1e-6, own / size.clamp_min(1e-6), mean).sqrt()
    return CoilSystem(matrix, sensitivity, level if noise_std is None else noise_std, intensity, held)
