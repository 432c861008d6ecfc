"""The syntax of weights in prompts.

``(text)`` weighs 1.1 times what is around it, ``(text:1.3)`` weighs 1.3 whatever is around it,
groups nest, ``\\(`` and ``\\)`` are parentheses without meaning. A parenthesis that has no
partner is text, too.
"""

from __future__ import annotations

import math

EMPHASIS = 1.1

# What stands for an escaped parenthesis; neither occurs in a prompt.
_ESCAPES = {"\\)": "\0\1", "\\(": "\0\2"}


def escape_important(text: str) -> str:
    r"""Replace ``\(`` and ``\)`` by marks that `token_weights` takes for text."""
    for escaped, mark in _ESCAPES.items():
        text = text.replace(escaped, mark)
    return text


def unescape_important(text: str) -> str:
    """Replace the marks of `escape_important` by plain parentheses."""
    for escaped, mark in _ESCAPES.items():
        text = text.replace(mark, escaped[-1])
    return text


def token_weights(string: str, current_weight: float) -> list[tuple[str, float]]:
    """Split a prompt into segments of one weight.

    Args:
        string: May hold marks of `escape_important`; they are left as they are.
        current_weight: Of what is in no parentheses.

    Returns:
        (text, weight) in order; texts are not empty.
    """
    partner = _partners(string)
    segments: list[tuple[str, float]] = []
    # A stack, not recursion: prompts may nest without limit.
    spans = [(0, len(string), current_weight)]
    while spans:
        start, end, weight = spans.pop()
        opening = next((place for place in range(start, end) if place in partner), end)
        if opening > start:
            segments.append((string[start:opening], weight))
        if opening < end:
            closing = partner[opening]
            spans.append((closing + 1, end, weight))
            spans.append((opening + 1, *_group(string, opening + 1, closing, weight)))
    return segments


def parse_prompt(text: str) -> list[tuple[str, float]]:
    """Split a prompt as a user types it: escapes become parentheses; see `token_weights`."""
    weighted = token_weights(escape_important(text), 1.0)
    return [(unescape_important(segment), weight) for segment, weight in weighted]


def _partners(text: str) -> dict[int, int]:
    """The place of each opening parenthesis that is closed, and of the one that closes it."""
    partner: dict[int, int] = {}
    waiting: list[int] = []
    for place, char in enumerate(text):
        if char == "(":
            waiting.append(place)
        elif char == ")" and waiting:
            partner[waiting.pop()] = place
    return partner


def _group(text: str, start: int, end: int, outside: float) -> tuple[int, float]:
    """Where the text of a group ends, and its weight."""
    colon = text.rfind(":", start, end)
    if colon > start:
        try:
            weight = float(text[colon + 1 : end])
        except ValueError:  # the colon belongs to the text
            weight = math.nan
        if math.isfinite(weight):
            return colon, weight
    return end, outside * EMPHASIS
