"""The memories of this machine as pages see them: what there is, what is free, what stays free."""

from __future__ import annotations

from dataclasses import dataclass

import torch

import comfy.cli_args
import comfy.model_management
import comfy.options
from comfy import device_memory
from comfy.loading import LoadOptions, default_loader
from comfy.loading.cgroups import memory_limits
from comfy.loading.memory import Pool, default_reserve
from comfy.loading.options import from_namespace

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Limit:
    """What a control group (a container, a service) may use, in bytes."""

    limit: int
    used: int


@dataclass(frozen=True, slots=True)
class PoolState:
    """One memory.

    Attributes:
        pool: "host", or the device, such as "cuda:0".
        unified: It is the host's memory under a device's name, and must not be added to it.
        total: Bytes.
        free: Bytes that can be allocated now.
        reserve: Bytes that planning leaves free.
        headroom: Bytes that weights may take: free without the reserve.
        limit: Of the control group that binds first, for the host; None without one.
    """

    pool: str
    unified: bool
    total: int
    free: int
    reserve: int
    headroom: int
    limit: Limit | None


def load_options() -> LoadOptions:
    """What the user set about loading, also before the first load has taken it over."""
    if comfy.options.args_parsing:
        return from_namespace(comfy.cli_args.args)
    return default_loader().options


def memory_pools() -> list[PoolState]:
    """The host's memory, and that of the device on which networks run if it is another."""
    limits = sorted(memory_limits(), key=lambda one: one.headroom)
    limit = Limit(limits[0].limit, limits[0].used) if limits else None
    states = [_state("host", _CPU, limit)]
    device = comfy.model_management.get_torch_device()
    if device.type != "cpu":
        states.append(_state(str(device), device, None))
    return states


def _state(name: str, device: torch.device, limit: Limit | None) -> PoolState:
    pool: Pool = device_memory.pool(device)
    profile = device_memory.profile(device)
    asked = load_options().reserve_bytes
    reserve = default_reserve(profile, pool) if asked is None else asked
    headroom = max(0, pool.free - reserve)
    return PoolState(name, profile.unified, pool.total, pool.free, reserve, headroom, limit)
