"""The report on the start: what Python tells of imports, added up."""

from __future__ import annotations

from benchmarks.startup import Package, lines, packages

TOLD = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |   torch.nn
import time:      2500 |       2600 | torch
a line of a pack
import time:      1400 |       1400 |     aiohttp.web
import time:        50 |       1450 |   aiohttp
"""


def test_the_modules_of_a_package_are_added_up() -> None:
    assert packages(TOLD) == [Package("torch", 2.6, 2), Package("aiohttp", 1.45, 2)]


def test_the_report_tells_whether_the_promise_is_kept() -> None:
    found = {
        "torch_s": [1.0, 3.0, 2.0],
        "start_s": [4.0, 5.0, 6.0],
        "more_s": 3.0,
        "idle_bytes": 300 * 2**20,
        "torch_bytes": 200 * 2**20,
        "packages": [{"name": "torch", "ms": 2.6, "modules": 2}],
    }
    told = lines(found)
    assert "`import torch`: 2.00 s (fastest 1.00 s)" in told
    assert "at most 2.5 s more? no: 3.00 s" in told
    assert "300 MiB, of which `import torch` has 200 MiB" in told
    assert "| torch | 3 | 2 |" in told
    assert "at most 2.5 s more? yes: 1.00 s" in lines({**found, "more_s": 1.0})
