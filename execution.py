"""PromptExecutor: runs prompts, and tells whoever listens; what packs import and replace is here.

Functions of this module that custom nodes replace (`execute`, `get_output_data`,
`_async_map_node_over_list`, `get_input_data`, ...) are looked up here at each call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import comfy.model_management
import latent_preview
import nodes
from comfy.loading.errors import forget_frames
from comfy_execution import node_run, validation
from comfy_execution.cache_sets import DEFAULT_CACHE_ARGS
from comfy_execution.cache_sets import CacheSet as CacheSet
from comfy_execution.cache_sets import CacheType as CacheType
from comfy_execution.changes import IsChanged
from comfy_execution.failures import NODE_FAILURES, describe_failure, ends_prompt
from comfy_execution.failures import full_type_name as full_type_name
from comfy_execution.graph import DependencyCycleError, DynamicPrompt, ExecutionList
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from comfy_execution.node_call import SECRETS, end_tasks, is_pending
from comfy_execution.node_call import call_over_lists as _async_map_node_over_list
from comfy_execution.node_call import get_input_data as get_input_data
from comfy_execution.node_run import CacheEntry as CacheEntry
from comfy_execution.node_run import Calls, PromptState
from comfy_execution.node_run import ExecutionResult as ExecutionResult
from comfy_execution.progress import (
    WebUIProgressHandler,
    add_progress_handler,
    reset_progress_state,
)
from comfy_execution.queue import PromptQueue as PromptQueue
from comfy_execution.server_side import ExecutorServer

logger = logging.getLogger(__name__)

SENSITIVE_EXTRA_DATA_KEYS = tuple(SECRETS.values())
"""Never shown in queues, histories and logs."""

# The event loop is asyncio's; a synchronous way to call nodes is not offered.
map_node_over_list = None


# -- nodes -----------------------------------------------------------------------------------------


async def get_output_data(
    prompt_id: str,
    unique_id: str,
    obj: Any,
    input_data_all: dict[str, Any],
    execution_block_cb: Callable[[ExecutionBlocker], Any] | None = None,
    pre_execute_cb: Callable[[int], None] | None = None,
    v3_data: Mapping[str, Any] | None = None,
) -> tuple[Any, dict[str, Any], bool, bool]:
    """Call a node's main function.

    Returns:
        Per output the list of values; what the page is shown; whether a graph stands for the node
        (the first is then what each call returned); and whether tasks still run (the first is
        then those tasks, and the results of calls that have ended).
    """
    results = await _async_map_node_over_list(
        prompt_id,
        unique_id,
        obj,
        input_data_all,
        obj.FUNCTION,
        allow_interrupt=True,
        execution_block_cb=execution_block_cb,
        pre_execute_cb=pre_execute_cb,
        v3_data=v3_data,
    )
    if any(is_pending(result) for result in results):
        return results, {}, False, True
    return (*node_run.outputs_of(results, obj), False)


def _before_call(node_id: str, index: int) -> None:
    nodes.before_node_execution()
    GraphBuilder.set_default_prefix(node_id, index, 0)


async def execute(
    server: ExecutorServer,
    dynprompt: DynamicPrompt,
    caches: CacheSet,
    current_item: str,
    extra_data: Mapping[str, Any],
    executed: set[str],
    prompt_id: str,
    execution_list: ExecutionList,
    pending_subgraph_results: dict[str, Any],
    pending_async_nodes: dict[str, Any],
    ui_outputs: dict[str, Any],
) -> tuple[ExecutionResult, dict[str, Any] | None, BaseException | None]:
    """Do one node's next step; see `comfy_execution.node_run.run_node` and `PromptState`."""
    state = PromptState(
        server,
        dynprompt,
        caches,
        extra_data,
        executed,
        prompt_id,
        execution_list,
        pending_subgraph_results,
        pending_async_nodes,
        ui_outputs,
    )
    calls = Calls(get_input_data, get_output_data, _async_map_node_over_list, _before_call)
    return await node_run.run_node(state, current_item, calls)


# -- validation ------------------------------------------------------------------------------------


async def validate_prompt(
    prompt_id: str, prompt: dict[str, Any], partial_execution_list: Sequence[str] | None = None
) -> tuple[bool, dict[str, Any] | None, list[str], dict[str, Any]]:
    """Judge a prompt before it runs; see `comfy_execution.validation.validate_prompt`."""
    return await validation.validate_prompt(
        prompt_id, prompt, partial_execution_list, nodes.NODE_CLASS_MAPPINGS
    )


async def validate_inputs(
    prompt_id: str, prompt: dict[str, Any], item: str, validated: dict[str, Any]
) -> Any:
    """Judge a node and its ancestors; see `comfy_execution.validation.validate_inputs`."""
    return await validation.validate_inputs(
        prompt_id, prompt, item, validated, nodes.NODE_CLASS_MAPPINGS
    )


# -- prompts ---------------------------------------------------------------------------------------


class PromptExecutor:
    """Runs one prompt after the other and keeps results between them.

    Attributes:
        server: Whom it tells.
        caches: What is kept.
        cache_type: How.
        cache_args: "lru" and "ram"; see `CacheSet` and `RAMPressureCache.poll`.
        status_messages: Of the last prompt: (event, data), for its history.
        history_result: Of the last prompt: "outputs" and "meta", for its history.
        success: Whether it ran to its end.
    """

    def __init__(
        self,
        server: ExecutorServer,
        cache_type: Any = False,
        cache_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.cache_type = cache_type
        self.cache_args = {**DEFAULT_CACHE_ARGS, **(cache_args or {})}
        self.reset()

    def reset(self) -> None:
        """Forget all results and objects of nodes."""
        self.caches = CacheSet(self.cache_type, self.cache_args)
        self.status_messages: list[tuple[str, dict[str, Any]]] = []
        self.history_result: dict[str, Any] = {}
        self.success = True

    def add_message(self, event: str, data: dict[str, Any], broadcast: bool) -> None:
        """Note what happened, and tell who sent the prompt, or everyone if nobody did."""
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.status_messages.append((event, data))
        if self.server.client_id is not None or broadcast:
            self.server.send_sync(event, data, self.server.client_id)

    def execute(
        self,
        prompt: dict[str, Any],
        prompt_id: str,
        extra_data: Mapping[str, Any] = {},
        execute_outputs: Sequence[str] = (),
    ) -> None:
        """Run a prompt to its end, in an event loop of its own; see `execute_async`."""
        asyncio.run(self.execute_async(prompt, prompt_id, extra_data, execute_outputs))

    async def execute_async(
        self,
        prompt: dict[str, Any],
        prompt_id: str,
        extra_data: Mapping[str, Any] = {},
        execute_outputs: Sequence[str] = (),
    ) -> None:
        """Run a prompt to its end. A node's error is told, never raised.

        Args:
            prompt: Valid for the outputs.
            prompt_id: Its id.
            extra_data: "client_id", "preview_method", and what hidden inputs ask for.
            execute_outputs: Ids of the output nodes to run.
        """
        latent_preview.set_preview_method(extra_data.get("preview_method"))
        comfy.model_management.interrupt_current_processing(False)
        self.server.client_id = extra_data.get("client_id")
        self.server.last_prompt_id = prompt_id
        self.status_messages = []
        self.success = True
        self.add_message("execution_start", {"prompt_id": prompt_id}, broadcast=False)
        dynprompt = DynamicPrompt(prompt, nodes.NODE_CLASS_MAPPINGS)
        state = PromptState(
            self.server,
            dynprompt,
            self.caches,
            extra_data,
            set(),
            prompt_id,
            ExecutionList(dynprompt, self.caches.outputs),
        )
        try:
            with torch.inference_mode():
                await self._run(state, execute_outputs)
        finally:
            for results in state.pending_async_nodes.values():
                await end_tasks(results)
            self.history_result = _history(state.ui_outputs)
            self.server.last_node_id = None
        for cache in self.caches.all:
            cache.clean_unused()
        if comfy.model_management.DISABLE_SMART_MEMORY:
            comfy.model_management.unload_all_models()

    async def _run(self, state: PromptState, execute_outputs: Sequence[str]) -> None:
        try:
            await self._begin(state)
            for node_id in execute_outputs:
                state.execution_list.add_node(node_id)
        except NODE_FAILURES as err:
            # Such as a class whose INPUT_TYPES raises, of a node that no output needs.
            self._fail(state, self._somewhere(state), {}, err)
            return
        while await self._step(state):
            self.caches.outputs.poll(ram_headroom=self.cache_args["ram"])
        if self.success:
            self.add_message("execution_success", {"prompt_id": state.prompt_id}, broadcast=False)

    async def _begin(self, state: PromptState) -> None:
        """Find out what is known of this prompt's nodes from earlier ones."""
        prompt = state.dynprompt.original_prompt
        reset_progress_state(state.prompt_id, state.dynprompt)
        add_progress_handler(WebUIProgressHandler(self.server))
        is_changed = IsChanged(state.prompt_id, state.dynprompt, state.extra_data)
        for cache in self.caches.all:
            await cache.set_prompt(state.dynprompt, prompt, is_changed)
            cache.clean_unused()
        known = [one for one in prompt if self.caches.outputs.get(one) is not None]
        comfy.model_management.cleanup_models_gc()
        data = {"nodes": known, "prompt_id": state.prompt_id}
        self.add_message("execution_cached", data, broadcast=False)

    async def _step(self, state: PromptState) -> bool:
        """Do a step of the node that is next; whether there may be more to do."""
        try:
            node_id = await state.execution_list.next_node()
        except NODE_FAILURES as err:
            self._fail(state, self._somewhere(state, err), {}, err)
            return False
        if node_id is None:
            return False
        result, fields, error = await execute(
            self.server,
            state.dynprompt,
            self.caches,
            node_id,
            state.extra_data,
            state.executed,
            state.prompt_id,
            state.execution_list,
            state.pending_subgraph_results,
            state.pending_async_nodes,
            state.ui_outputs,
        )
        if result == ExecutionResult.FAILURE and error is not None:
            self._fail(state, state.dynprompt.get_real_node_id(node_id), fields or {}, error)
            return False
        if result == ExecutionResult.PENDING:
            state.execution_list.put_back(node_id)
        else:
            state.execution_list.pop_node(node_id)
        return True

    def _somewhere(self, state: PromptState, error: BaseException | None = None) -> str:
        """The node of the user's prompt that an error is told of when no node was running."""
        if isinstance(error, DependencyCycleError):
            # Of a cycle that grew while it ran, the node that made it is to blame.
            real = [state.dynprompt.get_real_node_id(one) for one in error.node_ids]
            grown = (one for one, id_ in zip(real, error.node_ids, strict=True) if one != id_)
            return next(grown, real[0])
        waiting = [*state.execution_list.parked_nodes(), *state.execution_list.pendingNodes]
        known = (*waiting, *state.dynprompt.original_prompt)
        return state.dynprompt.get_real_node_id(known[0]) if known else ""

    def _fail(
        self, state: PromptState, node_id: str, fields: dict[str, Any], error: BaseException
    ) -> None:
        """Tell of an error, or that the user stopped the prompt."""
        if ends_prompt(error):
            raise error
        self.success = False
        node = state.dynprompt.original_prompt.get(node_id, {})
        where = {
            "prompt_id": state.prompt_id,
            "node_id": node_id,
            "node_type": node.get("class_type"),
            "executed": list(state.executed),
        }
        if isinstance(error, comfy.model_management.InterruptProcessingException):
            logger.info("The prompt was stopped at node %s (%s).", node_id, where["node_type"])
            self.add_message("execution_interrupted", where, broadcast=True)
            return
        fields = fields or describe_failure(error, node_id, {})
        logger.error(
            "Node %s (%s) failed: %s",
            node_id,
            where["node_type"],
            fields["exception_message"].strip(),
            exc_info=error,
        )
        known = {"current_outputs": list(self.caches.outputs.all_node_ids())}
        self.add_message("execution_error", {**where, **fields, **known}, broadcast=False)
        # Frames that an error keeps alive would keep their tensors, too.
        forget_frames(error)
        if isinstance(error, comfy.model_management.OOM_EXCEPTION):
            comfy.model_management.unload_all_models()


def _history(ui_outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "outputs": {node_id: shown["output"] for node_id, shown in ui_outputs.items()},
        "meta": {node_id: shown["meta"] for node_id, shown in ui_outputs.items()},
    }
