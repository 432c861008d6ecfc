"""Nodes that search texts for patterns, in the language of Python's ``re``."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io
from comfy_extras.texts.string_nodes import schema, text_input

_NONE = re.RegexFlag(0)
_MODES = ("First Match", "All Matches", "First Group", "All Groups")


def pattern(text: str, case_insensitive: bool, multiline: bool, dotall: bool) -> re.Pattern[str]:
    """Compile a pattern.

    Args:
        text: The pattern.
        case_insensitive: Large and small letters are the same.
        multiline: "^" and "$" also stand for begin and end of each line.
        dotall: "." also stands for the end of a line.

    Raises:
        ValueError: It is no pattern.
    """
    flags = re.IGNORECASE if case_insensitive else _NONE
    flags |= re.MULTILINE if multiline else _NONE
    flags |= re.DOTALL if dotall else _NONE
    try:
        return re.compile(text, flags)
    except re.error as err:
        raise ValueError(
            f"The input regex_pattern, {text!r}, is not a regular expression: {err}. Put a "
            "backslash before characters that stand for themselves."
        ) from err


def extracted(compiled: re.Pattern[str], text: str, mode: str, group: int) -> str:
    """What a pattern finds; several finds stand on lines of their own.

    Args:
        mode: "First Match"; "All Matches", the first group of each if the pattern has groups;
            "First Group" or "All Groups", the group with a number in the first or in all matches.
        group: That number; 0 is the whole match. A pattern without it finds nothing.
    """
    matches = list(compiled.finditer(text))
    if mode in ("First Match", "First Group"):
        matches = matches[:1]
    number = group
    if mode == "First Match":
        number = 0
    elif mode == "All Matches":
        number = min(1, compiled.groups)
    if number > compiled.groups:
        return ""
    return "\n".join(match.group(number) or "" for match in matches)


def _how(optional: bool) -> list[Any]:
    defaults = {"case_insensitive": True, "multiline": False, "dotall": False}
    return [
        io.Boolean.Input(name, default=default, optional=optional)
        for name, default in defaults.items()
    ]


class RegexMatch(io.ComfyNode):
    """Whether a pattern is found in a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [text_input("string"), text_input("regex_pattern"), *_how(optional=False)]
        output = io.Boolean.Output(display_name="matches")
        return schema("RegexMatch", "Regex Match", inputs, output)

    @classmethod
    def execute(
        cls,
        string: str,
        regex_pattern: str,
        case_insensitive: bool,
        multiline: bool,
        dotall: bool,
    ) -> io.NodeOutput:
        """See `pattern`."""
        compiled = pattern(regex_pattern, case_insensitive, multiline, dotall)
        return io.NodeOutput(compiled.search(string) is not None)


class RegexExtract(io.ComfyNode):
    """What a pattern finds in a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            text_input("string"),
            text_input("regex_pattern"),
            io.Combo.Input("mode", options=list(_MODES)),
            *_how(optional=False),
            io.Int.Input("group_index", default=1, min=0, max=100),
        ]
        return schema("RegexExtract", "Regex Extract", inputs, io.String.Output())

    @classmethod
    def execute(
        cls,
        string: str,
        regex_pattern: str,
        mode: str,
        case_insensitive: bool,
        multiline: bool,
        dotall: bool,
        group_index: int,
    ) -> io.NodeOutput:
        """See `extracted`."""
        compiled = pattern(regex_pattern, case_insensitive, multiline, dotall)
        return io.NodeOutput(extracted(compiled, string, mode, group_index))


class RegexReplace(io.ComfyNode):
    """Replaces what a pattern finds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            *[text_input(name) for name in ("string", "regex_pattern", "replace")],
            *_how(optional=True),
            io.Int.Input("count", default=0, min=0, max=100, optional=True),
        ]
        return schema("RegexReplace", "Regex Replace", inputs, io.String.Output())

    @classmethod
    def execute(
        cls,
        string: str,
        regex_pattern: str,
        replace: str,
        case_insensitive: bool = True,
        multiline: bool = False,
        dotall: bool = False,
        count: int = 0,
    ) -> io.NodeOutput:
        r"""The first `count` finds, or all if it is 0; ``\1`` in `replace` is the first group.

        Raises:
            ValueError: A pattern or what replaces it is none.
        """
        compiled = pattern(regex_pattern, case_insensitive, multiline, dotall)
        try:
            return io.NodeOutput(compiled.sub(replace, string, count=count))
        except (re.error, IndexError) as err:
            raise ValueError(
                f"The input replace, {replace!r}, cannot stand for what is found: {err}. Write "
                "groups of the pattern as \\1, and a backslash itself as two."
            ) from err
