"""Which versions of the interface there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple


class ComfyAPIBase:
    """Base of each version's interface.

    Attributes:
        VERSION: Its name.
        STABLE: Whether it stays as it is.
    """

    VERSION: ClassVar[str]
    STABLE: ClassVar[bool] = False


class ComfyAPIWithVersion(NamedTuple):
    """A version's name and its interface."""

    version: str
    api_class: type[ComfyAPIBase]


_registered: dict[str, type[ComfyAPIBase]] = {}


def register_versions(versions: Iterable[ComfyAPIWithVersion]) -> None:
    """Add versions.

    Raises:
        ValueError: If another class has the name of one.
    """
    for name, api_class in versions:
        taken = _registered.get(name)
        if taken not in (None, api_class):
            raise ValueError(
                f"Version {name!r} is {taken.__module__}.{taken.__name__} already, and cannot be "
                f"{api_class.__module__}.{api_class.__name__} as well. Choose another name."
            )
        _registered[name] = api_class


def get_all_versions() -> list[ComfyAPIWithVersion]:
    """Those that were added, in that order."""
    return [ComfyAPIWithVersion(name, api_class) for name, api_class in _registered.items()]
