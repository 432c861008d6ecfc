"""What packs replace in `execution` is what runs; schema-style nodes; a program without a server."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import pytest

import comfy.utils
import execution
from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder
from comfy_execution.node_call import get_input_data
from support.graph_nodes import BASIC, Graphs, node, node_class

ADD = {
    "one": node("Keep", value=1),
    "add": node("Add", a=["one", 0], b=2),
    "show": node("Show", value=["add", 0]),
}


@pytest.mark.parametrize(
    "name", ["execute", "get_input_data", "get_output_data", "_async_map_node_over_list"]
)
def test_a_replaced_function_is_the_one_that_runs(
    classic: Graphs, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = getattr(execution, name)
    calls: list[int] = []

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(execution, name, spy)
    assert classic.run(ADD)
    assert len(calls) == len(ADD)


def test_signatures_are_those_that_packs_call_with() -> None:
    def names(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert names(execution.PromptExecutor) == ["server", "cache_type", "cache_args"]
    executor = execution.PromptExecutor
    assert names(executor.execute)[1:] == ["prompt", "prompt_id", "extra_data", "execute_outputs"]
    assert names(executor.execute_async) == names(executor.execute)
    assert names(execution.get_input_data) == [
        "inputs",
        "class_def",
        "unique_id",
        "execution_list",
        "dynprompt",
        "extra_data",
    ]
    assert names(execution.validate_prompt) == ["prompt_id", "prompt", "partial_execution_list"]
    assert execution.map_node_over_list is None
    assert set(execution.SENSITIVE_EXTRA_DATA_KEYS) == {
        "auth_token_comfy_org",
        "api_key_comfy_org",
    }
    assert [one.name for one in execution.CacheType] == ["CLASSIC", "LRU", "NONE", "RAM_PRESSURE"]
    assert [one.name for one in execution.ExecutionResult] == ["SUCCESS", "FAILURE", "PENDING"]
    assert execution.full_type_name(KeyError) == "KeyError"
    assert execution.full_type_name(Counter) == "collections.Counter"


def test_a_listener_needs_no_more_than_the_four_names(register: Any) -> None:
    register(**BASIC)

    class Bare:
        client_id = None
        last_node_id = None
        last_prompt_id = None

        def __init__(self) -> None:
            self.told: list[str] = []

        def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
            self.told.append(event)

    listener = Bare()
    executor = execution.PromptExecutor(listener)
    executor.execute(ADD, "id", {"client_id": "here"}, ["show"])
    assert executor.success
    assert executor.history_result["outputs"] == {"show": {"value": [3]}}
    assert listener.told[-1] == "execution_success"


async def _validated(prompt: dict[str, Any]) -> Any:
    return await execution.validate_prompt("id", prompt, None)


def test_a_valid_prompt_is_told_its_outputs(register: Any) -> None:
    register(**BASIC)
    coroutine = _validated({"show": node("Show", value=1)})
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    valid, error, outputs, node_errors = ended.value.value
    assert (valid, error, list(outputs), node_errors) == (True, None, ["show"], {})


# -- arguments without results ---------------------------------------------------------------------


def test_without_results_links_are_none_and_missing() -> None:
    found = node_class(lambda **_: (1,), "a", "b", hidden={"me": "UNIQUE_ID"})
    arguments, missing, v3_data = get_input_data(
        {"a": ["x", 0], "b": 3, "undeclared": 4, "also": ["y", 1]}, found, "7"
    )
    assert arguments == {"a": (None,), "b": [3], "also": (None,), "me": ["7"]}
    assert missing == {"a": (None,), "also": (None,)}
    assert v3_data == {}


# -- schema-style nodes ----------------------------------------------------------------------------


class Doubles(io.ComfyNode):
    """Counts its calls, and knows who it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Doubles",
            inputs=[io.Int.Input("value"), io.Int.Input("later", optional=True, lazy=True)],
            outputs=[io.Int.Output(), io.String.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def check_lazy_status(cls, value: int, later: int | None = None) -> list[str]:
        return ["later"] if value > 10 else []

    @classmethod
    def execute(cls, value: int, later: int | None = None) -> io.NodeOutput:
        return io.NodeOutput(2 * value + (later or 0), cls.hidden.unique_id)


class Grows(io.ComfyNode):
    """Returns a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Grows",
            inputs=[io.Int.Input("value")],
            outputs=[io.Int.Output()],
            enable_expand=True,
        )

    @classmethod
    async def execute(cls, value: int) -> io.NodeOutput:
        graph = GraphBuilder()
        inner = graph.node("Doubles", value=value)
        return io.NodeOutput(inner.out(0), expand=graph.finalize())


class Stops(io.ComfyNode):
    """Blocks what follows; its fingerprint is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Stops", inputs=[io.String.Input("why")], outputs=[io.Int.Output()]
        )

    @classmethod
    def fingerprint_inputs(cls, why: str) -> str:
        return f"fingerprint of {why}"

    @classmethod
    def execute(cls, why: str) -> io.NodeOutput:
        return io.NodeOutput(block_execution=why)


def test_a_schema_style_node_runs_with_lazy_and_hidden_inputs(
    graphs: Graphs, register: Any
) -> None:
    register(Doubles=Doubles)
    prompt = {
        "late": node("Keep", value=1000),
        "few": node("Doubles", value=2, later=["late", 0]),
        "many": node("Doubles", value=20, later=["late", 0]),
        "show": node("Show", value=["few", 0]),
        "who": node("Show", value=["few", 1]),
    }
    assert graphs.run(prompt, "show", "who")
    assert graphs.shown() == [4]
    assert graphs.shown("who") == ["few"]
    assert "late" not in graphs.ran()
    prompt["show"]["inputs"]["value"] = ["many", 0]
    assert graphs.run(prompt, "show")
    assert graphs.shown() == [1040]


def test_an_async_schema_style_node_may_return_a_graph(graphs: Graphs, register: Any) -> None:
    register(Doubles=Doubles, Grows=Grows)
    assert graphs.run({"g": node("Grows", value=4), "show": node("Show", value=["g", 0])})
    assert graphs.shown() == [8]


def test_a_schema_style_node_may_block_and_has_a_fingerprint(graphs: Graphs, register: Any) -> None:
    register(Stops=Stops)
    prompt = {"s": node("Stops", why="too large"), "show": node("Show", value=["s", 0])}
    assert graphs.run(prompt)
    (told,) = graphs.listener.of("execution_error")
    assert told["exception_message"] == "too large"
    assert (prompt["s"].get("is_changed") == ["fingerprint of too large"]) is (
        graphs.executor.cache_type != execution.CacheType.NONE
    )


def test_progress_of_a_node_goes_where_the_global_hook_sends_it(
    classic: Graphs, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def run(value: int) -> tuple[int]:
        bar = comfy.utils.ProgressBar(value)
        bar.update(1)
        return (value,)

    register(Works=node_class(run, "value"))
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *a, **k: told.append((a, k)))
    assert classic.run({"w": node("Works", value=4), "show": node("Show", value=["w", 0])})
    assert told == [((1, 4, None), {"node_id": None})]
