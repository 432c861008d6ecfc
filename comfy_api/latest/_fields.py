"""Constructors made of what a class declares, as inputs of many kinds need them.

A class lists its parameters with their types and defaults, and gets a constructor that keeps them
as attributes. A subclass that lists some has them, in this order, after those that lead
(`Declared.LEAD`), and before the others of its base; what it lists anew moves to its own.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, ClassVar

if sys.version_info >= (3, 11):
    from typing import dataclass_transform
else:
    from typing_extensions import dataclass_transform


_KIND, _EMPTY = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty


class _Required:
    """Stands in the place of a default."""


def parameter(*, default: Any = _Required, kw_only: bool = True) -> Any:
    """Declare a parameter that has no default, or that callers give by its place.

    Args:
        default: Without one it is required.
        kw_only: For type checkers: whether it must be named.
    """
    return default


@dataclass_transform(kw_only_default=True, field_specifiers=(parameter,))
class Declared:
    """Base of classes that list their parameters.

    Attributes:
        FIELDS: Default by parameter, in the order of the constructor.
        LEAD: Parameters that stand before the others, also in subclasses.
    """

    FIELDS: ClassVar[dict[str, Any]] = {}
    LEAD: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {
            name: cls.__dict__[name]
            for name, kind in inspect.get_annotations(cls).items()
            # A bare hint is no parameter. Kinds are texts or types, as the file has it.
            if name in cls.__dict__ and "ClassVar" not in str(kind)
        }
        if own and "__init__" not in cls.__dict__:
            known = {**cls.FIELDS, **own}
            lead = [name for name in cls.LEAD if name in known]
            order = dict.fromkeys([*lead, *own, *cls.FIELDS])
            cls.FIELDS = {name: known[name] for name in order}
            type.__setattr__(cls, "__init__", _constructor(cls.FIELDS))

    def settle(self) -> None:
        """Called at the end of a constructor: bring what was given into shape."""


def _constructor(fields: dict[str, Any]) -> Any:
    """A function that keeps its arguments as attributes."""
    signature = inspect.Signature(
        [
            inspect.Parameter(name, _KIND, default=_EMPTY if one is _Required else one)
            for name, one in {"self": _Required, **fields}.items()
        ]
    )
    names = list(fields)
    required = {name for name, one in fields.items() if one is _Required}

    def __init__(self: Declared, *args: Any, **given: Any) -> None:
        by_place = dict(zip(names, args))  # noqa: B905 - too many are refused below
        known = by_place.keys() | given.keys()
        is_twice = len(known) < len(args) + len(given)
        if is_twice or len(args) > len(names) or known - fields.keys() or required - known:
            # Raises, in the words that Python has for it.
            signature.bind(self, *args, **given)
        vars(self).update({**fields, **by_place, **given})
        self.settle()

    vars(__init__)["__signature__"] = signature
    return __init__
