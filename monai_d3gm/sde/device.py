"""Copies from the CPU to the images' device that do not wait for the device.

Curves, weights and noise are made on the CPU. A copy from ordinary memory makes the CPU wait until the GPU has finished
its earlier work. A copy from page-locked memory does not, and the next operations are queued meanwhile.
"""

from __future__ import annotations

from torch import Tensor


def moved(x: Tensor, like: Tensor) -> Tensor:
    """A CPU tensor in the dtype and on the device of another.

    Args:
        x: on the CPU.
        like: gives dtype and device.

    Example:
        >>> import torch
        >>> moved(torch.ones(2, dtype=torch.float64), torch.zeros(1)).dtype
        torch.float32
    """
    x = x.to(like.dtype)
    if like.device.type == "cuda":
        return x.pin_memory().to(like.device, non_blocking=True)
    return x.to(like.device)


def per_image(x: Tensor, like: Tensor) -> Tensor:
    """A number, or one for each image, to multiply images (B, ...) with.

    Args:
        x: on the CPU, () or (B,). One number stays there, as an operand that needs no copy.
        like: images, which give dtype and device.

    Returns:
        () or (B, 1, ...).

    Example:
        >>> import torch
        >>> per_image(torch.ones(2), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 1, 1])
    """
    return x.to(like.dtype) if x.ndim == 0 else moved(x, like).reshape(-1, *(1,) * (like.ndim - 1))
