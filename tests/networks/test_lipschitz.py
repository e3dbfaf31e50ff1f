"""The largest singular value of a Jacobian, against the whole Jacobian's."""

from __future__ import annotations

import pytest
import torch

from monai_d3gm.networks.lipschitz import local_lipschitz
from monai_d3gm.networks.nets import ConditionalNAFNet


def test_it_is_the_largest_singular_value_of_each_item() -> None:
    """torch's singular values of the dense Jacobian of each item say what it is."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(3, 1, 3)
    ).double()
    x = torch.randn(2, 1, 6, 6, dtype=torch.float64)
    found = local_lipschitz(network, x, iterations=200)
    for item, value in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(network, item[None]).reshape(16, 36)
        assert float(value) == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-6)


def test_it_serves_the_package_s_network() -> None:
    torch.manual_seed(0)
    network = ConditionalNAFNet(
        in_channels=2, out_channels=1, width=4, encoder_blocks=(1,), decoder_blocks=(1,)
    ).double()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # beta and gamma begin at 0
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    found = float(local_lipschitz(lambda y: network(y, timesteps=torch.tensor([3.0])), x, iterations=100)[0])
    function = torch.autograd.functional.jacobian(lambda y: network(y, timesteps=torch.tensor([3.0])), x)
    assert found == pytest.approx(float(torch.linalg.matrix_norm(function.reshape(64, 128), 2)), rel=1e-3)


def test_a_constant_function_stretches_nothing_and_iterations_are_checked() -> None:
    assert float(local_lipschitz(lambda x: 0 * x, torch.ones(1, 4))[0]) == 0
    with pytest.raises(ValueError, match="iterations is 0"):
        local_lipschitz(lambda x: x, torch.ones(1, 4), iterations=0)
