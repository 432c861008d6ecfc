"""Listings of both styles of nodes come out alike, and differ from a table where they should."""

from __future__ import annotations

from typing import Any

import pytest

import comfy.samplers
from comfy_api.latest import io
from support import node_listing


class Classic:
    CATEGORY = "place"
    RETURN_TYPES = ("LATENT", "INT")
    RETURN_NAMES = ("made", "INT")
    OUTPUT_IS_LIST = (False, True)
    FUNCTION = "run"
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls) -> Any:
        number = {"default": 1, "min": 0, "tooltip": "How many."}
        return {
            "required": {"kind": (["a", "b"],), "number": ("INT", number)},
            "optional": {"text": ("STRING", {"multiline": True})},
        }

    def run(self, kind: str, number: int, text: str = "") -> Any:
        return None


class WithSchema(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="N",
            category="place",
            is_experimental=True,
            inputs=[
                io.Combo.Input("kind", options=["a", "b"]),
                io.Int.Input("number", default=1, min=0, tooltip="How many."),
                io.String.Input("text", multiline=True, optional=True),
            ],
            outputs=[io.Latent.Output(display_name="made"), io.Int.Output(is_output_list=True)],
        )

    @classmethod
    def execute(cls, kind: str, number: int, text: str = "") -> Any:
        return None


FACTS: Any = {
    "display": "Name",
    "category": "place",
    "flags": ["experimental"],
    "required": {"kind": [["a", "b"]], "number": ["INT", {"default": 1, "min": 0}]},
    "optional": {"text": ["STRING", {"multiline": True}]},
    "outputs": [["LATENT", "made"], ["INT[]"]],
}
KINDS = [Classic, WithSchema]


@pytest.mark.parametrize("kind", KINDS)
def test_both_styles_tell_the_same(kind: Any) -> None:
    shown = node_listing.told(kind, "Name")
    assert shown == node_listing.wanted(FACTS, shown)
    assert node_listing.takes_its_inputs(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changed",
    [
        {"category": "elsewhere"},
        {"display": "Other"},
        {"flags": []},
        {"outputs": [["LATENT", "made"], ["INT"]]},
        {"outputs": [["LATENT"], ["INT[]"]]},
        {"optional": {}},
        {"required": {"number": ["INT", {"default": 1, "min": 0}], "kind": [["a", "b"]]}},
        {"required": {"kind": [["a", "b"]], "number": ["INT", {"default": 1, "min": 1}]}},
        {"required": {"kind": [["a"]], "number": ["INT", {"default": 1, "min": 0}]}},
        {"hidden": ["prompt"]},
    ],
)
def test_what_differs_is_noticed(kind: Any, changed: Any) -> None:
    shown = node_listing.told(kind, "Name")
    assert shown != node_listing.wanted({**FACTS, **changed}, shown)


def test_lists_of_samplers_stand_for_those_of_today() -> None:
    facts = {**FACTS, "required": {"kind": ["{SAMPLERS}"]}}
    made = node_listing.wanted(facts, node_listing.told(Classic, "Name"))
    assert made["required"] == [("kind", [comfy.samplers.SAMPLER_NAMES])]


def test_function_without_an_input_is_noticed() -> None:
    class Deaf(Classic):
        def run(self, kind: str) -> Any:  # type: ignore[override]
            return None

    assert not node_listing.takes_its_inputs(Deaf)
