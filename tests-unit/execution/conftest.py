"""Fixtures for tests that run graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import nodes
from execution import CacheType
from support.graph_nodes import BASIC, Graphs

Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Add node classes by name for one test."""

    def add(**classes: type[Any]) -> None:
        for name, node_class in classes.items():
            monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node_class)

    return add


@pytest.fixture(
    params=[
        pytest.param((CacheType.CLASSIC, {}), id="classic"),
        pytest.param((CacheType.LRU, {"lru": 100}), id="lru"),
        pytest.param((CacheType.RAM_PRESSURE, {"ram": 0.001}), id="ram"),
        pytest.param((CacheType.NONE, {}), id="none"),
    ]
)
def graphs(request: pytest.FixtureRequest, register: Register) -> Graphs:
    """An executor of each cache mode in turn."""
    register(**BASIC)
    cache_type, cache_args = request.param
    return Graphs(cache_type, **cache_args)


@pytest.fixture
def classic(register: Register) -> Graphs:
    """An executor of the default cache mode."""
    register(**BASIC)
    return Graphs()


@pytest.fixture
def keeps(graphs: Graphs) -> bool:
    """Whether the cache mode keeps results between prompts."""
    return bool(graphs.executor.cache_type != CacheType.NONE)
