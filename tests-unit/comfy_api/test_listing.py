"""Nodes in `/object_info`: one example of everything, against a listing written by hand."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

MATCH = io.MatchType.Template("same", io.Image)


class Everything(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            "Everything",
            display_name="Every thing",
            category="test",
            description="Has one of each.",
            inputs=[
                io.Model.Input("model", tooltip="told"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Combo.Input("method", options=["a", "b"], default="a"),
                io.MatchType.Input("same", template=MATCH),
                io.Autogrow.Input(
                    "masks",
                    template=io.Autogrow.TemplateNames(io.Mask.Input("mask"), ["left", "right"]),
                ),
                io.DynamicCombo.Input("how", options=[io.DynamicCombo.Option("x", [])]),
                io.Float.Input("strength", optional=True, default=1.0, step=0.01, advanced=True),
            ],
            outputs=[
                io.Image.Output("picture", display_name="picture", tooltip="shown"),
                io.Mask.Output(is_output_list=True),
                io.MatchType.Output(template=MATCH),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            is_experimental=True,
            search_aliases=["all"],
        )

    @classmethod
    def execute(cls, **given: Any) -> io.NodeOutput:
        return io.NodeOutput()


LISTED = {
    "input": {
        "required": {
            "model": ["MODEL", {"tooltip": "told"}],
            "seed": [
                "INT",
                {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True},
            ],
            "method": ["COMBO", {"default": "a", "multiselect": False, "options": ["a", "b"]}],
            "same": [
                "COMFY_MATCHTYPE_V3",
                {"template": {"template_id": "same", "allowed_types": "IMAGE"}},
            ],
            "masks": [
                "COMFY_AUTOGROW_V3",
                {
                    "template": {
                        "input": {"required": {"mask": ["MASK", {}]}},
                        "names": ["left", "right"],
                        "min": 1,
                    }
                },
            ],
            "how": [
                "COMFY_DYNAMICCOMBO_V3",
                {"options": [{"key": "x", "inputs": {"required": {}}}]},
            ],
        },
        "optional": {"strength": ["FLOAT", {"default": 1.0, "step": 0.01, "advanced": True}]},
        "hidden": {
            "unique_id": ["UNIQUE_ID"],
            "prompt": ["PROMPT"],
            "extra_pnginfo": ["EXTRA_PNGINFO"],
        },
    },
    "input_order": {
        "required": ["model", "seed", "method", "same", "masks", "how"],
        "optional": ["strength"],
        "hidden": ["unique_id", "prompt", "extra_pnginfo"],
    },
    "output": ["IMAGE", "MASK", "COMFY_MATCHTYPE_V3"],
    "output_is_list": [False, True, False],
    "output_name": ["picture", "MASK", "COMFY_MATCHTYPE_V3"],
    "name": "Everything",
    "display_name": "Every thing",
    "description": "Has one of each.",
    "python_module": "nodes",
    "category": "test",
    "output_node": True,
    "output_tooltips": ["shown", None, None],
    "output_matchtypes": [None, None, "same"],
    "deprecated": False,
    "experimental": True,
    "api_node": False,
    "search_aliases": ["all"],
}


def through_json(info: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(info, allow_nan=False)))


def test_everything_is_listed() -> None:
    assert through_json(Everything.GET_NODE_INFO_V1()) == LISTED


def test_keys_of_the_listing_keep_their_order() -> None:
    expected = [key for key in LISTED if key not in ("output_tooltips", "output_matchtypes")]
    found = [key for key in Everything.GET_NODE_INFO_V1() if key in expected]
    assert found[:11] == expected[:11]
    assert list(Everything.GET_NODE_INFO_V1()["input"]["required"]) == list(
        LISTED["input"]["required"]  # type: ignore[index]
    )


class Plain(io.ComfyNode):
    RELATIVE_PYTHON_MODULE = "custom_nodes.pack"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema("Plain", outputs=[io.Image.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput()


def test_a_plain_node_says_what_the_page_must_know() -> None:
    info = through_json(Plain.GET_NODE_INFO_V1())
    assert info["input"] == {"required": {}}
    assert info["display_name"] == "Plain"
    assert info["python_module"] == "custom_nodes.pack"
    assert info["output_matchtypes"] is None
    assert not set(info) & {"search_aliases", "dev_only", "essentials_category"}


def test_the_newer_listing_goes_by_inputs_and_outputs() -> None:
    info = through_json(Everything.GET_NODE_INFO_V3())
    assert info["input"]["model"] == {"type": "MODEL", "optional": False, "tooltip": "told"}
    assert info["input"]["strength"]["optional"] is True
    assert info["output"][0] == {
        "type": "IMAGE",
        "id": "picture",
        "display_name": "picture",
        "tooltip": "shown",
        "is_output_list": False,
    }
    assert info["hidden"] == ["UNIQUE_ID", "PROMPT", "EXTRA_PNGINFO"]
    assert (info["name"], info["output_node"], info["experimental"]) == ("Everything", True, True)
