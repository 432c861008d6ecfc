"""DynamicPrompt: the nodes of a prompt, and those that its nodes put in their own place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.inputs import input_types_of, is_schema_class


class NodeNotFoundError(Exception):
    """A link or a caller names a node that is not in the prompt, or whose class is not known."""


class DynamicPrompt:
    """A prompt that grows while it runs.

    Attributes:
        original_prompt: What the user sent; only ``is_changed`` is written to it.
        ephemeral_prompt: Nodes that expansions added, by id.
        ephemeral_parents: Id of the node that was expanded, by id of the added one.
        ephemeral_display: Id of the node in whose place an added one is shown.
        classes: Node class by class_type; empty where nobody told.
        signatures: What `comfy_execution.cache_keys` worked out for this prompt, by node id.
    """

    def __init__(
        self, original_prompt: Mapping[str, Any], classes: Mapping[str, Any] | None = None
    ) -> None:
        self.original_prompt = original_prompt
        self.ephemeral_prompt: dict[str, Any] = {}
        self.ephemeral_parents: dict[str, str] = {}
        self.ephemeral_display: dict[str, str] = {}
        self.classes: Mapping[str, Any] = {} if classes is None else classes
        self.signatures: dict[str, Any] = {}
        self._types_of_class: dict[Any, Any] = {}
        self._real: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def get_node(self, node_id: str) -> dict[str, Any]:
        """The node as it stands in the prompt.

        Raises:
            NodeNotFoundError: There is none of that id.
        """
        node = self.ephemeral_prompt.get(node_id)
        if node is None:
            node = self.original_prompt.get(node_id)
        if node is None:
            raise NodeNotFoundError(
                f"There is no node {node_id!r} in the prompt. Check the links that name it."
            )
        found: dict[str, Any] = node
        return found

    def has_node(self, node_id: str) -> bool:
        """Whether a node is there, sent or added."""
        return node_id in self.original_prompt or node_id in self.ephemeral_prompt

    def add_ephemeral_node(
        self, node_id: str, node_info: dict[str, Any], parent_id: str, display_id: str
    ) -> None:
        """Add a node that stands for (a part of) another one, or replace it.

        Args:
            node_id: Its id.
            node_info: The node as it stands in a prompt.
            parent_id: The node that is expanded.
            display_id: The node in whose place it is shown.
        """
        self.ephemeral_prompt[node_id] = node_info
        self.signatures.pop(node_id, None)
        self.ephemeral_parents[node_id] = parent_id
        self.ephemeral_display[node_id] = display_id
        # Noted when it is added: expansions may be nested thousands deep.
        self._real[node_id] = self.get_real_node_id(parent_id)
        self._shown[node_id] = self.get_display_node_id(display_id)

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the original prompt that an added one came from; others are their own."""
        return self._real.get(node_id, node_id)

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node whose expansion added this one; None if the user sent it."""
        return self.ephemeral_parents.get(node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node that the page knows, where this one is shown."""
        return self._shown.get(node_id, node_id)

    def all_node_ids(self) -> set[str]:
        """Ids of all nodes, sent and added."""
        return {*self.original_prompt, *self.ephemeral_prompt}

    def get_original_prompt(self) -> Mapping[str, Any]:
        """What the user sent."""
        return self.original_prompt

    def known_class_of(self, node_id: str) -> Any:
        """The class of a node; None if it is not installed, or classes are not known.

        Raises:
            NodeNotFoundError: There is no such node.
        """
        return self.classes.get(self.get_node(node_id)["class_type"])

    def class_of(self, node_id: str) -> Any:
        """The class of a node.

        Raises:
            NodeNotFoundError: There is no such node, or its class is not installed.
        """
        node_class = self.known_class_of(node_id)
        if node_class is None:
            class_type = self.get_node(node_id)["class_type"]
            raise NodeNotFoundError(
                f"The node {node_id!r} is of the class {class_type!r}, which is not installed. "
                "Install the pack that brings it."
            )
        return node_class

    def input_types(self, node_id: str) -> Mapping[str, Any]:
        """Sections of a node's declared inputs; empty where classes are not known.

        A classic class is asked once per prompt: its declarations decide here only what is lazy.
        """
        node_class = self.known_class_of(node_id)
        if node_class is None:
            return {}
        if is_schema_class(node_class):
            return input_types_of(node_class, self.get_node(node_id).get("inputs") or {})[0]
        if node_class not in self._types_of_class:
            self._types_of_class[node_class] = node_class.INPUT_TYPES()
        types: Mapping[str, Any] = self._types_of_class[node_class]
        return types
