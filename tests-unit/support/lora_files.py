"""LoRA modules of every method, with random parts of small shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Parts = dict[str, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, float32, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape))
    return torch.randn(shape, generator=generator)


def lora(shape: Sequence[int], rank: int = 2, seed: int = 0) -> Parts:
    """Up and down, as wide as a weight of `shape`, the kernel in down."""
    ones = [1] * (len(shape) - 2)
    return {
        "lora_up.weight": random(shape[0], rank, *ones, seed=seed + 1),
        "lora_down.weight": random(rank, *shape[1:], seed=seed + 2),
    }


def locon(shape: Sequence[int], rank: int = 2) -> Parts:
    """Pointwise up and down, the kernel between them."""
    ones = [1] * (len(shape) - 2)
    return {
        "lora_up.weight": random(shape[0], rank, *ones, seed=1),
        "lora_mid.weight": random(rank, rank, *shape[2:], seed=2),
        "lora_down.weight": random(rank, shape[1], *ones, seed=3),
    }


def loha(shape: Sequence[int], rank: int = 2) -> Parts:
    """Two pairs of matrices on the flattened kernel."""
    flat = math.prod(shape[1:])
    return {
        f"hada_w{n}_{side}": random(shape[0], rank, seed=n)
        if side == "a"
        else random(rank, flat, seed=n)
        for n in (1, 2)
        for side in "ab"
    }


def tucker_loha(shape: Sequence[int], rank: int = 2) -> Parts:
    """Two Tucker decompositions."""
    parts: Parts = {}
    for n in (1, 2):
        parts[f"hada_t{n}"] = random(rank, rank, *shape[2:], seed=n)
        parts[f"hada_w{n}_a"] = random(rank, shape[0], seed=n + 2)
        parts[f"hada_w{n}_b"] = random(rank, shape[1], seed=n + 4)
    return parts


def lokr(shape: Sequence[int]) -> Parts:
    """Two whole matrices; sides of the weight are multiples of 4 and of 2."""
    return {
        "lokr_w1": random(4, 2, seed=1),
        "lokr_w2": random(shape[0] // 4, shape[1] // 2, *shape[2:], seed=2),
    }


def factored_lokr(shape: Sequence[int], rank: int = 2) -> Parts:
    """Both sides as products; the kernel flattened, as trainers store it."""
    return {
        "lokr_w1_a": random(4, rank, seed=1),
        "lokr_w1_b": random(rank, 2, seed=2),
        "lokr_w2_a": random(shape[0] // 4, rank, seed=3),
        "lokr_w2_b": random(rank, shape[1] // 2 * math.prod(shape[2:]), seed=4),
    }


def tucker_lokr(shape: Sequence[int], rank: int = 2) -> Parts:
    """The second side as a Tucker decomposition."""
    return {
        "lokr_w1": random(4, 2, seed=1),
        "lokr_t2": random(rank, rank, *shape[2:], seed=2),
        "lokr_w2_a": random(rank, shape[0] // 4, seed=3),
        "lokr_w2_b": random(rank, shape[1] // 2, seed=4),
    }


def glora(shape: Sequence[int], rank: int = 2) -> Parts:
    """As LyCORIS names the layers: first 2, then 1; `A` pointwise for convolutions."""
    ones = [1] * (len(shape) - 2)
    return {
        "a1.weight": random(shape[1], rank, *ones, seed=1),
        "a2.weight": random(rank, shape[1], *ones, seed=2),
        "b1.weight": random(shape[0], rank, *ones, seed=3),
        "b2.weight": random(rank, *shape[1:], seed=4),
    }


def oft(shape: Sequence[int], size: int = 4) -> Parts:
    """Blocks of generators."""
    return {"oft_blocks": random(shape[0] // size, size, size)}


def boft(shape: Sequence[int], size: int = 4, stages: int = 2) -> Parts:
    """Blocks of generators for each stage."""
    return {"oft_blocks": random(stages, shape[0] // size, size, size)}


METHODS: dict[str, Callable[[Sequence[int]], Parts]] = {
    "lora": lora,
    "locon": locon,
    "loha": loha,
    "tucker loha": tucker_loha,
    "lokr": lokr,
    "factored lokr": factored_lokr,
    "tucker lokr": tucker_lokr,
    "glora": glora,
    "oft": oft,
    "boft": boft,
}
"""Name -> makes the parts for a weight's shape, (16, 12, 3, 3) for example."""


def module(name: str, parts: Parts, alpha: float | None = None) -> Parts:
    """The keys of one module of a file."""
    keys = {f"{name}.{part}": tensor for part, tensor in parts.items()}
    if alpha is not None:
        keys[f"{name}.alpha"] = torch.tensor(alpha)
    return keys
