"""Runs before ComfyUI imports torch: lets its modules be patched when they are imported."""

import importlib
import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

# Found by the line above.
importlib.import_module("onecopy_loading.grafted.runtime").install()
