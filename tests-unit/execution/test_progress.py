"""How far nodes are, and what pages are told of it."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from comfy_execution.progress import (
    CLIProgressHandler,
    NodeState,
    ProgressHandler,
    ProgressRegistry,
    WebUIProgressHandler,
    add_progress_handler,
    get_progress_state,
    reset_progress_state,
)
from comfy_execution.prompts import DynamicPrompt
from protocol import BinaryEventTypes
from support.graph_nodes import Listener, node


class _Notes(ProgressHandler):
    """Keeps what it is told."""

    def __init__(self, name: str = "notes") -> None:
        super().__init__(name)
        self.told: list[Any] = []

    def start_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        self.told.append(("start", node_id, dict(state), prompt_id))

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: Any,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        self.told.append(("update", node_id, value, max_value, image))

    def finish_handler(self, node_id: str, state: Any, prompt_id: str) -> None:
        self.told.append(("finish", node_id, dict(state), prompt_id))

    def reset(self) -> None:
        self.told.append("reset")


@pytest.fixture
def registry() -> ProgressRegistry:
    """Of a prompt with a node "1" that is expanded to "1.a"."""
    prompt = DynamicPrompt({"1": node("Keep", value=1)})
    prompt.add_ephemeral_node("1.a", node("Keep", value=2), "1", "1")
    return ProgressRegistry("p", prompt)


def test_a_handler_hears_of_start_progress_and_end(registry: ProgressRegistry) -> None:
    notes = _Notes()
    registry.register_handler(notes)
    assert notes.registry is registry
    registry.start_progress("1")
    registry.update_progress("1", 3, 8, "image")
    registry.finish_progress("1")
    assert notes.told == [
        ("start", "1", {"state": NodeState.Running, "value": 0, "max": 1}, "p"),
        ("update", "1", 3, 8, "image"),
        ("finish", "1", {"state": NodeState.Finished, "value": 8, "max": 8}, "p"),
    ]


def test_a_failed_node_stays_where_it_was(registry: ProgressRegistry) -> None:
    registry.update_progress("1", 3, 8)
    registry.fail_progress("1")
    assert registry.nodes["1"] == {"state": NodeState.Error, "value": 3, "max": 8}


def test_a_node_nobody_heard_of_is_pending(registry: ProgressRegistry) -> None:
    assert registry.ensure_entry("1") == {"state": NodeState.Pending, "value": 0, "max": 1}


def test_a_disabled_or_removed_handler_hears_nothing(registry: ProgressRegistry) -> None:
    notes, gone = _Notes(), _Notes("gone")
    registry.register_handler(notes)
    registry.register_handler(gone)
    registry.unregister_handler("gone")
    notes.disable()
    registry.start_progress("1")
    notes.enable()
    registry.finish_progress("1")
    assert [one[0] for one in notes.told] == ["finish"]
    assert gone.told == []


def test_a_handler_takes_the_place_of_the_one_with_its_name(registry: ProgressRegistry) -> None:
    first, second = _Notes(), _Notes()
    registry.register_handler(first)
    registry.register_handler(second)
    registry.start_progress("1")
    assert (len(first.told), len(second.told)) == (0, 1)


def test_a_new_prompt_begins_without_nodes_and_handlers() -> None:
    notes = _Notes()
    reset_progress_state("first", DynamicPrompt({}))
    add_progress_handler(notes)
    get_progress_state().start_progress("1")
    reset_progress_state("second", DynamicPrompt({}))
    get_progress_state().start_progress("2")
    assert [one if one == "reset" else one[1] for one in notes.told] == ["1", "reset"]
    assert get_progress_state().prompt_id == "second"
    assert list(get_progress_state().nodes) == ["2"]


def test_states_are_by_their_names() -> None:
    assert {one.value for one in NodeState} == {"pending", "running", "finished", "error"}


# -- pages -----------------------------------------------------------------------------------------


def _page(registry: ProgressRegistry, **flags: bool) -> Listener:
    listener = Listener()
    listener.client_id = "me"
    listener.sockets_metadata = {"me": {"feature_flags": flags}}
    registry.register_handler(WebUIProgressHandler(listener))
    return listener


def test_a_page_is_told_the_state_of_all_nodes_that_started(registry: ProgressRegistry) -> None:
    listener = _page(registry)
    registry.ensure_entry("pending")
    registry.start_progress("1")
    registry.finish_progress("1")
    registry.update_progress("1.a", 2, 5)
    event, data, sid = listener.told[-1]
    assert (event, sid) == ("progress_state", "me")
    ids = {"prompt_id": "p", "display_node_id": "1", "real_node_id": "1"}
    assert data == {
        "prompt_id": "p",
        "nodes": {
            "1": {
                **ids,
                "node_id": "1",
                "parent_node_id": None,
                "value": 1,
                "max": 1,
                "state": "finished",
            },
            "1.a": {
                **ids,
                "node_id": "1.a",
                "parent_node_id": "1",
                "value": 2,
                "max": 5,
                "state": "running",
            },
        },
    }


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_a_page_that_can_place_pictures_gets_them_with_their_node(
    registry: ProgressRegistry, kind: str, mime: str
) -> None:
    listener = _page(registry, supports_preview_metadata=True)
    picture = (kind, Image.new("RGB", (4, 4)), 512)
    registry.update_progress("1.a", 2, 5, picture)
    event, data, sid = listener.told[-1]
    assert (event, sid) == (BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, "me")
    assert data == (
        picture,
        {
            "node_id": "1.a",
            "prompt_id": "p",
            "display_node_id": "1",
            "parent_node_id": "1",
            "real_node_id": "1",
            "image_type": mime,
        },
    )


def test_a_page_that_cannot_is_sent_no_picture_here(registry: ProgressRegistry) -> None:
    listener = _page(registry, supports_preview_metadata=False)
    registry.update_progress("1", 2, 5, ("PNG", Image.new("RGB", (4, 4)), None))
    assert [event for event, _, _ in listener.told] == ["progress_state"]


def test_the_terminal_shows_a_bar_while_a_node_works(
    registry: ProgressRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = CLIProgressHandler()
    registry.register_handler(handler)
    registry.update_progress("1", 2, 5)
    registry.finish_progress("1")
    registry.update_progress("2", 1, 3)
    registry.reset_handlers()
    told = capsys.readouterr().err
    assert "Node 1" in told
    assert "/5" in told
    assert "Node 2" in told
    # No bar stays on the terminal.
    assert told.endswith("\r")
    assert not told.rstrip("\r").rsplit("\r", 1)[-1].strip()
