"""The executor's work grows with the number of nodes, not with its square: counted, not timed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

import execution
from comfy_execution import cache_keys
from comfy_execution.graph_utils import GraphBuilder
from support.graph_nodes import BASIC, Graphs, node, node_class

CACHED = [execution.CacheType.CLASSIC, execution.CacheType.LRU, execution.CacheType.RAM_PRESSURE]


def _chain(count: int, class_type: str) -> dict[str, Any]:
    prompt = {str(i): node(class_type, value=[str(i - 1), 0] if i else 1) for i in range(count)}
    return {**prompt, "show": node("Show", value=[str(count - 1), 0])}


def _wide(count: int, class_type: str) -> dict[str, Any]:
    """Pairs of nodes that all depend on the first one."""
    prompt = {"first": node("Keep", value=1)}
    for i in range(count // 2):
        prompt[str(i)] = node(class_type, value=["first", 0], number=i)
        prompt[f"show {i}"] = node("Show", value=[str(i), 0])
    return prompt


def _nested(depth: int) -> Any:
    """Function of a node that waits for one of its kind within it."""
    if not depth:
        return (1,)
    graph = GraphBuilder()
    inner = graph.node("Nested", depth=depth - 1)
    return {"result": (inner.out(0),), "expand": graph.finalize()}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, register: Any) -> Counter[str]:
    """Calls of the declarations and of IS_CHANGED of a node class, and signatures made."""
    counted: Counter[str] = Counter()

    def changed(cls: Any, **_: Any) -> str:
        counted["IS_CHANGED"] += 1
        return "same"

    counting = node_class(lambda value, **_: (value,), "value", IS_CHANGED=classmethod(changed))
    declared = counting.INPUT_TYPES

    def types(cls: Any) -> Any:
        counted["INPUT_TYPES"] += 1
        return declared()

    counting.INPUT_TYPES = classmethod(types)
    register(**BASIC, Counting=counting)
    made = cache_keys.signature_of

    def signature_of(parts: Any) -> Any:
        counted["signatures"] += 1
        counted["parts"] += len(parts)
        return made(parts)

    monkeypatch.setattr(cache_keys, "signature_of", signature_of)
    return counted


@pytest.mark.parametrize("cache_type", CACHED)
@pytest.mark.parametrize("shape", [_chain, _wide])
def test_each_node_is_asked_and_signed_once(
    counts: Counter[str], shape: Any, cache_type: Any
) -> None:
    graphs = Graphs(cache_type, lru=10_000, ram=0.001)
    prompt = shape(400, "Counting")
    nodes = sum(one["class_type"] == "Counting" for one in prompt.values())
    assert graphs.run(prompt)
    assert counts["IS_CHANGED"] == nodes
    # Once for its arguments, once for those of IS_CHANGED, once per prompt for the whole class.
    assert counts["INPUT_TYPES"] == 2 * nodes + 1
    assert counts["signatures"] == len(prompt)
    assert counts["parts"] <= 6 * len(prompt)
    before = counts["INPUT_TYPES"]
    assert graphs.run(prompt)
    # Nothing is called; IS_CHANGED is not asked either, since the prompt has its answers.
    assert counts["INPUT_TYPES"] == before + 1
    assert counts["IS_CHANGED"] == nodes
    assert counts["signatures"] == 2 * len(prompt)


def test_messages_of_progress_do_not_grow_with_the_nodes_that_wait(
    classic: Graphs, register: Any
) -> None:
    register(**BASIC, Nested=node_class(_nested, "depth"))
    prompt = {"it": node("Nested", depth=200), "show": node("Show", value=["it", 0])}
    assert classic.run(prompt)
    states = classic.listener.of("progress_state")
    ran = classic.ran()
    assert max(len(one["nodes"]) for one in states) <= 2 * 64 + 1
    # Whoever a message is of is in it, the outermost too, which ends long after it began.
    told = {name: one for state in states for name, one in state["nodes"].items()}
    assert told.keys() == set(ran)
    assert {one["state"] for one in told.values()} == {"finished"}


def test_messages_of_progress_do_not_grow_with_the_graph(classic: Graphs) -> None:
    assert classic.run(_chain(300, "Keep"))
    states = classic.listener.of("progress_state")
    assert len(states) == 2 * 301
    assert max(len(one["nodes"]) for one in states) <= 65
    last = states[-1]["nodes"]
    assert last["show"]["state"] == "finished"
