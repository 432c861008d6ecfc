"""What runs again and what does not, over several prompts, in every cache mode."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Any

import pytest

import comfy.model_management
from execution import CacheType
from support.graph_nodes import BASIC, Graphs, node, node_class


def _chain(first: Any = 1, second: Any = 2) -> dict[str, Any]:
    return {
        "one": node("Keep", value=first),
        "add": node("Add", a=["one", 0], b=second),
        "show": node("Show", value=["add", 0]),
    }


def test_a_prompt_that_ran_before_runs_nothing(graphs: Graphs, keeps: bool) -> None:
    graphs.run(_chain())
    assert graphs.run(_chain())
    assert graphs.ran() == ([] if keeps else ["one", "add", "show"])
    (cached,) = graphs.listener.of("execution_cached")
    assert sorted(cached["nodes"]) == (["add", "one", "show"] if keeps else [])


def test_a_cached_output_is_shown_again(graphs: Graphs, keeps: bool) -> None:
    graphs.run(_chain())
    graphs.run(_chain())
    assert graphs.shown() == [3]
    (executed,) = graphs.listener.of("executed")
    assert executed["output"] == {"value": [3]}
    assert graphs.listener.of("progress_state")[-1]["nodes"]["show"]["state"] == "finished"


def test_only_what_depends_on_a_change_runs_again(graphs: Graphs, keeps: bool) -> None:
    graphs.run(_chain())
    assert graphs.run(_chain(second=5))
    assert graphs.shown() == [6]
    assert graphs.ran() == (["add", "show"] if keeps else ["one", "add", "show"])


def test_ids_of_nodes_do_not_matter(graphs: Graphs, keeps: bool) -> None:
    graphs.run(_chain())
    renamed = {
        "x": node("Keep", value=1),
        "y": node("Add", b=2, a=["x", 0]),
        "show": node("Show", value=["y", 0]),
    }
    graphs.run(renamed)
    assert bool(graphs.ran()) is not keeps


def test_equal_nodes_of_one_prompt_share_a_result(graphs: Graphs, keeps: bool) -> None:
    prompt = {
        "a": node("Keep", value=1),
        "b": node("Keep", value=1),
        "add": node("Add", a=["a", 0], b=["b", 0]),
        "show": node("Show", value=["add", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [2]
    assert len([one for one in graphs.ran() if one in "ab"]) == (1 if keeps else 2)


@pytest.mark.parametrize(
    "attributes", [{"NOT_IDEMPOTENT": True}, {"hidden": {"me": "UNIQUE_ID"}}], ids=str
)
def test_nodes_that_know_their_id_do_not_share(
    graphs: Graphs, register: Any, keeps: bool, attributes: dict[str, Any]
) -> None:
    register(Own=node_class(lambda value, me=None: (value,), "value", **attributes))
    prompt = {
        "a": node("Own", value=1),
        "b": node("Own", value=1),
        "add": node("Add", a=["a", 0], b=["b", 0]),
        "show": node("Show", value=["add", 0]),
    }
    assert graphs.run(prompt)
    assert {"a", "b"} <= set(graphs.ran())
    graphs.run(prompt)
    assert bool(graphs.ran()) is not keeps


def test_a_result_of_an_older_prompt_is_kept_by_lru_and_ram_alone(graphs: Graphs) -> None:
    graphs.run(_chain(first=1))
    graphs.run(_chain(first=7))
    graphs.run(_chain(first=1))
    remembers = graphs.executor.cache_type in (CacheType.LRU, CacheType.RAM_PRESSURE)
    assert (graphs.ran() == []) is remembers


def test_lru_keeps_no_more_than_it_may(register: Any) -> None:
    register(**BASIC)
    graphs = Graphs(CacheType.LRU, lru=2)
    graphs.run(_chain())
    assert len(graphs.executor.caches.outputs.cache) == 2
    graphs.run({"show": node("Show", value=9)})
    graphs.run(_chain())
    assert graphs.ran()
    assert graphs.shown() == [3]


def test_lru_drops_what_was_not_used_for_most_prompts(register: Any) -> None:
    register(**BASIC)
    graphs = Graphs(CacheType.LRU, lru=2)
    old, used, new = ({"show": node("Show", value=value)} for value in (1, 2, 3))
    for prompt in (used, old, used, new):
        graphs.run(prompt)
    graphs.run(used)
    assert graphs.ran() == []
    graphs.run(old)
    assert graphs.ran() == ["show"]


class _Box:
    """Something that can be watched."""


def test_without_a_cache_a_value_goes_when_its_last_consumer_has_run(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    boxes: list[weakref.ref[_Box]] = []
    alive: list[bool] = []

    def make() -> tuple[_Box]:
        box = _Box()
        boxes.append(weakref.ref(box))
        return (box,)

    def look(value: Any) -> tuple[Any]:
        alive.append(boxes[0]() is not None)
        return (value,)

    register(Make=node_class(make), Look=node_class(look, "value"))
    prompt = {
        "box": node("Make"),
        "use": node("Add", a=1, b=2, box=["box", 0]),
        "other": node("Add", a=1, b=3, box=["box", 0]),
        "look": node("Look", value=["use", 0]),
        "look again": node("Look", value=["other", 0]),
        "add": node("Add", a=["look", 0], b=["look again", 0]),
        "show": node("Show", value=["add", 0]),
    }
    register(Add=node_class(lambda a, b, box=None: (a + b,), "a", "b"))
    assert graphs.run(prompt)
    assert graphs.shown() == [7]
    assert graphs.ran().count("box") == 1
    assert alive == ([True, True] if keeps else [True, False])


def test_reset_forgets_everything(graphs: Graphs) -> None:
    graphs.run(_chain())
    graphs.executor.reset()
    graphs.run(_chain())
    assert len(graphs.ran()) == 3


# -- IS_CHANGED ------------------------------------------------------------------------------------


def _watches(answer: Any) -> type[Any]:
    return node_class(lambda value: (value,), "value", IS_CHANGED=classmethod(answer))


def test_a_node_that_changed_runs_again_with_all_that_follows(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    state = ["first"]
    register(Watches=_watches(lambda cls, value: state[0]))

    def prompt() -> dict[str, Any]:
        return {"w": node("Watches", value=1), "show": node("Show", value=["w", 0])}

    graphs.run(prompt())
    graphs.run(prompt())
    assert graphs.ran() == ([] if keeps else ["w", "show"])
    state[0] = "second"
    graphs.run(prompt())
    assert graphs.ran() == ["w", "show"]


@pytest.mark.parametrize(
    "answer",
    [lambda cls, value: math.nan, lambda cls, value: 1 / 0, lambda cls, value: object()],
    ids=["NaN", "raises", "unknown"],
)
def test_a_node_that_cannot_tell_always_runs(graphs: Graphs, register: Any, answer: Any) -> None:
    register(Watches=_watches(answer))
    for _ in range(2):
        prompt = {
            "w": node("Watches", value=1),
            "a": node("Add", a=["w", 0], b=["w", 0]),
            "show": node("Show", value=["a", 0]),
        }
        assert graphs.run(prompt)
        assert graphs.ran() == ["w", "a", "show"]


def test_is_changed_sees_constants_alone_and_over_lists(classic: Graphs, register: Any) -> None:
    seen: list[Any] = []

    def answer(cls: Any, value: Any, other: Any) -> str:
        seen.append((value, other))
        return "same"

    register(
        Watches=node_class(
            lambda value, other: (value,), "value", "other", IS_CHANGED=classmethod(answer)
        )
    )
    prompt = {
        "one": node("Keep", value=1),
        "w": node("Watches", value=["one", 0], other="x"),
        "show": node("Show", value=["w", 0]),
    }
    classic.run(prompt)
    assert seen == [(None, "x")]
    assert prompt["w"]["is_changed"] == ["same"]


def test_an_async_is_changed_is_awaited(classic: Graphs, register: Any) -> None:
    async def answer(cls: Any, value: Any) -> str:
        return "told later"

    register(Watches=_watches(answer))
    prompt = {"w": node("Watches", value=1), "show": node("Show", value=["w", 0])}
    classic.run(prompt)
    assert prompt["w"]["is_changed"] == ["told later"]


async def _never_tells(cls: Any, value: Any) -> str:
    comfy.model_management.interrupt_current_processing()
    await asyncio.sleep(600)
    return "never"


def _tells_of_progress(cls: Any, value: Any) -> str:
    comfy.model_management.interrupt_current_processing()
    comfy.model_management.throw_exception_if_processing_interrupted()
    return "never"


@pytest.mark.parametrize("answer", [_never_tells, _tells_of_progress])
def test_a_user_may_stop_a_node_that_looks_for_changes(
    classic: Graphs, register: Any, answer: Any
) -> None:
    register(Watches=_watches(answer))
    assert not classic.run({"w": node("Watches", value=1), "show": node("Show", value=["w", 0])})
    assert len(classic.listener.of("execution_interrupted")) == 1
    assert classic.ran() == []


def test_the_prompts_own_word_for_changes_is_taken(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    register(Watches=_watches(lambda cls, value: pytest.fail("was asked")))

    def prompt(word: str) -> dict[str, Any]:
        watching = {**node("Watches", value=1), "is_changed": [word]}
        return {"w": watching, "show": node("Show", value=["w", 0])}

    graphs.run(prompt("a"))
    graphs.run(prompt("a"))
    assert bool(graphs.ran()) is not keeps
    graphs.run(prompt("b"))
    assert graphs.ran() == ["w", "show"]


@pytest.mark.parametrize("value", [math.nan, object()], ids=["NaN", "unknown"])
def test_what_json_cannot_hold_is_not_written_to_the_prompt(
    classic: Graphs, register: Any, value: Any
) -> None:
    register(Watches=_watches(lambda cls, **_: value))
    prompt = {"w": node("Watches", value=1), "show": node("Show", value=["w", 0])}
    classic.run(prompt)
    assert "is_changed" not in prompt["w"]
