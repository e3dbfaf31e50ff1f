"""The map of errors: its features, its file, and that it learns where errors are."""

from __future__ import annotations

import pytest
import torch

from monai_d3gm.consistency import KspaceConsistency
from monai_d3gm.engines import magnitude
from monai_d3gm.losses import QuantileLoss
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.trust import ErrorMap, ErrorMapFileError


def small_network(width: int = 8) -> ConditionalNAFNet:
    torch.manual_seed(0)
    return ConditionalNAFNet(in_channels=5, out_channels=1, width=width, encoder_blocks=(1,), decoder_blocks=(1,))


def test_quantile_loss_has_its_minimum_at_the_quantile():
    values = torch.arange(1.0, 101.0)
    losses = {q: float(QuantileLoss(0.9)(torch.full_like(values, q), values)) for q in (80.0, 90.0, 95.0)}
    assert min(losses, key=losses.__getitem__) == 90.0
    with pytest.raises(ValueError, match="level is 1"):
        QuantileLoss(1)


def test_the_relative_loss_does_not_depend_on_the_size_of_an_images_errors():
    """Two images of one relative error: ten times the errors leave their loss; 0.9 (1 - 0.5) over 1 is 0.45."""
    values = torch.tensor([[1.0, 1.0], [10.0, 10.0]])
    assert float(QuantileLoss(0.9, relative=True)(0.5 * values, values)) == pytest.approx(0.45)


def test_open_std_follows_the_mask():
    """For one coil C is diagonal in k-space: gamma^2 s^2 / (gamma^2 + s^2) on the mask, gamma^2 off it."""
    mask = torch.zeros(32, dtype=torch.bool)
    mask[8:24] = True
    consistency = KspaceConsistency(torch.zeros(1, 32, 32, dtype=torch.complex64), mask, noise_std=0.05)
    found = consistency.open_std(0.1, probes=64)
    expected = ((0.1**2 + 0.1**2 * 0.05**2 / (0.1**2 + 0.05**2)) / 2) ** 0.5
    assert found.shape == (1, 1, 32, 32)
    assert float(found.square().mean().sqrt()) == pytest.approx(expected, rel=0.02)


def test_features_hold_image_start_change_and_what_is_open():
    consistency = KspaceConsistency(
        torch.zeros(2, 16, 16, dtype=torch.complex64), torch.ones(16, dtype=torch.bool), noise_std=0.1
    )
    error_map = ErrorMap(small_network(), prior_std=0.1, to_image=magnitude)
    image, mu = torch.full((2, 2, 16, 16), 3.0), torch.zeros(2, 2, 16, 16)
    features = error_map.features(image, mu, consistency)
    assert features.shape == (2, ErrorMap.CHANNELS, 16, 16)
    assert float(features[0, 0, 0, 0]) == pytest.approx(3 * 2**0.5)
    assert float(features[0, 2, 0, 0]) == pytest.approx(4 * 3 * 2**0.5)
    assert float(features[0, 4, 0, 0]) == pytest.approx(0.0)  # the noise is prior_std


def test_it_learns_where_errors_are_large():
    """Errors are ten times as large where the image is bright; the map must say so after a few steps."""
    error_map = ErrorMap(small_network(), prior_std=0.1)
    optimizer = torch.optim.Adam(error_map.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 16:] = 1.0
    features = error_map.features(image, image)
    for _ in range(60):
        error = (torch.randn(image.shape, generator=generator) * (0.01 + 0.09 * image)).abs()
        loss = QuantileLoss(0.9)(error_map(features), error)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    half_width = error_map(features).detach()
    assert float(half_width[..., 20:].mean()) > 4 * float(half_width[..., :12].mean())


def test_its_file_brings_the_weights_back_in_half_precision(tmp_path):
    first = ErrorMap(small_network(), prior_std=0.1)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    first.save(tmp_path / "error_map.pt", {"steps": 3})
    second = ErrorMap(small_network(), prior_std=0.1, path=tmp_path / "error_map.pt")
    features = torch.rand(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(first(features), second(features), rtol=0.02, atol=1e-4)


def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path):
    with pytest.raises(ErrorMapFileError, match="missing.pt: no such file"):
        ErrorMap(small_network(), 0.1, path=tmp_path / "missing.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ErrorMapFileError, match="text.pt: not an error map"):
        ErrorMap(small_network(), 0.1, path=tmp_path / "text.pt")
    ErrorMap(small_network(8), 0.1).save(tmp_path / "small.pt", {})
    with pytest.raises(ErrorMapFileError, match="small.pt: not an error map"):
        ErrorMap(small_network(16), 0.1, path=tmp_path / "small.pt")
