"""The types that a user fills on the page: numbers, texts, switches, choices."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from comfy_api.internal.dicts import prune_dict
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


def _plain(value: Any) -> Any:
    """A member of an enumeration as its value: JSON knows no enumerations."""
    return value.value if isinstance(value, Enum) else value


@comfytype(io_type="BOOLEAN")
class Boolean(ComfyTypeIO):
    """True or false."""

    Type = bool

    class Input(WidgetInput):
        """A switch; ``label_on`` and ``label_off`` stand beside it."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: bool | None = None,
            label_on: str | None = None,
            label_off: str | None = None,
            socketless: bool | None = None,
            **options: Any,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, **options
            )
            self.label_on = label_on
            self.label_off = label_off

        def as_dict(self) -> dict[str, Any]:
            """Also the labels."""
            labels = {"label_on": self.label_on, "label_off": self.label_off}
            return prune_dict(labels) | super().as_dict()


class _NumberInput(WidgetInput):
    def __init__(
        self,
        id: str,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: float | None = None,
        min: float | None = None,
        max: float | None = None,
        step: float | None = None,
        display_mode: NumberDisplay | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(id, display_name, optional, tooltip, lazy, default, **options)
        self.min = min
        self.max = max
        self.step = step
        self.display_mode = display_mode

    def as_dict(self) -> dict[str, Any]:
        """Also the range."""
        numbers = {
            "min": self.min,
            "max": self.max,
            "step": self.step,
            "display": _plain(self.display_mode),
        }
        return super().as_dict() | prune_dict(numbers)

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

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: int | None = None,
            min: int | None = None,
            max: int | None = None,
            step: int | None = None,
            control_after_generate: bool | ControlAfterGenerate | None = None,
            display_mode: NumberDisplay | str | None = None,
            **options: Any,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, min, max, step, display_mode,
                **options,
            )  # fmt: skip
            self.control_after_generate = control_after_generate

        def as_dict(self) -> dict[str, Any]:
            """Also the control."""
            control = {"control_after_generate": _plain(self.control_after_generate)}
            return super().as_dict() | prune_dict(control)


@comfytype(io_type="FLOAT")
class Float(ComfyTypeIO):
    """A number."""

    Type = float

    class Input(_NumberInput):
        """A number from ``min`` to ``max``, rounded to ``round``."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: float | None = None,
            min: float | None = None,
            max: float | None = None,
            step: float | None = None,
            round: float | bool | None = None,
            display_mode: NumberDisplay | str | None = None,
            **options: Any,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, min, max, step, display_mode,
                **options,
            )  # fmt: skip
            self.round = round

        def as_dict(self) -> dict[str, Any]:
            """Also how it is rounded."""
            return super().as_dict() | prune_dict({"round": self.round})


@comfytype(io_type="STRING")
class String(ComfyTypeIO):
    """A text."""

    Type = str

    class Input(WidgetInput):
        """A field of one line or, if ``multiline``, of several."""

        def __init__(
            self,
            id: str,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            multiline: bool = False,
            placeholder: str | None = None,
            default: str | None = None,
            dynamic_prompts: bool | None = None,
            socketless: bool | None = None,
            **options: Any,
        ) -> None:
            super().__init__(
                id, display_name, optional, tooltip, lazy, default, socketless, **options
            )
            self.multiline = multiline
            self.placeholder = placeholder
            self.dynamic_prompts = dynamic_prompts

        def as_dict(self) -> dict[str, Any]:
            """Also the field's options."""
            field = {
                "multiline": self.multiline,
                "placeholder": self.placeholder,
                "dynamicPrompts": self.dynamic_prompts,
            }
            return super().as_dict() | prune_dict(field)


Choices = Sequence[Any] | type[Enum] | None


class _ChoiceInput(WidgetInput):
    _SEVERAL = False

    def __init__(
        self,
        id: str,
        options: Choices = None,
        display_name: str | None = None,
        optional: bool = False,
        tooltip: str | None = None,
        lazy: bool | None = None,
        default: Any = None,
        control_after_generate: bool | ControlAfterGenerate | None = None,
        upload: UploadType | None = None,
        image_folder: FolderType | None = None,
        remote: RemoteOptions | None = None,
        socketless: bool | None = None,
        **others: Any,
    ) -> None:
        if isinstance(options, type) and issubclass(options, Enum):
            options = [member.value for member in options]
        super().__init__(
            id, display_name, optional, tooltip, lazy, _plain(default), socketless, **others
        )
        self.options = options
        self.control_after_generate = control_after_generate
        self.upload = upload
        self.image_folder = image_folder
        self.remote = remote

    def as_dict(self) -> dict[str, Any]:
        """Also the choices and where they come from."""
        chosen = {
            "multiselect": self._SEVERAL,
            "options": self.options,
            "control_after_generate": _plain(self.control_after_generate),
            "image_folder": _plain(self.image_folder),
            "remote": self.remote.as_dict() if self.remote else None,
        }
        if self.upload is not None:
            chosen[_UPLOAD_KEYS[UploadType(self.upload)]] = True
        return super().as_dict() | prune_dict(chosen)


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

        _SEVERAL = True

        def __init__(
            self,
            id: str,
            options: Choices = None,
            display_name: str | None = None,
            optional: bool = False,
            tooltip: str | None = None,
            lazy: bool | None = None,
            default: list[Any] | None = None,
            placeholder: str | None = None,
            chip: bool | None = None,
            **others: Any,
        ) -> None:
            super().__init__(id, options, display_name, optional, tooltip, lazy, default, **others)
            self.placeholder = placeholder
            self.chip = chip

        def as_dict(self) -> dict[str, Any]:
            """Also how the chosen entries are shown."""
            shown = {"multi_select": True, "placeholder": self.placeholder, "chip": self.chip}
            return super().as_dict() | prune_dict(shown)
