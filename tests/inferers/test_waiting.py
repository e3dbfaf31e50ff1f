"""The loop of the sampler never waits for the device: tested without one, on tensors that have no values.

On the device ``meta`` whatever would need a value of a tensor (``float(x)``, ``bool(x)``, ``x.item()``, indexing by a
mask) raises. Copies from the CPU would not, so they are counted: all have to go through ``moved``, which on a GPU
copies from page-locked memory without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from monai_d3gm.consistency import DownsamplingConsistency, KspaceConsistency
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler
from monai_d3gm.networks.schedulers import d3gm as schedulers
from monai_d3gm.sde import PROCESSES, device, processes, sample, sampling


class Copies(TorchDispatchMode):
    """Counts copies from the CPU to the device, but for those within ``moved``."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.counts = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        copies = func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::lift_fresh")
        if copies and isinstance(result, Tensor) and result.device.type == "meta":
            self.count += self.counts and any(isinstance(a, Tensor) and a.device.type == "cpu" for a in args)
        return result

    def uncounted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            self.counts = False
            try:
                return function(*args)
            finally:
                self.counts = True

        return wrapped


def consistencies() -> dict[str, Any]:
    kspace, mask = torch.ones(2, 16, 16, dtype=torch.complex64), torch.arange(16) % 2 == 0
    each = torch.tensor([0.01, 0.02])
    low = torch.ones(2, 2, 8, 8)
    return {
        "none": None,
        "k-space": KspaceConsistency(kspace, mask),
        "noisy k-space": KspaceConsistency(kspace, mask, noise_std=each, prior_std=D3GMScheduler().prior_std),
        "low resolution": DownsamplingConsistency(low, 2, noise_std=each, prior_std=D3GMScheduler().prior_std),
    }


@pytest.mark.parametrize("measured", consistencies())
@pytest.mark.parametrize("process", PROCESSES)
def test_the_loop_waits_for_nothing(process: str, measured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = D3GMScheduler(PROCESSES[process]())
    options = {"width": 4, "encoder_blocks": (1,), "middle_blocks": 1, "decoder_blocks": (1,), "attention_window": 8}
    denoiser = scheduler.denoiser(ConditionalNAFNet(**options).to("meta"))  # type: ignore[arg-type]
    consistency = consistencies()[measured]
    correct = None if consistency is None else consistency.to("meta")
    monkeypatch.setattr(sampling, "_check_start", lambda *_: None)  # before the loop: whether the images are finite
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know the device meta
    copies = Copies()
    for module in (device, sampling, schedulers, processes):
        monkeypatch.setattr(module, "moved", copies.uncounted(device.moved))
    with copies:
        restored = sample(
            denoiser, torch.empty(2, 2, 16, 16, device="meta"), scheduler.process, eta=1.0, correct=correct
        )
    assert restored.device.type == "meta"
    assert copies.count == 0


def test_a_copy_is_counted() -> None:
    with Copies() as copies:
        torch.ones(2).to("meta")
    assert copies.count == 1
