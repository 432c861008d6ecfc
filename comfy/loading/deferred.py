"""DeferredTensor: a tensor that is computed when it is written to a file, and never before.

It has shape and dtype, and a recipe instead of bytes. What renames, joins or turns the tensors of a
state dict makes new recipes; `comfy.loading.saving` follows each once and keeps nothing, so a file
of computed weights costs the memory of one part of one weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from comfy.loading.errors import FrozenTensor
from comfy.loading.writes import written_arguments

aten = torch.ops.aten

Parts = Callable[[], Iterator[torch.Tensor]]
"""Makes a tensor anew: all of it, or pieces along its first axis, in order; each valid until the
next is asked for."""


class DeferredTensor(torch.Tensor):
    """See the module's text."""

    _parts: Parts

    # torch recommends this value, and its stub types the method otherwise.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: type[DeferredTensor], like: torch.Tensor, parts: Parts) -> DeferredTensor:
        """Wrap a recipe.

        Args:
            cls: Of the result.
            like: Has its shape, strides and dtype; may be on the meta device.
            parts: Makes it; what comes may be anywhere, and a `FileTensor`.
        """
        self: DeferredTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            like.size(),
            strides=like.stride(),
            dtype=like.dtype,
            device=torch.device("cpu"),
        )
        self._parts = parts
        return self

    def parts(self) -> Iterator[torch.Tensor]:
        """Compute: the whole, or pieces along the first axis in order."""
        return self._parts()

    def made(self) -> torch.Tensor:
        """Compute, and give an ordinary tensor, where the recipe leaves it."""
        parts = self._parts()
        first = next(parts)
        if first.shape == self.shape:
            return first if type(first) is torch.Tensor else first.detach().clone()
        whole = torch.empty(self.shape, dtype=self.dtype, device=first.device)
        begin = 0
        for part in chain((first,), parts):
            whole[begin : begin + part.shape[0]].copy_(part)
            begin += part.shape[0]
        return whole

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # stub
        return f"DeferredTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub has looser types
        cls,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Answer what gives tensors by further recipes, and all else by computing."""
        kwargs = kwargs or {}
        if func in (aten.detach.default, aten.alias.default):
            return cls(args[0], args[0]._parts)
        if func is aten.cat.default and _joins_rows(*args, **kwargs):
            return _joined(args[0])
        _refuse_writes(func, args, kwargs)
        planned = _planned(func, args, kwargs)
        return func(*_made(args), **_made(kwargs)) if planned is None else planned


def _made(tree: Any) -> Any:
    """The same arguments with every recipe followed."""
    return tree_map(lambda one: one.made() if isinstance(one, DeferredTensor) else one, tree)


def _on_meta(tree: Any) -> Any:
    def shadow(one: Any) -> Any:
        if not isinstance(one, torch.Tensor):
            return one
        return torch.empty_strided(one.size(), one.stride(), dtype=one.dtype, device="meta")

    return tree_map(shadow, tree)


def _planned(func: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
    """Results that are computed later; None if an operation's results cannot be foretold."""
    kinds = {str(one.type) for one in func._schema.returns}
    if func._schema.is_mutable or not kinds or not kinds <= {"Tensor", "Tensor[]", "List[Tensor]"}:
        return None
    try:
        likes = func(*_on_meta(args), **_on_meta(kwargs))
    except RuntimeError:
        # The shape depends on the values, the result is wanted on another device, or the operation
        # fails; then computing will say why.
        return None
    flat, _ = tree_flatten(likes)

    def recipe(index: int) -> Parts:
        def parts() -> Iterator[torch.Tensor]:
            yield tree_flatten(func(*_made(args), **_made(kwargs)))[0][index]

        return parts

    numbers = iter(range(len(flat)))
    return tree_map(lambda like: DeferredTensor(like, recipe(next(numbers))), likes)


def _joins_rows(tensors: Sequence[torch.Tensor], dim: int = 0) -> bool:
    """Whether a concatenation is one part after the other."""
    kinds = {(one.dtype, one.shape[1:]) for one in tensors if one.dim() > 0}
    return len(kinds) == 1 and (dim == 0 or dim == -tensors[0].dim())


def _joined(tensors: Sequence[torch.Tensor]) -> DeferredTensor:
    def parts() -> Iterator[torch.Tensor]:
        for one in tensors:
            if isinstance(one, DeferredTensor):
                yield from one.parts()
            else:
                yield one

    first = tensors[0]
    shape = (sum(one.shape[0] for one in tensors), *first.shape[1:])
    return DeferredTensor(torch.empty(shape, dtype=first.dtype, device="meta"), parts)


def _refuse_writes(func: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
    """A write to something that is computed anew each time would be lost."""
    if written_arguments(func, args, kwargs, DeferredTensor):
        raise FrozenTensor(
            f"{func.name()} would write to a weight that is computed while it is saved.",
            hint="Clone it first.",
        )
