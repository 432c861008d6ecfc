"""Files with the graph they came from inside, written whole or not at all."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy import unfinished
from comfy.cli_args import args

logger = logging.getLogger(__name__)

_LONGEST_PNG_NAME = 79


def graph_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """JSON of the graph as "prompt", and of each further entry; empty under --disable-metadata."""
    if args.disable_metadata:
        return {}
    found = {} if prompt is None else {"prompt": strict_json(prompt)}
    return found | {key: strict_json(value) for key, value in (extra_pnginfo or {}).items()}


def strict_json(value: Any) -> str:
    """JSON that pages can read: NaN and infinities, for which it has no word, become null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def png_texts(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> dict[str, str]:
    """What of `graph_metadata` a PNG takes; an entry whose name it cannot hold is told and left out.

    The picture took a while to compute, and is worth more than the entry.
    """
    found = graph_metadata(prompt, extra_pnginfo)
    for name in [name for name in found if not _is_png_name(name)]:
        logger.warning(
            "The entry %r of the prompt's extra_pnginfo is not written into the picture: names in "
            "a PNG have 1 to 79 Latin-1 signs. Choose another name.",
            name,
        )
        del found[name]
    return found


def _is_png_name(name: str) -> bool:
    try:
        return 0 < len(name.encode("latin-1")) <= _LONGEST_PNG_NAME and "\0" not in name
    except UnicodeEncodeError:
        return False


def png_metadata(prompt: Any, extra_pnginfo: Mapping[str, Any] | None) -> PngInfo | None:
    """Text chunks that hold the graph; None under --disable-metadata."""
    if args.disable_metadata:
        return None
    found = PngInfo()
    for key, text in png_texts(prompt, extra_pnginfo).items():
        found.add_text(key, text)
    return found


def to_pillow(image: torch.Tensor) -> Image.Image:
    """One picture, (height, width, 3 or 4), 0 to 1, as 8-bit."""
    return Image.fromarray((image.cpu().float().numpy() * 255.0).clip(0, 255).astype(np.uint8))


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """A path to write to whose file appears at `path` when the block ends without an error.

    It ends as `path` does, for writers that go by that.
    """
    with unfinished.beside(str(path), path.suffix) as name:
        yield Path(name)
        # mkstemp allows nobody else to read; a picture gets what the user's mask gives.
        os.chmod(name, unfinished.new_file_mode())
        os.replace(name, path)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that appears at `path` when the block ends without an error."""
    with whole_path(path) as temporary, temporary.open("w+b") as file:
        yield file


def write_png(image: Image.Image, path: Path, pnginfo: PngInfo | None, compress_level: int) -> None:
    """Write a PNG that is whole or not there."""
    with whole_file(path) as file:
        image.save(file, format="PNG", pnginfo=pnginfo, compress_level=compress_level)
