"""JSON values laid over each other."""

from __future__ import annotations

from typing import Any


def merge_json_recursive(base: Any, update: Any) -> Any:
    """Lay one JSON value over another.

    Args:
        base: Below; not changed.
        update: Above; not changed.

    Returns:
        Where both are dicts, a new one with the keys of both, merged in the same way; where both
        are lists, one after the other; else `update`.
    """
    if isinstance(base, dict) and isinstance(update, dict):
        merged = dict(base)
        for key, value in update.items():
            merged[key] = merge_json_recursive(base[key], value) if key in base else value
        return merged
    if isinstance(base, list) and isinstance(update, list):
        return [*base, *update]
    return update
