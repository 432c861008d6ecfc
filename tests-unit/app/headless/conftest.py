"""Small nodes, and a runner whose files go to a folder of the test."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import comfy.utils
import folder_paths
import nodes
from app.headless.run import Outcome, Runner
from app.headless.workflow_file import Workflow
from comfy.utils import ProgressBar

HANG_S = 120.0


class Number:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"value": ("INT", {"default": 1, "min": 0, "max": 9})},
            "optional": {"word": (["apple", "pear"],), "before": ("INT", {"forceInput": True})},
        }

    def run(self, value: int, word: str = "", before: int = 0) -> tuple[int]:
        return (value,)


class Show(Number):
    """Gives a text out, or does what its word says."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"forceInput": True}), "deed": ("STRING", {})}}

    @classmethod
    def VALIDATE_INPUTS(cls, deed: str) -> bool | str:
        return "that is not done here" if deed == "forbidden" else True

    def run(self, value: int, deed: str) -> dict[str, Any]:  # type: ignore[override]
        if deed == "raise":
            raise RuntimeError(f"no luck with {value}")
        if deed == "count":
            bar = ProgressBar(50)
            for _ in range(50):
                bar.update(1)
                time.sleep(HANG_S / 50)
        if deed == "sleep":
            time.sleep(HANG_S)
        return {"ui": {"text": (f"{deed} {value}",)}}


class ShowLate(Show):
    async def run(self, value: int, deed: str) -> dict[str, Any]:  # type: ignore[override]
        await asyncio.sleep(HANG_S if deed == "sleep" else 0)
        return {"ui": {"text": (f"{deed} {value}",)}}


SMALL = {one.__name__: one for one in (Number, Show, ShowLate)}


@pytest.fixture
def small_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in SMALL.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def run(
    small_nodes: None, screen: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """Run a prompt; all runs of a test share an executor."""
    hook = comfy.utils.PROGRESS_BAR_HOOK
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "out"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    runner = Runner(Console(file=screen, width=200))

    def run(prompt: dict[str, Any], *changes: str, page: Any = None) -> Outcome:
        return runner.run(Workflow(prompt, page, "test"), changes)

    yield run
    comfy.utils.set_progress_bar_global_hook(hook)
