"""The loading flags in the argument parser of another program. Imports no torch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from comfy.loading.errors import FlagConflict
from comfy.loading.options import LoadOptions, add_missing_arguments, from_environ, from_namespace


@dataclass
class _Taken:
    """What the program's parser gave; nothing before it ran."""

    options: LoadOptions | None = None
    force_cpu: bool = False


_taken = _Taken()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the loading flags that the program does not have itself; to be called before it parses.

    A malformed environment variable ends the program, as a malformed flag does.
    """
    try:
        add_missing_arguments(parser)
    except FlagConflict as err:
        parser.error(str(err))


def take(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    """Remember what was parsed; flags that contradict each other end the program.

    Args:
        parser: Of `add_arguments`.
        namespace: What it made; ``cpu`` in it keeps all on the CPU.
    """
    try:
        _taken.options = from_namespace(namespace)
    except FlagConflict as err:
        parser.error(str(err))
    _taken.force_cpu = bool(getattr(namespace, "cpu", False))


def take_environment(namespace: argparse.Namespace | None) -> None:
    """Take the options from the environment, where no flags could be added.

    Args:
        namespace: Of the program's own flags; ``disable_mmap`` and ``cpu`` in it hold as well.

    Raises:
        FlagConflict: If variables are malformed, or contradict each other or the flags.
    """
    wanted = from_environ()
    if getattr(namespace, "disable_mmap", False):
        wanted = replace(wanted, allow_mmap=False)
    _taken.options, _taken.force_cpu = wanted, bool(getattr(namespace, "cpu", False))


def options() -> LoadOptions:
    """The options that were parsed; the environment's where no parser ran.

    Raises:
        FlagConflict: If the environment contradicts itself.
    """
    if _taken.options is None:
        _taken.options = from_environ()
    return _taken.options


def force_cpu() -> bool:
    """Whether the program was told to use no accelerator."""
    return _taken.force_cpu
