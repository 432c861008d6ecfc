"""Hooks for a ComfyUI whose files stay as they are: its modules are patched when it imports them.

Imports no torch: it is called before ComfyUI does.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from comfy.loading.grafted import flags

logger = logging.getLogger(__name__)

PATCHED = ("comfy.utils", "comfy.model_base", "comfy.model_patcher", "comfy.model_management")


# Not written with what follows it: a private copy of this package has another name everywhere.
_HOST = "comfy"


class _Finder(MetaPathFinder):
    """Lets others find the modules in question, and patches each after it ran."""

    def __init__(self, patch: Callable[[ModuleType], None]) -> None:
        self._patch = patch

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in PATCHED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = (
                None if finder is self or find is None else find(fullname, path, target)
            )
            if spec is not None and spec.loader is not None:
                self._patch_after(spec.loader)
                return spec
        return None

    def _patch_after(self, loader: Any) -> None:
        run = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._patch(module)

        loader.exec_module = exec_module


def install() -> bool:
    """Patch what is imported already, and the rest when it is; only once.

    Returns:
        False if there is nothing to do: this ComfyUI has the subsystem in its own files.

    Raises:
        FlagConflict: If the environment's variables contradict each other or the program's flags.
    """
    is_private = not __name__.startswith(f"{_HOST}.")
    if is_private and importlib.util.find_spec(f"{_HOST}.loading") is not None:
        logger.debug("Loading is a part of this ComfyUI's own files: nothing is patched.")
        return False
    if any(type(one).__name__ == _Finder.__name__ for one in sys.meta_path):
        return True
    flags.take_environment(getattr(sys.modules.get("comfy.cli_args"), "args", None))
    sys.meta_path.insert(0, _Finder(_patch))
    for name in PATCHED:
        if name in sys.modules:
            _patch(sys.modules[name])
    logger.info("OneCopy: weights are loaded by %s.", __name__.partition(".grafted")[0])
    return True


def _patch(module: ModuleType) -> None:
    # It needs torch, which the module has imported by now.
    patches = importlib.import_module(f"{__package__}.patches")
    patches.patch(module)
