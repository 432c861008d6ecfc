"""Named values of inputs' options."""

from __future__ import annotations

from enum import Enum
from typing import Any

from comfy_api.internal.dicts import prune_dict


class FolderType(str, Enum):
    """The folder that a choice of files is about."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """What the button beside a choice uploads."""

    image = "image"
    audio = "audio"
    video = "video"
    model = "model"


class NumberDisplay(str, Enum):
    """How a number's widget looks."""

    number = "number"
    slider = "slider"
    knob = "knob"
    gradient_slider = "gradientslider"
    color = "color"


class ControlAfterGenerate(str, Enum):
    """What becomes of a number after a run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


class RemoteOptions:
    """A choice whose entries the page fetches.

    Attributes:
        route: Address of the list.
        refresh_button: Whether there is a button that fetches it anew.
        control_after_refresh: "first" or "last": the entry chosen then.
        timeout: Milliseconds until a try is given up.
        max_retries: Tries.
        refresh: Milliseconds after which the list is old.
    """

    def __init__(
        self,
        route: str,
        refresh_button: bool,
        control_after_refresh: str = "first",
        timeout: int | None = None,
        max_retries: int | None = None,
        refresh: int | None = None,
    ) -> None:
        self.route = route
        self.refresh_button = refresh_button
        self.control_after_refresh = control_after_refresh
        self.timeout = timeout
        self.max_retries = max_retries
        self.refresh = refresh

    def as_dict(self) -> dict[str, Any]:
        """What was said, by the names above."""
        return prune_dict(dict(vars(self)))
