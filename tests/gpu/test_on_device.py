"""What a GPU must show. The device is a parameter: a GPU where torch finds one, else the CPU, where all lines run too.

``pytest -m gpu`` runs these alone. `D3GM_DEVICE` names another device. What the CPU cannot tell (a CUDA graph, a wait
for the device, its memory, two GPUs) is skipped there with the reason, after the code around it has run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monai_d3gm.consistency import KspaceConsistency
from monai_d3gm.inferers import RestorationInferer
from monai_d3gm.networks.nets import ConditionalNAFNet
from monai_d3gm.networks.schedulers import D3GMScheduler

pytestmark = pytest.mark.gpu

DEVICE = torch.device(os.environ.get("D3GM_DEVICE", "cuda" if torch.cuda.is_available() else "cpu"))
ON_GPU = DEVICE.type == "cuda"


@pytest.fixture
def network() -> ConditionalNAFNet:
    torch.manual_seed(0)
    net = ConditionalNAFNet(in_channels=4, out_channels=2, width=16, encoder_blocks=(1,), decoder_blocks=(1,))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))  # layers that begin at zero say nothing
    return net.eval()


def measured(size: int = 64, batch: int = 2) -> tuple[Tensor, KspaceConsistency]:
    """An estimate and the consistency with k-space of one coil, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    kspace = torch.randn(batch, size, size, dtype=torch.complex64, generator=generator)
    mask = torch.arange(size) % 2 == 0
    mu = torch.randn(batch, 2, size, size, generator=generator) * 0.3
    return mu, KspaceConsistency(kspace * mask, mask.expand(batch, 1, size), noise_std=0.05)


def restored(network: ConditionalNAFNet, device: torch.device, **options: object) -> Tensor:
    mu, consistency = measured()
    restore = RestorationInferer(D3GMScheduler(), num_samples=2, seed=3, **options)  # type: ignore[arg-type]
    image = restore(mu.to(device), network.to(device), data_consistency=consistency.to(device))
    return image.cpu()


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TF32 in products and convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_the_same_image_as_on_the_cpu(network: ConditionalNAFNet) -> None:
    """The noise is the same on every device: what differs is the rounding of float32, 1e-3 of a range of about 2."""
    expected = restored(network, torch.device("cpu"))
    with full_precision():
        image = restored(network, DEVICE)
    assert (image - expected).abs().max() < 2e-3


def test_bfloat16_stays_near(network: ConditionalNAFNet) -> None:
    """bfloat16 has 8 bits: 0.4 % at each operation of the network; the state and consistency stay in float32."""
    expected, image = restored(network, DEVICE), restored(network, DEVICE, amp="bfloat16")
    assert image.dtype == torch.float32 and (image - expected).abs().max() > 0
    assert (image - expected).square().mean().sqrt() < 0.02 * expected.square().mean().sqrt()


@pytest.mark.parametrize("mode", [True, pytest.param("reduce-overhead", id="cuda-graph")])
def test_compiled_is_the_same_but_for_rounding(network: ConditionalNAFNet, mode: bool | str) -> None:
    if not ON_GPU and mode == "reduce-overhead":
        pytest.skip("a CUDA graph needs a GPU; on the CPU this mode is the one before")
    with full_precision():
        expected = restored(network, DEVICE)
        first, second = (restored(network, DEVICE, compile=mode) for _ in range(2))
    assert (first - expected).abs().max() < 2e-3 and torch.equal(first, second)


def test_the_loop_reads_nothing_from_the_device(network: ConditionalNAFNet) -> None:
    """On a GPU any wait within the network and the steps raises; the check before the loop and the result may wait."""
    mu, consistency = measured()
    restore = RestorationInferer(D3GMScheduler(), num_samples=1)
    waits: list[str] = []
    evaluations = 0

    def evaluated(module: torch.nn.Module, arguments: object, output: object) -> None:
        nonlocal evaluations
        evaluations += 1
        if ON_GPU:  # from the first evaluation to the last
            torch.cuda.set_sync_debug_mode("error" if evaluations < len(restore.times) - 1 else "default")

    handle = network.to(DEVICE).register_forward_hook(evaluated)
    try:
        restore(mu.to(DEVICE), network, data_consistency=consistency.to(DEVICE))
    except RuntimeError as error:
        waits.append(str(error))
    finally:
        handle.remove()
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")
    assert not waits and evaluations == len(restore.times) - 1


def test_memory_does_not_grow_with_samples(network: ConditionalNAFNet) -> None:
    """Mean and spread are taken as the samples come: eight take what two do."""
    peaks = []
    for samples in (2, 8):
        mu, consistency = measured(128, 1)
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats(DEVICE)
        restore = RestorationInferer(D3GMScheduler(), num_samples=samples, batch_size=1)
        restore.moments(mu.to(DEVICE), network.to(DEVICE), data_consistency=consistency.to(DEVICE))
        peaks.append(torch.cuda.max_memory_allocated(DEVICE) if ON_GPU else 0)
    if not ON_GPU:
        pytest.skip("the peak of memory is read on a GPU")
    assert peaks[1] < 1.05 * peaks[0]


def test_running_out_of_memory_halves_the_batch(network: ConditionalNAFNet, caplog: pytest.LogCaptureFixture) -> None:
    """A network that cannot take more than two images: on a GPU by an allocation that no card can make."""
    expected = restored(network, DEVICE, batch_size=1)

    def refuse(module: torch.nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        x = keywords.get("x", arguments[0] if arguments else None)
        assert x is not None
        if len(x) > 2:
            if ON_GPU:
                torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
            raise torch.OutOfMemoryError("too many images")

    handle = network.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        image = restored(network, DEVICE, batch_size=4)
    finally:
        handle.remove()
    assert "out of memory with a batch of 4; going on with 2" in caplog.text
    assert (image - expected).abs().max() < 2e-3


def test_two_devices_share_a_folder(bundle: Path, tmp_path: Path) -> None:
    """The same bytes as one. `tests/bundles/test_two_processes.py` shows it on the CPU."""
    if torch.cuda.device_count() < 2:
        pytest.skip("two GPUs are needed")
    from small_bundle import magnitude, write_nifti

    (tmp_path / "in").mkdir()
    for number in range(2):
        write_nifti(tmp_path / "in" / f"sub-0{number}_T1w.nii.gz", magnitude(slices=2) * (number + 1))
    code = "import sys; from monai_d3gm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    python = [sys.executable, "-W", "ignore", "-c", code]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    fast = ["--quick", "--no-progress", "--device", "cuda"]
    outputs = {}
    for name, command in {"one": python, "two": [*launch, *python]}.items():
        arguments = ["restore", bundle, tmp_path / "in", tmp_path / name, *fast]
        run = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        outputs[name] = {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*_restored.nii.gz")}
    assert len(outputs["one"]) == 2 and outputs["one"] == outputs["two"]
