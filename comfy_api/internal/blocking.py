"""Async functions for callers that cannot await them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_blocking(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a thread and an event loop of its own.

    The caller may itself run inside an event loop, which stands still meanwhile; the coroutine
    must not wait for it. It sees the caller's context variables.
    """
    context = contextvars.copy_context()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="comfy-api") as pool:
        return pool.submit(context.run, _run, call).result()


def _run(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(call())


class Blocking:
    """An object whose async methods block; those of its attributes do as well."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        # Copying asks for such names before there is a target.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")
        found = getattr(self._target, name)
        if inspect.iscoroutinefunction(found):
            return _blocking(found)
        return Blocking(found) if type(found).__module__.startswith("comfy_api.") else found


def _blocking(function: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        return run_blocking(functools.partial(function, *args, **kwargs))

    return call
