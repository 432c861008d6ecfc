"""Pictures go to files with the graph in them, and come back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import execution
import folder_paths
from comfy.cli_args import args
from comfy_extras.classic import image_files
from comfy_extras.classic.image_files import (
    LoadImage,
    LoadImageMask,
    LoadImageOutput,
    PreviewImage,
    SaveImage,
)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("output", "input", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    yield tmp_path


def _batch(count: int = 1) -> torch.Tensor:
    levels = torch.arange(count * 8 * 6 * 3).reshape(count, 8, 6, 3) % 256
    return levels.float() / 255.0


def test_saved_picture_is_read_back_to_the_last_bit(folders: Path) -> None:
    batch = _batch(2)
    records = SaveImage().save_images(batch, "shapes/red")["ui"]["images"]
    assert [record["filename"] for record in records] == ["red_00001_.png", "red_00002_.png"]
    assert {(record["subfolder"], record["type"]) for record in records} == {("shapes", "output")}
    for index, record in enumerate(records):
        loaded, mask = LoadImage().load_image(f"shapes/{record['filename']} [output]")
        assert torch.equal(loaded[0], batch[index])
        assert (mask.shape, float(mask.sum())) == ((1, 64, 64), 0.0)


def test_picture_of_a_run_is_read_by_the_name_that_the_page_gives(folders: Path) -> None:
    (record,) = SaveImage().save_images(_batch())["ui"]["images"]
    name = f"{record['filename']} [output]"
    prompt = {"1": {"class_type": "LoadImageOutput", "inputs": {"image": name}}}
    prompt["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    valid, error, _, _ = asyncio.run(execution.validate_prompt("p", prompt))
    assert (valid, error) == (True, None)
    assert torch.equal(LoadImageOutput().load_image(name)[0], _batch())
    prompt["1"]["inputs"]["image"] = "gone.png [output]"
    assert asyncio.run(execution.validate_prompt("p", prompt))[0] is False


def test_numbers_go_on_where_they_ended(folders: Path) -> None:
    SaveImage().save_images(_batch(), "x")
    (record,) = SaveImage().save_images(_batch(), "x")["ui"]["images"]
    assert record["filename"] == "x_00002_.png"


def test_number_in_the_batch_may_be_in_the_name(folders: Path) -> None:
    records = SaveImage().save_images(_batch(2), "x%batch_num%")["ui"]["images"]
    assert [record["filename"] for record in records] == ["x0_00001_.png", "x1_00002_.png"]


def test_graph_is_in_the_file(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, workflow = {"1": {"class_type": "SaveImage"}}, {"nodes": []}
    SaveImage().save_images(_batch(), "x", graph, {"workflow": workflow})
    monkeypatch.setattr(args, "disable_metadata", True)
    SaveImage().save_images(_batch(), "x", graph, {"workflow": workflow})
    with Image.open(folders / "output" / "x_00001_.png") as image:
        assert json.loads(image.text["prompt"]) == graph
        assert json.loads(image.text["workflow"]) == workflow
    with Image.open(folders / "output" / "x_00002_.png") as image:
        assert image.text == {}


def test_failed_write_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, file: object, **_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        SaveImage().save_images(_batch(), "x")
    assert list((folders / "output").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="access rights of POSIX")
def test_others_may_read_what_the_users_mask_allows(folders: Path) -> None:
    before = os.umask(0o022)
    try:
        SaveImage().save_images(_batch(), "x")
    finally:
        os.umask(before)
    assert (folders / "output" / "x_00001_.png").stat().st_mode & 0o777 == 0o644


def test_preview_goes_to_the_temporary_folder(folders: Path) -> None:
    node = PreviewImage()
    (record,) = node.save_images(_batch())["ui"]["images"]
    assert record["type"] == "temp"
    assert (folders / "temp" / record["filename"]).is_file()
    (again,) = node.save_images(_batch())["ui"]["images"]
    assert again["filename"][:-10] == record["filename"][:-10]
    assert record["filename"].startswith("ComfyUI_temp_")


def test_alpha_becomes_a_mask_of_what_is_missing(folders: Path) -> None:
    pixels = np.zeros((4, 5, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, :, 3] = 0
    Image.fromarray(pixels).save(folders / "input" / "a.png")
    _, mask = LoadImage().load_image("a.png")
    assert mask.shape == (1, 4, 5)
    assert (mask[0, 0] == 1).all()
    assert (mask[0, 1:] == 0).all()
    (alone,) = LoadImageMask().load_image("a.png", "alpha")
    assert torch.equal(alone, mask)


def test_transparent_palette_is_a_mask(folders: Path) -> None:
    image = Image.new("P", (3, 2), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((0, 0), 0)
    image.save(folders / "input" / "p.png", transparency=0)
    _, mask = LoadImage().load_image("p.png")
    assert mask[0].tolist() == [[1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("clear", [0, 1])
def test_frames_with_and_without_alpha_have_masks_of_one_size(clear: int, folders: Path) -> None:
    frames = [Image.new("L", (5, 4), 9), Image.new("LA", (5, 4), (9, 0))]
    first, second = frames[clear], frames[1 - clear]
    first.save(folders / "input" / "f.tif", save_all=True, append_images=[second])
    loaded, mask = LoadImage().load_image("f.tif")
    assert loaded.shape == (2, 4, 5, 3)
    assert mask.mean((1, 2)).tolist() == ([1.0, 0.0] if clear else [0.0, 1.0])


@pytest.mark.parametrize(("channel", "level"), [("red", 51), ("green", 102), ("blue", 204)])
def test_one_channel_is_a_mask(channel: str, level: int, folders: Path) -> None:
    Image.new("RGB", (3, 2), (51, 102, 204)).save(folders / "input" / "c.png")
    (mask,) = LoadImageMask().load_image("c.png", channel)
    assert mask.shape == (1, 2, 3)
    assert torch.allclose(mask, torch.full((1, 2, 3), level / 255))


def test_sixteen_bit_grey_is_not_clipped(folders: Path) -> None:
    levels = np.array([[0, 25500, 51000]], dtype=np.uint16)
    Image.fromarray(levels).save(folders / "input" / "g.png")
    loaded, _ = LoadImage().load_image("g.png")
    assert loaded[0, 0, :, 0].mul(255).round().tolist() == [0, 100, 200]


def test_frames_of_one_size_are_a_batch(folders: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (level, 0, 0)) for level in (0, 100, 200)]
    frames[0].save(
        folders / "input" / "f.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    loaded, mask = LoadImage().load_image("f.webp")
    assert loaded.shape[0] == mask.shape[0] == 3


def test_camera_that_was_turned_makes_no_lying_picture(folders: Path) -> None:
    image = Image.new("RGB", (6, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folders / "input" / "e.jpg", exif=exif)
    loaded, _ = LoadImage().load_image("e.jpg")
    assert loaded.shape[1:3] == (6, 2)


def test_changed_file_is_noticed(folders: Path) -> None:
    path = folders / "input" / "a.png"
    Image.new("RGB", (2, 2)).save(path)
    before = LoadImage.IS_CHANGED("a.png")
    Image.new("RGB", (2, 2), (1, 1, 1)).save(path)
    assert LoadImage.IS_CHANGED("a.png") != before


def test_missing_file_is_named(folders: Path) -> None:
    told = LoadImage.VALIDATE_INPUTS("none.png")
    assert str(told).startswith("there is no image file 'none.png'")
    Image.new("RGB", (2, 2)).save(folders / "input" / "a.png")
    assert LoadImageMask.VALIDATE_INPUTS("a.png") is True
    assert str(LoadImage.VALIDATE_INPUTS("sub/a.png")).endswith("did you mean 'a.png'?")


def test_list_has_pictures_only(folders: Path) -> None:
    Image.new("RGB", (2, 2)).save(folders / "input" / "b.png")
    (folders / "input" / "notes.txt").write_text("x")
    names, options = LoadImage.INPUT_TYPES()["required"]["image"]
    assert (names, options) == (["b.png"], {"image_upload": True})


def test_values_out_of_range_are_clamped() -> None:
    image = image_files.to_pillow(torch.tensor([[[-1.0, 0.5, 2.0]]]))
    assert image.getpixel((0, 0)) == (0, 127, 255)
