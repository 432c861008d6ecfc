"""Small things that nodes share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from PIL import ImageFile, UnidentifiedImageError

from comfy.cli_args import args

MAX_RESOLUTION = 16384
"""Largest width and height that nodes accept, in pixels."""

T = TypeVar("T")
A = TypeVar("A")


def conditioning_set_values(
    conditioning: list[Any], values: Mapping[str, Any] | None = None, append: bool = False
) -> list[Any]:
    """Set entries in each part of a conditioning; the given one stays as it is.

    Args:
        conditioning: Pairs of a tensor and a dict.
        values: The entries.
        append: Add a list to the one that is there, instead of replacing it.
    """
    result = []
    for part in conditioning:
        options = dict(part[1])
        for key, value in (values or {}).items():
            old = options.get(key) if append else None
            options[key] = value if old is None else old + value
        result.append([part[0], options])
    return result


def pillow(fn: Callable[[A], T], arg: A) -> T:
    """Call a function of PIL; a picture that it refuses is tried again as one cut short.

    Args:
        fn: Such as ``Image.open``.
        arg: Its argument.
    """
    try:
        return fn(arg)
    except (OSError, UnidentifiedImageError, ValueError):
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return fn(arg)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def hasher() -> Callable[..., Any]:
    """The hash constructor that ``--default-hashing-function`` names."""
    constructor: Callable[..., Any] = getattr(hashlib, args.default_hashing_function)
    return constructor


def string_to_torch_dtype(string: str) -> torch.dtype | None:
    """The dtype that "fp32", "fp16" or "bf16" means; None for other words."""
    known = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return known.get(string)


def image_alpha_fix(
    destination: torch.Tensor, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give a picture as many channels as another.

    Args:
        destination: Shape (..., channels); stays as it is.
        source: Shape (..., channels); loses what is too many, gets opaque ones for what is missing.

    Returns:
        Both.
    """
    missing = destination.shape[-1] - source.shape[-1]
    if missing > 0:
        return destination, torch.nn.functional.pad(source, (0, missing), value=1.0)
    return destination, source[..., : destination.shape[-1]]
