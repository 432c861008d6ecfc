"""Prompts as chunks of tokens, of the length that a text encoder reads.

A chunk is start, up to `max_length` - 2 tokens, end, padding. A prompt that is longer goes on in
the next chunk; the encodings are joined afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Token = tuple[Any, float, int]
"""An id, or a vector of a textual inversion; its weight; the number of its word, 0 for markers."""


@dataclass(frozen=True)
class ChunkFormat:
    """What a text encoder expects.

    Attributes:
        start: First token of a chunk.
        end: After the last token of the prompt's part.
        pad: Fills the rest.
        max_length: Tokens in a chunk.
        max_word_length: A word with at least as many tokens may be parted between chunks.
    """

    start: int
    end: int
    pad: int
    max_length: int = 77
    max_word_length: int = 8


def chunks_of(words: Sequence[Sequence[Token]], form: ChunkFormat) -> list[list[Token]]:
    """Lay words into chunks; short ones are not parted.

    Args:
        words: Of one prompt, in order.
        form: Of the chunks.

    Returns:
        At least one chunk, each of `form.max_length` tokens.
    """
    room = form.max_length - 2
    contents: list[list[Token]] = [[]]
    for word in words:
        rest = list(word)
        while len(contents[-1]) + len(rest) > room:
            # A word longer than a chunk has to be parted, whatever `max_word_length` says.
            fits = room - len(contents[-1])
            taken = fits if len(word) >= min(form.max_word_length, room + 1) else 0
            contents[-1].extend(rest[:taken])
            rest = rest[taken:]
            contents.append([])
        contents[-1].extend(rest)
    return [_closed(content, form) for content in contents]


def _closed(content: list[Token], form: ChunkFormat) -> list[Token]:
    chunk = [(form.start, 1.0, 0), *content, (form.end, 1.0, 0)]
    return chunk + [(form.pad, 1.0, 0)] * (form.max_length - len(chunk))
