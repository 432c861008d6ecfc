"""Which arguments an operation writes to, by its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._pytree import tree_flatten

Kind = TypeVar("Kind", bound=torch.Tensor)


def written_arguments(
    func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], kind: type[Kind]
) -> list[Kind]:
    """Find the tensors of one class that an operation writes to.

    Args:
        func: The operation.
        args: Its arguments by position.
        kwargs: And by name.
        kind: The class.

    Returns:
        Those given by position, by name or in a list.
    """
    found: list[Kind] = []
    if not func._schema.is_mutable:
        return found
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        found += [one for one in tree_flatten(value)[0] if isinstance(one, kind)]
    return found
