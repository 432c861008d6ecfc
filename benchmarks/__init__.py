"""What is measured: loaders (`load`, `memory`), sampling, the start, the executor; see README.md."""

from __future__ import annotations

import sys
from pathlib import Path

# File sets, the simulated device and memory groups are those of the tests.
_TOOLS = str(Path(__file__).resolve().parent.parent / "tests-unit")
if _TOOLS not in sys.path:
    sys.path.append(_TOOLS)
