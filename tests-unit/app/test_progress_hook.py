"""What a node tells of its progress: to which node it belongs, who hears of it, when it stops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import comfy.interrupts
import comfy.utils
from app import progress_hook
from comfy.utils import ProgressBar
from comfy_execution.progress import NodeState, get_progress_state, reset_progress_state
from comfy_execution.prompts import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from protocol import BinaryEventTypes


class Server:
    client_id = "me"
    last_node_id: str | None = "last"
    last_prompt_id: str | None = "prompt"
    sockets_metadata: dict[str, Any]

    def __init__(self) -> None:
        self.sent: list[tuple[Any, Any, str | None]] = []
        self.sockets_metadata = {}

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, data, sid))


@pytest.fixture
def server() -> Iterator[Server]:
    before = comfy.utils.PROGRESS_BAR_HOOK
    made = Server()
    progress_hook.install(made)
    reset_progress_state("prompt", DynamicPrompt({}))
    yield made
    comfy.utils.set_progress_bar_global_hook(before)
    comfy.interrupts.interrupt_current_processing(False)


def test_progress_belongs_to_the_node_whose_code_runs(server: Server) -> None:
    with CurrentNodeContext("mine", "7"):
        ProgressBar(10).update(3)
    message = {"value": 3, "max": 10, "prompt_id": "mine", "node": "7"}
    assert server.sent == [("progress", message, "me")]
    assert get_progress_state().nodes["7"] == {"state": NodeState.Running, "value": 3, "max": 10}


def test_outside_of_nodes_it_belongs_to_the_one_that_ran_last(server: Server) -> None:
    ProgressBar(10).update(1)
    assert server.sent[0][1]["node"] == "last"
    assert server.sent[0][1]["prompt_id"] == "prompt"


def test_a_bar_may_name_its_node(server: Server) -> None:
    with CurrentNodeContext("mine", "7"):
        ProgressBar(10, node_id="8").update(1)
    assert server.sent[0][1]["node"] == "8"


@pytest.mark.parametrize("knows_nodes", [False, True])
def test_a_preview_is_sent_once(server: Server, knows_nodes: bool) -> None:
    flags = {"feature_flags": {"supports_preview_metadata": knows_nodes}}
    server.sockets_metadata = {"me": flags}
    picture = ("JPEG", object(), 512)
    ProgressBar(10).update_absolute(1, preview=picture)
    wanted = [] if knows_nodes else [(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, picture, "me")]
    assert server.sent[1:] == wanted


def test_the_wish_to_stop_is_raised_where_progress_is_made(server: Server) -> None:
    comfy.interrupts.interrupt_current_processing()
    with pytest.raises(comfy.interrupts.InterruptProcessingException):
        ProgressBar(10).update(1)
    assert server.sent == []
