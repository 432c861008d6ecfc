"""How far the nodes of the running prompt are, and who is told of it."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from enum import Enum
from typing import Any, TypedDict

from tqdm import tqdm

from comfy_execution.prompts import DynamicPrompt
from protocol import BinaryEventTypes

# The newest of the finished nodes that a message still tells of, and of those that run: in large
# graphs, and in loops that expand within each other, messages would otherwise grow with the square
# of the number of nodes.
FINISHED_TOLD = 64
ACTIVE_TOLD = 64


class NodeState(Enum):
    """What a node is doing."""

    Pending = "pending"
    Running = "running"
    Finished = "finished"
    Error = "error"


class NodeProgressState(TypedDict):
    """How far a node is.

    Attributes:
        state: What it is doing.
        value: How much is done.
        max: What counts as all.
    """

    state: NodeState
    value: float
    max: float


class ProgressHandler:
    """Is told of every node that starts, goes on and ends; does nothing by itself.

    Attributes:
        name: A registry has one handler of each name.
        enabled: Whether it is told.
        registry: Whose nodes it is told of; None until it is added.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.enabled = True
        self.registry: ProgressRegistry | None = None

    def set_registry(self, registry: ProgressRegistry) -> None:
        """Called when it is added."""
        self.registry = registry

    def start_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node starts."""

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: NodeProgressState,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        """A node goes on.

        Args:
            node_id: The node.
            value: How much is done.
            max_value: What counts as all.
            state: The same, as the registry has it.
            prompt_id: The prompt.
            image: ``("JPEG" or "PNG", PIL image, largest side or None)``, or None.
        """

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """A node has ended, well or not."""

    def reset(self) -> None:
        """Forget what was told."""

    def enable(self) -> None:
        """Be told from now on."""
        self.enabled = True

    def disable(self) -> None:
        """Be told no more."""
        self.enabled = False


class CLIProgressHandler(ProgressHandler):
    """Draws one bar per node on the terminal."""

    def __init__(self) -> None:
        super().__init__("cli")
        self._bars: dict[str, Any] = {}

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: NodeProgressState,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        """Draw how far the node is; nodes that never tell have no bar."""
        if node_id not in self._bars:
            self._bars[node_id] = tqdm(total=max_value, desc=f"Node {node_id}", leave=False)
        bar = self._bars[node_id]
        bar.total = max_value
        bar.update(value - bar.n)

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """Take the node's bar away."""
        bar = self._bars.pop(node_id, None)
        if bar is not None:
            bar.update(state["max"] - bar.n)
            bar.close()

    def reset(self) -> None:
        """Take all bars away."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


class WebUIProgressHandler(ProgressHandler):
    """Sends ``progress_state``, and previews to pages that can tell which node they are of."""

    def __init__(self, server: Any) -> None:
        """Prepare.

        Args:
            server: Has ``send_sync(event, data, sid)`` and ``client_id``; ``sockets_metadata``,
                where there is one, tells by client what its page supports.
        """
        super().__init__("webui")
        self.server = server
        self._finished: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._active: dict[str, dict[str, Any]] = {}

    def start_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """Send that the node runs."""
        self._finished.pop(node_id, None)
        self._tell(node_id, state, prompt_id)

    def update_handler(
        self,
        node_id: str,
        value: float,
        max_value: float,
        state: NodeProgressState,
        prompt_id: str,
        image: Any = None,
    ) -> None:
        """Send how far the node is, then the preview."""
        self._tell(node_id, state, prompt_id)
        if image is not None and supports_previews_of_nodes(self.server):
            kind = "image/png" if image[0] == "PNG" else "image/jpeg"
            metadata = {**self._ids(node_id, prompt_id), "image_type": kind}
            self.server.send_sync(
                BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA,
                (image, metadata),
                self.server.client_id,
            )

    def finish_handler(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        """Send that the node has ended."""
        self._tell(node_id, state, prompt_id)

    def reset(self) -> None:
        """Forget the nodes."""
        self._finished.clear()
        self._active.clear()

    def _ids(self, node_id: str, prompt_id: str) -> dict[str, Any]:
        ids: dict[str, Any] = {"node_id": node_id, "prompt_id": prompt_id}
        if self.registry is not None:
            dynprompt = self.registry.dynprompt
            ids["display_node_id"] = dynprompt.get_display_node_id(node_id)
            ids["parent_node_id"] = dynprompt.get_parent_node_id(node_id)
            ids["real_node_id"] = dynprompt.get_real_node_id(node_id)
        return ids

    def _tell(self, node_id: str, state: NodeProgressState, prompt_id: str) -> None:
        entry = {
            "value": state["value"],
            "max": state["max"],
            "state": state["state"].value,
            **self._ids(node_id, prompt_id),
        }
        if state["state"] is NodeState.Running:
            self._active[node_id] = entry
        else:
            self._active.pop(node_id, None)
            self._finished[node_id] = entry
            if len(self._finished) > FINISHED_TOLD:
                self._finished.popitem(last=False)
        newest = itertools.islice(reversed(self._active.items()), ACTIVE_TOLD)
        nodes = {**self._finished, **dict(newest), node_id: entry}
        message = {"prompt_id": prompt_id, "nodes": nodes}
        self.server.send_sync("progress_state", message, self.server.client_id)


def supports_previews_of_nodes(server: Any) -> bool:
    """Whether the page that waits for this prompt takes previews with their node's id."""
    sockets = getattr(server, "sockets_metadata", None) or {}
    flags = sockets.get(server.client_id, {}).get("feature_flags", {})
    return flags.get("supports_preview_metadata") is True


class ProgressRegistry:
    """The nodes of one prompt that have started.

    Attributes:
        prompt_id: The prompt.
        dynprompt: Its nodes.
        nodes: State by node id.
        handlers: By name.
    """

    def __init__(self, prompt_id: str, dynprompt: DynamicPrompt) -> None:
        self.prompt_id = prompt_id
        self.dynprompt = dynprompt
        self.nodes: dict[str, NodeProgressState] = {}
        self.handlers: dict[str, ProgressHandler] = {}

    def register_handler(self, handler: ProgressHandler) -> None:
        """Tell a handler from now on, in the place of the one with its name."""
        self.handlers[handler.name] = handler
        handler.set_registry(self)

    def unregister_handler(self, name: str) -> None:
        """Tell a handler no more."""
        self.handlers.pop(name, None)

    def ensure_entry(self, node_id: str) -> NodeProgressState:
        """The state of a node; pending if it was not heard of."""
        return self.nodes.setdefault(
            node_id, NodeProgressState(state=NodeState.Pending, value=0, max=1)
        )

    def start_progress(self, node_id: str) -> None:
        """A node starts."""
        state = self.ensure_entry(node_id)
        state.update({"state": NodeState.Running, "value": 0, "max": 1})
        for handler in self._enabled():
            handler.start_handler(node_id, state, self.prompt_id)

    def update_progress(
        self, node_id: str, value: float, max_value: float, image: Any = None
    ) -> None:
        """A node goes on; see `ProgressHandler.update_handler`."""
        state = self.ensure_entry(node_id)
        state.update({"state": NodeState.Running, "value": value, "max": max_value})
        for handler in self._enabled():
            handler.update_handler(node_id, value, max_value, state, self.prompt_id, image)

    def finish_progress(self, node_id: str) -> None:
        """A node has its results: all is done."""
        state = self.ensure_entry(node_id)
        state["value"] = state["max"]
        self._end(node_id, NodeState.Finished)

    def fail_progress(self, node_id: str) -> None:
        """A node has failed; it stays where it was."""
        self._end(node_id, NodeState.Error)

    def _end(self, node_id: str, ended: NodeState) -> None:
        state = self.ensure_entry(node_id)
        state["state"] = ended
        for handler in self._enabled():
            handler.finish_handler(node_id, state, self.prompt_id)

    def reset_handlers(self) -> None:
        """Let all handlers forget what they were told."""
        for handler in self.handlers.values():
            handler.reset()

    def _enabled(self) -> list[ProgressHandler]:
        return [handler for handler in self.handlers.values() if handler.enabled]


class _Current:
    """The registry of the running prompt; nodes may ask from threads of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry = ProgressRegistry("", DynamicPrompt({}))

    def get(self) -> ProgressRegistry:
        with self._lock:
            return self._registry

    def replace(self, registry: ProgressRegistry) -> None:
        with self._lock:
            before, self._registry = self._registry, registry
        before.reset_handlers()


_current = _Current()


def reset_progress_state(prompt_id: str, dynprompt: DynamicPrompt) -> None:
    """Begin a prompt: no node has started, nobody is told."""
    _current.replace(ProgressRegistry(prompt_id, dynprompt))


def add_progress_handler(handler: ProgressHandler) -> None:
    """Tell a handler of the running prompt."""
    _current.get().register_handler(handler)


def get_progress_state() -> ProgressRegistry:
    """The nodes of the running prompt, or of the last one."""
    return _current.get()
