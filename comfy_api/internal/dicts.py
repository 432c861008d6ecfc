"""Dicts for the page leave out what was not said."""

from __future__ import annotations

from typing import Any


def prune_dict(d: dict[str, Any]) -> dict[str, Any]:
    """The entries whose value is not None."""
    return {key: value for key, value in d.items() if value is not None}
