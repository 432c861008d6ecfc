"""Each classic node has the inputs, outputs, names and category that graphs and packs rely on.

`data/classic_nodes.json` holds them: node to facts, as `support.node_listing` describes them, and
the lists of samplers and schedulers.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

import comfy.samplers
import nodes
from support import node_listing

_TABLE: dict[str, Any] = json.loads((node_listing.DATA / "classic_nodes.json").read_text())
_SAMPLERS, _SCHEDULERS = _TABLE.pop("SAMPLERS"), _TABLE.pop("SCHEDULERS")


def test_every_node_has_its_facts_and_every_fact_its_node() -> None:
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(_TABLE)


@pytest.mark.parametrize("node", _TABLE)
def test_node_is_listed_as_in_comfyui(node: str) -> None:
    display = nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node, node)
    shown = node_listing.told(nodes.NODE_CLASS_MAPPINGS[node], display)
    assert node_listing.as_sent(shown) == node_listing.as_sent(
        node_listing.wanted(_TABLE[node], shown)
    )


@pytest.mark.parametrize("node", _TABLE)
def test_hidden_inputs_ask_for_what_they_are_called(node: str) -> None:
    hidden = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES().get("hidden", {})
    assert all(value == name.upper() for name, value in hidden.items())


@pytest.mark.parametrize("node", _TABLE)
def test_function_takes_the_inputs_by_name(node: str) -> None:
    assert node_listing.takes_its_inputs(nodes.NODE_CLASS_MAPPINGS[node])


def test_samplers_and_schedulers_are_those_of_comfyui() -> None:
    assert comfy.samplers.SAMPLER_NAMES[: len(_SAMPLERS)] == _SAMPLERS
    assert comfy.samplers.SCHEDULER_NAMES[: len(_SCHEDULERS)] == _SCHEDULERS


def test_names_that_packs_add_show_in_the_samplers() -> None:
    inputs = nodes.NODE_CLASS_MAPPINGS["KSampler"].INPUT_TYPES()["required"]
    assert inputs["sampler_name"][0] is comfy.samplers.SAMPLER_NAMES
    assert inputs["scheduler"][0] is comfy.samplers.SCHEDULER_NAMES


def test_classes_are_names_of_the_module() -> None:
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        assert getattr(nodes, name) is kind
    assert nodes.MAX_RESOLUTION == 16384
