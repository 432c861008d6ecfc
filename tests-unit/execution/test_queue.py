"""Prompts wait, run and are remembered; pages never see what is sensitive."""

from __future__ import annotations

import heapq
import threading
import time
from typing import Any

import pytest

from comfy_execution import queue as room
from comfy_execution.queue import ExecutionStatus, PromptQueue, without_sensitive

DONE = ExecutionStatus("success", True, [("execution_success", {"prompt_id": "x"})])
WAIT_S = 10.0


class _Counter:
    """A server that counts what it is told."""

    def __init__(self) -> None:
        self.updates = 0

    def queue_updated(self) -> None:
        """One more."""
        self.updates += 1


@pytest.fixture
def server() -> _Counter:
    """Whom the queue tells of changes."""
    return _Counter()


@pytest.fixture
def queue(server: _Counter) -> PromptQueue:
    """An empty queue."""
    return PromptQueue(server)


def _item(number: float, prompt_id: str) -> tuple[Any, ...]:
    extra = {"client_id": "me"}
    return number, prompt_id, {"1": {"inputs": {}}}, extra, ["1"], {"api_key_comfy_org": "secret"}


def _run(queue: PromptQueue, *ids: str) -> None:
    for number, prompt_id in enumerate(ids):
        queue.put(_item(number, prompt_id))
        got = queue.get()
        assert got is not None
        queue.task_done(got[1], {"outputs": {"1": {"text": [prompt_id]}}, "meta": {}}, DONE)


def _ids(items: Any) -> list[str]:
    return [item[1] for item in items]


# -- waiting ---------------------------------------------------------------------------------------


def test_the_lowest_number_is_next_then_the_lowest_id(queue: PromptQueue) -> None:
    for number, prompt_id in [(2, "c"), (0, "b"), (-1, "d"), (0, "a"), (0.5, "e")]:
        queue.put(_item(number, prompt_id))
    assert _ids(queue.get_current_queue()[1]) == ["d", "a", "b", "e", "c"]
    assert _ids([queue.get()[0] for _ in range(5)]) == ["d", "a", "b", "e", "c"]  # type: ignore[index]


def test_equal_number_and_id_keep_their_order(queue: PromptQueue) -> None:
    first, second = _item(0, "same"), (0, "same", {"2": {}}, {}, [], {})
    queue.put(first)
    queue.put(second)
    assert queue.get() == (first, 0)
    assert queue.get() == (second, 1)


def test_the_lowest_is_next_also_after_a_pack_used_the_list_as_a_heap(queue: PromptQueue) -> None:
    for number in (5, 1, 4):
        queue.put(_item(number, str(number)))
    heapq.heappush(queue.queue, _item(0, "0"))
    heapq.heappush(queue.queue, _item(3, "3"))
    assert _ids([queue.get()[0] for _ in range(5)]) == ["0", "1", "3", "4", "5"]  # type: ignore[index]


def test_nothing_comes_within_the_time(queue: PromptQueue) -> None:
    assert queue.get(timeout=0.01) is None


def test_a_prompt_that_comes_wakes_who_waits(queue: PromptQueue) -> None:
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(queue.get(WAIT_S)))
    waiting.start()
    queue.put(_item(0, "a"))
    waiting.join(WAIT_S)
    assert got[0][0][1] == "a"


def test_a_flag_ends_the_waiting_of_who_waits_for_a_time(queue: PromptQueue) -> None:
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(queue.get(WAIT_S)))
    waiting.start()
    started = time.monotonic()
    while waiting.is_alive() and time.monotonic() - started < WAIT_S / 2:
        queue.set_flag("free_memory", True)
        waiting.join(0.01)
    assert got == [None]


def test_many_threads_lose_and_repeat_nothing(queue: PromptQueue) -> None:
    def work() -> None:
        while (got := queue.get(timeout=0.2)) is not None:
            queue.task_done(got[1], {}, DONE)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for number in range(100):
        queue.put(_item(number % 7, f"{number}"))
    for worker in workers:
        worker.join(WAIT_S)
    assert len(queue.get_history()) == 100
    assert queue.get_tasks_remaining() == 0


def test_remaining_are_those_that_wait_and_run(queue: PromptQueue) -> None:
    queue.put(_item(0, "a"))
    queue.put(_item(1, "b"))
    assert queue.get_tasks_remaining() == 2
    got = queue.get()
    assert got is not None
    assert queue.get_tasks_remaining() == 2
    queue.task_done(got[1], {}, DONE)
    assert queue.get_tasks_remaining() == 1


def test_what_runs_is_a_copy(queue: PromptQueue) -> None:
    queue.put(_item(0, "a"))
    got = queue.get()
    assert got is not None
    got[0][2]["1"]["inputs"]["changed"] = True
    (running,) = queue.currently_running.values()
    assert running[2] == {"1": {"inputs": {}}}


def test_a_prompt_that_cannot_be_copied_is_not_lost(queue: PromptQueue) -> None:
    item = (0, "locked", {"1": {"inputs": {"lock": threading.Lock()}}}, {}, ["1"], {})
    queue.put(item)
    assert _ids(queue.get_current_queue()[1]) == ["locked"]
    got = queue.get()
    assert got is not None
    assert got[0] is item
    assert _ids(queue.get_current_queue()[0]) == ["locked"]


def test_the_listing_is_a_copy_and_the_volatile_one_is_not(queue: PromptQueue) -> None:
    item = _item(0, "a")
    queue.put(item)
    assert queue.get_current_queue()[1][0][2] is not item[2]
    running, waiting = queue.get_current_queue_volatile()
    assert (running, waiting[0][2]) == ([], item[2])
    assert waiting[0][2] is item[2]
    waiting.clear()
    assert queue.get_tasks_remaining() == 1


def test_pages_see_five_parts(queue: PromptQueue) -> None:
    assert without_sensitive(_item(0, "a")) == _item(0, "a")[:5]


# -- deleting --------------------------------------------------------------------------------------


def test_wiping_forgets_only_those_that_wait(queue: PromptQueue) -> None:
    for number in range(3):
        queue.put(_item(number, str(number)))
    queue.get()
    queue.wipe_queue()
    running, waiting = queue.get_current_queue()
    assert (_ids(running), waiting) == (["0"], [])


def test_deleting_takes_one_that_is_meant(queue: PromptQueue, server: _Counter) -> None:
    for number in range(3):
        queue.put(_item(number, str(number)))
    updates = server.updates
    assert queue.delete_queue_item(lambda item: item[1] == "1")
    assert server.updates == updates + 1
    assert not queue.delete_queue_item(lambda item: item[1] == "1")
    assert server.updates == updates + 1
    assert _ids(queue.get_current_queue()[1]) == ["0", "2"]


def test_the_server_is_told_of_put_get_end_and_wipe(queue: PromptQueue, server: _Counter) -> None:
    queue.put(_item(0, "a"))
    assert server.updates == 1
    got = queue.get()
    assert server.updates == 2
    assert got is not None
    queue.task_done(got[1], {}, DONE)
    assert server.updates == 3
    queue.wipe_queue()
    assert server.updates == 4


# -- history ---------------------------------------------------------------------------------------


def test_an_entry_has_prompt_outputs_status_and_meta(queue: PromptQueue) -> None:
    _run(queue, "a")
    assert queue.get_history("a") == {
        "a": {
            "prompt": _item(0, "a")[:5],
            "outputs": {"1": {"text": ["a"]}},
            "status": {
                "status_str": "success",
                "completed": True,
                "messages": [("execution_success", {"prompt_id": "x"})],
            },
            "meta": {},
        }
    }


def test_what_is_sensitive_is_never_in_the_history(queue: PromptQueue) -> None:
    _run(queue, "a", "b")
    assert "secret" not in repr(queue.get_history())


def test_what_is_kept_of_an_item_can_be_chosen(queue: PromptQueue) -> None:
    queue.put(_item(0, "a"))
    got = queue.get()
    assert got is not None
    queue.task_done(got[1], {}, None, process_item=lambda item: item[:2])
    assert queue.history["a"] == {"prompt": (0, "a"), "outputs": {}, "status": None}


@pytest.mark.parametrize(
    ("max_items", "offset", "wanted"),
    [
        (None, -1, "abcde"),
        (2, -1, "de"),
        (9, -1, "abcde"),
        (2, 0, "ab"),
        (2, 3, "de"),
        (2, 4, "e"),
        (2, 9, ""),
        (None, 2, "cde"),
        (0, -1, ""),
    ],
)
def test_history_comes_in_pages(
    queue: PromptQueue, max_items: int | None, offset: int, wanted: str
) -> None:
    _run(queue, *"abcde")
    assert "".join(queue.get_history(max_items=max_items, offset=offset)) == wanted


def test_history_is_copied_or_mapped(queue: PromptQueue) -> None:
    _run(queue, "a")
    queue.get_history("a")["a"]["outputs"].clear()
    assert queue.get_history(map_function=lambda entry: entry["outputs"]) == {
        "a": {"1": {"text": ["a"]}}
    }


def test_an_unknown_prompt_has_no_history(queue: PromptQueue) -> None:
    assert queue.get_history("nobody") == {}


def test_the_oldest_is_forgotten(queue: PromptQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert room.MAXIMUM_HISTORY_SIZE == 10_000
    monkeypatch.setattr(room, "MAXIMUM_HISTORY_SIZE", 3)
    _run(queue, *"abcde")
    assert list(queue.get_history()) == ["c", "d", "e"]


def test_a_prompt_that_runs_again_is_the_newest(queue: PromptQueue) -> None:
    _run(queue, "a", "b", "a")
    assert list(queue.get_history()) == ["b", "a"]


def test_history_is_deleted_by_id_or_wiped(queue: PromptQueue) -> None:
    _run(queue, "a", "b", "c")
    queue.delete_history_item("b")
    queue.delete_history_item("nobody")
    assert list(queue.get_history()) == ["a", "c"]
    queue.wipe_history()
    assert queue.get_history() == {}


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (None, "success"),
        (ExecutionStatus("success", True, [("execution_success", {})]), "success"),
        (ExecutionStatus("error", False, [("execution_error", {})]), "error"),
        (ExecutionStatus("error", False, [("execution_interrupted", {})]), "interrupted"),
    ],
    ids=["none", "success", "error", "interrupted"],
)
def test_endings_are_counted_for_ever(
    queue: PromptQueue, status: ExecutionStatus | None, kind: str
) -> None:
    queue.put(_item(1, "a"))
    taken = queue.get()
    assert taken is not None
    queue.task_done(taken[1], {}, status)
    queue.wipe_history()
    assert queue.ended == {"success": 0, "error": 0, "interrupted": 0, kind: 1}


def test_flags_are_given_once_or_kept(queue: PromptQueue) -> None:
    queue.set_flag("unload_models", True)
    queue.set_flag("free_memory", False)
    wanted = {"unload_models": True, "free_memory": False}
    assert queue.get_flags(reset=False) == wanted
    assert queue.get_flags() == wanted
    assert queue.get_flags() == {}


def test_packs_find_what_they_know_the_queue_by(queue: PromptQueue) -> None:
    assert queue.ExecutionStatus is ExecutionStatus
    assert (queue.queue, queue.currently_running, queue.history) == ([], {}, {})
    with queue.mutex, queue.mutex, queue.not_empty:
        queue.not_empty.notify()
