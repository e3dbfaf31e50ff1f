"""Noise as a function of its key: (seed, item, sample, step), and of nothing else ("Keyed noise" in the theory).

Every image of a batch gets a stream of its own, drawn on the CPU, so that an item meets the same noise whatever the
batch, tile, worker or device it is in. The key is hashed (BLAKE2b) to the seed of a generator; torch's CPU generator
takes 32 bits of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

Key = int | str | tuple[int | str, int | str]
"""The name of a batch's element: an item, or an item and one of its samples. A plain key ``k`` means ``(k, 0)``."""

INITIAL_STEP = -1
"""The step under which the noise of the initial state is drawn. The steps of a trajectory count from 0."""


def keyed_noise(shape: Sequence[int], seed: int, item: int | str, sample: int | str, step: int) -> Tensor:
    """Standard normal noise, float32 on the CPU, which depends on the arguments alone.

    Args:
        shape: of the tensor.
        seed: of the run.
        item: names the image; ``1`` and ``"1"`` are two items.
        sample: names one of the samples of that image.
        step: index of the step, or :data:`INITIAL_STEP`.

    Returns:
        A float32 CPU tensor of that shape.

    Example:
        >>> bool((keyed_noise((2, 3), 0, "brain:7", 0, 4) == keyed_noise((2, 3), 0, "brain:7", 0, 4)).all())
        True
        >>> bool((keyed_noise((2, 3), 0, "brain:7", 0, 4) == keyed_noise((2, 3), 0, "brain:7", 1, 4)).any())
        False
    """
    digest = hashlib.blake2b(repr((seed, item, sample, step)).encode(), digest_size=4).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def batch_noise(shape: Sequence[int], seed: int, keys: Sequence[tuple[int | str, int | str]], step: int) -> Tensor:
    """The :func:`keyed_noise` of each (item, sample), drawn in as many threads as torch computes in.

    Args:
        shape: of one element.
        seed: of the run.
        keys: (item, sample) of each element, at least one.
        step: index of the step, or :data:`INITIAL_STEP`.

    Returns:
        float32 on the CPU, (len(keys), *shape).

    Example:
        >>> batch_noise((2, 3), 0, [(0, 0), (1, 0)], 4)[1].equal(keyed_noise((2, 3), 0, 1, 0, 4))
        True
    """

    def draw(key: tuple[int | str, int | str]) -> Tensor:
        return keyed_noise(shape, seed, key[0], key[1], step)

    if len(keys) == 1:
        return draw(keys[0])[None]
    with ThreadPoolExecutor(min(len(keys), torch.get_num_threads())) as pool:  # torch draws without the interpreter
        return torch.stack(list(pool.map(draw, keys)))


def resolve_keys(items: Sequence[Key] | None, count: int) -> list[tuple[int | str, int | str]]:
    """One (item, sample) per element of a batch.

    Args:
        items: a key per element; by default its index.
        count: elements of the batch.

    Raises:
        ValueError: if there are not ``count`` keys, or one is not an int, a string, or a pair of these.

    Example:
        >>> resolve_keys([3, "a", ("a", 1)], 3)
        [(3, 0), ('a', 0), ('a', 1)]
    """
    keys = range(count) if items is None else items
    if isinstance(keys, str) or len(keys) != count:
        raise ValueError(f"items is {items!r}; accepted: one key per batch element ({count}).")
    pairs = []
    for key in keys:
        pair = key if isinstance(key, tuple) else (key, 0)
        if len(pair) != 2 or not all(type(part) in (int, str) for part in pair):
            raise ValueError(f"items holds {key!r}; accepted: ints, strings, or pairs (item, sample) of these.")
        pairs.append(pair)
    return pairs
