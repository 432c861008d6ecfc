"""Attributes of nested objects by dotted path, as in ``"diffusion_model.input_blocks.0.weight"``."""

from __future__ import annotations

import functools
from typing import Any

import torch


class _Unset:
    """The type of `ATTR_UNSET`."""

    def __repr__(self) -> str:
        return "ATTR_UNSET"


ATTR_UNSET = _Unset()
"""Stands for "no such attribute": `set_attr` returns it, and deletes when it is given."""


def get_attr(obj: Any, attr: str) -> Any:
    """Follow `attr` from `obj`, part by part.

    Raises:
        AttributeError: If a part is missing.
    """
    return functools.reduce(getattr, attr.split("."), obj)


def _owner(obj: Any, attr: str) -> tuple[Any, str]:
    path, _, name = attr.rpartition(".")
    return (get_attr(obj, path) if path else obj), name


def set_attr(obj: Any, attr: str, value: Any) -> Any:
    """Set the attribute at the end of `attr`, or delete it if `value` is `ATTR_UNSET`.

    Returns:
        What was there, or `ATTR_UNSET`; handing it back to `set_attr` restores the state.
    """
    owner, name = _owner(obj, attr)
    previous = getattr(owner, name, ATTR_UNSET)
    if value is not ATTR_UNSET:
        setattr(owner, name, value)
    elif previous is not ATTR_UNSET:
        delattr(owner, name)
    return previous


def set_attr_param(obj: Any, attr: str, value: torch.Tensor) -> Any:
    """Put `value` there as a parameter that takes no gradient; returns what was there."""
    return set_attr(obj, attr, torch.nn.Parameter(value, requires_grad=False))


def copy_to_param(obj: Any, attr: str, value: torch.Tensor) -> None:
    """Write `value` into the parameter that is there, in place."""
    parameter = get_attr(obj, attr)
    with torch.no_grad():
        parameter.copy_(value)
