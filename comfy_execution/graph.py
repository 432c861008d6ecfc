"""What runs when: nodes in the order of their links, which may grow while they run."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Collection
from typing import Any

import comfy.model_management
from comfy_execution.graph_utils import ExecutionBlocker as ExecutionBlocker
from comfy_execution.graph_utils import is_link
from comfy_execution.inputs import get_input_info as get_input_info
from comfy_execution.inputs import is_async_node
from comfy_execution.prompts import DynamicPrompt as DynamicPrompt
from comfy_execution.prompts import NodeNotFoundError as NodeNotFoundError
from comfy_execution.utils import INTERRUPT_INTERVAL_S


class DependencyCycleError(Exception):
    """Nodes wait for each other.

    Attributes:
        node_ids: The nodes of the cycle, in order of their links.
    """

    def __init__(self, message: str, node_ids: Collection[str] = ()) -> None:
        super().__init__(message)
        self.node_ids = list(node_ids)


class NodeInputError(Exception):
    """An input was asked for that is absent, or is no link."""


class DuplicateNodeError(Exception):
    """An expansion adds a node whose id is already in the prompt."""


class TopologicalSort:
    """Nodes that are still to be done, and which of them wait for which.

    Attributes:
        dynprompt: The prompt.
        pendingNodes: Ids of nodes to be done, in the order in which they were added.
        blockCount: By node, how many others it waits for.
        blocking: By node, the nodes that wait for it, each with the sockets that it feeds.
    """

    def __init__(self, dynprompt: DynamicPrompt) -> None:
        self.dynprompt = dynprompt
        self.pendingNodes: dict[str, bool] = {}
        self.blockCount: dict[str, int] = {}
        self.blocking: dict[str, dict[str, dict[int, bool]]] = {}

    def add_node(
        self,
        node_unique_id: str,
        include_lazy: bool = False,
        subgraph_nodes: Collection[str] | None = None,
    ) -> None:
        """Add a node and everything that it needs.

        Args:
            node_unique_id: The node.
            include_lazy: Count lazy inputs as needed, too.
            subgraph_nodes: Follow links to these nodes only; None follows all.

        Raises:
            NodeNotFoundError: A link names a node that is not there.
        """
        added: list[str] = []
        links: list[tuple[str, int, str]] = []
        waiting = [node_unique_id]
        while waiting:
            node_id = waiting.pop()
            if node_id in self.pendingNodes:
                continue
            self._enter(node_id)
            added.append(node_id)
            needed = [
                link
                for link in self._links_of(node_id, include_lazy)
                if subgraph_nodes is None or link[0] in subgraph_nodes
            ]
            links += [(link[0], int(link[1]), node_id) for link in needed]
            # Reversed, so that what feeds the first input comes first.
            waiting += [link[0] for link in reversed(needed) if not self.is_cached(link[0])]
        for from_id, socket, to_id in links:
            self.add_strong_link(from_id, socket, to_id)
        for node_id in added:
            self._note_ready(node_id)

    def _enter(self, node_id: str) -> None:
        self.dynprompt.get_node(node_id)
        self.pendingNodes[node_id] = True
        self.blockCount[node_id] = 0
        self.blocking[node_id] = {}

    def _links_of(self, node_id: str, include_lazy: bool) -> list[list[Any]]:
        inputs = self.dynprompt.get_node(node_id)["inputs"]
        links = {name: value for name, value in inputs.items() if is_link(value)}
        if not links or include_lazy:
            return list(links.values())
        types = self.dynprompt.input_types(node_id)
        node_class = self.dynprompt.known_class_of(node_id)
        return [
            link
            for name, link in links.items()
            if not (get_input_info(node_class, name, types)[2] or {}).get("lazy")
        ]

    def make_input_strong_link(self, to_node_id: str, to_input: str) -> None:
        """Let a node wait for what a lazy input of it is linked to.

        Raises:
            NodeInputError: The input is absent or a constant.
        """
        inputs = self.dynprompt.get_node(to_node_id)["inputs"]
        if to_input not in inputs:
            raise NodeInputError(
                f"Node {to_node_id} asks for its input {to_input!r}, which the prompt does not "
                "give. Connect it, or let check_lazy_status ask for given inputs only."
            )
        value = inputs[to_input]
        if not is_link(value):
            raise NodeInputError(
                f"Node {to_node_id} asks for its input {to_input!r}, which is a constant and has "
                "its value already. Let check_lazy_status ask for links only."
            )
        self.add_strong_link(value[0], int(value[1]), to_node_id)

    def add_strong_link(self, from_node_id: str, from_socket: int, to_node_id: str) -> None:
        """Let a node wait for another; what that one needs is added, too."""
        if self.is_cached(from_node_id):
            return
        if from_node_id not in self.pendingNodes:
            self.add_node(from_node_id)
        targets = self.blocking[from_node_id]
        if to_node_id not in targets:
            targets[to_node_id] = {}
            self.blockCount[to_node_id] += 1
        targets[to_node_id][from_socket] = True

    def get_ready_nodes(self) -> list[str]:
        """Nodes that wait for nothing."""
        return [node_id for node_id in self.pendingNodes if self.blockCount[node_id] == 0]

    def pop_node(self, unique_id: str) -> None:
        """A node is done: those that waited for it wait for one less."""
        del self.pendingNodes[unique_id]
        del self.blockCount[unique_id]
        for target in self.blocking.pop(unique_id):
            self.blockCount[target] -= 1
            self._note_ready(target)

    def is_empty(self) -> bool:
        """Whether all is done."""
        return not self.pendingNodes

    def is_cached(self, node_id: str) -> bool:
        """Whether a node has its result already, so that nobody needs to wait for it."""
        return False

    def _note_ready(self, node_id: str) -> None:
        """Called when a node may have become ready."""


class ExecutionList(TopologicalSort):
    """The sort that the executor walks. It holds results for as long as a consumer waits.

    Ready output nodes and async nodes come first, then what feeds an output node, then what is
    two steps away from one, then the order in which nodes were added.
    """

    def __init__(self, dynprompt: DynamicPrompt, output_cache: Any) -> None:
        """Begin with no nodes.

        Args:
            dynprompt: The prompt.
            output_cache: Tells by node id what is known from earlier.
        """
        super().__init__(dynprompt)
        self.output_cache = output_cache
        self._held: dict[str, Any] = {}
        self._consumers: dict[str, set[str]] = {}
        self._sources: dict[str, set[str]] = {}
        self._order: dict[str, int] = {}
        self._queue: list[tuple[int, int, str]] = []
        self._leads: dict[str, bool] = {}
        self._feeds_leader: set[str] = set()
        self._parked: dict[str, bool] = {}
        self._woken = asyncio.Event()

    # -- results -----------------------------------------------------------------------------------

    def is_cached(self, node_id: str) -> bool:
        """Whether a node has its result, from this prompt or an earlier one."""
        return node_id in self._held or self.output_cache.get(node_id) is not None

    def get_cache(self, from_node_id: str, to_node_id: str) -> Any:
        """The cache entry of a node, for one that consumes it; None if there is none yet."""
        held = self._held.get(from_node_id)
        return self.output_cache.get(from_node_id) if held is None else held

    def cache_update(self, node_id: str, value: Any) -> None:
        """Hold a new result for those who wait for it."""
        if self._consumers.get(node_id):
            self._held[node_id] = value

    def add_strong_link(self, from_node_id: str, from_socket: int, to_node_id: str) -> None:
        """Let a node wait for another, and hold the result until it has it."""
        self._consumers.setdefault(from_node_id, set()).add(to_node_id)
        self._sources.setdefault(to_node_id, set()).add(from_node_id)
        if from_node_id not in self._held:
            known = self.output_cache.get(from_node_id)
            if known is not None:
                self._held[from_node_id] = known
        if self._leads.get(to_node_id):
            self._feeds_leader.add(from_node_id)
        super().add_strong_link(from_node_id, from_socket, to_node_id)

    def pop_node(self, unique_id: str) -> None:
        """A node is done: what only it consumed is let go."""
        for source in self._sources.pop(unique_id, ()):
            consumers = self._consumers[source]
            consumers.discard(unique_id)
            if not consumers:
                del self._consumers[source]
                self._held.pop(source, None)
        super().pop_node(unique_id)

    # -- order -------------------------------------------------------------------------------------

    def _enter(self, node_id: str) -> None:
        super()._enter(node_id)
        self._order[node_id] = len(self._order)
        node_class = self.dynprompt.known_class_of(node_id)
        self._leads[node_id] = getattr(node_class, "OUTPUT_NODE", False) is True or (
            node_class is not None and is_async_node(node_class)
        )

    def _note_ready(self, node_id: str) -> None:
        if self.blockCount[node_id] == 0:
            heapq.heappush(self._queue, (self._rank(node_id), self._order[node_id], node_id))

    def _rank(self, node_id: str) -> int:
        if self._leads[node_id]:
            return 0
        if node_id in self._feeds_leader:
            return 1
        near = any(target in self._feeds_leader for target in self.blocking[node_id])
        return 2 if near else 3

    async def next_node(self) -> str | None:
        """The node to run next; waits if all that could run are parked.

        Returns:
            Its id, or None if all is done.

        Raises:
            DependencyCycleError: Nodes wait for each other.
            InterruptProcessingException: The user wants to stop, while this waits.
        """
        if self._parked:
            # Lets the tasks of parked nodes go on between nodes that never wait.
            await asyncio.sleep(0)
        while self.pendingNodes:
            while self._queue:
                _, _, node_id = heapq.heappop(self._queue)
                if self.blockCount.get(node_id) == 0:
                    return node_id
            if not self._parked:
                raise self._cycle()
            await self._wait()
        return None

    async def _wait(self) -> None:
        """Until a parked node is woken; the user may lose patience before."""
        self._woken.clear()
        while not self._woken.is_set():
            comfy.model_management.throw_exception_if_processing_interrupted()
            try:
                await asyncio.wait_for(self._woken.wait(), INTERRUPT_INTERVAL_S)
            except asyncio.TimeoutError:
                continue

    def put_back(self, node_id: str) -> None:
        """A node that was taken is not done yet: it comes again when it waits for nothing."""
        self._note_ready(node_id)

    def park(self, node_id: str) -> Callable[[], None]:
        """Keep a node from being taken.

        Returns:
            What makes it ready again; to be called once, in the event loop.
        """
        self._parked[node_id] = True
        self.blockCount[node_id] += 1

        def wake() -> None:
            del self._parked[node_id]
            self.blockCount[node_id] -= 1
            self._note_ready(node_id)
            self._woken.set()

        return wake

    def parked_nodes(self) -> list[str]:
        """Nodes whose calls still run."""
        return list(self._parked)

    def _cycle(self) -> DependencyCycleError:
        """The error that tells which nodes wait for each other."""
        waits_for: dict[str, str] = {}
        for source, targets in self.blocking.items():
            for target in targets:
                waits_for.setdefault(target, source)
        steps: dict[str, int] = {}
        node_id = next(iter(self.pendingNodes))
        while node_id not in steps:
            steps[node_id] = len(steps)
            node_id = waits_for[node_id]
        # A step goes from a node to one that it waits for; links go the other way.
        ring = list(steps)[steps[node_id] :][::-1]
        return DependencyCycleError(
            "These nodes wait for each other: " + ", ".join(ring) + ". Remove one of the links "
            "between them.",
            ring,
        )
