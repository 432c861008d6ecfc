"""How much memory a change takes beside the weight: counted from every tensor that torch makes."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import comfy.lora
from support.lora_files import METHODS, Parts, lora, module, random

SHAPE = (64, 64, 3, 3)
WEIGHT_BYTES = 64 * 64 * 9 * 4


class Live(TorchDispatchMode):
    """The most bytes that were alive at once in storages made under this mode."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves(args) if torch.is_tensor(t)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                self._watch(tensor.untyped_storage())
        self.peak = max(self.peak, sum(self._sizes.values()))
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type == "meta" or storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._sizes.pop, storage._cdata, None)


def peak_of(parts: Parts, function: Any = None) -> int:
    value = comfy.lora.load_lora(module("x", parts), {"x": "w"})["w"]
    weight = random(*SHAPE)
    gc.collect()
    with Live() as live:
        comfy.lora.calculate_weight([(1.0, value, 1.0, None, function)], weight, "w")
    return live.peak


def test_lora_takes_no_temporary_of_the_weight_s_size() -> None:
    assert peak_of(lora(SHAPE, rank=4)) < WEIGHT_BYTES / 4


def test_function_costs_one_temporary_which_this_counter_sees() -> None:
    peak = peak_of(lora(SHAPE, rank=4), lambda change: change)
    assert WEIGHT_BYTES <= peak < 1.5 * WEIGHT_BYTES


@pytest.mark.parametrize(
    ("method", "most"),
    [("loha", 2), ("tucker loha", 2), ("lokr", 1), ("factored lokr", 1), ("oft", 1)],
)
def test_other_methods_take_few_temporaries(method: str, most: int) -> None:
    assert peak_of(METHODS[method](SHAPE)) <= (most + 0.5) * WEIGHT_BYTES


def test_dora_takes_one_temporary() -> None:
    peak = peak_of({**lora(SHAPE, rank=4), "dora_scale": random(1, 64, 1, 1)})
    assert peak < 1.5 * WEIGHT_BYTES
