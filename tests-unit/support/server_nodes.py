"""Node classes for tests of the server: they wait, fail, and tell of their progress."""

from __future__ import annotations

import threading
from typing import Any

from PIL import Image

import comfy.model_management
import comfy.utils
from support.graph_nodes import BASIC, node, node_class

Prompt = dict[str, dict[str, Any]]


class Gate:
    """Holds back prompts whose "Wait" node has begun, until it is opened.

    Attributes:
        entered: Set when such a node runs.
    """

    def __init__(self) -> None:
        self.entered = threading.Event()
        self._opened = threading.Event()

    def open(self) -> None:
        """Let all go on, now and later."""
        self._opened.set()

    def wait(self, value: Any) -> tuple[Any]:
        """Function of a node; ends early if the user wants to stop."""
        self.entered.set()
        while not self._opened.wait(0.005):
            comfy.model_management.throw_exception_if_processing_interrupted()
        return (value,)


def fail(value: Any) -> Any:
    """Function of a node."""
    raise ValueError(f"cannot stand {value}")


class Odd(BaseException):
    """What no node should raise."""


def fall_over(value: Any) -> Any:
    """Function of a node that raises what is no Exception."""
    raise Odd(f"fell over {value}")


def step(value: Any) -> tuple[Any]:
    """Function of a node that tells of two steps, each with a picture, larger than previews are."""
    bar = comfy.utils.ProgressBar(2)
    picture = Image.new("RGB", (64, 32), "red")
    for done in (1, 2):
        bar.update_absolute(done, 2, ("JPEG", picture, 16))
    return (value,)


def saved(value: Any) -> dict[str, Any]:
    """Function of an output node that says it has saved a picture."""
    return {"ui": {"images": [{"filename": f"{value}.png", "subfolder": "", "type": "output"}]}}


def classes(gate: Gate) -> dict[str, type[Any]]:
    """Those of `graph_nodes.BASIC`, and Wait, Fail, FallOver, Step and Saved (output)."""
    return {
        **BASIC,
        "Wait": node_class(gate.wait, "value"),
        "Fail": node_class(fail, "value"),
        "FallOver": node_class(fall_over, "value"),
        "Step": node_class(step, "value"),
        "Saved": node_class(saved, "value", OUTPUT_NODE=True),
    }


def shown(kind: str, value: Any = 1, output: str = "Show") -> Prompt:
    """A prompt of two nodes: "1" of a class, and "2", an output that shows it."""
    return {"1": node(kind, value=value), "2": node(output, value=["1", 0])}
