"""Scripts of packs that run before torch is imported; see `execute_prestartup_scripts`."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import time

from comfy import pack_folders

logger = logging.getLogger(__name__)

SCRIPT_NAME = "prestartup_script.py"


def execute_prestartup_scripts() -> list[tuple[float, str, bool]]:
    """Run the prestart script of each pack that has one; one that fails stops no other.

    Returns:
        Seconds, folder and success of each.
    """
    timings: list[tuple[float, str, bool]] = []
    for pack in pack_folders.pack_paths():
        script = os.path.join(pack, SCRIPT_NAME)
        if os.path.isfile(script):
            started = time.perf_counter()
            worked = execute_script(script)
            timings.append((time.perf_counter() - started, pack, worked))
    if timings:
        logger.info("Scripts of packs before start:\n%s", pack_folders.timing_report(timings))
    return timings


def execute_script(path: str) -> bool:
    """Run one script as a module.

    Args:
        path: The file.

    Returns:
        Whether it ran to its end; if not, the reason is logged.
    """
    name = os.path.splitext(path)[0]
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded as a Python file.")
        module = importlib.util.module_from_spec(spec)
        # Data classes and pickles look their module up by name.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except (Exception, SystemExit):
        sys.modules.pop(name, None)
        logger.exception("The script %s failed; its pack may not work.", path)
        return False
    return True
