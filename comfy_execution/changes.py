"""IsChanged: what nodes say of changes that their inputs do not show, such as a file's content."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from comfy.interrupts import InterruptProcessingException
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.inputs import is_schema_class
from comfy_execution.node_call import call_over_lists, get_input_data, wait_for_results
from comfy_execution.prompts import DynamicPrompt

logger = logging.getLogger(__name__)

_KEY = "is_changed"


class IsChanged:
    """Asks each node of a prompt once. Nodes see their constants; links are None to them."""

    def __init__(
        self, prompt_id: str, dynprompt: DynamicPrompt, extra_data: Mapping[str, Any] | None = None
    ) -> None:
        self.prompt_id = prompt_id
        self.dynprompt = dynprompt
        self.extra_data = {} if extra_data is None else extra_data
        self._answers: dict[str, Any] = {}

    async def get(self, node_id: str) -> Any:
        """What goes into the node's key.

        Returns:
            False if its class has no such function; what the prompt gives as "is_changed"; else
            the list of what the calls returned, which is written to the prompt if JSON can hold
            it. A function that raises is logged and counts as NaN: the node runs always.

        Raises:
            InterruptProcessingException: The user wants to stop.
        """
        if node_id not in self._answers:
            self._answers[node_id] = await self._ask(node_id)
        return self._answers[node_id]

    async def _ask(self, node_id: str) -> Any:
        node = self.dynprompt.get_node(node_id)
        node_class = self.dynprompt.known_class_of(node_id)
        name = _function_of(node_class)
        if name is None:
            return False
        if _KEY in node:
            return node[_KEY]
        try:
            answer = await self._call(node_id, node, node_class, name)
        except InterruptProcessingException:
            raise
        except Exception as err:  # noqa: BLE001 - a pack's function; the node just runs again
            logger.warning("%s of node %s failed, so it runs again: %s", name, node_id, err)
            return math.nan
        if _fits_json(answer):
            node[_KEY] = answer
        return answer

    async def _call(self, node_id: str, node: Any, node_class: Any, name: str) -> list[Any]:
        arguments, _, v3_data = get_input_data(
            node.get("inputs") or {}, node_class, node_id, None, self.dynprompt, self.extra_data
        )
        results = await wait_for_results(
            await call_over_lists(
                self.prompt_id, node_id, node_class, arguments, name, v3_data=v3_data
            ),
            allow_interrupt=True,
        )
        return [None if isinstance(one, ExecutionBlocker) else one for one in results]


def _function_of(node_class: Any) -> str | None:
    """Name of the function that a class has for this, or None."""
    if node_class is None:
        return None
    name = "fingerprint_inputs" if is_schema_class(node_class) else "IS_CHANGED"
    return name if hasattr(node_class, name) else None


def _fits_json(answer: Any) -> bool:
    """Whether the prompt can still be written to a history or a picture with it."""
    try:
        json.dumps(answer, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
