"""Types for classic nodes: names of links, declarations of inputs, bases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypedDict

from comfy.comfy_types.link_types import IO

__all__ = [
    "IO",
    "CheckLazyMixin",
    "ComfyNodeABC",
    "FileLocator",
    "HiddenInputTypeDict",
    "InputTypeDict",
    "InputTypeOptions",
    "MultiSelectOptions",
    "RemoteInputOptions",
]


class RemoteInputOptions(TypedDict, total=False):
    """A choice whose entries the page fetches; see `comfy_api.latest.io.RemoteOptions`."""

    route: str
    refresh_button: bool
    control_after_refresh: Literal["first", "last"]
    timeout: int
    max_retries: int
    refresh: int


class MultiSelectOptions(TypedDict, total=False):
    """How several chosen entries are shown."""

    placeholder: str
    chip: bool


# Keys as the page has them; several are no names in Python's style.
class InputTypeOptions(TypedDict, total=False):
    """Options of one input, the second part of its declaration."""

    default: Any
    defaultInput: bool
    forceInput: bool
    lazy: bool
    rawLink: bool
    tooltip: str
    socketless: bool
    widgetType: str
    min: float
    max: float
    step: float
    round: float | bool
    display: str
    control_after_generate: bool | str
    label_on: str
    label_off: str
    multiline: bool
    placeholder: str
    dynamicPrompts: bool
    image_upload: bool
    image_folder: Literal["input", "output", "temp"]
    remote: RemoteInputOptions
    options: list[Any]
    multi_select: MultiSelectOptions


class HiddenInputTypeDict(TypedDict, total=False):
    """What a node may know about the prompt, by the usual names."""

    node_id: Literal["UNIQUE_ID"]
    unique_id: Literal["UNIQUE_ID"]
    prompt: Literal["PROMPT"]
    extra_pnginfo: Literal["EXTRA_PNGINFO"]
    dynprompt: Literal["DYNPROMPT"]


class InputTypeDict(TypedDict, total=False):
    """What ``INPUT_TYPES`` returns."""

    required: dict[str, tuple[Any, InputTypeOptions]]
    optional: dict[str, tuple[Any, InputTypeOptions]]
    hidden: HiddenInputTypeDict


class ComfyNodeABC(ABC):
    """Base for classic nodes; a node need not have it.

    Attributes:
        DESCRIPTION: Shown as a tooltip.
        CATEGORY: Its place in the menu, parts divided by "/".
        EXPERIMENTAL: Marked so.
        DEPRECATED: Marked so, and not offered for new graphs.
        API_NODE: It asks a service.
        OUTPUT_NODE: A prompt runs for the sake of such nodes.
        INPUT_IS_LIST: Called once, with lists.
        OUTPUT_IS_LIST: Per output whether its value is a list of results.
        RETURN_TYPES: Type of each output.
        RETURN_NAMES: Name of each output.
        OUTPUT_TOOLTIPS: Tooltip of each output.
        FUNCTION: Name of the method that does the work.
    """

    DESCRIPTION: ClassVar[str]
    CATEGORY: ClassVar[str]
    EXPERIMENTAL: ClassVar[bool]
    DEPRECATED: ClassVar[bool]
    API_NODE: ClassVar[bool | None]
    OUTPUT_NODE: ClassVar[bool]
    INPUT_IS_LIST: ClassVar[bool]
    OUTPUT_IS_LIST: ClassVar[tuple[bool, ...]]
    RETURN_TYPES: ClassVar[tuple[Any, ...]]
    RETURN_NAMES: ClassVar[tuple[str, ...]]
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]]
    FUNCTION: ClassVar[str]

    @classmethod
    @abstractmethod
    def INPUT_TYPES(cls) -> InputTypeDict:
        """Declare the inputs: by section and name (type, options)."""


class CheckLazyMixin:
    """Asks for every lazy input; a base for nodes that need them all, one after another."""

    def check_lazy_status(self, **kwargs: Any) -> list[str]:
        """Names of the inputs that have no value yet."""
        return [name for name, value in kwargs.items() if value is None]


class FileLocator(TypedDict):
    """A file, as results name it: its name, its folder below its kind's, its kind."""

    filename: str
    subfolder: str
    type: Literal["input", "output", "temp"]
