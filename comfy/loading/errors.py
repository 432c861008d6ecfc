"""Every way a load can fail, as a type that carries its data.

::

    LoadError
    ├── InvalidWeightFile      (ValueError)    the header, the table or the pickle is wrong
    ├── TruncatedWeightFile    (EOFError)      bytes that the table promises are missing
    ├── WeightReadFailed       (OSError)       the system refused to open, read or write
    │   └── WeightSaveFailed                   while saving; what was there before is untouched
    ├── CannotBeSaved          (ValueError)    a tensor, name or text that the format lacks
    ├── WeightFileChanged      (RuntimeError)  the file is not the one that was opened
    ├── NotEnoughMemory        (MemoryError)   said before the first byte is read, where known
    ├── DeviceCopyFailed       (RuntimeError)  the device failed while weights were on their way
    ├── StrategyUnavailable    (ValueError)    no strategy can do this, and why
    │   └── UnknownStrategy                    nobody registered that name
    ├── FlagConflict           (ValueError)    two settings contradict each other
    ├── NotASlice              (TypeError)     this tensor or view has no range in a file
    ├── FrozenTensor           (TypeError)     an operation a tensor in a file cannot follow
    └── LoadCancelled                          the user asked to stop
"""

from __future__ import annotations

import enum
import errno
import os
import traceback
from collections.abc import Mapping


class HeaderProblem(enum.Enum):
    """What is wrong with a weight file.

    The first ten are safetensors 0.8's own names, in the order in which it checks; the next
    four are stricter than it and become warnings under ``--load-compat``; the rest concern
    sharded and pickled checkpoints.
    """

    HEADER_TOO_SMALL = "HeaderTooSmall"
    HEADER_TOO_LARGE = "HeaderTooLarge"
    INVALID_HEADER_LENGTH = "InvalidHeaderLength"
    INVALID_HEADER = "InvalidHeader"
    INVALID_HEADER_DESERIALIZATION = "InvalidHeaderDeserialization"
    INVALID_OFFSET = "InvalidOffset"
    VALIDATION_OVERFLOW = "ValidationOverflow"
    MISALIGNED_SLICE = "MisalignedSlice"
    TENSOR_INVALID_INFO = "TensorInvalidInfo"
    METADATA_INCOMPLETE_BUFFER = "MetadataIncompleteBuffer"

    INVALID_HEADER_START = "InvalidHeaderStart"
    DUPLICATE_TENSOR = "DuplicateTensor"
    DUPLICATE_METADATA_KEY = "DuplicateMetadataKey"
    ARRAY_FORM = "ArrayForm"

    INVALID_INDEX = "InvalidIndex"
    MISSING_SHARD = "MissingShard"
    UNSAFE_PICKLE = "UnsafePickle"
    INVALID_PICKLE = "InvalidPickle"
    UNKNOWN_FORMAT = "UnknownFormat"


def forget_frames(error: BaseException) -> None:
    """Clear the local variables of the frames behind an error that is about to be raised again.

    An error that somebody keeps would otherwise keep half-loaded weights: a fallback that starts
    while it is handled would find only the rest of the memory.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        queue += [one.__cause__, one.__context__]


def _name(path: str | None) -> str:
    return os.path.basename(path) if path else "weights"


class LoadError(Exception):
    """Base of all errors of this package; the text is built from the attributes.

    Attributes:
        path: The file concerned, or None.
        tensor: Name of the tensor concerned, or None.
        offset: Byte in the file, or None.
        wanted: Number that was needed (bytes unless the message says otherwise), or None.
        got: Number that was found, or None.
        hint: What the user can do.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        wanted: int | None = None,
        got: int | None = None,
        hint: str = "",
    ) -> None:
        self.message = message
        self.path = path
        self.tensor = tensor
        self.offset = offset
        self.wanted = wanted
        self.got = got
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{_name(self.path)}: " if self.path else ""
        advice = f" {self.hint}" if self.hint else ""
        located = f" (file: {self.path})" if self.path else ""
        return f"{where}{self.message}{advice}{located}"

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call __init__ with the finished text, and lose the attributes.
        return (_rebuild, (type(self), dict(self.__dict__)))


def _rebuild(kind: type[LoadError], state: dict[str, object]) -> LoadError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    return error


class InvalidWeightFile(LoadError, ValueError):
    """The file's header, table of tensors, index or pickle breaks a rule.

    Attributes:
        problem: Which rule; one member for each.
    """

    def __init__(
        self,
        problem: HeaderProblem,
        message: str,
        *,
        path: str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        wanted: int | None = None,
        got: int | None = None,
        hint: str = "The file is damaged or of another format; download it again.",
    ) -> None:
        self.problem = problem
        super().__init__(
            f"{problem.value}: {message}",
            path=path,
            tensor=tensor,
            offset=offset,
            wanted=wanted,
            got=got,
            hint=hint,
        )


class TruncatedWeightFile(LoadError, EOFError):
    """The file ends before bytes that its own table promises."""

    def __init__(
        self, path: str, offset: int, wanted: int, got: int, tensor: str | None = None
    ) -> None:
        whose = f"tensor '{tensor}'" if tensor else "a weight"
        super().__init__(
            f"{whose} needs {wanted:,} bytes at byte {offset:,} but the file gave only {got:,}.",
            path=path,
            tensor=tensor,
            offset=offset,
            wanted=wanted,
            got=got,
            hint="The file is incomplete or was cut while it was read; download it again.",
        )


class WeightReadFailed(LoadError, OSError):
    """The operating system refused; `errno` and `strerror` are those of the cause."""

    def __init__(
        self, path: str, cause: OSError, *, offset: int | None = None, doing: str = "read"
    ) -> None:
        where = f" at byte {offset:,}" if offset is not None else ""
        reason = cause.strerror or str(cause)
        super().__init__(
            f"the system could not {doing} it{where}: {reason} (errno {cause.errno}).",
            path=path,
            offset=offset,
            hint="Check that the file exists, may be read, and that its disk is healthy.",
        )
        self.errno = cause.errno
        self.strerror = cause.strerror
        self.filename = path


class WeightSaveFailed(WeightReadFailed):
    """The system refused while a file was being saved; what was there before is as it was."""

    def __init__(self, path: str, cause: OSError) -> None:
        super().__init__(path, cause, doing="write")
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.hint = "Free some space there, or save to another disk."
        else:
            self.hint = "Check that the folder exists and may be written."


class CannotBeSaved(LoadError, ValueError):
    """The format has no place for a tensor, a name, or a piece of metadata."""


class WeightFileChanged(LoadError, RuntimeError):
    """The path no longer leads to the file that was opened, or its contents were replaced."""

    def __init__(self, path: str, expected: object, found: object | None) -> None:
        self.expected = expected
        self.found = found
        what = "it is gone" if found is None else f"it was {expected} and is now {found}"
        super().__init__(
            f"the file changed after it was opened: {what}.",
            path=path,
            hint="Load the model again to use the new file.",
        )


class NotEnoughMemory(LoadError, MemoryError):
    """The plan does not fit, or memory that it counted on is gone when a weight needs it.

    Attributes:
        need: Bytes that the plan, or the weight, takes from the pool.
        available: Bytes that the pool can give.
        pool: Which memory, in words.
    """

    def __init__(
        self,
        need: int,
        available: int,
        pool: str,
        *,
        path: str | None = None,
        tensor: str | None = None,
        hint: str = "",
    ) -> None:
        self.need = need
        self.available = available
        self.pool = pool
        mib = 1024 * 1024
        whose = f"tensor '{tensor}'" if tensor else "loading"
        size = f"{need / mib:,.0f} MiB" if need >= mib else f"{need:,} bytes"
        super().__init__(
            f"{whose} needs {size} of {pool} and {available / mib:,.0f} MiB are free.",
            path=path,
            tensor=tensor,
            wanted=need,
            got=available,
            hint=hint or "Unload other models, close programs, or use a smaller model or dtype.",
        )


class DeviceCopyFailed(LoadError, RuntimeError):
    """The device or its driver failed while weights were on their way to it.

    Attributes:
        device: Which, in words.
    """

    def __init__(
        self,
        device: object,
        cause: BaseException,
        *,
        path: str | None = None,
        tensor: str | None = None,
    ) -> None:
        self.device = str(device)
        whose = f"tensor '{tensor}'" if tensor else "weights"
        super().__init__(
            f"the copy of {whose} to {device} failed: {cause}",
            path=path,
            tensor=tensor,
            hint="Try again; if it comes back, restart the program and look at the driver's log.",
        )


class StrategyUnavailable(LoadError, ValueError):
    """No candidate can do what was asked.

    Attributes:
        reasons: Each candidate's name and half a sentence why it cannot.
    """

    def __init__(self, reasons: Mapping[str, str], *, path: str | None = None) -> None:
        self.reasons = dict(reasons)
        told = "; ".join(f"{name}: {why}" for name, why in self.reasons.items())
        super().__init__(
            f"no load strategy can be used ({told}).",
            path=path,
            hint="Choose another with --load-strategy, or use --load-strategy=auto.",
        )


class UnknownStrategy(StrategyUnavailable):
    """Nobody registered a strategy of that name."""

    def __init__(self, name: str, known: list[str], closest: str | None = None) -> None:
        self.name = name
        self.known = known
        super().__init__({name: "no strategy of that name is registered"})
        suggestion = f"Did you mean '{closest}'? " if closest else ""
        self.hint = f"{suggestion}Known strategies: {', '.join(known)}."


class FlagConflict(LoadError, ValueError):
    """Two settings contradict each other, or one has an impossible value; only at start-up."""


class NotASlice(LoadError, TypeError):
    """The tensor or view is not one contiguous range of a file."""


class FrozenTensor(LoadError, TypeError):
    """The operation would need to change what a tensor in a file *is* (its shape or dtype)."""


class LoadCancelled(LoadError):
    """The user asked to stop; nothing half-loaded is left."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__("loading was cancelled.", path=path)
