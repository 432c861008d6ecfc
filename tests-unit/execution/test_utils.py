"""Which node code runs for."""

from __future__ import annotations

import threading

from comfy_execution.utils import CurrentNodeContext, ExecutionContext, get_executing_context


def test_a_context_is_known_inside_and_forgotten_outside() -> None:
    assert get_executing_context() is None
    with CurrentNodeContext("p", "1", 2):
        assert get_executing_context() == ("p", "1", 2)
        with CurrentNodeContext("p", "1.a"):
            assert get_executing_context() == ExecutionContext("p", "1.a", None)
        context = get_executing_context()
        assert context is not None
        assert (context.prompt_id, context.node_id, context.list_index) == ("p", "1", 2)
    assert get_executing_context() is None


def test_another_thread_is_outside() -> None:
    seen: list[object] = []
    with CurrentNodeContext("p", "1"):
        thread = threading.Thread(target=lambda: seen.append(get_executing_context()))
        thread.start()
        thread.join()
    assert seen == [None]
