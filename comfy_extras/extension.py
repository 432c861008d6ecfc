"""What each file of schema-style nodes here hands to the loader of nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class Extension(ComfyExtension):
    """A list of node classes."""

    def __init__(self, *nodes: type[io.ComfyNode]) -> None:
        self._nodes = nodes

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Them, in the order they were given."""
        return list(self._nodes)
