"""The functions that nodes call; one version of them."""

from __future__ import annotations

from typing import ClassVar

from comfy_api.internal.blocking import Blocking
from comfy_api.internal.versions import ComfyAPIBase
from comfy_api.latest._progress import Execution


class ComfyAPI(ComfyAPIBase):
    """For async nodes.

    Attributes:
        execution: What a running node can do.
    """

    VERSION = "latest"
    STABLE = False

    def __init__(self) -> None:
        self.execution = Execution()


class ComfyAPISync(Blocking):
    """The same for other nodes; each call returns when it is done.

    Attributes:
        API: What it is the same as.
    """

    API: ClassVar[type[ComfyAPI]] = ComfyAPI

    def __init__(self) -> None:
        super().__init__(self.API())
