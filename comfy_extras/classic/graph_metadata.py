"""The graph as text, for nodes that write files."""

from __future__ import annotations

from comfy.image_saving import graph_metadata

__all__ = ["graph_metadata"]
