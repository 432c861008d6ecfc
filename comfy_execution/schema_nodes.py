"""What the executor asks of schema-style nodes; `comfy_api` has the classes behind it.

The executor stands below `comfy_api`, so it knows these two bases and nothing of schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

InputTypes = dict[str, dict[str, Any]]
"""Section ("required", "optional", "hidden") to input name to (type, options)."""

DynamicPaths = dict[str, str]
"""Name of an input in the prompt to the dotted path its value has in the arguments."""


class SchemaNode:
    """Base of every node class that has a schema. Its functions are class methods."""

    FUNCTION: ClassVar[str]

    @classmethod
    def INPUT_TYPES(cls) -> InputTypes:
        """The inputs as a classic node declares them; dynamic ones as one input each."""
        raise NotImplementedError

    @classmethod
    def INPUT_TYPES_FOR(cls, given: Mapping[str, Any]) -> tuple[InputTypes, DynamicPaths]:
        """The inputs that stand in a prompt with these inputs: dynamic ones are spread out.

        Args:
            given: The prompt node's inputs, links and constants.
        """
        raise NotImplementedError

    @classmethod
    def NEST_VALUES(
        cls, values: Mapping[str, Any], paths: DynamicPaths, with_keys: bool = False
    ) -> dict[str, Any]:
        """Arguments of a call: values of dynamic inputs become nested dicts.

        Args:
            values: By name in the prompt.
            paths: As `INPUT_TYPES_FOR` gave them.
            with_keys: Each value of a dynamic input becomes (value, name in the prompt), as
                ``check_lazy_status`` wants it.
        """
        raise NotImplementedError

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: Mapping[str, Any] | None) -> type[SchemaNode]:
        """A locked subclass for one call, with ``hidden`` filled.

        Args:
            v3_data: "hidden_inputs": value by hidden type, such as "UNIQUE_ID".
        """
        raise NotImplementedError


class NodeResult:
    """Base of what schema-style nodes return.

    Attributes:
        args: One value per output.
        ui: For the page: a dict, an object with ``as_dict()``, or None.
        expand: A graph that stands for this node, or None.
        block_execution: Message of a blocker on every output, or None.
    """

    args: tuple[Any, ...]
    ui: Any
    expand: dict[str, Any] | None
    block_execution: str | None

    @property
    def result(self) -> tuple[Any, ...] | None:
        """One value per output, or None if there are none."""
        return self.args or None
