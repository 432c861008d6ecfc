"""Names of files in prompts: found in their folders, and nowhere else."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest

import folder_paths
from comfy_extras.classic.input_files import check_exists, content_hash, path_of

MIB = 2**20


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(name.encode())
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "input_of_others").mkdir()
    (tmp_path / "input_of_others" / "a.png").write_bytes(b"secret")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.png", "input/a.png"),
        ("a.png [output]", "output/a.png"),
        ("a.png [temp]", "temp/a.png"),
        ("../output/a.png", "output/a.png"),
        ("sub/../a.png [output]", "output/a.png"),
    ],
)
def test_a_name_is_looked_for_in_its_folder(base: Path, name: str, place: str) -> None:
    assert path_of(name) == str(base / place)
    assert check_exists(name, "image") is True
    assert len(content_hash(name)) == 64


def test_films_are_hashed_without_being_held_in_memory(base: Path) -> None:
    with (base / "input" / "film.mp4").open("wb") as file:
        file.truncate(32 * MIB)
    tracemalloc.start()
    try:
        found = content_hash("film.mp4")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == hashlib.sha256(bytes(32 * MIB)).hexdigest()
    assert peak_bytes < 4 * MIB


def test_links_of_the_user_are_followed(base: Path) -> None:
    (base / "input" / "others").symlink_to(base / "input_of_others")
    assert check_exists("others/a.png", "image") is True


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "../secret.png [output]", "sub/../../secret.png", "../input_of_others/a.png"],
)
def test_no_name_leads_out(base: Path, name: str) -> None:
    with pytest.raises(ValueError, match="none of the folders"):
        path_of(name)
    assert "--input-directory" in str(check_exists(name, "image"))
    with pytest.raises(ValueError, match="none of the folders"):
        content_hash(name)


def test_an_absolute_name_is_no_way_around(base: Path) -> None:
    assert check_exists(str(base / "input" / "a.png"), "image") is True
    assert check_exists(str(base / "secret.png"), "image") is not True


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("none.png", ". Upload it, or copy it to the input folder."),
        ("", ". Upload it, or copy it to the input folder."),
        ("a.png\0", "; did you mean 'a.png'?"),
    ],
)
def test_what_is_not_there_is_told(base: Path, name: str, hint: str) -> None:
    assert check_exists(name, "sound") == f"there is no sound file {name!r}{hint}"
