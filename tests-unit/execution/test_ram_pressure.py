"""Results go when memory gets short: which, in what order, and what that reads again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.loading
import comfy.loading.default
import comfy.loading.memory
import comfy.model_management
import folder_paths
import nodes
from comfy.loading.loader import Loader
from comfy_execution import ram
from comfy_execution.cache_keys import CacheKeySetID
from comfy_execution.caching import GIB, RAMPressureCache
from comfy_execution.held_memory import host_bytes, modules_in
from comfy_execution.prompts import DynamicPrompt
from execution import CacheType
from support import managed, narrow
from support.cold import bytes_read
from support.graph_nodes import BASIC, Graphs, node, node_class

MIB = 1 << 20
HEADROOM_GIB = 1.0
MORE_THAN_THERE_IS = 1e9
"""Headroom in GiB that no machine has: everything that may go goes after each node."""


class _Memory:
    """Free memory in tests: fixed, or more by what a cache has dropped."""

    def __init__(self, free: float) -> None:
        self.free = free
        self.cache: Any = None
        self.held = 0

    def __call__(self) -> int:
        kept = 0 if self.cache is None else sum(one.nbytes for one in self.cache.values())
        return int(self.free + self.held - kept)


class _NoChanges:
    async def get(self, node_id: str) -> bool:
        return False


def _set_prompt(cache: RAMPressureCache, prompt: dict[str, Any]) -> None:
    asyncio.run(cache.set_prompt(DynamicPrompt(prompt), prompt, _NoChanges()))


def _cache(memory: _Memory, sizes: dict[str, int]) -> RAMPressureCache:
    """A cache with a tensor of each size, in MiB."""
    cache = RAMPressureCache(CacheKeySetID, memory, interval_s=0)
    prompt = {name: node("Keep", value=1) for name in sizes}
    _set_prompt(cache, prompt)
    for name, size in sizes.items():
        cache.set(name, torch.empty(size * MIB, dtype=torch.uint8))
    return cache


def _names(cache: RAMPressureCache) -> set[str]:
    return {name for name, _ in cache.cache}


def test_nothing_goes_while_enough_is_free() -> None:
    cache = _cache(_Memory(HEADROOM_GIB * GIB), {"a": 1})
    cache.poll(ram_headroom=HEADROOM_GIB)
    assert _names(cache) == {"a"}


def test_the_largest_goes_first_and_no_more_than_needed() -> None:
    memory = _Memory(HEADROOM_GIB * GIB - MIB)
    cache = _cache(memory, {"small": 4, "large": 256, "middle": 64})
    memory.cache, memory.held = cache.cache, 324 * MIB
    cache.poll(ram_headroom=HEADROOM_GIB)
    assert _names(cache) == {"small", "middle"}
    assert memory() >= HEADROOM_GIB * GIB * 1.1


def test_of_equal_sizes_the_oldest_goes_first() -> None:
    memory = _Memory(0.95 * GIB)
    cache = _cache(memory, {"old": 200, "new": 200})
    memory.cache, memory.held = cache.cache, 400 * MIB
    again = {"new": node("Keep", value=1)}
    _set_prompt(cache, again)
    cache.poll(ram_headroom=HEADROOM_GIB)
    assert _names(cache) == {"new"}


def test_a_value_that_frees_nothing_stays() -> None:
    cache = _cache(_Memory(0), {"tensor": 1, "number": 1})
    cache.set("number", 5)
    cache.poll(ram_headroom=HEADROOM_GIB)
    assert _names(cache) == {"number"}


def test_a_running_prompt_keeps_what_the_cache_has_dropped(register: Any) -> None:
    sizes = node_class(lambda value, n: (value + n,), "value", "n")
    register(**BASIC, Grow=sizes, Zeros=node_class(lambda: (torch.zeros(10),)))
    graphs = Graphs(CacheType.RAM_PRESSURE, ram=MORE_THAN_THERE_IS)
    assert isinstance(graphs.executor.caches.outputs, RAMPressureCache)
    graphs.executor.caches.outputs._interval_s = 0
    prompt = {
        "zeros": node("Zeros"),
        "a": node("Grow", value=["zeros", 0], n=1),
        "b": node("Grow", value=["a", 0], n=2),
        "sum": node("Grow", value=["b", 0], n=["a", 0]),
        "last": node("Grow", value=["sum", 0], n=["zeros", 0]),
        "show": node("Show", value=["last", 0]),
    }
    assert graphs.run(prompt)
    assert torch.equal(graphs.shown()[0], torch.full((10,), 4.0))
    assert sorted(graphs.ran()) == sorted(prompt)
    assert graphs.executor.caches.outputs.cache == {}


# -- sizes -----------------------------------------------------------------------------------------


class _Sized:
    def get_ram_usage(self) -> int:
        return 1000


def test_tensors_count_half_and_once_and_objects_what_they_say() -> None:
    tensor = torch.zeros(100)
    value = [[tensor, {"a": tensor[:50]}], (tensor.new_ones(10), _Sized()), "text", 3]
    assert host_bytes(value) == 400 / 2 + 40 / 2 + 1000


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_tensors_without_a_storage_count_as_well(sparse: Any) -> None:
    assert host_bytes([sparse(torch.eye(100))]) == 100 * 100 * 4 / 2


def test_objects_that_cannot_tell_their_size_count_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def get_ram_usage(self) -> int:
            raise AttributeError("never loaded")

        def get_models(self) -> list[Any]:
            raise AttributeError("never loaded")

    value = [Broken(), Broken, torch.zeros(100)]
    assert host_bytes(value) == 200
    assert modules_in(value) == set()
    # A class among the values is no object to ask.
    ram, models = caplog.messages
    assert "get_ram_usage of a kept" in ram
    assert "get_models of a kept" in models


def test_lists_that_hold_themselves_are_counted_once() -> None:
    value: list[Any] = [torch.zeros(100)]
    value.append(value)
    assert host_bytes(value) == 200


def test_tensors_of_another_memory_do_not_count(
    simgpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that other tests used knows the device already, as unified.
    monkeypatch.setattr(comfy.loading.default, "_default", Loader())
    simgpu.is_unified = False
    tensor = torch.zeros(100).to(simgpu.device)
    assert host_bytes(tensor) == 0


def test_free_memory_is_what_the_loading_library_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = comfy.loading.memory.Pool("a container's", total=8 * GIB, free=123)
    monkeypatch.setattr(ram, "host_pool", lambda: pool)
    assert ram.free_host_bytes() == 123


# -- models ----------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["unified", "discrete"])
def checkpoint(
    request: pytest.FixtureRequest, simgpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A narrow checkpoint in the model folder; what was loaded from it goes afterwards."""
    path = tmp_path / "narrow.safetensors"
    narrow.write_checkpoint(path, encoding="F32")
    known = folder_paths.folder_names_and_paths["checkpoints"][1]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], known)
    )
    simgpu.is_unified = request.param
    with managed.file_slices():
        comfy.model_management.set_run_device(simgpu.device)
        yield path
    comfy.model_management.set_run_device(None)


def _encoding(loader: str, text: str, **inputs: Any) -> dict[str, Any]:
    return {
        "loader": node(loader, **inputs),
        "text": node("CLIPTextEncode", clip=["loader", 1], text=text),
        "show": node("Count", value=["text", 0]),
    }


def _count(value: Any) -> dict[str, Any]:
    return {"ui": {"value": [len(value)]}}


def test_under_pressure_no_weight_at_home_is_read_again(checkpoint: Path, register: Any) -> None:
    register(**BASIC, Count=node_class(_count, "value", returns=(), OUTPUT_NODE=True))
    graphs = Graphs(CacheType.RAM_PRESSURE, ram=MORE_THAN_THERE_IS)
    first, second = (
        _encoding("CheckpointLoaderSimple", text, ckpt_name=checkpoint.name)
        for text in ("a red circle", "a blue square")
    )
    assert graphs.run(first)
    assert "loader" in graphs.ran()
    before = bytes_read()
    assert graphs.run(second)
    assert "loader" not in graphs.ran()
    assert bytes_read() - before < checkpoint.stat().st_size // 10
    # What is no model did go.
    assert graphs.run(first)
    assert "text" in graphs.ran()


def test_memory_beside_a_model_at_home_does_not_drop_the_model(
    checkpoint: Path, register: Any
) -> None:
    def run(name: str) -> tuple[Any, ...]:
        loaded = nodes.CheckpointLoaderSimple().load_checkpoint(name)
        return (*loaded[:2], torch.zeros(MIB))

    register(
        **BASIC,
        Bundle=node_class(run, "name", returns=("MODEL", "CLIP", "IMAGE")),
        Count=node_class(_count, "value", returns=(), OUTPUT_NODE=True),
    )
    graphs = Graphs(CacheType.RAM_PRESSURE, ram=0)
    first, second = (_encoding("Bundle", text, name=checkpoint.name) for text in ("one", "two"))
    assert graphs.run(first)
    graphs.run({"show": node("Show", value=0)})
    cache = graphs.executor.caches.outputs
    assert isinstance(cache, RAMPressureCache)
    cache._next_poll = 0
    cache.poll(ram_headroom=MORE_THAN_THERE_IS)
    before = bytes_read()
    assert graphs.run(second)
    assert "loader" not in graphs.ran()
    assert bytes_read() - before < checkpoint.stat().st_size // 10
    # Where no weight is at home any more nothing is lost, so the memory is given back.
    comfy.model_management.unload_all_models()
    graphs.run({"show": node("Show", value=1)})
    cache._next_poll = 0
    cache.poll(ram_headroom=MORE_THAN_THERE_IS)
    assert graphs.run(first)
    assert "loader" in graphs.ran()
