"""The other side of free-memory planning on machines where host and device share their memory."""

from __future__ import annotations

import torch

from comfy.loading.grafted.activity import is_unified, loader
from comfy.loading.grafted.activity import run_on as run_on
from comfy.loading.memory import device_pool, host_pool, reusable_bytes
from comfy.loading.rings import with_index


def free_memory(device: torch.device | str) -> tuple[int, int] | None:
    """Tell what a device can still give, if its memory is the host's.

    A driver counts page cache as used there: after one large file was read it reports a full
    device on an empty machine, and planning loads nothing.

    Args:
        device: Any.

    Returns:
        Bytes that can be allocated, and those of them that torch's allocator holds unused; None
        for a device with memory of its own, and for the CPU.
    """
    named = with_index(device)
    if not is_unified(named):
        return None
    own = loader()
    profile = own.profile(named)
    pool = device_pool(profile, host_pool(), own.rings.port(named).free_bytes)
    return pool.free, min(reusable_bytes(profile), pool.free)
