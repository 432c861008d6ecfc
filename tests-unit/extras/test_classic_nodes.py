"""Each classic node has the inputs, outputs, names and category that graphs and packs rely on.

`data/classic_nodes.json` holds them: {node: {display, category, flags, required, optional, hidden,
outputs}}. An input is its type or list of choices, and its options; ``{NAME}`` stands for a list of
that file, ``<...>`` for names of files. An output is its type, and its name where it has one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import comfy.samplers
import nodes

_DATA = Path(__file__).resolve().parent.parent / "data" / "classic_nodes.json"
_TABLE: dict[str, Any] = json.loads(_DATA.read_text())
_LISTS = {"{SAMPLERS}": _TABLE.pop("SAMPLERS"), "{SCHEDULERS}": _TABLE.pop("SCHEDULERS")}
_FLAGS = {"output_node": "OUTPUT_NODE", "deprecated": "DEPRECATED", "experimental": "EXPERIMENTAL"}


def _as_in_table(given: tuple[Any, ...], wanted: Any) -> list[Any]:
    """An input without its tooltip; files by what the table calls them."""
    first = given[0]
    if isinstance(wanted[0], str) and wanted[0].startswith("<"):
        assert isinstance(first, list)
        first = wanted[0]
    options = {key: value for key, value in (given[1:] or ({},))[0].items() if key != "tooltip"}
    return [first, options] if options else [first]


def _inputs(node: str, group: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a node asks for and what it should ask for, in their orders."""
    wanted = {
        name: [_LISTS.get(str(entry[0]), entry[0]), *entry[1:]]
        for name, entry in _TABLE[node].get(group, {}).items()
    }
    given = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES().get(group, {})
    shown = {name: _as_in_table(entry, wanted.get(name, [None])) for name, entry in given.items()}
    return shown, wanted


def test_every_node_has_its_facts_and_every_fact_its_node() -> None:
    assert set(nodes.NODE_CLASS_MAPPINGS) == set(_TABLE)


@pytest.mark.parametrize("group", ["required", "optional"])
@pytest.mark.parametrize("node", _TABLE)
def test_inputs_are_those_of_comfyui(node: str, group: str) -> None:
    shown, wanted = _inputs(node, group)
    assert list(shown.items()) == list(wanted.items())


@pytest.mark.parametrize("node", _TABLE)
def test_outputs_are_those_of_comfyui(node: str) -> None:
    kind = nodes.NODE_CLASS_MAPPINGS[node]
    named = [entry[:-1] for entry in _TABLE[node]["outputs"] if len(entry) == 2]
    assert tuple(entry[-1] for entry in _TABLE[node]["outputs"]) == kind.RETURN_TYPES
    assert list(getattr(kind, "RETURN_NAMES", ())) == [name for (name,) in named]


@pytest.mark.parametrize("node", _TABLE)
def test_place_and_name_in_the_menu_are_those_of_comfyui(node: str) -> None:
    kind, facts = nodes.NODE_CLASS_MAPPINGS[node], _TABLE[node]
    assert facts["category"] == kind.CATEGORY
    assert facts["display"] == nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node, node)
    flags = {flag for flag, name in _FLAGS.items() if getattr(kind, name, False)}
    assert flags == set(facts["flags"])


@pytest.mark.parametrize("node", _TABLE)
def test_hidden_inputs_are_those_of_comfyui(node: str) -> None:
    hidden = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES().get("hidden", {})
    assert list(hidden) == _TABLE[node].get("hidden", [])
    assert all(value == name.upper() for name, value in hidden.items())


@pytest.mark.parametrize("node", _TABLE)
def test_function_takes_the_inputs_by_name(node: str) -> None:
    kind = nodes.NODE_CLASS_MAPPINGS[node]
    code = getattr(kind, kind.FUNCTION).__code__
    taken = code.co_varnames[1 : code.co_argcount]
    for group in ("required", "optional", "hidden"):
        assert set(kind.INPUT_TYPES().get(group, {})) <= set(taken)


def test_names_that_packs_add_show_in_the_samplers() -> None:
    inputs = nodes.NODE_CLASS_MAPPINGS["KSampler"].INPUT_TYPES()["required"]
    assert inputs["sampler_name"][0] is comfy.samplers.SAMPLER_NAMES
    assert inputs["scheduler"][0] is comfy.samplers.SCHEDULER_NAMES


def test_classes_are_names_of_the_module() -> None:
    for name, kind in nodes.NODE_CLASS_MAPPINGS.items():
        assert getattr(nodes, name) is kind
    assert nodes.MAX_RESOLUTION == 16384
