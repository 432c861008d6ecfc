"""Callbacks, wrappers and injections: how packs take part in loading and sampling.

Both kinds of hook are kept as ``{type: {key: [function, ...]}}``, where the key says who added
them (None for nobody in particular), in a patcher or in ``transformer_options``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Hooks = dict[str, dict[str | None, list[Callable[..., Any]]]]


class CallbacksMP:
    """When a patcher calls back."""

    ON_CLONE = "on_clone"
    ON_LOAD = "on_load_after"
    ON_DETACH = "on_detach_after"
    ON_CLEANUP = "on_cleanup"
    ON_PRE_RUN = "on_pre_run"
    ON_PREPARE_STATE = "on_prepare_state"
    ON_APPLY_HOOKS = "on_apply_hooks"
    ON_REGISTER_ALL_HOOK_PATCHES = "on_register_all_hook_patches"
    ON_INJECT_MODEL = "on_inject_model"
    ON_EJECT_MODEL = "on_eject_model"

    @classmethod
    def init_callbacks(cls) -> Hooks:
        """An empty table."""
        return {}


class WrappersMP:
    """What a wrapper may be put around."""

    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"

    @classmethod
    def init_wrappers(cls) -> Hooks:
        """An empty table."""
        return {}


class WrapperExecutor:
    """A function with wrappers around it, seen from one of them.

    A wrapper is called as ``wrapper(executor, *args, **kwargs)`` and goes on inwards by
    ``executor(*args, **kwargs)``.

    Attributes:
        original: The function in the middle.
        class_obj: The object that it belongs to, or None.
        wrappers: From the outside inwards.
        idx: Which wrapper comes next.
        is_last: Whether only the function is left.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        class_obj: Any,
        wrappers: Sequence[Callable[..., Any]],
        idx: int,
    ) -> None:
        self.original = original
        self.class_obj = class_obj
        self.wrappers = list(wrappers)
        self.idx = idx
        self.is_last = idx == len(self.wrappers)

    @classmethod
    def new_executor(
        cls, original: Callable[..., Any], wrappers: Sequence[Callable[..., Any]], idx: int = 0
    ) -> WrapperExecutor:
        """Make one for a function."""
        return cls(original, None, wrappers, idx)

    @classmethod
    def new_class_executor(
        cls,
        original: Callable[..., Any],
        class_obj: Any,
        wrappers: Sequence[Callable[..., Any]],
        idx: int = 0,
    ) -> WrapperExecutor:
        """Make one for a bound method, and name its object."""
        return cls(original, class_obj, wrappers, idx)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Call the next wrapper, or the function if none is left."""
        if self.is_last:
            return self.original(*args, **kwargs)
        return self.wrappers[self.idx](self, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Go one step inwards."""
        inner = type(self)(self.original, self.class_obj, self.wrappers, self.idx + 1)
        return inner.execute(*args, **kwargs)


@dataclass
class PatcherInjection:
    """A change of a model that a patcher makes before sampling, and takes back afterwards.

    Attributes:
        inject: Called with the patcher.
        eject: Called with the patcher.
    """

    inject: Callable[[Any], Any]
    eject: Callable[[Any], Any]


def add_to_hooks(hooks: Hooks, kind: str, key: str | None, function: Callable[..., Any]) -> None:
    """Put a function at the end of its list in a table."""
    hooks.setdefault(kind, {}).setdefault(key, []).append(function)


def hooks_with_key(hooks: Hooks, kind: str, key: str | None) -> list[Callable[..., Any]]:
    """The functions of one kind that one key added."""
    return list(hooks.get(kind, {}).get(key, ()))


def all_hooks(hooks: Hooks, kind: str) -> list[Callable[..., Any]]:
    """The functions of one kind, whoever added them, in the order of the keys."""
    return [function for group in hooks.get(kind, {}).values() for function in group]


def _table(options: dict[str, Any], name: str, is_model_options: bool) -> Hooks:
    if is_model_options:
        options = options.setdefault("transformer_options", {})
    table: Hooks = options.setdefault(name, {})
    return table


def _read_table(options: dict[str, Any], name: str, is_model_options: bool) -> Hooks:
    if is_model_options:
        options = options.get("transformer_options", {})
    table: Hooks = options.get(name, {})
    return table


def add_callback(
    call_type: str,
    callback: Callable[..., Any],
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> None:
    """Add a callback under no key; see `add_callback_with_key`."""
    add_callback_with_key(call_type, None, callback, transformer_options, is_model_options)


def add_callback_with_key(
    call_type: str,
    key: str | None,
    callback: Callable[..., Any],
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> None:
    """Add a callback.

    Args:
        call_type: Of `CallbacksMP`, or a pack's own.
        key: Who adds it.
        callback: Called with what its type says.
        transformer_options: Changed in place.
        is_model_options: They are the model options, which hold the transformer options.
    """
    add_to_hooks(
        _table(transformer_options, "callbacks", is_model_options), call_type, key, callback
    )


def get_callbacks_with_key(
    call_type: str,
    key: str | None,
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> list[Callable[..., Any]]:
    """The callbacks of one type and key."""
    table = _read_table(transformer_options, "callbacks", is_model_options)
    return hooks_with_key(table, call_type, key)


def get_all_callbacks(
    call_type: str, transformer_options: dict[str, Any], is_model_options: bool = False
) -> list[Callable[..., Any]]:
    """The callbacks of one type, of all keys."""
    return all_hooks(_read_table(transformer_options, "callbacks", is_model_options), call_type)


def add_wrapper(
    wrapper_type: str,
    wrapper: Callable[..., Any],
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> None:
    """Add a wrapper under no key; see `add_wrapper_with_key`."""
    add_wrapper_with_key(wrapper_type, None, wrapper, transformer_options, is_model_options)


def add_wrapper_with_key(
    wrapper_type: str,
    key: str | None,
    wrapper: Callable[..., Any],
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> None:
    """Add a wrapper.

    Args:
        wrapper_type: Of `WrappersMP`, or a pack's own.
        key: Who adds it.
        wrapper: Called as ``wrapper(executor, *args, **kwargs)``.
        transformer_options: Changed in place.
        is_model_options: They are the model options, which hold the transformer options.
    """
    add_to_hooks(
        _table(transformer_options, "wrappers", is_model_options), wrapper_type, key, wrapper
    )


def get_wrappers_with_key(
    wrapper_type: str,
    key: str | None,
    transformer_options: dict[str, Any],
    is_model_options: bool = False,
) -> list[Callable[..., Any]]:
    """The wrappers of one type and key."""
    table = _read_table(transformer_options, "wrappers", is_model_options)
    return hooks_with_key(table, wrapper_type, key)


def get_all_wrappers(
    wrapper_type: str, transformer_options: dict[str, Any], is_model_options: bool = False
) -> list[Callable[..., Any]]:
    """The wrappers of one type, of all keys, from the outside inwards."""
    return all_hooks(_read_table(transformer_options, "wrappers", is_model_options), wrapper_type)


def copy_nested_dicts(input_dict: dict[Any, Any]) -> dict[Any, Any]:
    """Copy dicts and lists at every depth of dicts; share the values themselves."""
    copied = dict(input_dict)
    for key, value in copied.items():
        if isinstance(value, dict):
            copied[key] = copy_nested_dicts(value)
        elif isinstance(value, list):
            copied[key] = list(value)
    return copied


def merge_nested_dicts(
    dict1: dict[Any, Any], dict2: dict[Any, Any], copy_dict1: bool = True
) -> dict[Any, Any]:
    """Join two tables: dicts key by key, lists one after the other, else the second's value wins.

    Args:
        dict1: Changed in place if `copy_dict1` is false.
        dict2: Never changed, nor shared with.
        copy_dict1: Leave `dict1` as it is.
    """
    merged = copy_nested_dicts(dict1) if copy_dict1 else dict1
    for key, value in dict2.items():
        if isinstance(value, dict):
            mine = merged.get(key)
            own = mine if isinstance(mine, dict) else {}
            merged[key] = merge_nested_dicts(own, value, copy_dict1=False)
        elif isinstance(value, list):
            mine = merged.get(key)
            merged[key] = [*(mine if isinstance(mine, list) else ()), *value]
        else:
            merged[key] = value
    return merged
