"""What a node tells the page about files it wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import Any


class UIOutput(ABC):
    """Base of what a node shows on the page."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Lists by key, as messages and the history hold them."""


class SavedResult(dict[str, str]):
    """One file: its name, its folder below the kind's folder, and the kind of folder."""

    def __init__(self, filename: str, subfolder: str, type: str) -> None:
        kind = type.value if isinstance(type, Enum) else type
        super().__init__(filename=filename, subfolder=subfolder, type=kind)

    @property
    def filename(self) -> str:
        """Name within its folder."""
        return self["filename"]

    @property
    def subfolder(self) -> str:
        """Folder below that of its kind."""
        return self["subfolder"]

    @property
    def type(self) -> str:
        """ "input", "output" or "temp"."""
        return self["type"]


class SavedImages(UIOutput):
    """Pictures, or one moving picture."""

    def __init__(self, results: Sequence[SavedResult], is_animated: bool = False) -> None:
        self.results = list(results)
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        shown: dict[str, Any] = {"images": self.results}
        return {**shown, "animated": (True,)} if self.is_animated else shown


class SavedAudios(UIOutput):
    """Sounds."""

    def __init__(self, results: Sequence[SavedResult]) -> None:
        self.results = list(results)

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        return {"audio": self.results}
