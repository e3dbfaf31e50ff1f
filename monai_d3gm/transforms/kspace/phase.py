"""The phase of an image from the centre of its k-space, and how far the image may be taken as real once divided by it.

Conventions as in `monai_d3gm.transforms.kspace.functional`.
"""

from __future__ import annotations

import numpy as np
import torch

from monai_d3gm.consistency.fourier import fft1c, ifft1c
from monai_d3gm.transforms.kspace.functional import zero_filled

__all__ = ["phase_constraint_weight", "phase_reference"]

_LARGEST_WEIGHT = 0.5
_SMALLEST_WEIGHT = 0.01
_REAL_UP_TO = 0.1
"""Of `phase_constraint_weight`: the range of the weight, and the imaginary share up to which the largest one holds."""


def phase_reference(
    kspace: torch.Tensor, mask: torch.Tensor, sensitivity_maps: torch.Tensor | None = None
) -> torch.Tensor:
    """Return e^{i phi} with phi the phase of the image's low frequencies, from the fully sampled centre of the mask.

    Divided by it, an image of slowly varying phase is nearly real: its k-space is nearly Hermitian, and what is
    measured at k tells of -k (homodyne reconstruction, Noll et al., IEEE TMI 10, 1991). The centre is weighted by a
    Hann window.

    Args:
        kspace: complex (H, W) or, with ``sensitivity_maps``, (coils, H, W).
        mask: bool (..., 1 or H, W), the same for all coils. Of a pattern along both axes the centre is what is sampled
            on the lines through the middle of k-space.
        sensitivity_maps: complex (coils, H, W).

    Returns:
        complex64 (H, W) of modulus 1; 1 everywhere if the centre was not sampled.

    Raises:
        ValueError: the mask is not the same for all coils.

    Example:
        >>> from monai_d3gm.consistency.fourier import fft2c
        >>> image = torch.polar(torch.ones(16, 16), torch.full((16, 16), 0.5))
        >>> reference = phase_reference(fft2c(image), torch.ones(1, 16, dtype=torch.bool))
        >>> torch.allclose(reference, image)
        True
    """
    height, width = kspace.shape[-2:]
    pattern = _pattern(mask)
    across, down = _centre_reach(pattern[len(pattern) // 2]), _centre_reach(pattern[:, width // 2])
    if not across:
        return torch.ones(height, width, dtype=kspace.dtype, device=kspace.device)
    rows = _hann(height, max(across * height / width, 1.0) if len(pattern) == 1 else down).to(kspace.device)
    weights = rows[:, None] * _hann(width, across).to(kspace.device)
    image = zero_filled(kspace * weights * pattern, sensitivity_maps)
    return torch.polar(torch.ones_like(image.real), image.angle())


def phase_constraint_weight(
    kspace: torch.Tensor, mask: torch.Tensor, sensitivity_maps: torch.Tensor, noise_std: float = 0.0
) -> float:
    """Return how strongly the measurement lets an estimate be pulled to a real image.

    The weight is w of w/2 ||Im x||^2 beside 1/2 ||A x - y||^2 (Bydder and Robson, MRM 53, 2005):
    w = 0.5 min(1, (0.1 / q)^2) / n^2, and 0 where this is below 0.01.

    - q is the imaginary share of the detail's energy. The fully sampled centre holds the whole readout, so it shows
      detail along the rows: what lies beyond the frequencies that the phase reference was made of. There conjugate
      pairs agree (q = 0) where the phase is smooth, and do not agree at all (q = 0.5) where it is arbitrary. The
      noise's share of both parts is taken off.
    - n is the effective number of coils: 1 / sum(e^2) for the eigenvalues e, of sum 1, of the maps' Gram matrix, the
      pixels weighted by the magnitude. Coils that see the same count as one. Where they differ, they say more about
      the missing lines than the phase does.

    One coil and a smooth phase give 0.5, up to a share of 0.1: on simulated k-space the constraint then lowers the
    error of the estimate, and at a share of 0.38 it is best near 0.05.

    Args:
        kspace: complex (coils, H, W), 0 where not sampled.
        mask: bool (..., 1 or H, W), the same for all coils.
        sensitivity_maps: complex (coils, H, W), times the phase reference.
        noise_std: the noise's standard deviation per real and imaginary part, in k-space's units.

    Returns:
        The weight, from 0 to 0.5; 0 if the central line was not sampled, since the phase is then unknown, and for a
        pattern along both axes, whose centre does not hold the whole readout.

    Raises:
        ValueError: the mask is not the same for all coils.

    Example:
        >>> from monai_d3gm.consistency.fourier import fft2c
        >>> image = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)).to(torch.complex64)
        >>> mask, maps = torch.ones(32, dtype=torch.bool), torch.ones_like(image)
        >>> phase_constraint_weight(fft2c(image), mask, maps)
        0.5
    """
    height, width = kspace.shape[-2:]
    pattern = _pattern(mask)
    reach = _centre_reach(pattern[0])
    if len(pattern) > 1 or not reach:
        return 0.0
    columns = _hann(width, reach).to(kspace.device)
    rows = (torch.arange(height, device=kspace.device) - height // 2).abs() >= reach * height / width
    image = zero_filled(kspace * columns, sensitivity_maps)
    detail = ifft1c(fft1c(image, dim=-2) * rows[:, None], dim=-2)
    gain = sensitivity_maps.abs().square().sum(0).mean() * columns.square().mean() * rows.float().mean()
    floor = noise_std**2 * gain
    real, imaginary = ((part.square().mean() - floor).clamp_min(0) for part in (detail.real, detail.imag))
    share = float(imaginary / (real + imaginary).clamp_min(1e-30))
    weighted = (sensitivity_maps * image.abs().sqrt()).flatten(1)
    gram = weighted @ weighted.mH
    power = float(gram.diagonal().real.sum().square() / gram.abs().square().sum().clamp_min(1e-30))
    weight = _LARGEST_WEIGHT * min(1.0, (_REAL_UP_TO / max(share, 1e-6)) ** 2) / max(power, 1.0) ** 2
    return weight if weight >= _SMALLEST_WEIGHT else 0.0


def _pattern(mask: torch.Tensor) -> torch.Tensor:
    """The mask as (1 or H, W), checked: (1, W) where whole lines are sampled."""
    pattern = mask.reshape(-1, *mask.shape[-2:]) if mask.ndim > 1 else mask[None, None]
    if not bool((pattern == pattern[0]).all()):
        raise ValueError(f"mask of shape {tuple(mask.shape)} differs between coils; accepted: the same for all.")
    rows_alike = bool((pattern[0] == pattern[0, :1]).all())
    return pattern[0, :1] if rows_alike else pattern[0]


def _centre_reach(line: torch.Tensor) -> int:
    """Half the width of the fully sampled centre of a line of the mask (W,); 0 if its middle was not sampled."""
    width = len(line)
    centre = width // 2
    if not bool(line[centre]):
        return 0
    gaps = (~line).nonzero().flatten()
    left, right = gaps[gaps < centre], gaps[gaps >= centre]
    reach = min(centre - int(left[-1]) if len(left) else centre, int(right[0]) - centre if len(right) else centre)
    return max(reach, 1)


def _hann(size: int, half: float) -> torch.Tensor:
    """A Hann window around the centre of an axis that falls to 0 at the distance ``half``."""
    position = (torch.arange(size) - size // 2).abs() / half
    return torch.cos(np.pi / 2 * position.clamp(max=1)) ** 2
