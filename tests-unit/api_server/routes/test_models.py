"""Tests of the routes that tell of models."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import folder_paths
from api_server.routes import models
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve_table


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base" / "models"
    (folder / "sub").mkdir(parents=True)
    kinds = {
        "loras": ([str(folder)], folder_paths.supported_pt_extensions),
        "diffusion_models": ([str(tmp_path / "none")], folder_paths.supported_pt_extensions),
        "embeddings": ([str(folder)], folder_paths.supported_pt_extensions),
        "custom_nodes": ([str(tmp_path / "none")], set()),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return folder


@pytest.fixture
def served(top: Path) -> Iterator[Served]:
    with serve_table(lambda routes: models.register(routes, None)) as server:
        yield server


def _write(path: Path, header: object, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


def test_kinds_of_models_are_the_keys_of_folders(served: Served) -> None:
    expected = ["loras", "diffusion_models", "embeddings", "custom_nodes"]
    assert served.get("/models").json() == expected


def test_names_of_one_kind_are_told(served: Served, top: Path) -> None:
    for name in ("b.safetensors", "sub/a.pt", "notes.txt"):
        (top / name).write_text("")
    assert served.get("/models/loras").json() == ["b.safetensors", "sub/a.pt"]
    assert served.get("/embeddings").json() == ["b", "sub/a"]
    assert served.get("/models/custom_nodes").json() == []


@pytest.mark.parametrize("folder", ["unet", "clip", "nothing", *TRAVERSALS])
def test_other_names_are_no_kinds(served: Served, folder: str) -> None:
    answer = served.get(f"/models/{folder}")
    assert answer.status == 404 or folder in ("..", "%2e%2e")
    assert b"safetensors" not in answer.body


def test_metadata_are_given_as_they_are(served: Served, top: Path) -> None:
    _write(top / "sub" / "a.safetensors", {"__metadata__": {"k": "v", "n": "[1]"}})
    answer = served.get("/view_metadata/loras?filename=sub%2Fa.safetensors")
    assert (answer.status, answer.json()) == (200, {"k": "v", "n": "[1]"})


@pytest.mark.parametrize(
    ("name", "header", "length"),
    [
        ("a.safetensors", {}, None),
        ("a.safetensors", {"__metadata__": 3}, None),
        ("a.safetensors", [1], None),
        ("a.safetensors", b"no json", None),
        ("a.safetensors", b"[" * 100_000, None),
        ("a.safetensors", {"__metadata__": {"k": "v" * (1 << 20)}}, None),
        ("a.safetensors", {"__metadata__": {"k": "v"}}, 1 << 60),
        ("a.safetensors", {"__metadata__": {"k": "v"}}, 5),
        ("a.ckpt", {"__metadata__": {"k": "v"}}, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_there_are_no_metadata(
    served: Served, top: Path, name: str, header: object, length: int | None
) -> None:
    _write(top / name, header, length)
    assert served.get(f"/view_metadata/loras?filename={name}").status == 404


@pytest.mark.parametrize(
    "query", ["", "?filename=", "?filename=gone.safetensors", "?filename=sub", "?filename=x%00"]
)
def test_no_file_has_no_metadata(served: Served, query: str) -> None:
    assert served.get(f"/view_metadata/loras{query}").status == 404
    assert served.get(f"/view_metadata/nothing{query}").status == 404


@pytest.mark.parametrize("name", TRAVERSALS)
def test_metadata_of_files_elsewhere_are_not_told(served: Served, top: Path, name: str) -> None:
    plant_ways_out(top)
    _write(top.parent.parent / "secret.txt.safetensors", {"__metadata__": {"k": "the secret"}})
    # Links among models are the user's, and are followed.
    if not name.startswith(("out", "secret_link")):
        answer = served.get(f"/view_metadata/loras?filename={name}.safetensors")
        assert answer.status == 404
