"""What nodes of several text fields share: their inputs, and tokens put together."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from node_helpers import MAX_RESOLUTION


def text_input(name: str) -> Any:
    """A field for a prompt."""
    return io.String.Input(name, multiline=True, dynamic_prompts=True)


def side_input(name: str, default: int) -> Any:
    """An input for a size or place in pixels that a model is told."""
    return io.Int.Input(name, default=default, min=0, max=MAX_RESOLUTION)


def tokens_of(clip: Any, texts: dict[str, str], node: str) -> dict[str, Any]:
    """Tokens with a text of its own for each encoder named, the first text for all others.

    Args:
        clip: A CLIP.
        texts: Text by the encoder's name, such as "l", "g" or "t5xxl".
        node: For the message.

    Raises:
        ValueError: The CLIP has no encoder of one of the names.
    """
    first = next(iter(texts.values()))
    tokens: dict[str, Any] = dict(clip.tokenize(first))
    for name, text in texts.items():
        if name not in tokens:
            raise ValueError(
                f"{node} encodes a text for the text encoder {name!r}, but this CLIP has only "
                f"{sorted(tokens)}. Load the CLIP with the encoders that its model was trained "
                "with, or use CLIPTextEncode."
            )
        if text != first:
            tokens[name] = clip.tokenize(text)[name]
    return tokens


def pad_to_equal(clip: Any, tokens: dict[str, Any], names: tuple[str, ...]) -> None:
    """Give encoders equally many chunks of tokens, in place, by empty prompts at the end."""
    longest = max(len(tokens[name]) for name in names)
    empty = clip.tokenize("")
    for name in names:
        while len(tokens[name]) < longest:
            tokens[name] = [*tokens[name], *empty[name]]
