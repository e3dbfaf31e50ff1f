"""An image for the tests of intervals and bounds."""

from __future__ import annotations

import numpy as np


def disc(size: int = 48) -> np.ndarray:
    """A disc of texture on a dark background."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (np.hypot(x, y) < 0.4 * size) * (1 + 0.3 * np.sin(0.9 * x) * np.cos(0.7 * y))
