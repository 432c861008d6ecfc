"""Environments of processes that tests start."""

from __future__ import annotations

import os


def without_settings() -> dict[str, str]:
    """This process's environment without the twins of flags, which would change what is tested."""
    return {key: value for key, value in os.environ.items() if not key.startswith("COMFY_")}


def environment(**changes: str) -> dict[str, str]:
    """The same, for a program that shall not take all processors."""
    return {**without_settings(), "OMP_NUM_THREADS": "1", **changes}
