"""The subprocess of `support.memory_cap.run_measured`: gets ready, waits, acts, reports, waits.

Started as a script. It talks over the descriptors named in its first argument; what the measured
code prints goes where it would go anyway.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any


def _function(spec: dict[str, Any], name: str) -> Callable[[], object]:
    """Load a module under a name of ours, and give one of its functions with its arguments."""
    described = importlib.util.spec_from_file_location(name, spec["file"])
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules[described.name] = module
    described.loader.exec_module(module)
    return functools.partial(getattr(module, spec["function"]), **spec["arguments"])


def _prepare(spec: dict[str, Any]) -> Callable[[], object]:
    """Do all imports and what comes before, and return what is to be measured."""
    arguments = spec["arguments"]
    if "before" in spec:
        _function(spec["before"], "module_before")()
    if spec["file"]:
        return _function(spec, "measured_module")
    scope: dict[str, Any] = {"args": arguments, "result": None}
    exec(compile(spec["setup"], "<setup>", "exec"), scope)
    code = compile(spec["body"], "<body>", "exec")

    def act() -> object:
        exec(code, scope)
        return scope["result"]

    return act


def main() -> None:
    """Follow the protocol: "ready" - go - report - end."""
    spec = json.loads(sys.argv[1])
    orders, reports = os.fdopen(spec["orders"], "r"), os.fdopen(spec["reports"], "w", buffering=1)
    act = _prepare(spec)
    print("ready", file=reports)
    orders.readline()
    report: dict[str, Any] = {"result": None, "error": None, "traceback": ""}
    begin = time.perf_counter()
    try:
        report["result"] = act()
    except BaseException as err:  # noqa: BLE001 - whatever it was, the test wants to see it
        report["error"] = type(err).__name__
        report["message"] = str(err)
        report["traceback"] = traceback.format_exc()
    report["seconds"] = time.perf_counter() - begin
    print(json.dumps(report, default=str), file=reports)
    # What the act returned and made is still alive here, so that the parent can count it.
    orders.readline()


if __name__ == "__main__":
    main()
