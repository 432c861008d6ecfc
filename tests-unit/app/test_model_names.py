"""What pages are told of where a file lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import folder_paths
from app.model_names import ModelName, model_name


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {
        "checkpoints": ([str(tmp_path / "models"), str(tmp_path / "more")], set()),
        "loras": ([str(tmp_path / "models" / "loras")], set()),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)


@pytest.mark.parametrize(
    ("path", "folder", "name"),
    [
        ("models/a.safetensors", "checkpoints", "a.safetensors"),
        ("more/b/c.safetensors", "checkpoints", "b/c.safetensors"),
        ("models/loras/d.safetensors", "loras", "d.safetensors"),
        ("models-of-others/e.safetensors", "", "e.safetensors"),
        ("elsewhere/f/g.safetensors", "", "g.safetensors"),
    ],
)
def test_a_file_is_named_in_the_innermost_folder(
    tmp_path: Path, path: str, folder: str, name: str
) -> None:
    found = model_name(os.path.join(str(tmp_path), *path.split("/")))
    assert found == ModelName(folder, name)
    assert str(found) == (f"{folder}/{name}" if folder else name)
    assert str(tmp_path) not in str(found)
