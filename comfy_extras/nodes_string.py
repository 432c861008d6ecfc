"""Texts: joined, cut, compared, searched."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.texts.regex_nodes import RegexExtract, RegexMatch, RegexReplace
from comfy_extras.texts.string_nodes import (
    CaseConverter,
    StringCompare,
    StringConcatenate,
    StringContains,
    StringLength,
    StringReplace,
    StringSubstring,
    StringTrim,
)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        StringConcatenate,
        StringSubstring,
        StringLength,
        CaseConverter,
        StringTrim,
        StringReplace,
        StringContains,
        StringCompare,
        RegexMatch,
        RegexExtract,
        RegexReplace,
    )
