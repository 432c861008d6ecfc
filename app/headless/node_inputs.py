"""What a node class says about its inputs, as far as running without a page needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.headless.failures import UserError
from comfy_execution.inputs import type_and_options

_PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
_SEEDS = ("seed", "noise_seed")
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")


@dataclass(frozen=True, slots=True)
class Declared:
    """One input.

    Attributes:
        name: As in prompts.
        kind: "INT", "COMBO", "MODEL", ...; "COMBO" for classic lists of words, too.
        choices: The words of a combo.
        options: As the class gives them.
    """

    name: str
    kind: str
    choices: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_widget(self) -> bool:
        """Whether a page shows a field for it."""
        if self.options.get("forceInput") or self.options.get("rawLink"):
            return False
        return self.kind in _PLAIN or self.kind == DYNAMIC_COMBO or "widgetType" in self.options

    @property
    def has_control(self) -> bool:
        """Whether a page shows a second field, that changes the number after each run."""
        if self.options.get("control_after_generate"):
            return True
        return self.kind == "INT" and self.name in _SEEDS

    @property
    def has_button(self) -> bool:
        """Whether a page shows a button for uploads after it."""
        return any(self.options.get(name) for name in _UPLOADS)

    @property
    def default(self) -> Any:
        """What a page shows first; None if nothing is said."""
        if "default" in self.options:
            return self.options["default"]
        return self.choices[0] if self.choices else None


def declared(section: Mapping[str, Any], prefix: str = "") -> Iterator[Declared]:
    """The inputs of "required" or of "optional", in their order.

    Args:
        section: Name to (type, options) or (type,).
        prefix: Put before each name.
    """
    for name, given in section.items():
        kind, options = type_and_options(given)
        if isinstance(kind, list | tuple):
            yield Declared(prefix + name, "COMBO", tuple(kind), options)
        else:
            kind = str(kind)
            choices = tuple(options.get("options") or ()) if kind == "COMBO" else ()
            if kind == DYNAMIC_COMBO:
                choices = tuple(option["key"] for option in options.get("options", ()))
            yield Declared(prefix + name, kind, choices, options)


def inputs_of(node_class: Any) -> list[Declared]:
    """All inputs that a class declares, the hidden ones left out.

    Args:
        node_class: A classic or a schema-style node class.

    Raises:
        UserError: If the class cannot tell; that is its pack's fault.
    """
    try:
        sections = node_class.INPUT_TYPES()
    except Exception as err:
        raise UserError(
            f"The node {node_class.__name__} cannot tell which inputs it has: "
            f"{type(err).__name__}: {err}. Its pack is at fault."
        ) from err
    return [one for part in ("required", "optional") for one in declared(sections.get(part) or {})]


def inputs_of_choice(combo: Declared, key: Any) -> list[Declared]:
    """The inputs that a word of a dynamic combo brings; none for a word that it does not have."""
    for option in combo.options.get("options", ()):
        if option["key"] == key:
            sections = option.get("inputs") or {}
            return [
                one
                for part in ("required", "optional")
                for one in declared(sections.get(part) or {}, f"{combo.name}.")
            ]
    return []


def inputs_given(node_class: Any, given: Mapping[str, Any]) -> Iterator[Declared]:
    """The inputs of a node, those that its present choices bring included.

    Args:
        node_class: Its class.
        given: The prompt node's inputs.

    Raises:
        UserError: See `inputs_of`.
    """
    todo = inputs_of(node_class)
    while todo:
        one = todo.pop(0)
        yield one
        if one.kind == DYNAMIC_COMBO:
            todo[:0] = inputs_of_choice(one, given.get(one.name))
