"""The types that a user fills on the page: numbers, texts, switches, choices."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, ClassVar

from comfy_api.latest._fields import parameter
from comfy_api.latest._inputs import ComfyTypeIO, Output, WidgetInput, comfytype
from comfy_api.latest._widget_options import (
    ControlAfterGenerate,
    FolderType,
    NumberDisplay,
    RemoteOptions,
    UploadType,
)

_UPLOAD_KEYS = {
    UploadType.image: "image_upload",
    UploadType.audio: "audio_upload",
    UploadType.video: "video_upload",
    UploadType.model: "file_upload",
}


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    """True or false."""

    Type = bool

    class Input(WidgetInput):
        """A switch; ``label_on`` and ``label_off`` stand beside it."""

        default: bool | None = None
        label_on: str | None = None
        label_off: str | None = None


class _NumberInput(WidgetInput):
    min: float | None = None
    max: float | None = None

    def validate(self) -> None:
        """Raise ValueError if the range holds nothing."""
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"Input {self.id!r}: its least value, {self.min}, is above its greatest, "
                f"{self.max}. Exchange them."
            )


@comfytype(io_type="INT")
class Int(ComfyTypeIO):
    """A whole number."""

    Type = int

    class Input(_NumberInput):
        """A number from ``min`` to ``max``; ``control_after_generate`` changes it after a run."""

        default: int | None = None
        min: int | None = None
        max: int | None = None
        step: int | None = None
        control_after_generate: bool | ControlAfterGenerate | None = None
        display_mode: NumberDisplay | str | None = None


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    """A number."""

    Type = float

    class Input(_NumberInput):
        """A number from ``min`` to ``max``, rounded to ``round``."""

        default: float | None = None
        min: float | None = None
        max: float | None = None
        step: float | None = None
        round: float | bool | None = None
        display_mode: NumberDisplay | str | None = None


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    """A text."""

    Type = str

    class Input(WidgetInput):
        """A field of one line or, if ``multiline``, of several."""

        multiline: bool = False
        placeholder: str | None = None
        default: str | None = None
        dynamic_prompts: bool | None = None


Choices = Sequence[Any] | type[Enum] | None


class _ChoiceInput(WidgetInput):
    LEAD: ClassVar[tuple[str, ...]] = ("id", "options", *WidgetInput.LEAD[1:])
    NOT_TOLD: ClassVar[tuple[str, ...]] = (*WidgetInput.NOT_TOLD, "upload")
    SEVERAL: ClassVar[bool] = False

    options: Choices = parameter(default=None, kw_only=False)
    default: Any = None
    control_after_generate: bool | ControlAfterGenerate | None = None
    upload: UploadType | None = None
    image_folder: FolderType | None = None
    remote: RemoteOptions | None = None

    def settle(self) -> None:
        """Take the values of enumerations."""
        if isinstance(self.options, type) and issubclass(self.options, Enum):
            self.options = [member.value for member in self.options]
        if isinstance(self.default, Enum):
            self.default = self.default.value

    def as_dict(self) -> dict[str, Any]:
        """Also how many may be chosen, and the button for uploads."""
        told = {"multiselect": self.SEVERAL, **super().as_dict()}
        if self.upload is not None:
            told[_UPLOAD_KEYS[UploadType(self.upload)]] = True
        return told


@comfytype(io_type="COMBO")
class Combo(ComfyTypeIO):
    """One of several values."""

    Type = str

    class Input(_ChoiceInput):
        """A list to choose one entry from: a list, or an enumeration's values."""

    class Output(Output):
        """One of the values; ``options`` is for the reader."""

        def __init__(
            self,
            id: str | None = None,
            display_name: str | None = None,
            options: list[Any] | None = None,
            tooltip: str | None = None,
            is_output_list: bool = False,
        ) -> None:
            super().__init__(id, display_name, tooltip, is_output_list)
            self.options = options


@comfytype(io_type="COMBO")
class MultiCombo(ComfyTypeIO):
    """Several of several values."""

    Type = list[str]

    class Input(_ChoiceInput):
        """A list to choose any number of entries from; ``chip`` shows them as labels."""

        SEVERAL: ClassVar[bool] = True

        default: list[Any] | None = None
        placeholder: str | None = None
        chip: bool | None = None

        def as_dict(self) -> dict[str, Any]:
            """Also the older word for several."""
            return super().as_dict() | {"multi_select": True}
