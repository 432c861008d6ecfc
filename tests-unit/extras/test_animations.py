"""Animations and vector pictures go to files with the graph in them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import folder_paths
from comfy_extras import nodes_images, nodes_webcam
from comfy_extras.pictures import svg

FRAMES = torch.rand((3, 16, 24, 3), generator=torch.Generator().manual_seed(0))
LEVELS = (FRAMES.numpy() * 255).astype(np.uint8)
PROMPT, WORKFLOW = {"1": {"class_type": "SaveAnimatedWEBP"}}, {"nodes": []}
HIDDEN = {"hidden_inputs": {"PROMPT": PROMPT, "EXTRA_PNGINFO": {"workflow": WORKFLOW}}}


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def _frames(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.stack([np.asarray(one.convert("RGB")) for one in ImageSequence.Iterator(opened)])


def test_webp_without_loss_is_read_back_to_the_last_bit(output: Path) -> None:
    node = nodes_images.SaveAnimatedWEBP.PREPARE_CLASS_CLONE(HIDDEN)
    shown = node.execute(FRAMES, "film/x", 10.0, True, 80, "fastest").ui.as_dict()
    assert [dict(one) for one in shown["images"]] == [
        {"filename": "x_00001_.webp", "subfolder": "film", "type": "output"}
    ]
    assert shown["animated"] == (True,)
    path = output / "film" / "x_00001_.webp"
    assert np.array_equal(_frames(path), LEVELS)
    with Image.open(path) as opened:
        opened.load()
        assert opened.info["duration"] == 100
        exif = opened.getexif()
    assert exif[0x0110] == "prompt:" + json.dumps(PROMPT)
    assert exif[0x010F] == "workflow:" + json.dumps(WORKFLOW)


def test_webp_with_loss_is_smaller(output: Path) -> None:
    for lossless in (True, False):
        nodes_images.SaveAnimatedWEBP.save_images(FRAMES, "x", 6.0, lossless, 10, "slowest")
    whole, lossy = (output / f"x_0000{number}_.webp" for number in (1, 2))
    assert lossy.stat().st_size < whole.stat().st_size / 2


def test_png_is_read_back_to_the_last_bit(output: Path) -> None:
    node = nodes_images.SaveAnimatedPNG.PREPARE_CLASS_CLONE(HIDDEN)
    shown = node.execute(FRAMES, "x", 4.0, 9).ui.as_dict()
    assert shown["animated"] == (True,)
    path = output / "x_00001_.png"
    assert np.array_equal(_frames(path), LEVELS)
    content = path.read_bytes()
    assert b"comfprompt\0" + json.dumps(PROMPT).encode() in content
    assert content.index(b"comfprompt") > content.index(b"IDAT")


SQUARE = b'<?xml version="1.0"?>\n<svg a="1>0" width="2"><rect/></svg>'


def _records(node: type, buffers: list[bytes]) -> list[dict[str, str]]:
    pictures = nodes_images.SVG([BytesIO(text) for text in buffers])
    return node.execute(pictures, "svg/y").ui["images"]  # type: ignore[attr-defined]


def test_vector_picture_holds_the_graph(output: Path) -> None:
    node = nodes_images.SaveSVGNode.PREPARE_CLASS_CLONE(HIDDEN)
    records = _records(node, [SQUARE, SQUARE])
    assert [one["filename"] for one in records] == ["y_00001_.svg", "y_00002_.svg"]
    assert {(one["subfolder"], one["type"]) for one in records} == {("svg", "output")}
    root = ElementTree.parse(output / "svg" / "y_00002_.svg").getroot()
    assert root.attrib == {"a": "1>0", "width": "2"}
    metadata, rect = root
    assert (metadata.tag, rect.tag) == ("metadata", "rect")
    assert json.loads(metadata.text or "") == {"prompt": PROMPT, "workflow": WORKFLOW}


@pytest.mark.parametrize("text", [b"<svg/>", b"no picture"])
def test_vector_picture_without_room_stays_as_it_is(output: Path, text: bytes) -> None:
    node = nodes_images.SaveSVGNode.PREPARE_CLASS_CLONE(HIDDEN)
    _records(node, [text])
    assert (output / "svg" / "y_00001_.svg").read_bytes() == text


def test_end_of_the_element_in_a_prompt_does_not_end_it() -> None:
    text = svg.with_metadata(SQUARE, {"prompt": json.dumps("a]]>b")})
    (metadata, _) = ElementTree.fromstring(text)
    assert json.loads(metadata.text or "") == {"prompt": "a]]>b"}


def test_batches_of_vector_pictures_are_joined() -> None:
    one, two = (nodes_images.SVG([BytesIO(text)]) for text in (b"1", b"2"))
    assert [buffer.getvalue() for buffer in one.combine(two).data] == [b"1", b"2"]
    assert len(nodes_images.SVG.combine_all([one, two, one]).data) == 3


def test_picture_of_the_camera_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    Image.fromarray(LEVELS[0]).save(tmp_path / "shot.png")
    node = nodes_webcam.WebcamCapture
    (image,) = node().load_capture("shot.png", 24, 16)
    assert torch.equal(image[0], torch.from_numpy(LEVELS[0]) / 255.0)
    before = node.IS_CHANGED("shot.png")
    Image.fromarray(LEVELS[1]).save(tmp_path / "shot.png")
    assert node.IS_CHANGED("shot.png") != before
