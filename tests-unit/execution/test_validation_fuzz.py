"""Whatever a client sends as a prompt, it gets an answer of the agreed shape, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from support.prompts import check, node_class

CLASSES = {
    "Source": node_class({"value": ("INT", {"min": 0})}, {"mode": (["a", "b"],)}, ("INT", "A,B")),
    "Sink": node_class(
        {"value": ("INT,A",), "text": ("STRING",)}, {"mode": (["a"],)}, (), OUTPUT_NODE=True
    ),
    "Picky": node_class(
        {"value": ("FLOAT",)},
        {"text": ("STRING",)},
        OUTPUT_NODE=True,
        VALIDATE_INPUTS=classmethod(lambda cls, value, **others: value < 2 or "too large"),
    ),
}
IDS = st.sampled_from(["1", "2", "3", "4", "9"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from("ab1")
LINKS = st.tuples(IDS, st.sampled_from([0, 1, 2, -1, 0.0, 0.5, "0", None])).map(list)
VALUES = st.recursive(
    SCALARS | LINKS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.just("__value__"), inside),
    max_leaves=3,
)
INPUTS = st.dictionaries(st.sampled_from(["value", "text", "mode", "other"]), VALUES)
NODES = st.fixed_dictionaries(
    {"class_type": st.sampled_from(sorted(CLASSES)), "inputs": INPUTS}
) | st.fixed_dictionaries({"class_type": st.just("Sink"), "inputs": st.just({"text": "x"})})
ODD_NODES = NODES | SCALARS | st.dictionaries(st.sampled_from(["class_type", "inputs"]), VALUES)


def _check_shape(prompt: Any) -> None:
    ids = list(prompt) if isinstance(prompt, dict) else []
    valid, error, good, node_errors = check(prompt, CLASSES)
    assert valid is bool(good) is (error is None)
    assert set(good) <= set(ids)
    assert set(node_errors) <= set(ids)
    for entry in node_errors.values():
        assert set(entry) == {"errors", "dependent_outputs", "class_type"}
        assert entry["errors"]
        assert entry["dependent_outputs"]
        assert not set(entry["dependent_outputs"]) & set(good)
        told = entry["errors"]
        assert all(set(one) == {"type", "message", "details", "extra_info"} for one in told)
    json.dumps([error, node_errors])


@settings(max_examples=300)
@given(st.dictionaries(IDS, NODES, min_size=1))
def test_any_graph_of_known_nodes_gets_an_answer(prompt: Any) -> None:
    _check_shape(prompt)


@settings(max_examples=100)
@given(st.dictionaries(IDS, ODD_NODES) | VALUES)
def test_anything_else_gets_an_answer_too(prompt: Any) -> None:
    _check_shape(prompt)
