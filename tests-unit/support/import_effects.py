"""A script that tells what importing modules does besides defining things.

``python -m support.import_effects PRELOADED,... MODULE...`` imports the first argument's modules,
then watches while it imports the others, and writes what it saw as JSON.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import time

# Reading code is what importing is.
_CODE = (".py", ".pyc", ".so", ".pth")


class _Watch(logging.Handler):
    """Hears every log record, and every file that Python opens while it watches."""

    def __init__(self) -> None:
        super().__init__(level=logging.NOTSET)
        self.is_watching = False
        self.messages: list[str] = []
        self.opened: list[str] = []
        logging.getLogger().addHandler(self)
        logging.getLogger().setLevel(logging.NOTSET)
        sys.addaudithook(self._audit)

    def emit(self, record: logging.LogRecord) -> None:
        if self.is_watching:
            self.messages.append(record.getMessage())

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_watching or event != "open":
            return
        name = arguments[0]
        if isinstance(name, str | bytes) and not os.fsdecode(name).endswith(_CODE):
            self.opened.append(os.fsdecode(name))


def _descriptors() -> list[str]:
    folder = "/proc/self/fd"
    links = [f"{folder}/{fd}" for fd in os.listdir(folder)]
    # The listing's own descriptor is gone by now.
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def _has_device_context() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _state() -> dict[str, object]:
    return {
        "descriptors": _descriptors(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "device context": _has_device_context(),
        "handlers": len(logging.getLogger().handlers),
        "level": logging.getLogger().level,
    }


def main(preloaded: str, *names: str) -> None:
    """Import, watch, tell."""
    for name in filter(None, preloaded.split(",")):
        importlib.import_module(name)
    watch = _Watch()
    before = _state()
    begin = time.perf_counter()
    watch.is_watching = True
    for name in names:
        importlib.import_module(name)
    watch.is_watching = False
    seconds = time.perf_counter() - begin
    after = _state()
    before |= {"messages": [], "opened": []}
    after |= {"messages": watch.messages, "opened": watch.opened}
    effects = {name: [before[name], after[name]] for name in after if after[name] != before[name]}
    told = {"seconds": seconds, "has_torch": "torch" in sys.modules, "effects": effects}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
