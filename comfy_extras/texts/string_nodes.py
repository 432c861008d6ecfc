"""Nodes that join, cut, change and compare texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

_CATEGORY = "utils/string"

_CASES: dict[str, Callable[[str], str]] = {
    "UPPERCASE": str.upper,
    "lowercase": str.lower,
    "Capitalize": str.capitalize,
    "Title Case": str.title,
}
_TRIMS: dict[str, Callable[[str], str]] = {
    "Both": str.strip,
    "Left": str.lstrip,
    "Right": str.rstrip,
}
_COMPARISONS: dict[str, Callable[[str, str], bool]] = {
    "Starts With": str.startswith,
    "Ends With": str.endswith,
    "Equal": str.__eq__,
}


def text_input(name: str) -> io.String.Input:
    """A text of several lines."""
    return io.String.Input(name, multiline=True)


def schema(node_id: str, display_name: str, inputs: list[Any], output: Any) -> io.Schema:
    """A node of this category with one output."""
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=_CATEGORY,
        inputs=inputs,
        outputs=[output],
    )


def _case_sensitive() -> io.Boolean.Input:
    return io.Boolean.Input("case_sensitive", default=True)


class StringConcatenate(io.ComfyNode):
    """Joins two texts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            text_input("string_a"),
            text_input("string_b"),
            io.String.Input("delimiter", default=""),
        ]
        return schema("StringConcatenate", "Concatenate", inputs, io.String.Output())

    @classmethod
    def execute(cls, string_a: str, string_b: str, delimiter: str) -> io.NodeOutput:
        """With `delimiter` between them."""
        return io.NodeOutput(f"{string_a}{delimiter}{string_b}")


class StringSubstring(io.ComfyNode):
    """Takes a part of a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input("string"), io.Int.Input("start"), io.Int.Input("end")]
        return schema("StringSubstring", "Substring", inputs, io.String.Output())

    @classmethod
    def execute(cls, string: str, start: int, end: int) -> io.NodeOutput:
        """From `start` to before `end`, counted from 0; negative ones count from the end."""
        return io.NodeOutput(string[start:end])


class StringLength(io.ComfyNode):
    """Counts characters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        output = io.Int.Output(display_name="length")
        return schema("StringLength", "Length", [text_input("string")], output)

    @classmethod
    def execute(cls, string: str) -> io.NodeOutput:
        """All of them, also spaces and ends of lines."""
        return io.NodeOutput(len(string))


class CaseConverter(io.ComfyNode):
    """Makes letters large or small."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input("string"), io.Combo.Input("mode", options=list(_CASES))]
        return schema("CaseConverter", "Case Converter", inputs, io.String.Output())

    @classmethod
    def execute(cls, string: str, mode: str) -> io.NodeOutput:
        """As Python does."""
        return io.NodeOutput(_CASES[mode](string))


class StringTrim(io.ComfyNode):
    """Removes spaces and ends of lines around a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input("string"), io.Combo.Input("mode", options=list(_TRIMS))]
        return schema("StringTrim", "Trim", inputs, io.String.Output())

    @classmethod
    def execute(cls, string: str, mode: str) -> io.NodeOutput:
        """At one end or both."""
        return io.NodeOutput(_TRIMS[mode](string))


class StringReplace(io.ComfyNode):
    """Replaces parts of a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input(name) for name in ("string", "find", "replace")]
        return schema("StringReplace", "Replace", inputs, io.String.Output())

    @classmethod
    def execute(cls, string: str, find: str, replace: str) -> io.NodeOutput:
        """Wherever `find` stands."""
        return io.NodeOutput(string.replace(find, replace))


class StringContains(io.ComfyNode):
    """Whether a text has another in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input("string"), text_input("substring"), _case_sensitive()]
        output = io.Boolean.Output(display_name="contains")
        return schema("StringContains", "Contains", inputs, output)

    @classmethod
    def execute(cls, string: str, substring: str, case_sensitive: bool) -> io.NodeOutput:
        """An empty text is in every text."""
        if not case_sensitive:
            string, substring = string.lower(), substring.lower()
        return io.NodeOutput(substring in string)


class StringCompare(io.ComfyNode):
    """Whether two texts are equal, or one begins or ends with the other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            text_input("string_a"),
            text_input("string_b"),
            io.Combo.Input("mode", options=list(_COMPARISONS)),
            _case_sensitive(),
        ]
        return schema("StringCompare", "Compare", inputs, io.Boolean.Output())

    @classmethod
    def execute(
        cls, string_a: str, string_b: str, mode: str, case_sensitive: bool
    ) -> io.NodeOutput:
        """`string_a` begins or ends with `string_b`, or equals it."""
        if not case_sensitive:
            string_a, string_b = string_a.lower(), string_b.lower()
        return io.NodeOutput(_COMPARISONS[mode](string_a, string_b))
