"""A property of a class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class classproperty:
    """Read from the class or an instance, it calls a function with the class.

    A subclass may put a plain value in its place.
    """

    def __init__(self, getter: Callable[[Any], Any]) -> None:
        self._getter = getter
        self.__doc__ = getter.__doc__

    def __get__(self, instance: object, owner: type) -> Any:
        return self._getter(owner)
