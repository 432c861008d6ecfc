"""A pickle machine that can only build plain values.

Python's own unpickler is a program loader: any name may be imported and called, attributes of
anything may be set, and a small file can make it allocate gigabytes or overflow the C stack.
This one imports nothing. It knows the instructions that weights need; a name means what the
caller's table says, or stops the load; only what the table calls a `Constructor` can be called;
dictionary keys are plain; sizes are checked against the bytes that are left.

Source:
    The instruction set of CPython's ``pickletools``, protocols 2 to 5.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

MAX_PICKLE_BYTES = 100_000_000
MAX_INSTRUCTIONS = 16_000_000
"""A tensor takes about 40; one byte that means "a new set" takes 200 bytes of memory."""

_MAX_PROTOCOL = 5
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))


class PickleProblem(ValueError):
    """The pickle is damaged, or does what weights have no need of."""


class UnsafeName(PickleProblem):
    """The pickle asks for a name that is not in the table.

    Attributes:
        name: Module and name, with a dot.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"it asks for '{name}'")


@dataclass(frozen=True, slots=True)
class Constructor:
    """A name that a pickle may call.

    Attributes:
        name: For messages.
        make: Called with the pickle's arguments; refuses by raising `PickleProblem`.
    """

    name: str
    make: Callable[..., object]


@dataclass(frozen=True, slots=True)
class Inert:
    """A name that a pickle may mention, as a value, and do nothing with."""

    name: str


class Buildable:
    """A value that takes a state after its construction."""

    def build(self, state: object) -> None:
        """Take what the pickle gives as the value's state, or raise `PickleProblem`."""
        raise NotImplementedError


class _Mark:
    """Where a list of arguments begins on the stack."""


_MARK = _Mark()


class PickleMachine:
    """Runs one pickle after another from a stream.

    Args:
        stream: Positioned at the first instruction; left behind the last one.
        find: Gives the value of a global name, or raises `UnsafeName`.
        persistent: Gives the object for a persistent id; the machine is the second argument.
    """

    def __init__(
        self,
        stream: io.BufferedIOBase,
        find: Callable[[str, str], object],
        persistent: Callable[[object], object],
    ) -> None:
        self._stream = stream
        self._find = find
        self._persistent = persistent
        self._left = MAX_PICKLE_BYTES
        self._stack: list[Any] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Build the value of the next pickle.

        Raises:
            PickleProblem: If it cannot or must not be built.
        """
        self._stack = []
        self._memo = {}
        try:
            self._check_protocol()
            for _ in range(MAX_INSTRUCTIONS):
                code = self._take(1)[0]
                if code == _STOP:
                    return self._pop()
                action = _ACTIONS.get(code)
                if action is None:
                    raise PickleProblem(f"instruction 0x{code:02x} is not one that weights need")
                action(self)
        except (IndexError, KeyError, TypeError, OverflowError, UnicodeError, struct.error) as err:
            raise PickleProblem(f"its instructions do not fit together ({err!r})") from err
        raise PickleProblem(f"it has more than {MAX_INSTRUCTIONS:,} instructions")

    def key_being_set(self) -> str:
        """Name of the innermost dictionary key whose value is under construction, or ''."""
        nearest = itertools.islice(reversed(self._stack), 8)
        return next((item for item in nearest if type(item) is str), "")

    def _check_protocol(self) -> None:
        if self._take(1) != b"\x80" or self._take(1)[0] > _MAX_PROTOCOL:
            raise PickleProblem("it does not begin with a protocol that is known")

    def _take(self, count: int) -> bytes:
        self._left -= count
        if self._left < 0:
            raise PickleProblem(f"it is longer than {MAX_PICKLE_BYTES:,} bytes")
        data = self._stream.read(count)
        if len(data) != count:
            raise PickleProblem(f"it ends where {count:,} more bytes should be")
        return data

    def _line(self) -> bytes:
        line = self._stream.readline(1024)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise PickleProblem("a name in it has no end")
        return line[:-1]

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise PickleProblem("its instructions do not fit together")
        return value

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is _MARK:
                items = stack[at + 1 :]
                del stack[at:]
                return items
        raise PickleProblem("its instructions do not fit together")

    def _top(self, kind: type) -> Any:
        value = self._stack[-1]
        if not isinstance(value, kind):
            raise PickleProblem(
                f"it fills a {type(value).__name__} as if it were a {kind.__name__}"
            )
        return value

    # -- numbers and texts

    def _integer(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _long(self, size: int) -> None:
        count = self._number(size)
        self._stack.append(int.from_bytes(self._take(count), "little", signed=True))

    def _line_integer(self) -> None:
        # Python 2 wrote integers of more than 32 bits, and booleans, so.
        text = self._line()
        if len(text) > 20:
            raise PickleProblem("an integer in it is too long")
        try:
            value = int(text)
        except ValueError as err:
            raise PickleProblem(f"{text!r} is not an integer") from err
        self._stack.append(bool(value) if text in (b"00", b"01") else value)

    def _float(self) -> None:
        self._stack.append(struct.unpack(">d", self._take(8))[0])

    def _text(self, size: int) -> None:
        self._stack.append(self._take(self._number(size)).decode("utf-8"))

    def _bytes(self, size: int) -> None:
        self._stack.append(self._take(self._number(size)))

    # -- containers

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._stack.append(tuple(reversed(items)))

    def _append(self) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _extend(self) -> None:
        items = self._pop_to_mark()
        self._top(list).extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        set_items(self._top(dict), [(key, value)])

    def _set_items(self) -> None:
        items = self._pop_to_mark()
        if len(items) % 2:
            raise PickleProblem("a key in it has no value")
        set_items(self._top(dict), zip(items[::2], items[1::2], strict=True))

    def _add_items(self) -> None:
        items = [check_key(item) for item in self._pop_to_mark()]
        self._top(set).update(items)

    # -- memo, names, calls

    def _put(self, size: int) -> None:
        self._memo[self._number(size)] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, size: int) -> None:
        self._stack.append(self._memo[self._number(size)])

    def _global(self) -> None:
        module, name = self._line().decode("utf-8"), self._line().decode("utf-8")
        self._stack.append(self._find(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise PickleProblem("a name in it is not a text")
        self._stack.append(self._find(module, name))

    def _reduce(self) -> None:
        arguments, constructor = self._pop(), self._pop()
        self._stack.append(call(constructor, arguments))

    def _build(self) -> None:
        state = self._pop()
        value = self._stack[-1]
        if isinstance(value, Buildable):
            value.build(state)
        elif type(value) is OrderedDict and isinstance(state, dict):
            # Modules keep the versions of their layers here; nothing else is wanted.
            if isinstance(state.get("_metadata"), dict):
                value._metadata = state["_metadata"]  # type: ignore[attr-defined]
        else:
            raise PickleProblem(f"it changes the state of a {type(value).__name__}")


def check_key(key: Any) -> Any:
    """Let a plain key of a dictionary or set pass.

    Hashing a tuple inside a tuple, a million deep, overflows the C stack.
    """
    items = key if type(key) is tuple else (key,)
    if not all(type(item) in _PLAIN_KEYS or isinstance(item, Inert) for item in items):
        raise PickleProblem(f"a {type(key).__name__} is used as a key")
    return key


def set_items(target: dict[Any, Any], pairs: Iterable[tuple[Any, Any]]) -> None:
    """Put pairs with plain keys into a dictionary."""
    for key, value in pairs:
        target[check_key(key)] = value


def call(constructor: object, arguments: object) -> object:
    """Call a name on a pickle's behalf.

    Raises:
        PickleProblem: If it may not be called, or not so.
    """
    if not isinstance(constructor, Constructor) or type(arguments) is not tuple:
        name = getattr(constructor, "name", type(constructor).__name__)
        raise PickleProblem(f"it calls '{name}', which may not be called")
    try:
        return constructor.make(*arguments)
    except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as err:
        if isinstance(err, PickleProblem):
            raise
        raise PickleProblem(f"it calls '{constructor.name}' in a wrong way ({err})") from err


_STOP = ord(".")


def _push(value: object) -> Callable[[PickleMachine], None]:
    return lambda machine: machine._stack.append(value)


def _push_new(make: Callable[[], object]) -> Callable[[PickleMachine], None]:
    return lambda machine: machine._stack.append(make())


_M = PickleMachine
_ACTIONS: dict[int, Callable[[PickleMachine], object]] = {
    ord("("): _push(_MARK),
    ord("0"): lambda m: m._stack.pop(),
    ord("1"): _M._pop_to_mark,
    ord("2"): lambda m: m._stack.append(m._stack[-1]),
    ord("N"): _push(None),
    0x88: _push(True),
    0x89: _push(False),
    ord("I"): _M._line_integer,
    ord("J"): _M._integer,
    ord("K"): lambda m: m._stack.append(m._number(1)),
    ord("M"): lambda m: m._stack.append(m._number(2)),
    0x8A: lambda m: m._long(1),
    0x8B: lambda m: m._long(4),
    ord("G"): _M._float,
    ord("T"): lambda m: m._text(4),
    ord("U"): lambda m: m._text(1),
    ord("X"): lambda m: m._text(4),
    0x8C: lambda m: m._text(1),
    0x8D: lambda m: m._text(8),
    ord("B"): lambda m: m._bytes(4),
    ord("C"): lambda m: m._bytes(1),
    0x8E: lambda m: m._bytes(8),
    0x96: lambda m: m._stack.append(bytearray(m._take(m._number(8)))),
    ord("}"): _push_new(dict),
    ord("]"): _push_new(list),
    ord(")"): _push(()),
    0x8F: _push_new(set),
    ord("t"): lambda m: m._stack.append(tuple(m._pop_to_mark())),
    0x85: lambda m: m._tuple(1),
    0x86: lambda m: m._tuple(2),
    0x87: lambda m: m._tuple(3),
    0x91: lambda m: m._stack.append(frozenset(map(check_key, m._pop_to_mark()))),
    ord("a"): _M._append,
    ord("e"): _M._extend,
    ord("s"): _M._set_item,
    ord("u"): _M._set_items,
    0x90: _M._add_items,
    ord("q"): lambda m: m._put(1),
    ord("r"): lambda m: m._put(4),
    0x94: _M._memoize,
    ord("h"): lambda m: m._get(1),
    ord("j"): lambda m: m._get(4),
    ord("c"): _M._global,
    0x93: _M._stack_global,
    ord("R"): _M._reduce,
    0x81: _M._reduce,
    ord("b"): _M._build,
    ord("Q"): lambda m: m._stack.append(m._persistent(m._pop())),
    0x95: lambda m: m._number(8),
}
