"""/object_info and /features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import folder_paths
import nodes
from support.graph_nodes import node_class
from support.running_server import Served

KEYS = [
    "input",
    "input_order",
    "output",
    "output_is_list",
    "output_name",
    "name",
    "display_name",
    "description",
    "python_module",
    "category",
    "output_node",
]


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers a class under a name."""

    def register(name: str, kind: Any) -> None:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)

    return register


def _declares(sections: Any) -> Any:
    return node_class(lambda: None, INPUT_TYPES=classmethod(lambda cls: sections))


@pytest.mark.parametrize("path", ["/object_info", "/api/object_info"])
def test_every_node_is_described(idle: Served, path: str) -> None:
    answer = idle.get(path)
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert set(answer.json()) == set(nodes.NODE_CLASS_MAPPINGS)


def test_a_classic_node_is_told_in_the_agreed_order(idle: Served) -> None:
    told = idle.get("/object_info/KSampler").json()
    assert list(told) == ["KSampler"]
    info = told["KSampler"]
    assert list(info)[: len(KEYS)] == KEYS
    assert info["input"]["required"]["seed"][0] == "INT"
    assert info["input"]["required"]["seed"][1]["max"] == 18446744073709551615
    assert isinstance(info["input"]["required"]["sampler_name"][0], list)
    assert info["input_order"]["required"] == list(info["input"]["required"])
    assert (info["output"], info["output_name"]) == (["LATENT"], ["LATENT"])
    assert info["output_is_list"] == [False]
    assert (info["category"], info["python_module"]) == ("sampling", "nodes")
    assert info["output_node"] is False
    assert "deprecated" not in info
    assert "experimental" not in info


def test_all_attributes_of_a_class_are_told(idle: Served, add: Any) -> None:
    kind = node_class(
        lambda value: (value, [value]),
        "value",
        returns=("INT", ["a", "b"]),
        RETURN_NAMES=("number", "choice"),
        OUTPUT_IS_LIST=(False, True),
        OUTPUT_TOOLTIPS=("one", "many"),
        OUTPUT_NODE=True,
        DESCRIPTION="What it does.",
        RELATIVE_PYTHON_MODULE="custom_nodes.pack",
        DEPRECATED=True,
        EXPERIMENTAL=True,
        API_NODE=False,
        INPUT_IS_LIST=True,
    )
    add("Told", kind)
    info = idle.get("/object_info/Told").json()["Told"]
    assert info["output"] == ["INT", ["a", "b"]]
    assert info["output_name"] == ["number", "choice"]
    assert info["output_is_list"] == [False, True]
    assert info["output_tooltips"] == ["one", "many"]
    assert info["output_node"] is True
    assert info["description"] == "What it does."
    assert info["python_module"] == "custom_nodes.pack"
    assert (info["deprecated"], info["experimental"], info["api_node"]) == (True, True, False)
    assert info["is_input_list"] is True
    assert info["display_name"] == "Told"


def test_what_a_class_does_not_say_has_a_default(idle: Served, add: Any) -> None:
    kind = node_class(lambda: None)
    del kind.CATEGORY
    add("Bare", kind)
    info = idle.get("/object_info/Bare").json()["Bare"]
    assert (info["category"], info["description"], info["python_module"]) == ("sd", "", "nodes")
    assert list(info) == KEYS


def test_what_a_class_leaves_open_has_a_default_too(idle: Served, add: Any) -> None:
    names = ("RETURN_NAMES", "OUTPUT_IS_LIST", "OUTPUT_TOOLTIPS", "DESCRIPTION", "CATEGORY")
    add("Open", node_class(lambda: None, returns=("INT",), **dict.fromkeys(names)))
    info = idle.get("/object_info/Open").json()["Open"]
    assert (info["output_name"], info["output_is_list"]) == (["INT"], [False])
    assert (info["description"], info["category"]) == ("", "sd")
    assert list(info) == KEYS


def test_a_class_that_is_not_there_is_an_empty_object(idle: Served) -> None:
    answer = idle.get("/object_info/Gone")
    assert (answer.status, answer.json()) == (200, {})


def _raises(cls: Any) -> Any:
    raise RuntimeError("no such folder")


def _exits(cls: Any) -> Any:
    raise SystemExit(3)


_INSIDE_ITSELF: dict[str, Any] = {"required": {}}
_INSIDE_ITSELF["required"]["self"] = _INSIDE_ITSELF


@pytest.mark.parametrize(
    "kind",
    [
        node_class(lambda: None, INPUT_TYPES=classmethod(_raises)),
        node_class(lambda: None, INPUT_TYPES=classmethod(_exits)),
        _declares(None),
        _declares({"required": None}),
        _declares(_INSIDE_ITSELF),
        node_class(lambda: None, RETURN_TYPES=None),
    ],
    ids=["raises", "exits", "none", "no section", "endless", "no outputs"],
)
def test_a_class_that_cannot_be_described_is_left_out_and_logged(
    idle: Served, add: Any, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    add("Broken", kind)
    told = idle.get("/object_info").json()
    assert set(told) == set(nodes.NODE_CLASS_MAPPINGS) - {"Broken"}
    assert "'Broken'" in caplog.text
    answer = idle.get("/object_info/Broken")
    assert (answer.status, answer.json()) == (200, {})


def test_numbers_without_a_word_in_json_are_replaced(idle: Served, add: Any) -> None:
    options = {"min": float("-inf"), "max": float("inf"), "default": float("nan")}
    add("Endless", _declares({"required": {"x": ("FLOAT", options)}}))
    told = idle.get("/object_info/Endless").json()["Endless"]["input"]["required"]["x"][1]
    largest = 1.7976931348623157e308
    assert told == {"min": -largest, "max": largest, "default": None}


def test_objects_among_the_options_become_text(idle: Served, add: Any) -> None:
    kind = _declares({"required": {"x": ({"b", "a"}, {"default": KeyError})}})
    add("Objects", kind)
    told = idle.get("/object_info/Objects").json()["Objects"]["input"]["required"]["x"]
    assert told == [["a", "b"], {"default": str(KeyError)}]


def test_lists_of_files_are_made_anew_for_each_request(idle: Served) -> None:
    def names() -> list[str]:
        told = idle.get("/object_info/LoadImage").json()["LoadImage"]
        listed: list[str] = told["input"]["required"]["image"][0]
        return listed

    assert names() == []
    Path(folder_paths.get_input_directory(), "new.png").touch()
    assert names() == ["new.png"]


@pytest.mark.parametrize("path", ["/features", "/api/features"])
def test_only_features_that_are_there_are_told(idle: Served, path: str) -> None:
    flags = idle.get(path).json()
    assert flags["supports_preview_metadata"] is True
    assert flags["max_upload_size"] == 100 * 2**20
    missing = ("assets", "node_replacements", "supports_progress_text_metadata", "agent")
    assert not set(missing) & set(flags)
