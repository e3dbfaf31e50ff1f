from __future__ import annotations

import fastmri
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from operator_checks import assert_adjoint, randn

from monai_d3gm.consistency import channels_to_complex, complex_to_channels, fft1c, fft2c, ifft1c, ifft2c

SIDES = st.integers(1, 9)


@given(SIDES, SIDES)
def test_is_fastmri_fft2c_at_odd_and_even_sizes(height: int, width: int) -> None:
    x = randn(2, height, width)
    assert torch.allclose(fft2c(x), torch.view_as_complex(fastmri.fft2c(torch.view_as_real(x))), rtol=0, atol=1e-12)
    assert torch.allclose(ifft2c(x), torch.view_as_complex(fastmri.ifft2c(torch.view_as_real(x))), rtol=0, atol=1e-12)


@given(SIDES, SIDES)
def test_is_an_isometry_whose_adjoint_is_its_inverse(height: int, width: int) -> None:
    x = randn(height, width)
    assert torch.allclose(fft2c(x).norm(), x.norm(), rtol=1e-12)
    assert torch.allclose(ifft2c(fft2c(x)), x, rtol=0, atol=1e-12)
    assert_adjoint(fft2c, ifft2c, x)


@given(SIDES, SIDES, st.sampled_from([0, 1, -1, -2]))
def test_one_axis(height: int, width: int, dim: int) -> None:
    x = randn(height, width)
    assert torch.allclose(ifft1c(fft1c(x, dim), dim), x, rtol=0, atol=1e-12)
    assert torch.allclose(fft1c(fft1c(x, 0), 1), fft2c(x), rtol=0, atol=1e-12)
    assert torch.allclose(ifft1c(ifft1c(x, 0), 1), ifft2c(x), rtol=0, atol=1e-12)


def test_channels_are_real_and_imaginary_part() -> None:
    x = randn(3, 4, 5, dtype=torch.complex64)
    channels = complex_to_channels(x)
    assert channels.shape == (3, 2, 4, 5) and channels.dtype == torch.float32
    assert torch.equal(channels[:, 0], x.real) and torch.equal(channels[:, 1], x.imag)
    assert torch.equal(channels_to_complex(channels), x)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5), (2, 1, 4, 5)])
def test_other_channel_numbers_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., 2, H, W\)"):
        channels_to_complex(torch.zeros(shape))
