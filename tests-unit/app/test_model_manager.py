"""Tests of the model library: what is listed, and which picture stands for a model."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import folder_paths
from app.model_manager import ModelFileManager
from app.picture_faults import BAD_PICTURE
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve_table


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base" / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    kinds = {
        "loras": ([str(folder), str(tmp_path / "more")], set()),
        "configs": ([str(folder)], [".yaml"]),
        "custom_nodes": ([str(folder)], set()),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    return folder


@pytest.fixture
def served(top: Path) -> Iterator[Served]:
    with serve_table(ModelFileManager().add_routes) as server:
        yield server


def _colour(answer: object) -> tuple[int, ...]:
    assert answer.status == 200  # type: ignore[attr-defined]
    assert answer.headers["Content-Type"] == "image/webp"  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(answer.body)) as picture:  # type: ignore[attr-defined]
        assert picture.format == "WEBP"
        pixel = picture.convert("RGB").getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return tuple(round(value / 32) for value in pixel)


def _picture(colour: tuple[int, int, int], kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, kind)
    return buffer.getvalue()


def _model(path: Path, *covers: bytes, prefix: str = "") -> None:
    texts = [prefix + base64.b64encode(cover).decode() for cover in covers]
    header = json.dumps({"__metadata__": {"ssmd_cover_images": json.dumps(texts)}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


RED, GREEN = (255, 0, 0), (0, 255, 0)
IS_RED, IS_GREEN = (8, 0, 0), (0, 8, 0)


def test_folders_of_models_are_told_without_those_that_hold_none(served: Served, top: Path) -> None:
    more = str(top.parent.parent / "more")
    expected = [{"name": "loras", "folders": [str(top), more]}]
    assert served.get("/experiment/models").json() == expected


def test_models_are_listed_with_what_the_library_shows(served: Served, top: Path) -> None:
    for path in (top / "sub" / "a.pt", top.parent.parent / "more" / "b.safetensors"):
        path.write_text("123")
        os.utime(path, (1, 2.5))
    for hidden in (top / ".h.pt", top / "note.txt"):
        hidden.write_text("")
    (top / ".cache").mkdir()
    (top / ".cache" / "c.pt").write_text("")
    created = [
        path.stat().st_ctime
        for path in (top / "sub" / "a.pt", top.parent.parent / "more" / "b.safetensors")
    ]
    assert served.get("/experiment/models/loras").json() == [
        {"name": "sub/a.pt", "pathIndex": 0, "modified": 2.5, "created": created[0], "size": 3},
        {
            "name": "b.safetensors",
            "pathIndex": 1,
            "modified": 2.5,
            "created": created[1],
            "size": 3,
        },
    ]


def test_linked_models_are_listed_and_broken_links_are_not(served: Served, top: Path) -> None:
    (top.parent / "elsewhere.pt").write_text("1")
    (top / "linked.pt").symlink_to(top.parent / "elsewhere.pt")
    (top / "broken.pt").symlink_to(top / "gone.pt")
    names = [one["name"] for one in served.get("/experiment/models/loras").json()]
    assert names == ["linked.pt"]


def test_an_unknown_kind_is_not_found(served: Served) -> None:
    assert served.get("/experiment/models/unet").status == 404


@pytest.mark.parametrize("fault", BAD_PICTURE)
def test_a_damaged_picture_is_none_whatever_it_does_to_its_reader(
    served: Served, top: Path, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    def fail(source: object) -> None:
        raise fault("damaged")

    _model(top / "a.safetensors", _picture(RED))
    monkeypatch.setattr(Image, "open", fail)
    assert served.get("/experiment/models/preview/loras/0/a.safetensors").status == 404


@pytest.mark.parametrize("name", ["a.png", "a.preview.png", "a.JPG", "a.preview.webp"])
def test_a_picture_beside_a_model_is_its_preview(served: Served, top: Path, name: str) -> None:
    _model(top / "sub" / "a.safetensors", _picture(GREEN))
    kind = name.rsplit(".", 1)[1].lower().replace("jpg", "jpeg")
    (top / "sub" / name).write_bytes(_picture(RED, kind))
    (top / "sub" / "a.other.png").write_bytes(_picture(GREEN))
    (top / "sub" / "ab.png").write_bytes(_picture(GREEN))
    path = "/experiment/models/preview/loras/0/sub%2Fa.safetensors"
    assert _colour(served.get(path)) == IS_RED
    assert _colour(served.get(path.replace("%2F", "/"))) == IS_RED


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_else_the_first_picture_in_the_file_is_its_preview(
    served: Served, top: Path, prefix: str
) -> None:
    _model(top / "a.safetensors", _picture(GREEN), _picture(RED), prefix=prefix)
    assert _colour(served.get("/experiment/models/preview/loras/0/a.safetensors")) == IS_GREEN


@pytest.mark.parametrize(
    "path",
    [
        "loras/0/gone.safetensors",
        "loras/0/plain.safetensors",
        "loras/0/damaged.safetensors",
        "loras/0/odd.safetensors",
        "loras/0/a.pt",
        "loras/0/sub",
        "loras/0/",
        "loras/2/a.safetensors",
        "loras/-1/a.safetensors",
        "loras/x/a.safetensors",
        "loras/99999999999999999999/a.safetensors",
        "loras/%C2%B2/a.safetensors",
        "unet/0/a.safetensors",
    ],
)
def test_what_has_no_preview_is_not_found(served: Served, top: Path, path: str) -> None:
    _model(top / "a.safetensors", _picture(RED))
    _model(top / "plain.safetensors")
    _model(top / "damaged.safetensors", b"no picture")
    header = b'{"__metadata__": {"ssmd_cover_images": "{"}}'
    (top / "odd.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (top / "a.pt").write_bytes(b"")
    (top / "b.png").write_bytes(_picture(RED))
    assert served.get(f"/experiment/models/preview/{path}").status == 404


@pytest.mark.parametrize("name", TRAVERSALS)
def test_pictures_elsewhere_are_not_shown(served: Served, top: Path, name: str) -> None:
    plant_ways_out(top)
    for folder in (top.parent.parent, top.parent, Path(top.parent.parent / "beside")):
        (folder / "secret.png").write_bytes(_picture(RED))
    # Links among models are the user's, and are followed.
    if not name.startswith("out"):
        assert served.get(f"/experiment/models/preview/loras/0/{name}").status == 404
    assert served.get(f"/experiment/models/preview/{name}/0/secret.txt").status == 404
