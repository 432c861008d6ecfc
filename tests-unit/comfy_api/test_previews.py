"""What nodes show: shapes of the messages, and files in the temporary folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from comfy_api.latest import io, ui

RECORD = ui.SavedResult("f.png", "sub", io.FolderType.temp)


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        (ui.SavedImages([RECORD]), {"images": [RECORD]}),
        (ui.SavedImages([RECORD], is_animated=True), {"images": [RECORD], "animated": (True,)}),
        (ui.SavedAudios([RECORD]), {"audio": [RECORD]}),
        (ui.PreviewVideo([RECORD]), {"images": [RECORD], "animated": (True,)}),
        (ui.PreviewText("text"), {"text": ("text",)}),
        (ui.PreviewUI3D("m.glb", {"fov": 1}), {"result": ["m.glb", {"fov": 1}, None]}),
    ],
)
def test_messages_have_the_pages_shape(shown: Any, message: dict[str, Any]) -> None:
    assert shown.as_dict() == message


def test_a_record_is_a_dict_with_names() -> None:
    assert json.dumps(RECORD) == '{"filename": "f.png", "subfolder": "sub", "type": "temp"}'
    assert (RECORD.filename, RECORD.subfolder, RECORD.type) == ("f.png", "sub", "temp")


@pytest.mark.parametrize("animated", [False, True])
def test_a_preview_is_saved_to_the_temporary_folder(folders: Path, animated: bool) -> None:
    image = torch.rand((2, 4, 6, 3))
    message = ui.PreviewImage(image, animated=animated, cls=None).as_dict()
    assert message["animated"] == (animated,)
    assert [record["type"] for record in message["images"]] == ["temp", "temp"]
    names = {record["filename"] for record in message["images"]}
    assert names == {path.name for path in (folders / "temp").iterdir()}


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (2, 4, 6)])
def test_a_mask_is_shown_in_grey(folders: Path, shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape)
    (first, *_) = ui.PreviewMask(mask).as_dict()["images"]
    with Image.open(folders / "temp" / first["filename"]) as read:
        values = (mask.reshape(-1, 4, 6)[0].numpy() * 255.0).astype(np.uint8)
        assert np.array_equal(np.asarray(read), np.stack([values] * 3, axis=-1))


def test_what_stands_behind_a_body_is_saved(folders: Path) -> None:
    path = ui.PreviewUI3D("m", None, bg_image=torch.rand((1, 4, 4, 3))).as_dict()["result"][2]
    assert path.startswith("temp/")
    assert (folders / path).is_file()
