"""Textual inversions: vectors in a file that stand for words of a prompt, ``embedding:name``.

A file is a safetensors file or a pickled one. Its vectors lie under the key of their text encoder
(``clip_l``, ``clip_g``), under ``string_to_param`` as training tools of Stable Diffusion 1 write
it, or under any one key.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

import comfy.utils

logger = logging.getLogger(__name__)

IDENTIFIER = "embedding:"
EXTENSIONS = (".safetensors", ".pt", ".bin")

Directories = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None


def expand_directory_list(directories: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Each directory and all below it, sorted; links to directories are followed once."""
    found: set[str] = set()
    entered: set[str] = set()
    for top in directories:
        for folder, children, _ in os.walk(os.fspath(top), followlinks=True):
            real = os.path.realpath(folder)
            if real in entered:
                children.clear()
                continue
            entered.add(real)
            found.add(folder)
    return sorted(found)


def find_embedding(name: str, directories: Directories) -> str | None:
    """Find the file of an embedding.

    Args:
        name: With or without extension, perhaps with a folder below the directories.
        directories: Searched in order, then all folders below them.

    Returns:
        Its path, or None. A name that leads out of a directory finds nothing there.
    """
    tops = _as_list(directories)
    for folder in (*tops, *expand_directory_list(tops)):
        path = _inside(folder, name)
        if path is not None:
            return path
    return None


def _as_list(directories: Directories) -> list[str]:
    if directories is None:
        return []
    if isinstance(directories, (str, os.PathLike)):
        return [os.fspath(directories)]
    return [os.fspath(directory) for directory in directories]


def _inside(folder: str, name: str) -> str | None:
    folder = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(folder, name))
    try:
        below = os.path.commonpath([folder, path]) == folder
    except ValueError:  # another drive
        below = False
    if not below or "\0" in name:
        return None
    candidates = (path, *(path + extension for extension in EXTENSIONS))
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def load_embed(
    embedding_name: str,
    embedding_directory: Directories,
    embedding_size: int | None,
    embed_key: str | None = None,
) -> torch.Tensor | None:
    """Load the vectors of an embedding.

    Args:
        embedding_name: See `find_embedding`.
        embedding_directory: One or several.
        embedding_size: Width of the text encoder; None takes vectors of any width.
        embed_key: Key under which files for several encoders keep this one's vectors.

    Returns:
        Shape (vectors, width), float32, host memory of its own; None if there is no such file or
        nothing in it fits, or it cannot be read: a warning names it.
    """
    path = find_embedding(embedding_name, embedding_directory)
    if path is None:
        return None
    try:
        content = comfy.utils.load_torch_file(path, safe_load=True)
    except (OSError, ValueError, RuntimeError, EOFError) as err:
        logger.warning("embedding '%s' cannot be read, it is left out: %s", embedding_name, err)
        return None
    tensors = list(_vectors(content, embed_key))
    fitting = [t for t in tensors if embedding_size is None or t.shape[-1] == embedding_size]
    if not fitting:
        widths = sorted({tensor.shape[-1] for tensor in tensors})
        logger.warning(
            "embedding '%s' (%s) has vectors of width %s, this text encoder needs %s; it is left "
            "out. It was made for another kind of model.",
            embedding_name,
            path,
            widths or "none",
            embedding_size,
        )
        return None
    chosen = fitting[0].detach()
    return chosen.reshape(-1, chosen.shape[-1]).to(device="cpu", dtype=torch.float32, copy=True)


def _vectors(content: Any, embed_key: str | None) -> Iterator[torch.Tensor]:
    """The tensors of an embedding file that are vectors or lists of them, the best choice first."""
    if isinstance(content, torch.Tensor):
        if content.dim() in (1, 2) and content.is_floating_point():
            yield content
    elif isinstance(content, Mapping):
        if "string_to_param" in content:
            content = content["string_to_param"]
        if embed_key is not None and embed_key in content:
            content = {embed_key: content[embed_key]}
        for value in content.values():
            yield from _vectors(value, embed_key)
    elif isinstance(content, Sequence) and not isinstance(content, (str, bytes)):
        for value in content:
            yield from _vectors(value, embed_key)


def split_embeddings(text: str) -> list[str]:
    """Cut a segment before each ``embedding:`` that starts a word."""
    cuts = [0]
    place = text.find(IDENTIFIER, 1)
    while place > 0:
        if text[place - 1].isspace():
            cuts.append(place)
        place = text.find(IDENTIFIER, place + 1)
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]
