"""The loading flags: their meaning, their environment twins, their validation. Imports no torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from comfy.loading.errors import FlagConflict

MIB = 1024 * 1024
DEFAULT_STAGING_MB = 64

CachePolicy = Literal["auto", "keep", "drop"]
Switch = Literal["auto", "on", "off"]

_CACHE_POLICIES: tuple[str, ...] = get_args(CachePolicy)
_SWITCH: tuple[str, ...] = get_args(Switch)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the user wants of loading; a contradiction raises before any file is opened.

    Attributes:
        strategy: Name of a registered strategy, or "auto".
        allow_mmap: False under ``--disable-mmap``: no weight file is ever mapped.
        staging_bytes: Size of the staging ring of one device, in bytes.
        threads: Reader threads; 0 lets the plan decide.
        cache: What becomes of the page cache that a load fills.
        direct: Whether reads go around the page cache (O_DIRECT).
        unified: Overrides the detection of memory shared by CPU and GPU.
        reserve_bytes: Memory that planning leaves free, in bytes; None lets the plan decide.
        compat: Accept four deviations from the safetensors format with a warning.

    Raises:
        FlagConflict: On a value out of range, or settings that contradict each other.
    """

    strategy: str = "auto"
    allow_mmap: bool = True
    staging_bytes: int = DEFAULT_STAGING_MB * MIB
    threads: int = 0
    cache: CachePolicy = "auto"
    direct: Switch = "auto"
    unified: Switch = "auto"
    reserve_bytes: int | None = None
    compat: bool = False

    def __post_init__(self) -> None:
        # Not every program's parser that has such a flag takes these words.
        _check_word("--load-cache", self.cache, _CACHE_POLICIES)
        _check_word("--load-direct", self.direct, _SWITCH)
        _check_word("--unified-memory", self.unified, _SWITCH)
        if self.strategy == "mmap" and not self.allow_mmap:
            raise FlagConflict(
                "--load-strategy=mmap and --disable-mmap contradict each other.",
                hint="Give one of them only.",
            )
        if self.direct == "on" and self.cache == "keep":
            raise FlagConflict(
                "--load-direct=on reads around the page cache, --load-cache=keep wants it filled.",
                hint="Give one of them only.",
            )
        if self.direct == "on" and self.strategy == "mmap":
            raise FlagConflict(
                "--load-direct=on cannot be honoured by --load-strategy=mmap.",
                hint="Use --load-strategy=file-slice or readinto.",
            )
        if not 1 * MIB <= self.staging_bytes <= 16 * 1024 * MIB:
            raise FlagConflict(
                f"--load-staging-mb is {self.staging_bytes // MIB}, it must be from 1 to 16384.",
                wanted=DEFAULT_STAGING_MB * MIB,
                got=self.staging_bytes,
                hint=f"The default is {DEFAULT_STAGING_MB}.",
            )
        if not 0 <= self.threads <= 64:
            raise FlagConflict(
                f"--load-threads is {self.threads}, it must be from 0 (automatic) to 64.",
                got=self.threads,
            )
        if self.reserve_bytes is not None and self.reserve_bytes < 0:
            raise FlagConflict("--load-reserve-mb must not be negative.", got=self.reserve_bytes)


def _check_word(flag: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise FlagConflict(f"{flag} is {value!r}, it must be one of {', '.join(choices)}.")


@dataclass(frozen=True, slots=True)
class _Flag:
    """One flag, as both argparse and the environment see it."""

    name: str
    default: Any
    kind: Literal["word", "choice", "number", "switch"]
    help: str
    choices: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def dest(self) -> str:
        return self.name.lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return "COMFY_" + self.dest.upper()

    def cast(self, text: str) -> Any:
        """Turn the text of an environment variable into the flag's value."""
        value = text.strip()
        if self.kind == "switch":
            return self._cast_switch(value.lower())
        if self.kind == "number":
            try:
                return int(value)
            except ValueError as err:
                raise FlagConflict(
                    f"{self.variable}={text!r} is not a whole number.", hint="Unset it or mend it."
                ) from err
        if self.kind == "choice" and value not in self.choices:
            raise FlagConflict(
                f"{self.variable}={text!r} is not one of {', '.join(self.choices)}.",
                hint="Unset it or mend it.",
            )
        return value

    def _cast_switch(self, value: str) -> bool:
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise FlagConflict(
            f"{self.variable}={value!r} is neither 1 nor 0.", hint="Unset it or set it to 1."
        )


FLAGS = (
    _Flag(
        "--load-strategy",
        "auto",
        "word",
        "How weights come from their file: auto, mmap, readinto (no mapping), file-slice "
        "(straight to the device), aimdo, or the name of a registered plug-in.",
        metavar="NAME",
    ),
    _Flag("--disable-mmap", False, "switch", "Never map a weight file into memory."),
    _Flag(
        "--load-staging-mb",
        DEFAULT_STAGING_MB,
        "number",
        "Size of the staging ring between file and device, in MiB.",
        metavar="MIB",
    ),
    _Flag("--load-threads", 0, "number", "Reader threads; 0 decides by disk and CPU.", metavar="N"),
    _Flag(
        "--load-cache",
        "auto",
        "choice",
        "Page cache after a load: keep it, drop what the load brought in, or decide by hardware.",
        _CACHE_POLICIES,
    ),
    _Flag(
        "--load-direct",
        "auto",
        "choice",
        "Read around the page cache (O_DIRECT): when it helps, always, or never.",
        _SWITCH,
    ),
    _Flag(
        "--unified-memory",
        "auto",
        "choice",
        "Whether CPU and GPU share one memory: detect, or override the detection.",
        _SWITCH,
    ),
    _Flag(
        "--load-reserve-mb",
        None,
        "number",
        "Memory that loading leaves free, in MiB; by default decided by hardware.",
        metavar="MIB",
    ),
    _Flag(
        "--load-compat",
        False,
        "switch",
        "Accept safetensors files with duplicate names and three other deviations, with a warning.",
    ),
)


def add_arguments(
    parser: argparse.ArgumentParser, environ: Mapping[str, str] | None = None
) -> None:
    """Add the loading flags to `parser`, with their environment twins as defaults.

    Args:
        parser: Any parser; ComfyUI's own in particular.
        environ: Source of ``COMFY_*`` variables; the process environment if None.

    Raises:
        FlagConflict: If a variable has a value that its flag would not take.
    """
    source = os.environ if environ is None else environ
    group = parser.add_argument_group("loading weights")
    for flag in FLAGS:
        _add(group, flag, _default(flag, source))


def add_missing_arguments(
    parser: argparse.ArgumentParser, environ: Mapping[str, str] | None = None
) -> None:
    """Add those loading flags that `parser` has not; see `add_arguments`.

    A flag that it has keeps its own text; its default becomes the environment's if that names it.
    """
    source = os.environ if environ is None else environ
    group = parser.add_argument_group("loading weights")
    for flag in FLAGS:
        default = _default(flag, source)
        try:
            _add(group, flag, default)
        except argparse.ArgumentError:
            if flag.variable in source:
                parser.set_defaults(**{flag.dest: default})


def _default(flag: _Flag, source: Mapping[str, str]) -> Any:
    return flag.cast(source[flag.variable]) if flag.variable in source else flag.default


def _add(group: argparse._ArgumentGroup, flag: _Flag, default: Any) -> None:
    text = f"{flag.help} [environment: {flag.variable}]"
    if flag.kind == "switch":
        group.add_argument(flag.name, action="store_true", default=default, help=text)
        return
    group.add_argument(
        flag.name,
        type=int if flag.kind == "number" else str,
        default=default,
        choices=flag.choices or None,
        metavar=flag.metavar,
        help=f"{text} (default: {default})" if default is not None else text,
    )


def from_namespace(namespace: argparse.Namespace) -> LoadOptions:
    """Make options of parsed flags.

    Args:
        namespace: Result of a parser that went through `add_arguments`; attributes that are
            missing take their defaults.

    Raises:
        FlagConflict: If the flags contradict each other.
    """
    value = {flag.dest: getattr(namespace, flag.dest, flag.default) for flag in FLAGS}
    reserve = value["load_reserve_mb"]
    return LoadOptions(
        strategy=value["load_strategy"],
        allow_mmap=not value["disable_mmap"],
        staging_bytes=value["load_staging_mb"] * MIB,
        threads=value["load_threads"],
        cache=value["load_cache"],
        direct=value["load_direct"],
        unified=value["unified_memory"],
        reserve_bytes=None if reserve is None else reserve * MIB,
        compat=value["load_compat"],
    )


def from_environ(environ: Mapping[str, str] | None = None) -> LoadOptions:
    """Make options of the environment alone, for library users who never parse arguments.

    Raises:
        FlagConflict: If a variable is malformed or the variables contradict each other.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser, environ)
    return from_namespace(parser.parse_args([]))
