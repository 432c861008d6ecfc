"""The version of ComfyUI whose behaviour is offered here; packs and pages compare it.

Our own version, which counts our own changes, is in pyproject.toml.
"""

from __future__ import annotations

__version__ = "0.8.0"
