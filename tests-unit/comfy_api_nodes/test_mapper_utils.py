"""A field of a pydantic model becomes an input of a node."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from comfy.comfy_types.node_typing import IO
from comfy_api_nodes.mapper_utils import model_field_to_node_input


class Mode(str, Enum):
    FAST = "fast"
    FINE = "fine"


class Request(BaseModel):
    prompt: str = Field(..., description="What to draw.")
    negative: Optional[str] = None  # noqa: UP045 - as generated models write it
    steps: Optional[int] = Field(20, description="Tries.", ge=1, le=50)  # noqa: UP045
    scale: float = Field(0.5, gt=0.0, lt=1.0, multiple_of=0.1)
    mode: Optional[Mode] = Field(Mode.FINE, description="How.")  # noqa: UP045
    size: Literal["small", "large"] = "small"
    loose: str = "fast"


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        (IO.STRING, "prompt", {"tooltip": "What to draw."}),
        (IO.STRING, "negative", {}),
        (IO.INT, "steps", {"default": 20, "tooltip": "Tries.", "min": 1, "max": 50}),
        (IO.FLOAT, "scale", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.1}),
        (IO.COMBO, "mode", {"default": "fine", "tooltip": "How.", "options": ["fast", "fine"]}),
        (IO.COMBO, "size", {"default": "small", "options": ["small", "large"]}),
        (IO.COMBO, "loose", {"default": "fast"}),
        (IO.STRING, "steps", {"default": 20, "tooltip": "Tries."}),
    ],
)
def test_a_field_becomes_type_and_options(kind: IO, name: str, options: dict[str, Any]) -> None:
    assert model_field_to_node_input(kind, Request, name) == (kind, options)


def test_further_options_are_added_and_win() -> None:
    _, options = model_field_to_node_input(IO.INT, Request, "steps", max=10, display="slider")
    assert options == {"default": 20, "tooltip": "Tries.", "min": 1, "max": 10, "display": "slider"}


def test_an_enumeration_may_be_given() -> None:
    _, options = model_field_to_node_input(IO.COMBO, Request, "loose", enum_type=Mode)
    assert options == {"default": "fast", "options": ["fast", "fine"]}


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(KeyError, match="no field 'colour'"):
        model_field_to_node_input(IO.STRING, Request, "colour")
