"""Whether the hooks do anything, on which device, and with which Loader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from comfy.loading.default import default_loader
from comfy.loading.grafted import flags
from comfy.loading.hardware import default_device
from comfy.loading.loader import Loader
from comfy.loading.rings import with_index


@dataclass
class _Program:
    """What the program told of itself."""

    device: Callable[[], torch.device | str] | None = None


_program = _Program()


def run_on(device: Callable[[], torch.device | str]) -> None:
    """Let `device` tell where the program runs its networks; asked at each use, never here."""
    _program.device = device


def run_device() -> torch.device:
    """Where networks run: the program's word, or the first accelerator."""
    if _program.device is not None:
        return with_index(_program.device())
    return default_device(flags.force_cpu())


def loader() -> Loader:
    """The process's Loader, as the flags want it and for the device on which networks run."""
    own, wanted, device = default_loader(), flags.options(), run_device()
    if own.options != wanted:
        own.configure(wanted)
    if own.run_device != device:
        own.run_device = device
    return own


def is_unified(device: torch.device) -> bool:
    """Whether a device's memory is the host's, by its driver's word or by the flag."""
    return device.type not in ("cpu", "meta") and loader().profile(device).unified


def is_active() -> bool:
    """Whether loading goes through this package.

    Only with a strategy, with ``--disable-mmap``, or where host and device share their memory:
    elsewhere the program behaves as it did.
    """
    wanted = flags.options()
    return wanted.strategy != "auto" or not wanted.allow_mmap or is_unified(run_device())
