"""Inputs and outputs of a schema, and how a type gets its own kind of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, ClassVar

from comfy_api.internal.dicts import prune_dict
from comfy_api.latest._fields import Declared, parameter

_ON_PAGE = {
    "raw_link": "rawLink",
    "widget_type": "widgetType",
    "force_input": "forceInput",
    "display_mode": "display",
    "dynamic_prompts": "dynamicPrompts",
}
"""What the page calls options whose names differ."""

Spec = tuple[Any, dict[str, Any]]
"""An input as a classic node declares it: (type, options)."""


def _plain(value: Any) -> Any:
    """A member of an enumeration as its value, a record as a dict: JSON knows neither."""
    if isinstance(value, Enum):
        return value.value
    return value.as_dict() if hasattr(value, "as_dict") else value


class Input(Declared):
    """An input that a link fills.

    Attributes:
        io_type: The type's name in links.
        id: Its name in the prompt and in ``execute``.
        display_name: Shown instead of the id.
        optional: Whether a prompt may leave it out.
        tooltip: Shown on the page.
        lazy: Computed only if ``check_lazy_status`` asks for it.
        extra_dict: Further options, sent to the page as they are.
        raw_link: Whether ``execute`` gets the link instead of the value.
        advanced: Hidden by the page until asked for.
    """

    LEAD: ClassVar[tuple[str, ...]] = ("id", "display_name", "optional", "tooltip", "lazy")
    NOT_TOLD: ClassVar[tuple[str, ...]] = ("id", "optional", "extra_dict")
    """Parameters that are no options of the page."""

    io_type: ClassVar[str] = "*"
    Parent: ClassVar[type | None] = None

    id: str = parameter(kw_only=False)
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict[str, Any] | None = None
    raw_link: bool | None = None
    advanced: bool | None = None

    @property
    def rawLink(self) -> bool | None:
        """The name of `raw_link` that packs know."""
        return self.raw_link

    def get_io_type(self) -> str:
        """The type's name in links."""
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """The options that were given, as the page reads them."""
        told = {}
        for name in self.FIELDS:
            value = getattr(self, name)
            if value is not None and name not in self.NOT_TOLD:
                told[_ON_PAGE.get(name, name)] = _plain(value)
        return prune_dict({**told, **(self.extra_dict or {})})

    def as_spec(self) -> Spec:
        """The input as a classic node declares it."""
        return self.get_io_type(), self.as_dict()

    def validate(self) -> None:
        """Raise ValueError if its options contradict each other."""

    def get_all(self) -> list[Input]:
        """This input and those that stand in it."""
        return [self]


class WidgetInput(Input):
    """An input that the user may also fill on the page.

    Attributes:
        default: Value of a new node.
        socketless: Whether no link can be made to it.
        widget_type: Name of the page's widget, if not that of the type.
        force_input: Whether only a link can fill it.
    """

    default: Any = None
    socketless: bool | None = None
    widget_type: str | None = None
    force_input: bool | None = None


class Output:
    """An output of a node.

    Attributes:
        io_type: The type's name in links.
        id: Unique among the node's outputs; `Schema.finalize` makes one up.
        display_name: Shown instead of the type.
        tooltip: Shown on the page.
        is_output_list: Whether the value is a list whose items are results of their own.
    """

    io_type: str = "*"
    Parent: ClassVar[type | None] = None

    def __init__(
        self,
        id: str | None = None,
        display_name: str | None = None,
        tooltip: str | None = None,
        is_output_list: bool = False,
    ) -> None:
        self.id = id
        self.display_name = display_name
        self.tooltip = tooltip
        self.is_output_list = is_output_list

    def get_io_type(self) -> str:
        """The type's name in links."""
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """What was said about it."""
        return prune_dict(
            {
                "id": self.id,
                "display_name": self.display_name,
                "tooltip": self.tooltip,
                "is_output_list": self.is_output_list,
            }
        )

    def validate(self) -> None:
        """Raise ValueError if its options contradict each other."""


class ComfyType:
    """Base of the types: a name, the Python type behind it, an ``Input`` and an ``Output``."""

    io_type: ClassVar[str] = "*"
    Type: Any = Any
    Input: ClassVar[Any] = Input
    Output: ClassVar[Any] = Output


class ComfyTypeI(ComfyType):
    """A type that is meant for inputs."""


class ComfyTypeIO(ComfyTypeI):
    """A type that is meant for inputs and outputs."""


def comfytype(io_type: str, **kwargs: Any) -> Callable[[type], Any]:
    """Decorator: name a class as a type. It gets an Input and an Output of its own.

    Args:
        io_type: The type's name in links.
        kwargs: Accepted for packs of other versions; nothing here depends on them.
    """

    def name(cls: Any) -> Any:
        cls.io_type = io_type
        cls.Type = getattr(cls, "Type", Any)
        for kind, base in (("Input", Input), ("Output", Output)):
            own = cls.__dict__.get(kind)
            if own is None:
                own = type(kind, (getattr(cls, kind, base),), {"__module__": cls.__module__})
                own.__qualname__ = f"{cls.__qualname__}.{kind}"
                setattr(cls, kind, own)
            own.io_type = io_type
            own.Parent = cls
        return cls

    return name


def Custom(io_type: str) -> Any:
    """Make a type of this name; two of the same name fit each other."""
    return comfytype(io_type)(type(io_type, (ComfyTypeIO,), {"__module__": __name__}))


def specs_by_section(inputs: Iterable[Input]) -> dict[str, dict[str, Spec]]:
    """Inputs as a classic node declares them; "optional" is there only if there are such."""
    sections: dict[str, dict[str, Spec]] = {"required": {}}
    for given in inputs:
        section = "optional" if given.optional else "required"
        sections.setdefault(section, {})[given.id] = given.as_spec()
    return sections


def repeated(names: Iterable[str]) -> str:
    """The names that are there more than once, sorted, with commas between; empty if none is."""
    return ", ".join(sorted(name for name, count in Counter(names).items() if count > 1))
