"""ConditionalNAFNet: shapes, conditioning, the window of its attention, tiles, spectral norms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.nets.conditional_nafnet import windowed_mean


def small(**arguments: object) -> ConditionalNAFNet:
    torch.manual_seed(0)
    options: dict[str, object] = {
        "width": 8,
        "encoder_blocks": (1, 1),
        "middle_blocks": 1,
        "decoder_blocks": (1, 1),
    } | arguments
    net = ConditionalNAFNet(**options).eval()  # type: ignore[arg-type]
    with torch.no_grad():  # beta and gamma start at zero: blocks would be identities
        for name, parameter in net.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter.fill_(0.5)
    return net


@pytest.mark.parametrize("dims, shape", [(2, (24, 16)), (3, (8, 12, 16))])
@pytest.mark.parametrize("patch", [1, 2])
def test_output_shape(dims: int, shape: tuple[int, ...], patch: int) -> None:
    net = small(spatial_dims=dims, in_channels=2, out_channels=1, patch_size=patch, attention_window=8)
    shape = tuple(n // net.size_multiple * net.size_multiple for n in shape)
    assert net(torch.randn(2, 2, *shape), torch.tensor([0.0, 5.0])).shape == (2, 1, *shape)


def test_time_matters_and_defaults_to_zero() -> None:
    net = small()
    x = torch.randn(2, 4, 16, 16)
    torch.testing.assert_close(net(x), net(x, torch.zeros(2)))
    torch.testing.assert_close(net(x, torch.zeros(1)), net(x, torch.zeros(2)))
    assert not torch.allclose(net(x, torch.zeros(2)), net(x, torch.full((2,), 7.0)))


def test_batch_elements_are_independent() -> None:
    net = small()
    x, time = torch.randn(3, 4, 16, 16), torch.tensor([1.0, -4.0, 30.0])
    one_by_one = torch.cat([net(x[i : i + 1], time[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(net(x, time), one_by_one, atol=1e-5, rtol=1e-5)


@given(size=st.integers(1, 12), window=st.integers(1, 14))
@settings(deadline=None, max_examples=40)
def test_windowed_mean_is_the_mean_of_the_nearest_inner_window(size: int, window: int) -> None:
    x = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(size * 100 + window))
    result = windowed_mean(x, (window,)).expand(1, 1, size)
    for i in range(size):  # the definition, position by position
        length = min(window, size)
        start = min(max(i - length // 2, 0), size - length)
        torch.testing.assert_close(result[0, 0, i], x[0, 0, start : start + length].mean(), atol=1e-6, rtol=1e-5)


def test_windowed_mean_of_two_axes_is_that_of_the_box() -> None:
    x = torch.randn(2, 3, 9, 11)
    result = windowed_mean(x, (3, 5))
    torch.testing.assert_close(result[:, :, 1:-1, 2:-2], torch.nn.functional.avg_pool2d(x, (3, 5), 1))


def test_a_position_sees_its_window_alone() -> None:
    """With a fixed window the network is local: what is far outside window and receptive field does not matter."""
    net = small(attention_window=8, encoder_blocks=(1,), decoder_blocks=(1,))
    x = torch.randn(1, 4, 16, 128)
    changed = x.clone()
    changed[..., 96:] *= 100
    same = slice(0, 48)
    assert torch.allclose(net(x)[..., same], net(changed)[..., same], atol=1e-6)
    whole = small(attention_window=None, encoder_blocks=(1,), decoder_blocks=(1,))
    assert (whole(x) - whole(changed))[..., same].abs().max() > 1e-5


def test_spectral_norm_bounds_every_layer() -> None:
    net = small(spectral_norm=True)
    net.train()
    for _ in range(30):  # power iteration: one step each time in training
        net(torch.randn(1, 4, 8, 8))
    net.eval()
    norms = [torch.linalg.matrix_norm(m.weight, 2) for m in net.modules() if isinstance(m, torch.nn.Linear)]
    assert norms and max(norms) < 1.05


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"spatial_dims": 1}, "spatial_dims is 1"),
        ({"width": 0}, "width is 0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"encoder_blocks": (1, 1), "decoder_blocks": (1,)}, "decoder_blocks has 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConditionalNAFNet(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape, words", [((1, 3, 8, 8), r"accepted: \(B, 4, H, W\)\."), ((1, 4, 8, 9), "multiples of 4")]
)
def test_bad_input(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small()(torch.zeros(shape))
