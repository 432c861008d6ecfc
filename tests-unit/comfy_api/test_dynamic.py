"""Dynamic inputs: how they are listed, what they are in a prompt, what ``execute`` gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from comfy_api.latest import io


def node(inputs: Sequence[io.Input]) -> type[io.ComfyNode]:
    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema("Node", inputs=inputs)

        @classmethod
        def execute(cls, **given: Any) -> io.NodeOutput:
            return io.NodeOutput(given)

    return Node


def spread(inputs: Sequence[io.Input], given: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Required inputs, optional ones, and the arguments of a call, in a prompt."""
    types, paths = node(inputs).INPUT_TYPES_FOR(given)
    return types["required"], types["optional"], node(inputs).NEST_VALUES(given, paths)


def grown(least: int = 1, most: int = 3, **options: Any) -> io.Input:
    template = io.Autogrow.TemplatePrefix(io.Image.Input("image"), "image", least, most)
    return io.Autogrow.Input("images", template=template, **options)


LINK = ["1", 0]

# -- autogrow --------------------------------------------------------------------------------------


def test_autogrow_lists_its_template() -> None:
    assert grown(2, 50).as_spec() == (
        "COMFY_AUTOGROW_V3",
        {
            "template": {
                "input": {"required": {"image": ("IMAGE", {})}},
                "prefix": "image",
                "min": 2,
                "max": 50,
            }
        },
    )


def test_autogrow_by_names_lists_them() -> None:
    template = io.Autogrow.TemplateNames(io.Int.Input("n", optional=True), ["a", "b"], min=0)
    assert io.Autogrow.Input("values", template).as_dict() == {
        "template": {
            "input": {"optional": {"n": ("INT", {})}},
            "names": ["a", "b"],
            "min": 0,
        }
    }


def test_autogrow_asks_for_the_first_and_allows_the_others() -> None:
    given = {"images.image0": LINK, "images.image2": LINK, "other": 1}
    required, optional, arguments = spread([grown(least=2), io.Int.Input("other")], given)
    assert required == {
        "images.image0": ("IMAGE", {}),
        "images.image1": ("IMAGE", {}),
        "other": ("INT", {}),
    }
    assert optional == {"images.image2": ("IMAGE", {})}
    assert arguments == {"images": {"image0": LINK, "image2": LINK}, "other": 1}


def test_autogrow_without_values_is_an_empty_dict() -> None:
    assert spread([grown(least=0)], {})[2] == {"images": {}}


def test_an_optional_autogrow_without_values_is_left_out() -> None:
    required, _, arguments = spread([grown(least=2, optional=True)], {})
    assert (required, arguments) == ({}, {})


def test_an_optional_autogrow_with_values_is_there() -> None:
    required, optional, arguments = spread([grown(2, 2, optional=True)], {"images.image1": LINK})
    assert (required, set(optional)) == ({}, {"images.image0", "images.image1"})
    assert arguments == {"images": {"image1": LINK}}


def test_names_may_be_a_hundred() -> None:
    names = [str(number) for number in range(101)]
    assert len(io.Autogrow.TemplateNames(io.Image.Input("i"), names[:100]).names) == 100
    with pytest.raises(ValueError, match="101 names"):
        io.Autogrow.TemplateNames(io.Image.Input("i"), names)


@pytest.mark.parametrize("least", [-1, 3])
def test_an_impossible_number_of_inputs_is_refused(least: int) -> None:
    with pytest.raises(ValueError, match="min be from 0 to 2"):
        io.Autogrow.TemplatePrefix(io.Image.Input("i"), "i", min=least, max=2)


def test_a_dynamic_input_is_not_repeated() -> None:
    with pytest.raises(TypeError, match="Repeat a plain one"):
        io.Autogrow.TemplateNames(grown(), ["a"])


# -- dynamic combo ---------------------------------------------------------------------------------

SIZES = [
    io.DynamicCombo.Option("by", [io.Float.Input("factor", default=2.0)]),
    io.DynamicCombo.Option("to", [io.Int.Input("width"), io.Int.Input("height", optional=True)]),
    io.DynamicCombo.Option("not", []),
]


def sized(**options: Any) -> io.Input:
    return io.DynamicCombo.Input("size", options=SIZES, **options)


def test_dynamic_combo_lists_each_entrys_inputs() -> None:
    assert sized(tooltip="told").as_spec() == (
        "COMFY_DYNAMICCOMBO_V3",
        {
            "tooltip": "told",
            "options": [
                {"key": "by", "inputs": {"required": {"factor": ("FLOAT", {"default": 2.0})}}},
                {
                    "key": "to",
                    "inputs": {
                        "required": {"width": ("INT", {})},
                        "optional": {"height": ("INT", {})},
                    },
                },
                {"key": "not", "inputs": {"required": {}}},
            ],
        },
    )


@pytest.mark.parametrize(
    ("given", "required", "optional", "arguments"),
    [
        (
            {"size": "by", "size.factor": 3.0},
            {"size.factor"},
            set(),
            {"size": {"size": "by", "factor": 3.0}},
        ),
        (
            {"size": "to", "size.width": 8},
            {"size.width"},
            {"size.height"},
            {"size": {"size": "to", "width": 8}},
        ),
        ({"size": "not"}, set(), set(), {"size": {"size": "not"}}),
    ],
)
def test_dynamic_combo_is_the_choice_and_what_follows(
    given: dict[str, Any], required: set[str], optional: set[str], arguments: dict[str, Any]
) -> None:
    found_required, found_optional, found_arguments = spread([sized()], given)
    assert set(found_required) == {"size"} | required
    assert set(found_optional) == optional
    assert found_arguments == arguments


def test_the_choice_is_checked_like_a_combo() -> None:
    required, _, _ = spread([sized()], {"size": "unheard of"})
    assert required == {"size": ("COMBO", {"options": ["by", "to", "not"]})}


def test_an_optional_choice_that_is_not_made_is_left_out() -> None:
    required, optional, arguments = spread([sized(optional=True)], {})
    assert (required, set(optional), arguments) == ({}, {"size"}, {})


def test_values_of_another_entry_are_not_taken() -> None:
    _, _, arguments = spread([sized()], {"size": "not", "size.factor": 3.0})
    assert arguments == {"size": {"size": "not"}, "size.factor": 3.0}


def test_dynamic_inputs_stand_within_each_other() -> None:
    inner = io.DynamicCombo.Input("size", options=SIZES)
    outer = io.DynamicCombo.Input(
        "how", options=[io.DynamicCombo.Option("resize", [inner, grown(least=1)])]
    )
    given = {
        "how": "resize",
        "how.size": "by",
        "how.size.factor": 2.5,
        "how.images.image0": LINK,
    }
    required, _, arguments = spread([outer], given)
    assert set(required) == set(given)
    assert arguments == {
        "how": {
            "how": "resize",
            "size": {"size": "by", "factor": 2.5},
            "images": {"image0": LINK},
        }
    }


def test_entries_of_one_name_are_refused() -> None:
    twice = io.DynamicCombo.Input("how", options=[SIZES[0], SIZES[0]])
    with pytest.raises(ValueError, match="'how': its entries hold by more than once"):
        node([twice]).GET_SCHEMA()


# -- dynamic slot ----------------------------------------------------------------------------------


def slot() -> io.Input:
    return io.DynamicSlot.Input(io.Image.Input("image"), inputs=[io.Float.Input("strength")])


def test_dynamic_slot_lists_what_its_link_brings() -> None:
    assert slot().as_spec() == (
        "COMFY_DYNAMICSLOT_V3",
        {
            "slotType": "IMAGE",
            "inputs": {"required": {"strength": ("FLOAT", {})}},
            "forceInput": True,
        },
    )


def test_dynamic_slot_with_a_link_brings_its_inputs() -> None:
    given = {"image": LINK, "image.strength": 0.5}
    required, optional, arguments = spread([slot()], given)
    assert required == {}
    assert optional == {"image": ("IMAGE", {}), "image.strength": ("FLOAT", {})}
    assert arguments == {"image": {"image": LINK, "strength": 0.5}}


def test_dynamic_slot_without_a_link_is_left_out() -> None:
    _, optional, arguments = spread([slot()], {})
    assert (set(optional), arguments) == ({"image"}, {})


# -- values with their names -----------------------------------------------------------------------


def test_a_lazy_check_gets_dynamic_values_with_their_names() -> None:
    given = {"size": "by", "size.factor": None, "images.image0": None, "other": 1}
    inputs = [sized(), grown(), io.Int.Input("other")]
    _, paths = node(inputs).INPUT_TYPES_FOR(given)
    assert node(inputs).NEST_VALUES(given, paths, with_keys=True) == {
        "size": {"size": ("by", "size"), "factor": (None, "size.factor")},
        "images": {"image0": (None, "images.image0")},
        "other": 1,
    }


def test_a_dot_in_a_plain_inputs_name_nests_nothing() -> None:
    _, _, arguments = spread([io.Int.Input("a.b"), grown(least=0)], {"a.b": 1})
    assert arguments == {"a.b": 1, "images": {}}


# -- types that fit several ------------------------------------------------------------------------


def test_multitype_names_all_its_types() -> None:
    given = io.MultiType.Input("value", types=[io.Int, io.Image, io.Int], optional=True)
    assert (given.as_spec(), given.optional) == (("INT,IMAGE", {}), True)


def test_multitype_borrows_an_inputs_widget() -> None:
    lender = io.Float.Input("value", default=1.0, min=0.0, tooltip="told", optional=True)
    given = io.MultiType.Input(lender, types=[io.Image])
    assert (given.id, given.optional) == ("value", True)
    assert given.as_spec() == (
        "FLOAT,IMAGE",
        {"default": 1.0, "min": 0.0, "tooltip": "told", "widgetType": "FLOAT"},
    )


def test_matching_inputs_share_a_template() -> None:
    template = io.MatchType.Template("t", [io.Image, io.Mask])
    listed = {"template": {"template_id": "t", "allowed_types": "IMAGE,MASK"}}
    given = io.MatchType.Input("a", template=template, lazy=True)
    assert given.as_spec() == ("COMFY_MATCHTYPE_V3", {"lazy": True, **listed})
    assert io.MatchType.Output(template=template).get_io_type() == "COMFY_MATCHTYPE_V3"


@pytest.mark.parametrize(("allowed", "text"), [({}, "*"), ({"allowed_types": io.Image}, "IMAGE")])
def test_a_template_allows_one_type_or_all(allowed: dict[str, Any], text: str) -> None:
    assert io.MatchType.Template("t", **allowed).as_dict()["allowed_types"] == text
