"""One step of one node: its cached result, its call, or what it waited for.

Functions that packs replace in `execution` come in as arguments, so that theirs are the ones called.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from comfy_execution.expansion import add_expansion
from comfy_execution.failures import NODE_FAILURES, describe_failure, ends_prompt
from comfy_execution.graph import DynamicPrompt, ExecutionList, NodeInputError
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.inputs import is_schema_class
from comfy_execution.node_call import is_pending, wait_for_results
from comfy_execution.progress import get_progress_state
from comfy_execution.results import Outputs, Returned, merged_ui, merged_values, read_return


class ExecutionResult(Enum):
    """How a node's step ended."""

    SUCCESS = 0
    FAILURE = 1
    PENDING = 2


class CacheEntry(NamedTuple):
    """What is kept of a node.

    Attributes:
        ui: "output", for the page, and "meta", whose it is; None if there is nothing to show.
        outputs: Per output a list of values.
    """

    ui: dict[str, Any] | None
    outputs: Outputs


@dataclass
class PromptState:
    """A running prompt.

    Attributes:
        server: See `comfy_execution.server_side.ExecutorServer`.
        dynprompt: Its nodes.
        caches: What is known from earlier: ``outputs``, ``objects``, and both as ``all``.
        extra_data: What the user sent along.
        executed: Ids of nodes that ran.
        prompt_id: Its id.
        execution_list: What is still to be done.
        pending_subgraph_results: What the calls of expanded nodes returned, by node id.
        pending_async_nodes: Results and tasks of calls that have not ended, by node id.
        ui_outputs: What the page is shown, by node id.
    """

    server: Any
    dynprompt: DynamicPrompt
    caches: Any
    extra_data: Mapping[str, Any]
    executed: set[str]
    prompt_id: str
    execution_list: ExecutionList
    pending_subgraph_results: dict[str, list[Returned]] = field(default_factory=dict)
    pending_async_nodes: dict[str, list[Any]] = field(default_factory=dict)
    ui_outputs: dict[str, Any] = field(default_factory=dict)

    def send(self, event: str, data: dict[str, Any]) -> None:
        """Tell the client that sent the prompt; nobody if none did."""
        if self.server.client_id is not None:
            self.server.send_sync(event, data, self.server.client_id)


class Calls(NamedTuple):
    """The replaceable functions; see `execution`, where they are defined.

    Attributes:
        get_input_data: Collects arguments.
        get_output_data: Calls the node's function.
        map_over_list: Calls another function of the node.
        before: Called before each call of the node's function.
    """

    get_input_data: Callable[..., Any]
    get_output_data: Callable[..., Awaitable[tuple[Any, dict[str, Any], bool, bool]]]
    map_over_list: Callable[..., Awaitable[list[Any]]]
    before: Callable[[str, int], None]


def outputs_of(results: list[Any], obj: Any) -> tuple[Any, dict[str, Any], bool]:
    """Put together what all calls returned.

    Returns:
        The outputs, or one `Returned` per call if a graph is among them; what the page is shown;
        and whether there is a graph.
    """
    class_def = obj if inspect.isclass(obj) else type(obj)
    returns = [read_return(result, class_def) for result in results]
    has_graph = any(one.graph is not None for one in returns)
    output = returns if has_graph else merged_values(returns, class_def)
    return output, merged_ui(returns), has_graph


async def run_node(
    state: PromptState, node_id: str, calls: Calls
) -> tuple[ExecutionResult, dict[str, Any] | None, BaseException | None]:
    """Do a node's next step.

    Returns:
        How it ended; and if it failed the fields of the error that are the node's, and the error.
    """
    step = _Step(state, node_id, calls)
    try:
        return await step.run(), None, None
    except NODE_FAILURES as err:
        if ends_prompt(err):
            raise
        get_progress_state().fail_progress(node_id)
        real_id = state.dynprompt.get_real_node_id(node_id)
        return ExecutionResult.FAILURE, describe_failure(err, real_id, step.arguments), err


class _Step:
    """What is at hand while a node's step is done."""

    def __init__(self, state: PromptState, node_id: str, calls: Calls) -> None:
        self.state = state
        self.node_id = node_id
        self.calls = calls
        self.arguments: dict[str, Any] = {}

    async def run(self) -> ExecutionResult:
        state, node_id = self.state, self.node_id
        if node_id in state.pending_subgraph_results:
            return self._resolve(state.pending_subgraph_results.pop(node_id))
        if node_id in state.pending_async_nodes:
            results = await wait_for_results(state.pending_async_nodes.pop(node_id))
            return await self._finish(*outputs_of(results, self._class()))
        known = state.caches.outputs.get(node_id)
        if known is not None:
            return self._replay(known)
        return await self._call()

    def _class(self) -> Any:
        return self.state.dynprompt.class_of(self.node_id)

    # -- what is known -----------------------------------------------------------------------------

    def _replay(self, known: CacheEntry) -> ExecutionResult:
        """Show again what the page was shown when the node ran."""
        output = None
        if known.ui is not None:
            output = known.ui["output"]
            self.state.ui_outputs[self.node_id] = {"meta": self._meta(), "output": output}
        self._send_executed(output)
        self.state.execution_list.cache_update(self.node_id, known)
        get_progress_state().finish_progress(self.node_id)
        return ExecutionResult.SUCCESS

    def _meta(self) -> dict[str, Any]:
        dynprompt = self.state.dynprompt
        return {
            "node_id": self.node_id,
            "display_node": dynprompt.get_display_node_id(self.node_id),
            "parent_node": dynprompt.get_parent_node_id(self.node_id),
            "real_node_id": dynprompt.get_real_node_id(self.node_id),
        }

    def _send_executed(self, output: Any) -> None:
        display = self.state.dynprompt.get_display_node_id(self.node_id)
        where = {"node": self.node_id, "display_node": display}
        self.state.send("executed", {**where, "output": output, "prompt_id": self.state.prompt_id})

    # -- calls -------------------------------------------------------------------------------------

    async def _call(self) -> ExecutionResult:
        state, node_id, node_class = self.state, self.node_id, self._class()
        arguments, missing, v3_data = self.calls.get_input_data(
            state.dynprompt.get_node(node_id)["inputs"],
            node_class,
            node_id,
            state.execution_list,
            state.dynprompt,
            state.extra_data,
        )
        self.arguments = arguments
        self._announce()
        obj = self._object(node_class)
        if hasattr(obj, "check_lazy_status") and await self._asks_for_more(obj, missing, v3_data):
            return ExecutionResult.PENDING
        output, ui, has_graph, has_tasks = await self.calls.get_output_data(
            state.prompt_id,
            node_id,
            obj,
            arguments,
            execution_block_cb=self._block,
            pre_execute_cb=lambda index: self.calls.before(node_id, index),
            v3_data=v3_data,
        )
        if has_tasks:
            self._park(output)
            return ExecutionResult.PENDING
        return await self._finish(output, ui, has_graph)

    def _announce(self) -> None:
        state = self.state
        display = state.dynprompt.get_display_node_id(self.node_id)
        state.server.last_node_id = display
        get_progress_state().start_progress(self.node_id)
        where = {"node": self.node_id, "display_node": display}
        state.send("executing", {**where, "prompt_id": state.prompt_id})

    def _object(self, node_class: Any) -> Any:
        """The object that lives as long as the node's id does; the class where it has a schema."""
        if is_schema_class(node_class):
            return node_class
        obj = self.state.caches.objects.get(self.node_id)
        if obj is None:
            obj = node_class()
            self.state.caches.objects.set(self.node_id, obj)
        return obj

    async def _asks_for_more(self, obj: Any, missing: Any, v3_data: Any) -> bool:
        """Let the node say which lazy inputs it needs; whether it must wait for one."""
        answers = await wait_for_results(
            await self.calls.map_over_list(
                self.state.prompt_id,
                self.node_id,
                obj,
                self.arguments,
                "check_lazy_status",
                allow_interrupt=True,
                v3_data=v3_data,
            ),
            allow_interrupt=True,
        )
        lists = (one for one in answers if isinstance(one, (list, tuple, set)))
        for name in dict.fromkeys(name for names in lists for name in names):
            if name not in self.arguments or name in missing:
                self.state.execution_list.make_input_strong_link(self.node_id, name)
        return self.state.execution_list.blockCount[self.node_id] > 0

    def _block(self, blocker: ExecutionBlocker) -> ExecutionBlocker:
        """A call is not made; whoever reads the page is told why, once."""
        if blocker.message is None:
            return blocker
        real_id = self.state.dynprompt.get_real_node_id(self.node_id)
        self.state.send(
            "execution_error",
            {
                "prompt_id": self.state.prompt_id,
                "node_id": real_id,
                "node_type": self.state.dynprompt.get_node(self.node_id)["class_type"],
                "executed": list(self.state.executed),
                "exception_message": blocker.message,
                "exception_type": "ExecutionBlocked",
                "traceback": [],
                "current_inputs": [],
                "current_outputs": [],
            },
        )
        return ExecutionBlocker(None)

    def _park(self, results: list[Any]) -> None:
        """Wait for the calls' tasks while other nodes run; the first failure is enough."""
        self.state.pending_async_nodes[self.node_id] = results
        wake = self.state.execution_list.park(self.node_id)
        running = {result for result in results if is_pending(result)}

        def note(task: Any) -> None:
            was_waiting = bool(running)
            running.discard(task)
            if task.cancelled() or task.exception() is not None:
                running.clear()
            if was_waiting and not running:
                wake()

        for task in list(running):
            task.add_done_callback(note)

    # -- results -----------------------------------------------------------------------------------

    async def _finish(self, output: Any, ui: dict[str, Any], has_graph: bool) -> ExecutionResult:
        if ui:
            self.state.ui_outputs[self.node_id] = {"meta": self._meta(), "output": ui}
            self._send_executed(ui)
        if not has_graph:
            return self._keep(output)
        await add_expansion(self.state, self.node_id, output)
        if self.state.execution_list.blockCount[self.node_id] == 0:
            return self._resolve(output)
        self.state.pending_subgraph_results[self.node_id] = output
        return ExecutionResult.PENDING

    def _resolve(self, returns: list[Returned]) -> ExecutionResult:
        """Put values in the place of the links that the calls returned."""
        return self._keep(merged_values(returns, self._class(), self._values_of))

    def _values_of(self, link: list[Any]) -> list[Any]:
        entry = self.state.execution_list.get_cache(link[0], self.node_id)
        slot = int(link[1])
        if entry is None or not 0 <= slot < len(entry.outputs):
            raise NodeInputError(
                f"Node {self.node_id} returned a link to output {slot} of node {link[0]}, which "
                "has no such output. Link to one that it has."
            )
        values: list[Any] = entry.outputs[slot]
        return values

    def _keep(self, outputs: Outputs) -> ExecutionResult:
        entry = CacheEntry(self.state.ui_outputs.get(self.node_id), outputs)
        self.state.caches.outputs.set(self.node_id, entry)
        self.state.execution_list.cache_update(self.node_id, entry)
        self.state.executed.add(self.node_id)
        get_progress_state().finish_progress(self.node_id)
        return ExecutionResult.SUCCESS
