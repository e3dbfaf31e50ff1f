"""Noise depends on its key alone."""

from __future__ import annotations

import pytest
import torch

from monai_d3gm.sde import INITIAL_STEP, keyed_noise
from monai_d3gm.sde.noise import batch_noise, resolve_keys


def test_same_key_same_noise_whatever_was_drawn_before() -> None:
    first = keyed_noise((3, 5), 7, "a", 1, 2)
    torch.manual_seed(5)
    torch.randn(10)
    assert torch.equal(first, keyed_noise((3, 5), 7, "a", 1, 2))
    assert first.dtype == torch.float32 and first.device.type == "cpu"


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_has_the_noise_of_its_elements(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    keys: list[tuple[int | str, int | str]] = [(item, sample) for item in ("a", 5, "b") for sample in range(4)]
    expected = torch.stack([keyed_noise((20, 30), 7, *key, 2) for key in keys])
    assert torch.equal(batch_noise((20, 30), 7, keys, 2), expected)
    assert torch.equal(batch_noise((20, 30), 7, keys[:1], 2), expected[:1])


@pytest.mark.parametrize(
    ("step", "seed", "values"),
    [
        (5, 0x5C8FCADE, [-0.21479350, 1.08418310, 0.48839518, 1.21026051]),
        (INITIAL_STEP, 0x404480BB, [0.89636630, 0.35850859, 0.28969643, 1.42228675]),
    ],
)
def test_golden_values(step: int, seed: int, values: list[float]) -> None:
    """The same key gives the same noise in every release.

    The seeds are the first 32 bits, least significant byte first, of the BLAKE2b digest of 4 bytes of the text
    ``(7, 'brain:3', 2, 5)`` and ``(7, 'brain:3', 2, -1)``, taken with Python's hashlib; the values are torch's normal
    numbers for them.
    """
    drawn = keyed_noise((4,), 7, "brain:3", 2, step)
    assert torch.equal(drawn, torch.randn(4, generator=torch.Generator().manual_seed(seed)))
    assert drawn.tolist() == pytest.approx(values, abs=1e-7)


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    keyed_noise((100,), 0, 0, 0, 0)
    assert torch.equal(torch.randn(4), expected)


def test_every_part_of_the_key_counts() -> None:
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, INITIAL_STEP)]
    keys += [(0, "1", 0, 0), (0, "0", 0, 0), (0, 11, 0, 0), (0, 1, 1, 0), (0, "brain:1", 0, 0), (0, "brain", 1, 0)]
    first = {float(keyed_noise((16,), *key)[0]) for key in keys}
    assert len(first) == len(keys)


def test_noise_is_standard_normal_and_uncorrelated_between_keys() -> None:
    draws = torch.stack([keyed_noise((20_000,), 0, item, 0, step) for item in range(3) for step in range(2)])
    assert torch.allclose(draws.mean(1), torch.zeros(6), atol=0.03)  # 4 standard errors of 1 / sqrt(20000)
    assert torch.allclose(draws.std(1), torch.ones(6), atol=0.02)
    assert torch.allclose(torch.corrcoef(draws), torch.eye(6), atol=0.03)


def test_keys_of_a_batch() -> None:
    assert resolve_keys(None, 2) == [(0, 0), (1, 0)]
    assert resolve_keys([4, ("x", 3)], 2) == [(4, 0), ("x", 3)]


@pytest.mark.parametrize(
    "items", [[0], "ab", [0, 1.5], [0, (1, 2, 3)], [0, True], [0, torch.tensor(1)], [0, (0, None)]]
)
def test_bad_keys(items: object) -> None:
    with pytest.raises(ValueError, match="items (is|holds) .*; accepted: "):
        resolve_keys(items, 2)  # type: ignore[arg-type]
