"""A grid of each image's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gaussian_problem import every_process, images

from monai_d3gm.sde import D3GMProcess, DiffusionProcess, Sampler, sample
from monai_d3gm.sde.image_grids import Grids, change_amplitude, noise_factors


class Changing:
    """A denoiser whose prediction differs from mu by a checkerboard of each image's own amplitude; it keeps the times.

    Later predictions depend on the state, so that a wrong time or a mixed-up image shows in the result.
    """

    def __init__(self, process: DiffusionProcess, amounts: torch.Tensor) -> None:
        self.process, self.amounts = process, amounts
        self.times: list[Any] = []

    def __call__(self, x: torch.Tensor, mu: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
        self.times.append(t)
        height, width = x.shape[-2:]
        sign = 1.0 - 2 * (torch.arange(height)[:, None] + torch.arange(width)).remainder(2)
        change = self.amounts.reshape(-1, *(1,) * (x.ndim - 1)) * sign
        if len(self.times) == 1:
            return (mu + change).to(x)
        b = torch.as_tensor(self.process.curves(t)[1]).reshape(-1, *(1,) * (x.ndim - 1))
        return (mu + change + 0.25 * torch.tanh(x - b * mu)).to(x)


@every_process
@pytest.mark.parametrize("last", [0.0, 0.05])
def test_the_noise_at_the_inner_times_is_scaled(process: DiffusionProcess, last: float) -> None:
    """Each image follows the trajectory on the times where c / a is (d / r)^p times the grid's: the definition."""
    mu, amounts = images(3), torch.tensor([0.06, 0.1, 0.12], dtype=torch.float64)
    times, items = [1.0, 0.6, 0.4, 0.2, last], ["a", "b", "c"]
    options = {"order": 2, "eta": 0.5}
    together = Changing(process, amounts)
    x = sample(together, mu, process, times=times, items=items, noise_scaling=(0.1, 0.8), **options)
    for i, amount in enumerate(amounts.tolist()):
        rho = process.rho(torch.tensor(times[1:-1], dtype=torch.float64)) - 0.8 * math.log(amount / 0.1)
        own = [1.0, *process.time_of_rho(rho).tolist(), last]
        seen = [float(t) if isinstance(t, float) else float(t[i]) for t in together.times]
        assert seen == pytest.approx(own[:-1], abs=1e-6)  # the amplitude is float32
        alone = Changing(process, amounts[i : i + 1])
        expected = sample(alone, mu[i : i + 1], process, times=seen + [last], items=[items[i]], **options)
        torch.testing.assert_close(x[i : i + 1], expected, rtol=1e-12, atol=1e-12)


def test_images_that_change_alike_have_one_grid() -> None:
    process, mu = D3GMProcess(), images(2)
    denoiser = Changing(process, torch.full((2,), 0.1))
    sample(denoiser, mu, process, noise_scaling=(0.1, 1.0))
    assert all(type(t) is float for t in denoiser.times)
    assert denoiser.times == pytest.approx(Sampler().times(process).tolist()[:-1], abs=1e-6)


@every_process
@pytest.mark.parametrize("amount", [0.0, 1e-4, 1e4])
def test_times_stay_between_the_ends(process: DiffusionProcess, amount: float) -> None:
    """However little or much an image changes, the times decrease from 1 to 0."""
    denoiser = Changing(process, torch.tensor([amount]))
    restored = sample(denoiser, images(1), process, noise_scaling=(0.1, 1.0))
    assert torch.isfinite(restored).all()
    assert all(later < earlier for earlier, later in zip(denoiser.times, [*denoiser.times[1:], 0.0], strict=True))


def test_the_range_of_a_factor() -> None:
    change = torch.tensor([1e-6, 0.05, 0.2, 1e6]).reshape(4, 1, 1).expand(4, 3, 3)
    assert noise_factors(change, 0.1, 1.0).tolist() == pytest.approx([1 / 8, 0.5, 2.0, 8.0])


def test_background_does_not_count_in_the_amplitude() -> None:
    object_alone = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(object_alone, (20, 20, 20, 20))
    torch.testing.assert_close(change_amplitude(object_alone), change_amplitude(padded))


def test_every_image_of_a_group_gets_its_own_part() -> None:
    grids = Grids.shared([1.0, 0.5, 0.2, 0.0], batch=4).scaled(D3GMProcess(), torch.tensor([2.0, 1.0, 2.0, 0.5]))
    x = torch.arange(8.0).reshape(4, 2)
    assert len(grids.groups) == 3
    assert torch.equal(grids.map(lambda images, times: x[images] + times[1]), x + grids.time(1).float()[:, None])
