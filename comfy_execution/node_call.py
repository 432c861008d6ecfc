"""Calling a node: its arguments, one call per list element, and what comes back."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import comfy.model_management
from comfy_execution.graph_utils import ExecutionBlocker, is_link
from comfy_execution.inputs import get_input_info, input_types_of, is_schema_class
from comfy_execution.utils import INTERRUPT_INTERVAL_S, CurrentNodeContext

ABSENT = (None,)
"""The argument list of an input whose value is not there (yet)."""

SECRETS = {
    "AUTH_TOKEN_COMFY_ORG": "auth_token_comfy_org",
    "API_KEY_COMFY_ORG": "api_key_comfy_org",
}
"""Keys of a prompt's extra data that nobody but the nodes may see, by type of hidden input."""

Arguments = dict[str, Any]
"""By name the list of values that calls get, one element each."""


# -- arguments -------------------------------------------------------------------------------------


def get_input_data(
    inputs: Mapping[str, Any],
    class_def: Any,
    unique_id: str,
    execution_list: Any = None,
    dynprompt: Any = None,
    extra_data: Mapping[str, Any] = {},
) -> tuple[Arguments, dict[str, tuple[None]], dict[str, Any]]:
    """Collect the arguments of a node.

    Args:
        inputs: The prompt node's inputs, constants and links.
        class_def: The node's class.
        unique_id: The node's id.
        execution_list: Has the results of nodes that ran; None leaves all links open.
        dynprompt: The prompt, for hidden inputs.
        extra_data: The prompt's extra data, for hidden inputs.

    Returns:
        The argument lists; those of links that have no value yet, as ``(None,)`` each; and for
        schema-style nodes "hidden_inputs" by type and "dynamic_paths".
    """
    types, paths = input_types_of(class_def, inputs)
    has_schema = is_schema_class(class_def)
    arguments: Arguments = {}
    missing: dict[str, tuple[None]] = {}
    for name, value in inputs.items():
        _, section, options = get_input_info(class_def, name, types)
        if is_link(value) and not (options and options.get("rawLink")):
            values = _linked(value, unique_id, execution_list)
            arguments[name] = ABSENT if values is None else values
            if values is None:
                missing[name] = ABSENT
        elif section is not None and not (has_schema and section == "hidden"):
            arguments[name] = [value]
    hidden = _hidden_values(types.get("hidden") or {}, unique_id, dynprompt, extra_data)
    if has_schema:
        by_type = {kind: value for _, kind, value in hidden}
        return arguments, missing, {"hidden_inputs": by_type, "dynamic_paths": paths}
    arguments.update({name: [value] for name, _, value in hidden})
    return arguments, missing, {}


def _linked(link: list[Any], unique_id: str, execution_list: Any) -> list[Any] | None:
    """The values of a link; None if the node has not run, or has no such slot."""
    if execution_list is None:
        return None
    entry = execution_list.get_cache(link[0], unique_id)
    slot = int(link[1])
    if entry is None or entry.outputs is None or not 0 <= slot < len(entry.outputs):
        return None
    values: list[Any] = entry.outputs[slot]
    return values


def _hidden_values(
    declared: Mapping[str, Any], unique_id: str, dynprompt: Any, extra_data: Mapping[str, Any]
) -> list[tuple[str, str, Any]]:
    """Name, type and value of each hidden input whose type says what it is."""
    found: list[tuple[str, str, Any]] = []
    for name, kind in declared.items():
        if kind == "PROMPT":
            found.append((name, kind, {} if dynprompt is None else dynprompt.original_prompt))
        elif kind == "DYNPROMPT":
            found.append((name, kind, dynprompt))
        elif kind == "EXTRA_PNGINFO":
            found.append((name, kind, extra_data.get("extra_pnginfo")))
        elif kind == "UNIQUE_ID":
            found.append((name, kind, unique_id))
        elif isinstance(kind, str) and kind in SECRETS:
            found.append((name, kind, extra_data.get(SECRETS[kind])))
    return found


# -- calls -----------------------------------------------------------------------------------------


async def call_over_lists(
    prompt_id: str,
    unique_id: str,
    obj: Any,
    input_data_all: Arguments,
    func: str,
    allow_interrupt: bool = False,
    execution_block_cb: Callable[[ExecutionBlocker], Any] | None = None,
    pre_execute_cb: Callable[[int], None] | None = None,
    v3_data: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Call a node's function for each element of its argument lists.

    Args:
        prompt_id, unique_id: Of the prompt and the node, for the executing context.
        obj: An instance, or the class for class methods.
        input_data_all: The argument lists; of shorter ones the last element is used again.
            ``INPUT_IS_LIST``: one call, with whole lists.
        func: Name of the function; it may be async.
        allow_interrupt: Ask before each call whether the user wants to stop.
        execution_block_cb: Makes a call's result of a blocker among its arguments.
        pre_execute_cb: Gets the call's number before it is made.
        v3_data: See `get_input_data`.

    Returns:
        Per call what the function returned, or its task if it did not end at once.

    Raises:
        InterruptProcessingException: The user wants to stop.
        ValueError: A list is empty, another is not.
    """
    call = _bound(obj, func, v3_data or {})
    takes_lists = bool(getattr(obj, "INPUT_IS_LIST", False))
    results: list[Any] = []
    try:
        for index, arguments in enumerate(_slices(input_data_all, takes_lists)):
            if allow_interrupt:
                comfy.model_management.throw_exception_if_processing_interrupted()
            blocker = _blocker_in(arguments, takes_lists)
            if blocker is not None:
                results.append(execution_block_cb(blocker) if execution_block_cb else blocker)
                continue
            if pre_execute_cb is not None:
                pre_execute_cb(index)
            with CurrentNodeContext(prompt_id, unique_id, index):
                results.append(_started(call, arguments))
        return await _settled(results)
    except BaseException:
        cancel_tasks(results)
        raise


def _bound(obj: Any, func: str, v3_data: Mapping[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """A function of one call's arguments."""
    if not is_schema_class(obj):
        function = getattr(obj, func)
        return lambda arguments: function(**arguments)
    node_class: Any = obj if inspect.isclass(obj) else type(obj)
    function = getattr(node_class.PREPARE_CLASS_CLONE(v3_data), func)
    paths = v3_data.get("dynamic_paths") or {}
    with_keys = func == "check_lazy_status"
    return lambda arguments: function(**node_class.NEST_VALUES(arguments, paths, with_keys))


def _slices(arguments: Arguments, takes_lists: bool) -> list[dict[str, Any]]:
    """The arguments of each call."""
    if takes_lists:
        return [dict(arguments)]
    count = max((len(values) for values in arguments.values()), default=0)
    if count == 0:
        return [{}]
    if count == 1 and all(arguments.values()):
        return [{name: values[0] for name, values in arguments.items()}]
    empty = [name for name, values in arguments.items() if not values]
    if empty:
        raise ValueError(
            f"The input {empty[0]!r} got an empty list where other inputs have {count} values. "
            "Give it at least one value, or disconnect it."
        )
    return [
        {name: values[min(index, len(values) - 1)] for name, values in arguments.items()}
        for index in range(count)
    ]


def _blocker_in(arguments: dict[str, Any], takes_lists: bool) -> ExecutionBlocker | None:
    for value in arguments.values():
        for one in value if takes_lists else (value,):
            if isinstance(one, ExecutionBlocker):
                return one
    return None


def _started(call: Callable[[dict[str, Any]], Any], arguments: dict[str, Any]) -> Any:
    """What a call returned, or the task of an async one."""
    result = call(arguments)
    return asyncio.ensure_future(result) if inspect.isawaitable(result) else result


async def _settled(results: list[Any]) -> list[Any]:
    """Let tasks run once: those that never wait are done then, and their results take their place."""
    if not any(map(is_pending, results)):
        return results
    await asyncio.sleep(0)
    return [
        result.result() if is_pending(result) and result.done() else result for result in results
    ]


def is_pending(result: Any) -> TypeGuard[asyncio.Future[Any]]:
    """Whether a call's result is still its task."""
    return isinstance(result, asyncio.Future)


def cancel_tasks(results: list[Any]) -> None:
    """End the calls that still run."""
    for result in filter(is_pending, results):
        result.cancel()


async def end_tasks(results: list[Any]) -> None:
    """Cancel the calls that still run, and let them clean up."""
    cancel_tasks(results)
    await asyncio.gather(*filter(is_pending, results), return_exceptions=True)


async def wait_for_results(results: list[Any], allow_interrupt: bool = False) -> list[Any]:
    """Wait for calls that have not ended; if one fails the others are cancelled.

    Args:
        results: See `call_over_lists`.
        allow_interrupt: Ask meanwhile whether the user wants to stop.

    Raises:
        InterruptProcessingException: The user wants to stop.
        Exception: What the first call that failed raised.
        CancelledError: A call cancelled itself.
    """
    tasks = [result for result in results if is_pending(result)]
    try:
        await _until_done(tasks, allow_interrupt)
    except BaseException:
        await end_tasks(tasks)
        raise
    return [result.result() if is_pending(result) else result for result in results]


async def _until_done(tasks: list[asyncio.Future[Any]], allow_interrupt: bool) -> None:
    """Wait for tasks; what the first of them that fails raises is raised at once."""
    waiting = set(tasks)
    while waiting:
        if allow_interrupt:
            comfy.model_management.throw_exception_if_processing_interrupted()
        # A task that cancels itself is no exception to it, so that it must not wait for ever.
        done, waiting = await asyncio.wait(
            waiting, timeout=INTERRUPT_INTERVAL_S, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in tasks:
            if task in done:
                task.result()
