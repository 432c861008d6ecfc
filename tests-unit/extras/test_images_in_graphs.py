"""Nodes of images, masks and texts run in graphs, as the executor calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import folder_paths
import nodes
from support import node_listing, prompts
from support.graph_nodes import BASIC, Graphs, node

MODULES = node_listing.table("extras_nodes_images.json")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Graphs:
    classes = {
        name: kind
        for module in MODULES
        for name, (kind, _) in node_listing.nodes_of(module).items()
    }
    for name, kind in {**classes, **BASIC}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return Graphs()


def _run(graphs: Graphs, prompt: dict[str, Any]) -> None:
    valid, error, _, errors = prompts.check(prompt, nodes.NODE_CLASS_MAPPINGS)
    assert valid, (error, errors)
    assert graphs.run(prompt), graphs.error()


def _image(width: int, height: int, count: int = 1, colour: int = 0xFF8000) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=count, color=colour)


def test_as_many_pictures_as_are_linked_become_one_batch(graphs: Graphs) -> None:
    inputs: dict[str, Any] = {"images.image0": ["a", 0], "images.image1": ["b", 0]}
    prompt = {
        "a": _image(16, 8),
        "b": _image(32, 32, 3),
        "batch": node("BatchImagesNode", **inputs),
        "size": node("GetImageSize", image=["batch", 0]),
        "show": node("Show", value=["size", 2]),
        "width": node("Show", value=["size", 0]),
    }
    _run(graphs, prompt)
    assert graphs.shown() == [4]
    assert graphs.shown("width") == [16]


def test_chosen_way_to_resize_brings_its_inputs(graphs: Graphs) -> None:
    way: dict[str, Any] = {"resize_type": "scale width", "resize_type.width": 8}
    prompt = {
        "a": _image(32, 16),
        "resize": node("ResizeImageMaskNode", input=["a", 0], scale_method="area", **way),
        "size": node("GetImageSize", image=["resize", 0]),
        "show": node("Show", value=["size", 1]),
    }
    _run(graphs, prompt)
    assert graphs.shown() == [4]


def test_list_of_batches_is_cut_anew(graphs: Graphs) -> None:
    prompt = {
        "a": _image(4, 4, 5),
        "cut": node("RebatchImages", images=["a", 0], batch_size=2),
        "size": node("GetImageSize", image=["cut", 0]),
        "show": node("Show", value=["size", 2]),
    }
    _run(graphs, prompt)
    assert graphs.shown() == [2, 2, 1]


@pytest.mark.parametrize(("switch", "wanted", "idle"), [(True, "yes", "no"), (False, "no", "yes")])
def test_branch_that_is_not_chosen_does_not_run(
    graphs: Graphs, switch: bool, wanted: str, idle: str
) -> None:
    prompt = {
        "yes": node("PrimitiveString", value="yes"),
        "no": node("PrimitiveStringMultiline", value="no"),
        "switch": node("ComfySwitchNode", switch=switch, on_true=["yes", 0], on_false=["no", 0]),
        "text": node("PreviewAny", source=["switch", 0]),
    }
    _run(graphs, prompt)
    assert graphs.executor.history_result["outputs"]["text"]["text"] == [wanted]
    assert idle not in graphs.ran()


def test_choice_that_is_in_no_list_is_valid(graphs: Graphs) -> None:
    prompt = {
        "choice": node("CustomCombo", choice="mine"),
        "length": node("StringLength", string=["choice", 0]),
        "show": node("Show", value=["length", 0]),
    }
    _run(graphs, prompt)
    assert graphs.shown() == [4]


def test_masks_go_through_a_chain_of_nodes(graphs: Graphs) -> None:
    prompt = {
        "small": node("SolidMask", value=1.0, width=4, height=4),
        "ground": node("SolidMask", value=0.0, width=16, height=16),
        "square": node(
            "MaskComposite",
            destination=["ground", 0],
            source=["small", 0],
            x=6,
            y=6,
            operation="add",
        ),
        "grown": node("GrowMask", mask=["square", 0], expand=2, tapered_corners=False),
        "image": node("MaskToImage", mask=["grown", 0]),
        "red": _image(16, 16, 1, 0xFF0000),
        "both": node(
            "ImageCompositeMasked",
            destination=["image", 0],
            source=["red", 0],
            x=0,
            y=0,
            resize_source=False,
            mask=["grown", 0],
        ),
        "show": node("Show", value=["both", 0]),
        "preview": node("MaskPreview", mask=["grown", 0]),
    }
    _run(graphs, prompt)
    (image,) = graphs.shown()
    wanted = torch.zeros(1, 16, 16, 3)
    wanted[:, 4:12, 4:12, 0] = 1.0
    assert torch.equal(image, wanted)
    (record,) = graphs.executor.history_result["outputs"]["preview"]["images"]
    assert (Path(folder_paths.get_temp_directory()) / record["filename"]).exists()


def test_animation_holds_the_graph_it_came_from(graphs: Graphs, tmp_path: Path) -> None:
    prompt = {
        "a": _image(8, 8, 2),
        "save": node(
            "SaveAnimatedPNG", images=["a", 0], filename_prefix="x", fps=5.0, compress_level=1
        ),
    }
    _run(graphs, prompt)
    content = (tmp_path / "output" / "x_00001_.png").read_bytes()
    assert b'comfprompt\0{"a": {"class_type": "EmptyImage"' in content


def _naming(loader: str, file: str) -> dict[str, Any]:
    """A loader that gets the name of its file from a node whose output fits everything."""
    sections = nodes.NODE_CLASS_MAPPINGS[loader].INPUT_TYPES()["required"]
    inputs = {next(iter(sections)): ["name", 0]}
    if "channel" in sections:
        inputs["channel"] = "red"
    return {"name": node("Keep", value=file), "load": node(loader, **inputs)}


@pytest.mark.parametrize(
    ("loader", "file"),
    [
        ("LoadImageMask", "a.png"),
        ("LoadLatent", "latents/a_00001_.latent [output]"),
        ("LoadAudio", "audio/a_00001_.flac [output]"),
        ("LoadVideo", "video/a_00001_.mp4 [output]"),
    ],
)
def test_name_of_a_file_may_come_from_another_node(graphs: Graphs, loader: str, file: str) -> None:
    pytest.importorskip("av")
    Image.new("RGB", (4, 4)).save(Path(folder_paths.get_input_directory(), "a.png"))
    written = {
        "picture": _image(16, 16, 2),
        "film": node("CreateVideo", images=["picture", 0], fps=8.0),
        "sound": node("EmptyAudio", duration=0.1, sample_rate=44100, channels=1),
        "latent": node("EmptyLatentImage", width=16, height=16, batch_size=1),
        "1": node(
            "SaveVideo",
            video=["film", 0],
            filename_prefix="video/a",
            format="auto",
            codec="auto",
        ),
        "2": node("SaveAudio", audio=["sound", 0], filename_prefix="audio/a"),
        "3": node("SaveLatent", samples=["latent", 0], filename_prefix="latents/a"),
    }
    _run(graphs, written)
    _run(graphs, {**_naming(loader, file), "show": node("Show", value=["load", 0])})
    assert graphs.shown()[0] is not None


def test_file_that_was_replaced_is_read_though_another_node_names_it(graphs: Graphs) -> None:
    prompt = {**_naming("LoadImage", "a.png"), "show": node("Show", value=["load", 0])}
    for level in (51, 204):
        colour = (level,) * 3
        Image.new("RGB", (4, 4), colour).save(Path(folder_paths.get_input_directory(), "a.png"))
        _run(graphs, prompt)
        (image,) = graphs.shown()
        assert image.mul(255).round().unique().tolist() == [level]
