"""The worker: it survives whatever prompts do, and sees to wishes between them."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

import comfy.model_management
import nodes
from app import worker
from comfy.cli_args import args
from comfy_execution.caching import HierarchicalCache, LRUCache, NullCache
from support.graph_nodes import node_class
from support.running_server import Served, wait_until
from support.server_nodes import shown


def _is_alive(server: Served) -> None:
    prompt_id = server.queue(shown("Keep", value="after"))
    assert server.wait_for_history(prompt_id)["status"]["status_str"] == "success"


def _raiser(error: BaseException) -> Any:
    def raise_it(value: Any) -> Any:
        raise error

    return node_class(raise_it, "value")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), MemoryError("full")],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_node_raises_the_next_prompt_runs(
    server: Served, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Raise", _raiser(error))
    page = server.listen("page")
    prompt_id = server.queue(shown("Raise"), client_id="page")
    page.wait_for_end(prompt_id)
    (told,) = page.of("execution_error")
    assert told["prompt_id"] == prompt_id
    assert told["exception_type"].endswith(type(error).__name__)
    status = server.get(f"/history/{prompt_id}").json()[prompt_id]["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert server.get(f"/api/jobs/{prompt_id}").json()["status"] == "failed"
    _is_alive(server)


def test_an_error_past_the_executor_is_told_and_leaves_nothing_of_the_prompt_before(
    server: Served,
) -> None:
    page = server.listen("page")
    server.wait_for_history(server.queue(shown("Keep")))
    prompt_id = server.queue(shown("FallOver"), client_id="page")
    page.wait_for_end(prompt_id)
    entry = server.get(f"/history/{prompt_id}").json()[prompt_id]
    assert entry["outputs"] == {}
    assert entry["status"]["messages"][-1][0] == "execution_error"
    fields = {"prompt_id", "node_id", "node_type", "executed", "exception_message", "traceback"}
    assert fields <= set(page.of("execution_error")[0])
    assert "fell over 1" in page.of("execution_error")[0]["exception_message"]
    _is_alive(server)


def test_a_class_that_cannot_tell_its_inputs_ends_its_prompt_only(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def inputs(cls: Any) -> Any:
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("the folder has gone")
        return {"required": {"value": ("*",)}}

    kind = node_class(lambda value: (value,), INPUT_TYPES=classmethod(inputs))
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Moody", kind)
    prompt_id = server.queue(shown("Moody"))
    entry = server.wait_for_history(prompt_id)
    assert entry["status"]["messages"][-1][0] == "execution_error"
    _is_alive(server)


def test_a_fault_outside_prompts_is_logged_and_the_worker_goes_on(
    idle: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a pack broke the queue")

    monkeypatch.setattr(worker, "_PAUSE_AFTER_FAULT_S", 0)
    queue = idle.server.prompt_queue
    with monkeypatch.context() as broken:
        broken.setattr(queue, "get", fail)
        made = worker.Worker(queue, idle.server)
        worker._step(made)
    assert "a pack broke the queue" in caplog.text
    prompt_id = idle.queue(shown("Keep"))
    worker._step(made)
    assert idle.get(f"/history/{prompt_id}").json()[prompt_id]["status"]["completed"] is True
    assert (made.done, made.failed) == (1, 0)


def test_prompts_that_ended_are_counted(server: Served) -> None:
    for kind in ("Keep", "Fail", "Step"):
        server.wait_for_history(server.queue(shown(kind)))
    assert server.worker is not None
    assert (server.worker.done, server.worker.failed) == (2, 1)


# -- wishes ----------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the memory management was asked to do."""
    made: list[str] = []
    for name in ("unload_all_models", "soft_empty_cache"):
        monkeypatch.setattr(comfy.model_management, name, lambda name=name: made.append(name))
    return made


def test_models_are_unloaded_on_demand_and_results_kept(server: Served, calls: list[str]) -> None:
    page = server.listen("page")
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    server.post("/free", {"unload_models": True})
    wait_until(lambda: calls[-2:] == ["unload_all_models", "soft_empty_cache"])
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    assert page.of("execution_cached")[1]["nodes"] == ["1", "2"]


def test_freeing_memory_unloads_models_and_forgets_results(
    server: Served, calls: list[str]
) -> None:
    page = server.listen("page")
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    server.post("/free", {"free_memory": True})
    wait_until(lambda: calls[-2:] == ["unload_all_models", "soft_empty_cache"])
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    assert page.of("execution_cached")[1]["nodes"] == []


def test_wishes_are_granted_after_the_prompt_that_runs(
    server: Served, calls: list[str], gate: Any
) -> None:
    prompt_id = server.queue(shown("Wait"))
    assert gate.entered.wait(10)
    server.post("/free", {"unload_models": True})
    assert calls == []
    gate.open()
    server.wait_for_history(prompt_id)
    wait_until(lambda: "unload_all_models" in calls)


# -- tidying ---------------------------------------------------------------------------------------


class _Ring:
    """Refers to itself, so that only the garbage collector takes it away."""

    def __init__(self) -> None:
        self.ring = self


def test_garbage_of_prompts_is_collected_but_not_all_the_time(
    server: Served, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: weakref.WeakSet[_Ring] = weakref.WeakSet()

    def litter(value: Any) -> tuple[Any]:
        rings.add(_Ring())
        return (value,)

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Litter", node_class(litter, "value"))
    monkeypatch.setattr(worker, "TIDY_AFTER_S", 0.3)
    server.wait_for_history(server.queue(shown("Litter", value=1)))
    wait_until(lambda: calls == ["soft_empty_cache"])
    assert len(rings) == 0
    for value in (2, 3, 4):
        server.wait_for_history(server.queue(shown("Litter", value=value)))
    # Waits for more garbage, then wakes up by itself.
    wait_until(lambda: len(rings) == 0)
    assert len(calls) <= 3


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [({}, HierarchicalCache), ({"cache_lru": 5}, LRUCache), ({"cache_none": True}, NullCache)],
)
def test_flags_choose_how_results_are_kept(
    flags: dict[str, Any], wanted: type[Any], idle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in flags.items():
        monkeypatch.setattr(args, name, value)
    made = worker.Worker(idle.server.prompt_queue, idle.server)
    assert type(made.executor.caches.outputs) is wanted
