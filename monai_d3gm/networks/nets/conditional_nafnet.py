"""A NAF U-Net conditioned on a time: the network of the paper, for images and volumes.

The blocks are those of NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022) with the time
modulation of Refusion's ConditionalNAFNet (Luo et al., CVPR workshops 2023) and squeeze-and-excitation (Hu et al.,
CVPR 2018) in place of their channel attention, as D3GM uses it (arXiv 2406.13652). The channel attention pools over a
fixed window (Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022), so
that a tile, a strip and a whole image see the same statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers.factories import Conv
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

__all__ = ["ConditionalNAFNet", "windowed_mean"]


def windowed_mean(x: Tensor, window: Sequence[int | None]) -> Tensor:
    """The mean of ``x`` over a box around each position, kept inside the image.

    Along each spatial axis a position takes the mean of the ``window`` samples around it; near a border it takes the
    nearest window that lies inside (the test-time local converter's rule). Where the window is None or covers the axis,
    the axis is averaged whole and has length 1 in the result.

    Args:
        x: (B, C, *spatial).
        window: a length for each spatial axis, in samples of ``x``; None is the whole axis.

    Returns:
        Tensor that broadcasts against ``x``.

    Example:
        >>> windowed_mean(torch.tensor([[[0.0, 1.0, 2.0, 3.0, 10.0]]]), (3,)).squeeze()
        tensor([1., 1., 2., 5., 5.])
    """
    whole = [axis for axis, length in enumerate(window, 2) if length is None or length >= x.shape[axis]]
    if whole:
        x = x.mean(whole, keepdim=True)
    boxes = {axis: length for axis, length in enumerate(window, 2) if length is not None and axis not in whole}
    for axis, length in boxes.items():
        total = x.float().cumsum(axis)
        later = total.narrow(axis, length, x.shape[axis] - length) - total.narrow(axis, 0, x.shape[axis] - length)
        x = (torch.cat([total.narrow(axis, length - 1, 1), later], axis) / length).to(x.dtype)
    for axis, length in boxes.items():  # there are length - 1 fewer boxes than positions
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        before, after = (end.repeat_interleave(n, axis) for end, n in ((first, length // 2), (last, (length - 1) // 2)))
        x = torch.cat([before, x, after], axis)
    return x


def _gate(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return first * second


class _NAFBlock(nn.Module):
    """x + beta g1(x, time), then + gamma g2(x, time): spatial mixing, then channel mixing. Channels are last."""

    def __init__(
        self, spatial_dims: int, channels: int, time_channels: int, window: Sequence[int | None], reduction: int
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        hidden = max(channels // reduction, 1)
        self.window = tuple(window)
        self.time = nn.Linear(time_channels, 4 * channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 2 * channels)
        self.depthwise = conv(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid()
        )
        self.project = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mix = nn.Linear(channels, 2 * channels)
        self.mix_project = nn.Linear(channels, channels)
        self.beta = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        modulation = self.time(time).reshape(time.shape[0], *(1,) * (x.ndim - 2), -1)
        shift1, scale1, shift2, scale2 = modulation.chunk(4, dim=-1)
        y = torch.addcmul(shift1, self.norm1(x), 1 + scale1)
        y = self.depthwise(self.expand(y).movedim(-1, 1)).movedim(1, -1)
        y = _gate(y)
        pooled = windowed_mean(y.movedim(-1, 1), self.window).movedim(1, -1)
        x = torch.addcmul(x, self.project(y * self.attention(pooled)), self.beta)
        y = torch.addcmul(shift2, self.norm2(x), 1 + scale2)
        return torch.addcmul(x, self.mix_project(_gate(self.mix(y))), self.gamma)


class ConditionalNAFNet(nn.Module):
    r"""F(x, time): a U-Net of NAF blocks, each modulated by the time.

    The channel width doubles and the extent halves from level to level. With ``patch_size`` p the first convolution
    has stride p and the last is its transpose: everything in between runs at 1/p of the resolution. The skip from the
    input's convolution to the output keeps the detail.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input; for a denoiser of C channels conditioned on mu, 2 C.
        out_channels: channels of the output.
        width: channels at the first level. The paper's network has 64.
        encoder_blocks: NAF blocks at each level on the way down.
        middle_blocks: NAF blocks at the lowest level.
        decoder_blocks: NAF blocks at each level on the way up, from the lowest; as many levels as ``encoder_blocks``.
        patch_size: stride of the first convolution, 1 or more.
        attention_window: extent, in input samples, over which the channel attention pools; an integer, one for each
            axis, or None for the whole image. The extent of the training patches is the right choice: then the
            statistics seen on a whole image are those of training.
        reduction: ratio of the squeeze-and-excitation's bottleneck.
        time_channels: width of the time embedding.
        spectral_norm: divide every convolution's and linear map's weight by its largest singular value
            (Miyato et al., ICLR 2018), which bounds each layer's Lipschitz constant by 1.

    Raises:
        ValueError: an argument out of its range, named.

    Example:
        >>> net = ConditionalNAFNet(in_channels=4, out_channels=2, width=8, encoder_blocks=(1,), decoder_blocks=(1,))
        >>> net(torch.zeros(1, 4, 16, 24), torch.tensor([3.0])).shape
        torch.Size([1, 2, 16, 24])
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 4,
        out_channels: int = 2,
        width: int = 32,
        encoder_blocks: Sequence[int] = (1, 1, 2),
        middle_blocks: int = 4,
        decoder_blocks: Sequence[int] = (1, 1, 1),
        patch_size: int = 1,
        attention_window: int | Sequence[int | None] | None = 64,
        reduction: int = 4,
        time_channels: int = 128,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; accepted: 2 or 3.")
        if len(encoder_blocks) != len(decoder_blocks):
            raise ValueError(
                f"decoder_blocks has {len(decoder_blocks)} levels and encoder_blocks {len(encoder_blocks)}; "
                "accepted: as many in both."
            )
        counts = {"in_channels": in_channels, "out_channels": out_channels, "width": width, "patch_size": patch_size}
        counts |= {"reduction": reduction, "time_channels": time_channels}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; accepted: at least 1.")
        windows = ensure_tuple_rep(attention_window, spatial_dims)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.size_multiple = patch_size * 2 ** len(encoder_blocks)
        self.time_channels = time_channels
        self.time_embedding = nn.Sequential(
            nn.Linear(time_channels, time_channels), nn.SiLU(), nn.Linear(time_channels, time_channels), nn.SiLU()
        )

        conv = Conv[Conv.CONV, spatial_dims]
        up = Conv[Conv.CONVTRANS, spatial_dims]

        def blocks(count: int, level: int) -> nn.ModuleList:
            scale = patch_size * 2**level
            window = [None if w is None else max(w // scale, 1) for w in windows]
            return nn.ModuleList(
                _NAFBlock(spatial_dims, width * 2**level, time_channels, window, reduction) for _ in range(count)
            )

        self.intro = conv(in_channels, width, 3 if patch_size == 1 else patch_size, patch_size, int(patch_size == 1))
        self.encoders = nn.ModuleList(blocks(n, level) for level, n in enumerate(encoder_blocks))
        self.downs = nn.ModuleList(
            conv(width * 2**level, width * 2 ** (level + 1), 2, 2) for level in range(len(encoder_blocks))
        )
        self.middle = blocks(middle_blocks, len(encoder_blocks))
        levels = range(len(decoder_blocks) - 1, -1, -1)
        self.ups = nn.ModuleList(up(width * 2 ** (level + 1), width * 2**level, 2, 2) for level in levels)
        self.decoders = nn.ModuleList(blocks(n, level) for level, n in zip(levels, decoder_blocks, strict=True))
        last = (up, patch_size, patch_size, 0) if patch_size > 1 else (conv, 3, 1, 1)
        self.outro = last[0](width, out_channels, *last[1:])
        if spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                    nn.utils.parametrizations.spectral_norm(module)

    def forward(self, x: Tensor, timesteps: Tensor | None = None, context: Any = None) -> Tensor:
        """F(x, time).

        Args:
            x: (B, in_channels, *spatial); each extent a multiple of ``size_multiple``.
            timesteps: (B,) or (1,), any real numbers; zeros when left out.
            context: not used; MONAI's diffusion networks have it.

        Returns:
            (B, out_channels, *spatial).
        """
        if x.ndim != self.spatial_dims + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; accepted: (B, {self.in_channels}, "
                f"{', '.join('DHW'[-self.spatial_dims :])})."
            )
        if any(extent % self.size_multiple for extent in x.shape[2:]):
            raise ValueError(f"x has extent {tuple(x.shape[2:])}; accepted: multiples of {self.size_multiple}.")
        if timesteps is None:
            timesteps = torch.zeros(1, device=x.device)
        time = get_timestep_embedding(timesteps, self.time_channels).to(x.dtype)
        time = self.time_embedding(time).expand(x.shape[0], -1)

        def run(blocks: Any, x: Tensor) -> Tensor:
            x = x.movedim(1, -1)
            for block in blocks:
                x = block(x, time)
            return x.movedim(-1, 1)

        memory_format = torch.channels_last if self.spatial_dims == 2 else torch.channels_last_3d
        x = self.intro(x.contiguous(memory_format=memory_format))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(run(encoder, x))
            x = down(skips[-1])
        x = run(self.middle, x)
        for upsample, decoder in zip(self.ups, self.decoders, strict=True):
            x = run(decoder, upsample(x) + skips.pop())
        return self.outro(x)
