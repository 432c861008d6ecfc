"""Host memory that was freed goes back to the system when a cache is emptied."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from comfy import device_memory
from support import census

BLOCK_BYTES = 100_000
BLOCKS = 1000

needs_glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="only glibc can be asked to give memory back",
)


@needs_glibc
def test_emptying_a_cache_gives_back_holes_between_blocks_in_use() -> None:
    blocks = [torch.ones(BLOCK_BYTES, dtype=torch.uint8) for _ in range(BLOCKS)]
    before = census.memory().rss_anon
    del blocks[::2]
    device_memory.empty_cache(torch.device("cpu"))
    assert before - census.memory().rss_anon >= 0.8 * BLOCK_BYTES * BLOCKS / 2
    assert len(blocks) == BLOCKS / 2
