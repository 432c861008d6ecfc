"""Host memory as results see it: what is free, and giving back what was let go."""

from __future__ import annotations

import torch

from comfy import device_memory
from comfy.loading.memory import host_pool


def free_host_bytes() -> int:
    """What this process can still allocate without swapping; a container's limit counts."""
    return host_pool().free


def give_back() -> None:
    """Let dropped results free their memory now, also those in cycles and in the heap's reserve."""
    device_memory.empty_cache(torch.device("cpu"))
