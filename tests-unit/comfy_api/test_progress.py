"""Progress reaches the hook, from async nodes and from others."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch
from PIL import Image

import comfy.utils
from comfy.cli_args import args
from comfy_api.internal.blocking import run_blocking
from comfy_api.latest import ComfyAPI, ComfyAPISync
from comfy_execution.progress import get_progress_state, reset_progress_state
from comfy_execution.prompts import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext, get_executing_context

Told = list[tuple[float, float, Any, Any]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    calls: Told = []

    def hook(value: float, total: float, preview: Any, node_id: Any = None) -> None:
        calls.append((value, total, preview, node_id))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return calls


def test_a_running_node_need_not_name_itself(told: Told) -> None:
    with CurrentNodeContext("prompt", "7"):
        asyncio.run(ComfyAPI().execution.set_progress(2, 5))
    assert told == [(2, 5, None, "7")]


def test_a_node_may_be_named(told: Told) -> None:
    with CurrentNodeContext("prompt", "7"):
        asyncio.run(ComfyAPI().execution.set_progress(2, 5, node_id="8"))
    ComfyAPISync().execution.set_progress(1, 5, node_id="9")
    assert [call[3] for call in told] == ["8", "9"]


def test_without_a_node_one_must_be_named(told: Told) -> None:
    with pytest.raises(ValueError, match="node_id"):
        ComfyAPISync().execution.set_progress(1, 2)
    assert told == []


def test_the_blocking_call_works_inside_a_running_loop(told: Told) -> None:
    async def node() -> int:
        with CurrentNodeContext("prompt", "7"):
            ComfyAPISync().execution.set_progress(1, 2)
        return threading.get_ident()

    asyncio.run(asyncio.wait_for(node(), timeout=60))
    assert told == [(1, 2, None, "7")]


def test_a_blocking_call_runs_elsewhere_with_the_callers_context() -> None:
    async def where() -> tuple[int, Any]:
        return threading.get_ident(), get_executing_context()

    with CurrentNodeContext("prompt", "7", 3):
        thread, context = run_blocking(where)
    assert thread != threading.get_ident()
    assert context == ("prompt", "7", 3)


def test_what_the_hook_raises_reaches_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyError("stopped")

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", stop)
    with pytest.raises(KeyError, match="stopped"):
        ComfyAPISync().execution.set_progress(1, 2, node_id="1")


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (4, 6, 3)])
def test_a_tensor_becomes_a_picture(told: Told, shape: tuple[int, ...]) -> None:
    ComfyAPISync().execution.set_progress(1, 2, node_id="1", preview_image=torch.ones(shape))
    kind, picture, limit = told[0][2]
    assert (kind, picture.size, limit) == ("JPEG", (6, 4), args.preview_size)
    assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_with_alpha_is_sent_whole_if_asked(told: Told) -> None:
    image = Image.new("RGBA", (4, 4))
    ComfyAPISync().execution.set_progress(1, 2, "1", image, ignore_size_limit=True)
    assert told[0][2] == ("PNG", image, None)


def test_without_a_hook_the_registry_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    reset_progress_state("prompt", DynamicPrompt({}))
    ComfyAPISync().execution.set_progress(3, 4, node_id="5")
    state = get_progress_state().nodes["5"]
    reset_progress_state("", DynamicPrompt({}))
    assert (state["value"], state["max"]) == (3, 4)
