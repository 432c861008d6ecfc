"""Saved pictures are read back with Pillow, the graph with them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comfy.cli_args import args
from comfy_api.latest import io, ui

PROMPT = {"1": {"class_type": "Noise", "inputs": {"text": "grün"}}}
EXTRA = {"workflow": {"nodes": [1]}, "author": "me", "third": 3}


class Node:
    hidden = io.HiddenHolder(prompt=PROMPT, extra_pnginfo=EXTRA)


def batch(count: int = 3, channels: int = 3) -> torch.Tensor:
    """Pictures of which no two are alike, each value a multiple of 1/255."""
    levels = torch.randint(0, 256, (count, 6, 10, channels), generator=_generator())
    return levels.float() / 255.0


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def as_bytes(image: torch.Tensor) -> np.ndarray:
    return (image.numpy() * 255.0).round().astype(np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
def test_pictures_are_read_back_to_the_last_bit(folders: Path, channels: int) -> None:
    images = batch(2, channels)
    saved = ui.ImageSaveHelper.get_save_images_ui(images, "a/pic_%batch_num%", Node, 2).as_dict()
    assert saved == {
        "images": [
            {"filename": "pic_0_00001_.png", "subfolder": "a", "type": "output"},
            {"filename": "pic_1_00002_.png", "subfolder": "a", "type": "output"},
        ]
    }
    for image, record in zip(images, saved["images"], strict=True):
        with Image.open(folders / "output" / "a" / record["filename"]) as read:
            assert np.array_equal(np.asarray(read), as_bytes(image))
            assert json.loads(read.info["prompt"]) == PROMPT
            assert {key: json.loads(read.info[key]) for key in EXTRA} == EXTRA


def test_files_without_a_node_have_no_graph(folders: Path) -> None:
    (saved,) = ui.ImageSaveHelper.save_images(batch(1), "a", io.FolderType.temp, None)
    with Image.open(folders / "temp" / saved.filename) as read:
        assert read.info == {}


def test_the_flag_against_metadata_holds(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "disable_metadata", True)
    helper = ui.ImageSaveHelper
    plain = helper.save_images(batch(1), "a", io.FolderType.output, Node)[0]
    moving = helper.save_animated_png(batch(), "b", io.FolderType.output, Node, 6.0, 4)
    webp = helper.save_animated_webp(batch(), "c", io.FolderType.output, Node, 6.0, True, 80, 0)
    for saved in (plain, moving, webp):
        content = (folders / "output" / saved.filename).read_bytes()
        assert b"workflow" not in content
        assert b"prompt" not in content


@pytest.mark.parametrize("moving", [False, True])
def test_a_name_that_no_png_can_hold_does_not_cost_the_picture(folders: Path, moving: bool) -> None:
    node = type("Node", (), {"hidden": io.HiddenHolder(prompt=PROMPT, extra_pnginfo={"€": 1})})
    helper = ui.ImageSaveHelper
    saved = (
        helper.save_animated_png(batch(), "a", io.FolderType.temp, node, 6.0, 4)
        if moving
        else helper.save_images(batch(1), "a", io.FolderType.temp, node)[0]
    )
    assert b"prompt\0{" in (folders / "temp" / saved.filename).read_bytes()


def test_a_prefix_that_leads_out_is_refused(folders: Path) -> None:
    with pytest.raises(ValueError, match=r"output folder|outside"):
        ui.ImageSaveHelper.save_images(batch(1), "../a", io.FolderType.output, None)


def test_an_unknown_kind_of_folder_is_refused(folders: Path) -> None:
    with pytest.raises(ValueError, match="'models'"):
        ui.ImageSaveHelper.save_images(batch(1), "a", "models", None)  # type: ignore[arg-type]


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and data of each part of a PNG, by its specification."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        found.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def test_a_moving_png_has_its_frames_and_private_chunks(folders: Path) -> None:
    images = batch()
    shown = ui.ImageSaveHelper.get_save_animated_png_ui(images, "a", Node, 8.0, 4).as_dict()
    record = {"filename": "a_00001_.png", "subfolder": "", "type": "output"}
    assert shown == {"images": [record], "animated": (True,)}
    path = folders / "output" / "a_00001_.png"
    with Image.open(path) as read:
        assert (read.n_frames, read.info["duration"]) == (3, 125)
        for index, image in enumerate(images):
            read.seek(index)
            assert np.array_equal(np.asarray(read.convert("RGB")), as_bytes(image))
    parts = chunks(path.read_bytes())
    kinds = [kind for kind, _ in parts]
    assert kinds.index(b"comf") > kinds.index(b"IDAT")
    texts = dict(data.decode("latin-1").split("\0") for kind, data in parts if kind == b"comf")
    assert {key: json.loads(text) for key, text in texts.items()} == {"prompt": PROMPT, **EXTRA}


def test_a_moving_webp_has_its_frames_and_the_graph_as_exif(folders: Path) -> None:
    images = batch()
    shown = ui.ImageSaveHelper.get_save_animated_webp_ui(images, "a", Node, 10.0, True, 90, 4)
    assert shown.as_dict()["animated"] == (True,)
    with Image.open(folders / "output" / "a_00001_.webp") as read:
        exif = {tag: text.split(":", 1) for tag, text in read.getexif().items()}
        assert read.n_frames == 3
        for index, image in enumerate(images):
            read.seek(index)
            assert np.array_equal(np.asarray(read.convert("RGB")), as_bytes(image))
            assert read.info["duration"] == 100
    keys = {tag: key for tag, (key, _) in exif.items()}
    assert keys == {0x0110: "prompt", 0x010F: "workflow", 0x010E: "author", 0x010D: "third"}
    assert json.loads(exif[0x0110][1]) == PROMPT


def test_one_frame_is_not_shown_as_moving(folders: Path) -> None:
    shown = ui.ImageSaveHelper.get_save_animated_png_ui(batch(1), "a", None, 8.0, 4).as_dict()
    assert "animated" not in shown
