"""Stands in the server's place while one workflow runs: takes the executor's messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import folder_paths
from app.headless.display import Display
from app.headless.stopping import StopSignals
from comfy.interrupts import interrupt_current_processing
from comfy.progress import file_in_progress

CLIENT = "headless"
_BLOCKED = "ExecutionBlocked"


class Events:
    """What ``PromptExecutor`` asks of a server, without one.

    Attributes:
        client_id: Whose prompt runs; messages are only sent for somebody's.
        last_node_id: The node that runs.
        last_prompt_id: Its prompt.
        sockets_metadata: What pages support; there are none.
        files: Paths of written files, in the order in which nodes told of them.
        previews: The same for files of the temporary folder.
    """

    def __init__(self) -> None:
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.last_prompt_id: str | None = None
        self.sockets_metadata: dict[str, Any] = {}
        self.begin(None, None)

    def begin(self, display: Display | None, stop: StopSignals | None) -> None:
        """Forget the last run, and show the next one."""
        self._display, self._stop = display, stop
        self.files: list[Path] = []
        self.previews: list[Path] = []
        self._ended: set[str] = set()

    def end(self) -> None:
        """Show nothing any more; what was written stays known until the next run."""
        self._display, self._stop = None, None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Take a message; what is meant for pages only is dropped."""
        take = self._TAKERS.get(event) if isinstance(event, str) else None
        if take is not None and isinstance(data, Mapping):
            take(self, data)

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """Show a line that a node gives out while it runs."""
        self._note(node_id, str(text))

    def queue_updated(self) -> None:
        """There is no queue."""

    def _started(self, data: Mapping[str, Any]) -> None:
        # The executor begins by clearing the wish, which may just have been made.
        if self._stop is not None and self._stop.asked:
            interrupt_current_processing()

    def _executing(self, data: Mapping[str, Any]) -> None:
        node = data.get("display_node") or data.get("node")
        if node is not None and self._display is not None:
            self._ended.discard(str(node))
            self._display.started(str(node))

    def _cached(self, data: Mapping[str, Any]) -> None:
        if self._display is not None:
            self._display.cached(map(str, data.get("nodes") or ()))

    def _progress(self, data: Mapping[str, Any]) -> None:
        node = data.get("node")
        if node is not None and self._display is not None:
            self._display.progressed(str(node), data["value"], data["max"], file_in_progress.get())

    def _states(self, data: Mapping[str, Any]) -> None:
        for number, entry in (data.get("nodes") or {}).items():
            node = str(entry.get("display_node_id") or number)
            is_over = entry.get("state") in ("finished", "error")
            # An expanded node ends when all that stands for it has ended; it says so itself.
            if not is_over or node != number or node in self._ended or self._display is None:
                continue
            self._ended.add(node)
            if entry["state"] == "finished":
                self._display.finished(node)
            else:
                self._display.failed(node)

    def _executed(self, data: Mapping[str, Any]) -> None:
        node = str(data.get("display_node") or data.get("node"))
        for key, values in (data.get("output") or {}).items():
            if not isinstance(values, Sequence) or isinstance(values, str):
                continue
            for value in values:
                if isinstance(value, Mapping) and "filename" in value:
                    self._keep(value)
                elif key == "text":
                    self._note(node, str(value))

    def _keep(self, record: Mapping[str, Any]) -> None:
        folder = folder_paths.get_directory_by_type(str(record.get("type", "output")))
        if folder is None:
            return
        path = Path(folder, record.get("subfolder") or "", record["filename"])
        kept = self.previews if record.get("type") == "temp" else self.files
        absolute = Path(os.path.abspath(path))
        if absolute not in kept:
            kept.append(absolute)

    def _failed(self, data: Mapping[str, Any]) -> None:
        # What a node blocks is no failure: the run goes on.
        if data.get("exception_type") == _BLOCKED:
            self._note(str(data.get("node_id")), f"blocked: {data.get('exception_message')}")

    def _note(self, node: str, text: str) -> None:
        if self._display is not None:
            self._display.note(node, text)

    _TAKERS: ClassVar[dict[str, Callable[[Events, Mapping[str, Any]], None]]] = {
        "execution_start": _started,
        "executing": _executing,
        "execution_cached": _cached,
        "progress": _progress,
        "progress_state": _states,
        "executed": _executed,
        "execution_error": _failed,
    }
