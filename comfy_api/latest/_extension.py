"""What a file of nodes offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class ComfyExtension(ABC):
    """Base of what ``comfy_entrypoint`` returns."""

    async def on_load(self) -> None:  # noqa: B027 - few packs need it
        """Called once, before the list of nodes is asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[Any]]:
        """The node classes, derived from `io.ComfyNode`."""
