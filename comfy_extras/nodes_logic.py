"""Choices: which of two branches runs, and one of the user's own list."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension


class SwitchNode(io.ComfyNode):
    """Gives one of two values; the other's branch does not run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        template = io.MatchType.Template("switch")
        return io.Schema(
            node_id="ComfySwitchNode",
            display_name="Switch",
            category="logic",
            is_experimental=True,
            inputs=[
                io.Boolean.Input("switch"),
                io.MatchType.Input("on_false", template=template, lazy=True),
                io.MatchType.Input("on_true", template=template, lazy=True),
            ],
            outputs=[io.MatchType.Output(template=template, display_name="output")],
        )

    @classmethod
    def check_lazy_status(
        cls, switch: bool, on_false: Any = None, on_true: Any = None
    ) -> list[str]:
        """Ask for the chosen value, if it is not there yet."""
        name, value = ("on_true", on_true) if switch else ("on_false", on_false)
        return [name] if value is None else []

    @classmethod
    def execute(cls, switch: bool, on_false: Any = None, on_true: Any = None) -> io.NodeOutput:
        """The chosen value."""
        return io.NodeOutput(on_true if switch else on_false)


class CustomComboNode(io.ComfyNode):
    """A choice among texts that the user writes on the page."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="CustomCombo",
            display_name="Custom Combo",
            category="utils",
            is_experimental=True,
            inputs=[io.Combo.Input("choice", options=[])],
            outputs=[io.String.Output()],
        )

    @classmethod
    def validate_inputs(cls, choice: str) -> bool:
        """Any text will do: only the page knows the list."""
        return True

    @classmethod
    def execute(cls, choice: str) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(choice)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(SwitchNode, CustomComboNode)
