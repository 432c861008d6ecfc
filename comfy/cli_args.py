"""The parsed command line, `args`. Imports no torch, so that it can be read before torch is.

`sys.argv` is read only after ``comfy.options.enable_args_parsing()``; otherwise `args` holds the
defaults. Contradictory, malformed or unknown flags end the program with status 2.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

import comfy.options
from comfy.cli_flags import DEFAULT_VERSION_STRING, GROUPS
from comfy.cli_types import (
    EnumAction,
    LatentPreviewMethod,
    OneOf,
    PerformanceFeature,
    is_valid_directory,
)
from comfy.loading.errors import FlagConflict
from comfy.loading.options import add_arguments, from_namespace

__all__ = [
    "DEFAULT_VERSION_STRING",
    "EnumAction",
    "LatentPreviewMethod",
    "PerformanceFeature",
    "args",
    "is_valid_directory",
    "parser",
]


class _Parser(argparse.ArgumentParser):
    """Names the nearest known flag when it meets an unknown one."""

    def parse_args(  # type: ignore[override]  # argparse's stub has overloads for other namespaces
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error("; ".join(self._explain(word) for word in unknown))
        return parsed

    def _explain(self, word: str) -> str:
        if not word.startswith("-"):
            return f"unexpected argument '{word}'"
        name = word.partition("=")[0]
        known = sorted(self._option_string_actions)
        nearest = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else "see --help"
        return f"unknown flag {name} ({hint})"


def _add_table(target: argparse.ArgumentParser) -> None:
    for group in GROUPS:
        section = target.add_argument_group(group.title, group.description)
        for row in group.rows:
            if isinstance(row, OneOf):
                exclusive = section.add_mutually_exclusive_group()
                for flag in row.flags:
                    exclusive.add_argument(*flag.names, **flag.settings)
            else:
                section.add_argument(*row.names, **row.settings)


def _check(parsed: argparse.Namespace) -> None:
    from_namespace(parsed)
    if parsed.mmap_torch_files and parsed.disable_mmap:
        raise FlagConflict(
            "--mmap-torch-files and --disable-mmap contradict each other.",
            hint="Give one of them only.",
        )


def _finish(parsed: argparse.Namespace) -> argparse.Namespace:
    """Resolve what one flag says about another."""
    if parsed.fast is None:
        parsed.fast = set()
    if parsed.force_fp16:
        parsed.fp16_unet = True
    if parsed.windows_standalone_build:
        parsed.auto_launch = True
    if parsed.disable_auto_launch:
        parsed.auto_launch = False
    return parsed


def _start() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    is_program = comfy.options.args_parsing
    # Without argparse's own -h, so that the first heading of --help is ours.
    made = _Parser(usage="%(prog)s [flags]", add_help=False, allow_abbrev=False)
    try:
        add_arguments(made)
        _add_table(made)
        made.add_argument_group("help").add_argument(
            "-h", "--help", action="help", help="Show this text and exit."
        )
        parsed = made.parse_args(None if is_program else [])
        _check(parsed)
    except FlagConflict as err:
        if not is_program:
            raise
        made.error(str(err))
    return made, _finish(parsed)


parser: argparse.ArgumentParser
args: Any
parser, args = _start()
