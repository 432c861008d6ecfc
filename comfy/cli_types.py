"""Words, types and rows that the table of flags is made of. Imports no torch."""

from __future__ import annotations

import argparse
import enum
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


class LatentPreviewMethod(enum.Enum):
    """How a picture of a latent is made while sampling runs."""

    NoPreviews = "none"
    Auto = "auto"
    Latent2RGB = "latent2rgb"
    TAESD = "taesd"

    @classmethod
    def from_string(cls, value: str) -> LatentPreviewMethod | None:
        """Find the member whose value is exactly `value`, or None."""
        return next((method for method in cls if method.value == value), None)


class PerformanceFeature(enum.Enum):
    """Optional shortcuts of ``--fast`` that may cost quality."""

    Fp16Accumulation = "fp16_accumulation"
    Fp8MatrixMultiplication = "fp8_matrix_mult"
    CublasOps = "cublas_ops"
    AutoTune = "autotune"


class EnumAction(argparse.Action):
    """Offers the values of an enumeration as words and stores its members.

    Raises:
        TypeError: If `type` is not an enumeration.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kind = kwargs.pop("type", None)
        if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            raise TypeError(f"EnumAction needs type=<an Enum class>, got {kind!r}.")
        words = tuple(str(member.value) for member in kind)
        kwargs.setdefault("choices", words)
        kwargs.setdefault("metavar", f"[{','.join(words)}]")
        super().__init__(*args, **kwargs)
        self._kind = kind

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if isinstance(values, str):
            setattr(namespace, self.dest, self._kind(values))
        else:
            setattr(namespace, self.dest, [self._kind(word) for word in values or ()])


class FeatureSetAction(EnumAction):
    """Stores a set; no word at all means every feature."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, {self._kind(word) for word in values or self._kind})


def is_valid_directory(path: str) -> str:
    """Return `path` if it is a folder that can be read; the type of some flags.

    Raises:
        argparse.ArgumentTypeError: If it does not exist, is no folder, or may not be read.
    """
    if not os.path.exists(path):
        raise argparse.ArgumentTypeError(f"there is no folder '{path}'.")
    if not os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"'{path}' is not a folder.")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"the folder '{path}' may not be read.")
    return path


def device_numbers(text: str) -> int | str:
    """Read one device number as an int, a comma list of them as a string."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a device number or a comma list of them."
        )
    return int(numbers[0]) if len(numbers) == 1 else ",".join(numbers)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its spellings, and what argparse is told about it."""

    names: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def dest(self) -> str:
        """Attribute of the parsed arguments."""
        return self.names[0].lstrip("-").replace("-", "_")


@dataclass(frozen=True, slots=True)
class OneOf:
    """Flags of which at most one may be given."""

    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A heading of ``--help`` and the flags under it."""

    title: str
    rows: tuple[Flag | OneOf, ...]
    description: str | None = None

    def flags(self) -> Iterator[Flag]:
        """All flags, those that exclude each other included."""
        for row in self.rows:
            yield from row.flags if isinstance(row, OneOf) else (row,)
