"""The device that a command is about, given as users write it."""

from __future__ import annotations

import argparse
import importlib

import torch

from comfy.loading.errors import FlagConflict


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--setup``."""
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="as torch writes it: cpu, cuda:0, xpu, mps (default: the first accelerator)",
    )
    parser.add_argument(
        "--setup",
        metavar="MODULE:FUNCTION",
        help="called first; for devices and strategies that a package registers",
    )


def chosen_device(arguments: argparse.Namespace) -> torch.device | None:
    """Run what ``--setup`` names, and take the device that was given.

    Returns:
        The device; None if none was given.

    Raises:
        FlagConflict: If there is no such function, or torch knows no such device.
    """
    if arguments.setup is not None:
        call(arguments.setup)
    if arguments.device is None:
        return None
    try:
        device = torch.device(arguments.device)
        if device.type != "cpu":
            # Asks torch for the device's module; a kind that this build lacks has none.
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:
        reason = str(err).partition("\n")[0]
        raise FlagConflict(
            f"--device={arguments.device} cannot be used: {reason}",
            hint="Give a device that this build of torch and this machine have.",
        ) from err
    return device


def call(target: str) -> None:
    """Import a module and call its function, without arguments.

    Args:
        target: "module:function".

    Raises:
        FlagConflict: If there is no such thing.
    """
    module, _, function = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as err:
        raise FlagConflict(
            f"--setup={target} cannot be called: {err}.", hint="Write it as module:function."
        ) from err
    found()
