"""The page's form of a workflow becomes the form that runs: fields, wires, and what only pages have."""

from __future__ import annotations

from typing import Any

import pytest

from app.headless.failures import UserError
from app.headless.page_graph import to_prompt


class Loader:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": (["a.safetensors", "b.safetensors"],)}}


class Sampler:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"default": 0, "control_after_generate": True}),
                "steps": ("INT", {"default": 20}),
                "mode": ("COMBO", {"options": ["x", "y"]}),
            },
            "optional": {
                "scale": ("FLOAT", {"default": 1.5}),
                "forced": ("INT", {"forceInput": True}),
                "last": ("STRING", {"default": "end"}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }


class Picture:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        options = {"image_upload": True}
        return {"required": {"image": (["a.png"], options), "alpha": ("BOOLEAN", {})}}


class Resize:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"required": {"width": ("INT", {"default": 8}), "height": ("INT", {"default": 9})}}
        scale = {"required": {"factor": ("FLOAT", {"default": 2.0})}}
        options = [{"key": "size", "inputs": size}, {"key": "scale", "inputs": scale}]
        return {
            "required": {
                "how": ("COMFY_DYNAMICCOMBO_V3", {"options": options}),
                "filter": ("COMBO", {"options": ["area", "lanczos"]}),
            }
        }


class Save:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("MODEL",), "prefix": "STRING"}}


CLASSES = {one.__name__: one for one in (Loader, Sampler, Picture, Resize, Save)}


def a_node(number: Any, kind: str, values: Any = None, **more: Any) -> dict[str, Any]:
    node = {"id": number, "type": kind, "mode": 0, "inputs": [], "outputs": []}
    return {**node, "widgets_values": values, **more}


def wired(name: str, link: int | None, kind: str = "MODEL", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **more}


def out(*kinds: str) -> list[dict[str, Any]]:
    return [{"name": kind, "type": kind, "links": []} for kind in kinds]


def convert(nodes: list[dict[str, Any]], links: list[Any] = (), **more: Any) -> dict[str, Any]:
    return to_prompt({"nodes": nodes, "links": list(links), **more}, CLASSES, {"Loader": "Load It"})


def test_values_get_the_names_of_their_inputs_and_the_seed_s_control_is_left_out() -> None:
    values = [7, "randomize", 12, "y", 2.5, "text"]
    prompt = convert([a_node(3, "Sampler", values)])
    assert prompt["3"]["class_type"] == "Sampler"
    assert prompt["3"]["inputs"] == {
        "seed": 7,
        "steps": 12,
        "mode": "y",
        "scale": 2.5,
        "last": "text",
    }


def test_a_file_without_the_control_place_is_read_alike() -> None:
    inputs = convert([a_node(3, "Sampler", [7, 12, "y", 2.5, "text"])])["3"]["inputs"]
    assert (inputs["seed"], inputs["steps"], inputs["last"]) == (7, 12, "text")


def test_what_is_not_stored_has_its_default() -> None:
    inputs = convert([a_node(3, "Sampler", [7, "fixed"])])["3"]["inputs"]
    assert inputs == {"seed": 7, "steps": 20, "mode": "x", "scale": 1.5, "last": "end"}


def test_values_by_name_are_taken_by_name_and_unknown_ones_dropped() -> None:
    stored = {"steps": 3, "seed": 1, "preview": {"hidden": False}}
    inputs = convert([a_node(3, "Sampler", stored)])["3"]["inputs"]
    assert (inputs["seed"], inputs["steps"], "preview" in inputs) == (1, 3, False)


def test_names_beside_the_list_win_over_places() -> None:
    node = a_node(3, "Sampler", ["wrong"], widgets_values_named={"seed": 5, "steps": 6})
    assert convert([node])["3"]["inputs"]["seed"] == 5


def test_an_upload_button_takes_a_place_of_its_own() -> None:
    assert convert([a_node(1, "Picture", ["a.png", "image", True])])["1"]["inputs"] == {
        "image": "a.png",
        "alpha": True,
    }


@pytest.mark.parametrize(
    ("stored", "inputs"),
    [
        (
            ["size", 4, 5, "lanczos"],
            {"how": "size", "how.width": 4, "how.height": 5, "filter": "lanczos"},
        ),
        (["scale", 3.0, "area"], {"how": "scale", "how.factor": 3.0, "filter": "area"}),
    ],
)
def test_the_word_of_a_dynamic_combo_says_which_values_follow(
    stored: list[Any], inputs: dict[str, Any]
) -> None:
    assert convert([a_node(1, "Resize", stored)])["1"]["inputs"] == inputs


def test_a_list_that_is_a_value_is_wrapped_so_that_it_is_no_link() -> None:
    node = a_node(3, "Save", [["1", 0]])
    assert convert([node])["3"]["inputs"]["prefix"] == {"__value__": ["1", 0]}


LINK = [1, 1, 0, 3, 0, "MODEL"]


@pytest.mark.parametrize(
    "link",
    [
        LINK,
        dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot"), LINK)),  # noqa: B905
    ],
    ids=["list", "dict"],
)
def test_a_wire_becomes_the_output_that_it_comes_from(link: Any) -> None:
    nodes = [a_node(1, "Loader", ["b.safetensors"]), a_node(3, "Save", ["p"])]
    nodes[1]["inputs"] = [wired("images", 1)]
    assert convert(nodes, [link])["3"]["inputs"] == {"images": ["1", 0], "prefix": "p"}


def test_a_field_that_was_made_an_input_keeps_its_place_but_not_its_value() -> None:
    node = a_node(3, "Sampler", [7, "fixed", 12, "y", 2.5, "text"])
    node["inputs"] = [wired("seed", 1, "INT", widget={"name": "seed"})]
    inputs = convert([a_node(1, "Loader"), node], [[1, 1, 2, 3, 0, "INT"]])["3"]["inputs"]
    assert (inputs["seed"], inputs["steps"]) == (["1", 2], 12)


def test_reroutes_are_followed() -> None:
    nodes = [
        a_node(1, "Loader"),
        a_node(2, "Reroute", inputs=[wired("", 1)]),
        a_node(4, "Reroute", inputs=[wired("", 2)]),
        a_node(3, "Save", ["p"], inputs=[wired("images", 3)]),
    ]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 4, 0, "*"], [3, 4, 0, 3, 0, "*"]]
    prompt = convert(nodes, links)
    assert prompt["3"]["inputs"]["images"] == ["1", 0]
    assert list(prompt) == ["1", "3"]


def test_reroutes_in_a_circle_are_refused() -> None:
    nodes = [
        a_node(2, "Reroute", inputs=[wired("", 2)]),
        a_node(4, "Reroute", inputs=[wired("", 1)]),
        a_node(3, "Save", ["p"], inputs=[wired("images", 3)]),
    ]
    links = [[1, 2, 0, 4, 0, "*"], [2, 4, 0, 2, 0, "*"], [3, 4, 0, 3, 0, "*"]]
    with pytest.raises(UserError, match="back to itself"):
        convert(nodes, links)


def test_a_primitive_gives_its_value_to_all_that_it_is_wired_to() -> None:
    seed = [wired("seed", 1, "INT", widget={"name": "seed"})]
    nodes = [a_node(9, "PrimitiveNode", [42, "fixed"]), a_node(3, "Sampler", [7], inputs=seed)]
    prompt = convert(nodes, [[1, 9, 0, 3, 0, "INT"]])
    assert prompt["3"]["inputs"]["seed"] == 42
    assert "9" not in prompt


def test_a_list_that_comes_over_a_wire_is_wrapped_as_well() -> None:
    several = [wired("prefix", 1, "COMBO", widget={"name": "prefix"})]
    nodes = [a_node(9, "PrimitiveNode", [["1", 0]]), a_node(3, "Save", ["p"], inputs=several)]
    prompt = convert(nodes, [[1, 9, 0, 3, 0, "COMBO"]])
    assert prompt["3"]["inputs"]["prefix"] == {"__value__": ["1", 0]}


@pytest.mark.parametrize("kind", ["Note", "MarkdownNote"])
def test_notes_are_left_out(kind: str) -> None:
    assert convert([a_node(1, kind, ["text"])]) == {}


def test_a_muted_node_and_the_wires_from_it_are_left_out() -> None:
    nodes = [
        a_node(1, "Loader", mode=2),
        a_node(3, "Save", ["p"], inputs=[wired("images", 1)]),
    ]
    assert convert(nodes, [LINK])["3"]["inputs"] == {"prefix": "p"}


def bypassed(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> Any:
    """What reaches node 3 from output 0 of node 2, which is bypassed; its inputs come from node 1."""
    nodes = [
        a_node(1, "Loader"),
        a_node(2, "Sampler", mode=4, inputs=inputs, outputs=outputs),
        a_node(3, "Save", ["p"], inputs=[wired("images", 9)]),
    ]
    links = [[n, 1, n, 2, n, "?"] for n in range(len(inputs))] + [[9, 2, 0, 3, 0, "?"]]
    return convert(nodes, links)["3"]["inputs"].get("images")


@pytest.mark.parametrize(
    ("inputs", "outputs", "source"),
    [
        ([wired("m", 0)], out("MODEL"), ["1", 0]),
        ([wired("c", 0, "CLIP"), wired("m", 1)], out("MODEL"), ["1", 1]),
        ([wired("m", 0), wired("n", 1)], out("MODEL"), ["1", 0]),
        ([wired("c", 0, "CLIP")], out("MODEL"), None),
        ([wired("any", 0, "*")], out("MODEL"), ["1", 0]),
    ],
    ids=["same place", "first of its type", "same place first", "none of its type", "any type"],
)
def test_a_bypassed_node_hands_on_an_input_of_the_output_s_type(
    inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], source: Any
) -> None:
    assert bypassed(inputs, outputs) == source


def a_subgraph(values: Any, outer_link: int | None = None) -> dict[str, Any]:
    """Node 57 stands for: its inputs "model" and "steps" -> Sampler 3 -> its output."""
    inside = a_node(
        3,
        "Sampler",
        [7, "fixed", 12, "y"],
        inputs=[wired("model", 1), wired("steps", 2, "INT", widget={"name": "steps"})],
    )
    ends = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    links = [(1, -10, 0, 3, 0), (2, -10, 1, 3, 1), (3, 3, 0, -20, 0)]
    definition = {
        "id": "uuid",
        "name": "Sub",
        "inputs": [{"name": "model"}, {"name": "steps"}],
        "outputs": [{"name": "LATENT"}],
        "nodes": [inside],
        "links": [dict(zip(ends, link, strict=True)) for link in links],
    }
    holder = a_node(57, "uuid", values, inputs=[wired("model", 1), wired("steps", outer_link)])
    nodes = [a_node(1, "Loader"), holder, a_node(9, "Save", ["p"], inputs=[wired("images", 2)])]
    outer = [[1, 1, 0, 57, 0, "MODEL"], [2, 57, 0, 9, 0, "LATENT"], [5, 1, 3, 57, 1, "INT"]]
    return convert(nodes, outer, definitions={"subgraphs": [definition]})


def test_a_subgraph_s_nodes_run_under_its_node_s_id_and_its_wires_lead_through() -> None:
    prompt = a_subgraph([])
    assert list(prompt) == ["1", "57:3", "9"]
    assert prompt["57:3"]["inputs"]["model"] == ["1", 0]
    assert prompt["57:3"]["inputs"]["steps"] == 12
    assert prompt["9"]["inputs"]["images"] == ["57:3", 0]


def test_a_field_of_the_subgraph_s_node_counts_more_than_the_one_inside() -> None:
    assert a_subgraph([99])["57:3"]["inputs"]["steps"] == 99


def test_a_wire_to_the_subgraph_s_node_counts_more_than_its_field() -> None:
    assert a_subgraph([99], outer_link=5)["57:3"]["inputs"]["steps"] == ["1", 3]


def test_a_subgraph_in_itself_is_refused() -> None:
    endless = {"id": "u", "name": "Loop", "inputs": [], "outputs": [], "links": []}
    endless["nodes"] = [a_node(1, "u")]
    with pytest.raises(UserError, match="'Loop' holds itself"):
        convert([a_node(1, "u")], definitions={"subgraphs": [endless]})


def test_titles_are_the_user_s_or_the_class_s() -> None:
    prompt = convert([a_node(1, "Loader", title="Mine"), a_node(2, "Loader"), a_node(3, "Save")])
    assert [node["_meta"]["title"] for node in prompt.values()] == ["Mine", "Load It", "Save"]


def test_a_node_of_no_known_class_keeps_its_wires_for_validation_to_tell_of_it() -> None:
    node = a_node(3, "Gone", [1, 2], inputs=[wired("x", 1)])
    assert convert([a_node(1, "Loader"), node], [LINK])["3"]["inputs"] == {"x": ["1", 0]}


def test_a_class_that_cannot_tell_its_inputs_is_named() -> None:
    class Broken:
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            raise OSError("no such folder")

    page = {"nodes": [a_node(1, "Broken")], "links": []}
    with pytest.raises(UserError, match="Broken cannot tell which inputs it has: OSError: no such"):
        to_prompt(page, {"Broken": Broken}, {})


@pytest.mark.parametrize(
    "page",
    [
        {"nodes": [{"type": "Save"}]},
        {"nodes": [1]},
        {"nodes": [], "links": [[1]]},
        {"nodes": [], "links": [[1, 1, float("inf"), 3, 0, "MODEL"]]},
        {"nodes": [], "definitions": [1]},
    ],
    ids=["node without id", "node that is a number", "short link", "endless slot", "definitions"],
)
def test_what_has_another_form_is_refused_in_words(page: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="form that is not known"):
        to_prompt(page, CLASSES, {})
