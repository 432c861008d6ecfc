"""Schemas are completed, and refused if two things share a name."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from comfy_api.latest import io

HIDDEN = io.Hidden


def schema(**said: Any) -> io.Schema:
    return io.Schema("Node", **said)


def test_what_is_not_said_has_a_value() -> None:
    plain = schema()
    assert (plain.category, plain.description, plain.display_name) == ("sd", "", None)
    assert (plain.inputs, plain.outputs, plain.hidden) == ([], [], [])
    flags = ("is_input_list", "is_output_node", "is_deprecated", "is_experimental")
    flags += ("is_api_node", "not_idempotent", "enable_expand")
    assert not any(getattr(plain, flag) for flag in flags)


@pytest.mark.parametrize(
    ("said", "hidden"),
    [
        ({}, []),
        ({"is_api_node": True}, [HIDDEN.auth_token_comfy_org, HIDDEN.api_key_comfy_org]),
        ({"is_output_node": True}, [HIDDEN.prompt, HIDDEN.extra_pnginfo]),
        (
            {"is_output_node": True, "hidden": [HIDDEN.extra_pnginfo, HIDDEN.unique_id]},
            [HIDDEN.extra_pnginfo, HIDDEN.unique_id, HIDDEN.prompt],
        ),
    ],
)
def test_kinds_of_nodes_imply_hidden_inputs(said: dict[str, Any], hidden: list[io.Hidden]) -> None:
    completed = schema(**said)
    completed.finalize()
    assert completed.hidden == hidden


def test_outputs_without_an_id_get_one_from_place_and_type() -> None:
    completed = schema(outputs=[io.Image.Output(), io.Mask.Output("mine"), io.Custom("X").Output()])
    completed.finalize()
    assert [output.id for output in completed.outputs] == ["_0_IMAGE_", "mine", "_2_X_"]


def test_two_inputs_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'Node': more than one input is called a"):
        schema(inputs=[io.Int.Input("a"), io.Image.Input("b"), io.Mask.Input("a")]).validate()


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one output is called a"):
        schema(outputs=[io.Int.Output("a"), io.Image.Output("a")]).validate()


def test_an_input_and_an_output_may_share_a_name() -> None:
    schema(inputs=[io.Int.Input("a")], outputs=[io.Int.Output("a")]).validate()


def test_a_faulty_input_within_a_choice_is_found() -> None:
    option = io.DynamicCombo.Option("x", [io.Int.Input("a", min=2, max=1)])
    with pytest.raises(ValueError, match="'a'"):
        schema(inputs=[io.DynamicCombo.Input("how", options=[option])]).validate()


def test_words_of_newer_versions_are_accepted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        newer = schema(search_aliases=["x"], is_dev_only=True, price_badge={"a": 1}, of_tomorrow=1)
    assert newer.search_aliases == ["x"]
    assert not hasattr(newer, "of_tomorrow")
    assert "of_tomorrow" in caplog.text
