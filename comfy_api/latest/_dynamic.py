"""Inputs that stand for several, and types that depend on what is linked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from comfy_api.internal.dicts import prune_dict
from comfy_api.latest._fields import parameter
from comfy_api.latest._inputs import (
    ComfyTypeI,
    ComfyTypeIO,
    Input,
    Output,
    Spec,
    WidgetInput,
    comfytype,
    repeated,
    specs_by_section,
)
from comfy_api.latest._sockets import AnyType

# Within the bodies of types the name Input means theirs.
_AnyInput = Input


@dataclass
class Parts:
    """What a dynamic input is in one prompt.

    Attributes:
        inputs: Those within it; their names in the prompt follow its own and a dot.
        own: What the prompt has under its own name, if anything.
    """

    inputs: Sequence[Input] = ()
    own: Spec | None = field(default=None)


class DynamicInput(Input):
    """An input whose value is a dict, made of several inputs of the prompt."""

    def spread(self, name: str, given: Mapping[str, Any]) -> Parts:
        """What it is in a prompt.

        Args:
            name: Its name in the prompt.
            given: All inputs of the prompt's node.
        """
        raise NotImplementedError


class DynamicOutput(Output):
    """An output whose type depends on what is linked."""


def _given_within(name: str, given: Mapping[str, Any]) -> bool:
    return any(key.startswith(f"{name}.") for key in given)


@comfytype(io_type="COMFY_MULTITYPED_V3")
class MultiType(ComfyTypeI):
    """Any of several types."""

    class Input(Input):
        """An input that takes each of `types`; an Input given as `id` lends it its widget."""

        def __init__(
            self,
            id: str | Input,
            types: Sequence[Any],
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
            raw_link: bool | None = None,
            advanced: bool | None = None,
        ) -> None:
            lender = id if isinstance(id, _AnyInput) else None
            self.lender = lender
            self.types = list(types)
            name = id.id if isinstance(id, _AnyInput) else id
            if lender is not None:
                display_name = display_name or lender.display_name
                optional = optional or lender.optional
                tooltip = tooltip or lender.tooltip
                lazy = lender.lazy if lazy is None else lazy
            super().__init__(
                name,
                display_name=display_name,
                optional=optional,
                tooltip=tooltip,
                lazy=lazy,
                extra_dict=extra_dict,
                raw_link=raw_link,
                advanced=advanced,
            )
            names = [] if lender is None else [lender.get_io_type()]
            names += [kind.io_type for kind in self.types]
            self.io_type = ",".join(dict.fromkeys(names))  # type: ignore[misc]  # of each its own

        def as_dict(self) -> dict[str, Any]:
            """Also the lent widget."""
            own = super().as_dict()
            if not isinstance(self.lender, WidgetInput):
                return own
            widget = self.lender.widget_type or self.lender.get_io_type()
            return {**self.lender.as_dict(), "widgetType": widget, **own}


@comfytype(io_type="COMFY_MATCHTYPE_V3")
class MatchType(ComfyTypeIO):
    """Inputs and outputs that must all have the type that is linked first. The page sees to it."""

    class Template:
        """What belongs together.

        Attributes:
            template_id: The same for all that must match.
            allowed_types: Types that may be linked.
        """

        def __init__(self, template_id: str, allowed_types: Any = AnyType) -> None:
            several = isinstance(allowed_types, (list, tuple))
            self.template_id = template_id
            self.allowed_types = list(allowed_types) if several else [allowed_types]

        def as_dict(self) -> dict[str, Any]:
            """The id and the types' names."""
            names = ",".join(kind.io_type for kind in self.allowed_types)
            return {"template_id": self.template_id, "allowed_types": names}

    class Input(Input):
        """An input that must match."""

        LEAD: ClassVar[tuple[str, ...]] = ("id", "template", *_AnyInput.LEAD[1:])

        template: MatchType.Template = parameter(kw_only=False)

    class Output(DynamicOutput):
        """An output that has the type of the inputs it matches."""

        def __init__(
            self,
            template: MatchType.Template,
            id: str | None = None,
            display_name: str | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list)
            self.template = template

        def as_dict(self) -> dict[str, Any]:
            """Also the template."""
            return super().as_dict() | {"template": self.template.as_dict()}


class _GrowTemplate:
    """An input that is repeated under several names, of which `min` are required."""

    MAX_NAMES: ClassVar[int] = 100

    def __init__(self, input: Input, names: Sequence[str], min: int) -> None:
        if isinstance(input, DynamicInput):
            raise TypeError(
                f"Autogrow: input {input.id!r} is dynamic itself and cannot be repeated. Repeat a "
                "plain one."
            )
        if len(names) > self.MAX_NAMES:
            raise ValueError(
                f"Autogrow: {len(names)} names for input {input.id!r}; {self.MAX_NAMES} are allowed."
            )
        if not 0 <= min <= len(names):
            raise ValueError(
                f"Autogrow: at least {min} of {len(names)} inputs {input.id!r} cannot be asked "
                f"for. Let min be from 0 to {len(names)}."
            )
        self.input = input
        self.names = list(names)
        self.min = min

    def inputs(self) -> list[Input]:
        """One input per name."""
        return [self._called(name, index) for index, name in enumerate(self.names)]

    def _called(self, name: str, index: int) -> Input:
        named = copy.copy(self.input)
        named.id = name
        named.optional = self.input.optional or index >= self.min
        return named

    def as_dict(self) -> dict[str, Any]:
        """The repeated input; how it is named follows."""
        section = "optional" if self.input.optional else "required"
        return {"input": {section: {self.input.id: self.input.as_spec()}}}


@comfytype(io_type="COMFY_AUTOGROW_V3")
class Autogrow(ComfyTypeI):
    """As many inputs as are linked."""

    Type = dict[str, Any]

    class TemplatePrefix(_GrowTemplate):
        """Inputs named by a prefix and a number that counts from 0."""

        def __init__(self, input: Input, prefix: str, min: int = 1, max: int = 10) -> None:
            super().__init__(input, [f"{prefix}{number}" for number in range(max)], min)
            self.prefix = prefix
            self.max = max

        def as_dict(self) -> dict[str, Any]:
            """The input, the prefix and the numbers."""
            return super().as_dict() | {"prefix": self.prefix, "min": self.min, "max": self.max}

    class TemplateNames(_GrowTemplate):
        """Inputs of these names, in this order."""

        def __init__(self, input: Input, names: Sequence[str], min: int = 1) -> None:
            super().__init__(input, names, min)

        def as_dict(self) -> dict[str, Any]:
            """The input and the names."""
            return super().as_dict() | {"names": self.names, "min": self.min}

    class Input(DynamicInput):
        """``execute`` gets a dict with the values that were given, by their names."""

        LEAD: ClassVar[tuple[str, ...]] = ("id", "template", *_AnyInput.LEAD[1:])

        template: _GrowTemplate = parameter(kw_only=False)

        def spread(self, name: str, given: Mapping[str, Any]) -> Parts:
            """All of them; none if it may be left out and is."""
            if self.optional and not _given_within(name, given):
                return Parts()
            return Parts(self.template.inputs())

        def validate(self) -> None:
            """Raise ValueError if the repeated input is not sound."""
            self.template.input.validate()


@comfytype(io_type="COMFY_DYNAMICCOMBO_V3")
class DynamicCombo(ComfyTypeI):
    """A choice that decides which inputs follow."""

    Type = dict[str, Any]

    class Option:
        """One entry: its key and the inputs that follow from it."""

        def __init__(self, key: str, inputs: Sequence[Input] = ()) -> None:
            self.key = key
            self.inputs = list(inputs)

        def as_dict(self) -> dict[str, Any]:
            """The key and the inputs by section."""
            return {"key": self.key, "inputs": specs_by_section(self.inputs)}

    class Input(DynamicInput):
        """``execute`` gets a dict: the key under the input's own id, then the option's values."""

        NOT_TOLD: ClassVar[tuple[str, ...]] = (*DynamicInput.NOT_TOLD, "options")
        LEAD: ClassVar[tuple[str, ...]] = ("id", "options", *_AnyInput.LEAD[1:])

        options: Sequence[DynamicCombo.Option] = parameter(kw_only=False)

        def as_dict(self) -> dict[str, Any]:
            """Also the options."""
            return super().as_dict() | {"options": [option.as_dict() for option in self.options]}

        def spread(self, name: str, given: Mapping[str, Any]) -> Parts:
            """The choice, and the inputs of the entry that the prompt chose."""
            chosen = given.get(name)
            inputs = [
                each for option in self.options if option.key == chosen for each in option.inputs
            ]
            keys = [option.key for option in self.options]
            return Parts(inputs, ("COMBO", {**super().as_dict(), "options": keys}))

        def get_all(self) -> list[_AnyInput]:
            """This input and those of all entries."""
            within = [each for option in self.options for each in option.inputs]
            return [self, *(part for each in within for part in each.get_all())]

        def validate(self) -> None:
            """Raise ValueError if an entry, or an input within one, is there twice."""
            _check_unique(self.id, "entries", [option.key for option in self.options])
            for option in self.options:
                ids = [each.id for each in option.inputs]
                _check_unique(self.id, f"inputs of {option.key!r}", ids)


@comfytype(io_type="COMFY_DYNAMICSLOT_V3")
class DynamicSlot(ComfyTypeI):
    """A slot whose link makes further inputs appear."""

    Type = dict[str, Any]

    class Input(DynamicInput):
        """``execute`` gets a dict: the slot's value under its own id, then the others' values."""

        def __init__(
            self,
            slot: _AnyInput,
            inputs: Sequence[_AnyInput],
            display_name: str | None = None,
            tooltip: str | None = None,
            lazy: bool | None = None,
            extra_dict: dict[str, Any] | None = None,
        ) -> None:
            # A slot without a link is how the further inputs stay away.
            super().__init__(
                slot.id,
                display_name=display_name or slot.display_name,
                optional=True,
                tooltip=tooltip or slot.tooltip,
                lazy=slot.lazy if lazy is None else lazy,
                extra_dict=extra_dict,
            )
            self.slot = slot
            self.inputs = list(inputs)

        def as_dict(self) -> dict[str, Any]:
            """Also the slot's type and the further inputs."""
            slot = {
                "slotType": self.slot.get_io_type(),
                "inputs": specs_by_section(self.inputs),
                "forceInput": True,
            }
            return super().as_dict() | slot

        def spread(self, name: str, given: Mapping[str, Any]) -> Parts:
            """The slot, and the further inputs if it is linked."""
            own = (
                self.slot.get_io_type(),
                {**self.slot.as_dict(), **prune_dict({"lazy": self.lazy})},
            )
            return Parts(self.inputs if name in given else (), own)

        def get_all(self) -> list[_AnyInput]:
            """This input, its slot and the further ones."""
            return [self, self.slot, *(part for each in self.inputs for part in each.get_all())]

        def validate(self) -> None:
            """Raise ValueError if two further inputs share an id."""
            _check_unique(self.id, "inputs", [each.id for each in self.inputs])


def _check_unique(owner: str, kind: str, ids: Sequence[str]) -> None:
    twice = repeated(ids)
    if twice:
        raise ValueError(f"Input {owner!r}: its {kind} hold {twice} more than once.")
