"""What a node returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.schema_nodes import NodeResult


class NodeOutput(NodeResult):
    """One value per output, and what else comes of a call.

    Attributes:
        args: One value per output.
        ui: For the page: a dict, or an object with ``as_dict()``.
        expand: A graph that stands for this node.
        block_execution: Message of a blocker on every output.
    """

    def __init__(
        self,
        *args: Any,
        ui: Any = None,
        expand: dict[str, Any] | None = None,
        block_execution: str | None = None,
    ) -> None:
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    def __getitem__(self, index: int) -> Any:
        return self.args[index]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NodeOutput:
        """Take a classic node's dict with any of "result", "ui" and "expand".

        Raises:
            TypeError: If the result is neither values in a row nor a blocker.
        """
        result = data.get("result")
        if isinstance(result, ExecutionBlocker):
            return cls(ui=data.get("ui"), block_execution=result.message or "")
        if isinstance(result, NodeResult):
            result = result.args
        if result is not None and not isinstance(result, (tuple, list)):
            raise TypeError(
                f'A node returned {type(result).__name__} as "result". Return a tuple with one '
                "value per output."
            )
        return cls(*(result or ()), ui=data.get("ui"), expand=data.get("expand"))


def normalized(returned: Any, node_id: str, outputs: int) -> NodeOutput:
    """Whatever ``execute`` may return as a NodeOutput.

    Args:
        returned: A NodeOutput, tuple, classic dict, blocker or None.
        node_id: Of the node, for the error.
        outputs: Their number; a blocker stands on each.

    Raises:
        TypeError: If it is anything else.
    """
    if isinstance(returned, NodeOutput):
        return returned
    if returned is None:
        return NodeOutput()
    if isinstance(returned, tuple):
        return NodeOutput(*returned)
    if isinstance(returned, ExecutionBlocker):
        return NodeOutput(*[returned] * outputs)
    if isinstance(returned, dict):
        if isinstance(returned.get("result"), ExecutionBlocker):
            returned = {**returned, "result": [returned["result"]] * outputs}
        return NodeOutput.from_dict(returned)
    raise TypeError(
        f"Node {node_id!r} returned {type(returned).__name__}. Return a NodeOutput, a tuple, a "
        "dict, an ExecutionBlocker or None."
    )
