from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy.textual_inversion import (
    expand_directory_list,
    find_embedding,
    load_embed,
    split_embeddings,
)

VECTORS = torch.arange(8.0).reshape(2, 4)


def write(path: Path, content: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"emb_params": VECTORS} if content is None else content
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


AUTOMATIC1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": torch.nn.Parameter(VECTORS)},
    "name": "style",
    "step": 100,
    "sd_checkpoint": None,
}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.safetensors", {"emb_params": VECTORS}),
        ("a.safetensors", {"emb_params": VECTORS.half()}),
        ("a.safetensors", {"clip_g": torch.ones(2, 6), "clip_l": VECTORS}),
        ("a.safetensors", {"other": torch.ones(2, 6), "fits": VECTORS}),
        ("a.pt", AUTOMATIC1111),
        ("a.bin", {"<style>": VECTORS}),
        ("a.bin", {"<style>": VECTORS, "<other>": VECTORS + 1}),
        ("a.pt", {"clip_l": VECTORS.bfloat16()}),
    ],
)
def test_vectors_are_found_in_every_kind_of_file(tmp_path: Path, file: str, content: Any) -> None:
    write(tmp_path / file, content)
    vectors = load_embed("a", tmp_path, 4, "clip_l")
    assert vectors is not None
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, VECTORS)


def test_one_vector_is_a_list_of_one(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", {"<style>": VECTORS[0]})
    vectors = load_embed("a", tmp_path, 4)
    assert vectors is not None
    assert vectors.shape == (1, 4)


@pytest.mark.parametrize("name", ["style", "style.safetensors", "sub/style", "deep"])
def test_names_are_found(tmp_path: Path, name: str) -> None:
    for file in ("style.safetensors", "sub/style.safetensors", "sub/deeper/deep.pt"):
        write(tmp_path / file)
    assert find_embedding(name, tmp_path) is not None


def test_directories_are_searched_in_order(tmp_path: Path) -> None:
    write(tmp_path / "one" / "b.pt")
    first = write(tmp_path / "two" / "a.pt")
    write(tmp_path / "three" / "a.safetensors")
    folders = [tmp_path / name for name in ("one", "two", "three", "absent")]
    assert find_embedding("a", folders) == str(first)


def test_a_directory_comes_before_what_is_below_it(tmp_path: Path) -> None:
    write(tmp_path / "one" / "sub" / "a.pt")
    direct = write(tmp_path / "two" / "a.pt")
    assert find_embedding("a", [tmp_path / "one", tmp_path / "two"]) == str(direct)


@pytest.mark.parametrize("name", ["../secret", "sub/../../secret", "../secret.pt", "a\0b", ""])
def test_names_that_lead_out_find_nothing(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret.pt")
    write(tmp_path / "embeddings" / "sub" / "a.pt")
    assert find_embedding(name, tmp_path / "embeddings") is None


def test_absolute_names_find_nothing_elsewhere(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.pt")
    (tmp_path / "embeddings").mkdir()
    assert find_embedding(str(secret), tmp_path / "embeddings") is None


def test_a_linked_folder_is_searched_and_a_loop_ends(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.pt")
    top = tmp_path / "embeddings"
    top.mkdir()
    os.symlink(tmp_path / "elsewhere", top / "linked")
    os.symlink(top, tmp_path / "elsewhere" / "back")
    assert find_embedding("a", top) == str(top / "linked" / "a.pt")
    assert expand_directory_list([top]) == [str(top), str(top / "linked")]


def test_vectors_of_another_width_are_told_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "style.pt")
    assert load_embed("style", tmp_path, 768) is None
    [message] = caplog.messages
    assert "'style'" in message
    assert "[4]" in message
    assert "768" in message


def test_the_other_encoders_vectors_are_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "style.safetensors", {"clip_l": VECTORS + 1, "clip_g": VECTORS})
    vectors = load_embed("style", tmp_path, 4, "clip_g")
    assert vectors is not None
    assert torch.equal(vectors, VECTORS)


def test_a_damaged_file_is_told_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"\xff" * 32)
    assert load_embed("style", tmp_path, 4) is None
    assert "'style'" in caplog.text


def test_a_file_without_vectors_is_told_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "style.safetensors", {"weight": torch.zeros(2, 2, 2)})
    assert load_embed("style", tmp_path, 4) is None
    assert "'style'" in caplog.text


def test_an_absent_file_is_none(tmp_path: Path) -> None:
    assert load_embed("style", tmp_path, 4) is None
    assert load_embed("style", None, 4) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [""]),
        ("a cat", ["a cat"]),
        ("embedding:x", ["embedding:x"]),
        ("a embedding:x b", ["a ", "embedding:x b"]),
        ("a\nembedding:x", ["a\n", "embedding:x"]),
        ("embedding:x embedding:y", ["embedding:x ", "embedding:y"]),
        ("aembedding:x", ["aembedding:x"]),
        (",embedding:x", [",embedding:x"]),
    ],
)
def test_embeddings_are_cut_out_where_they_start_a_word(text: str, parts: list[str]) -> None:
    assert split_embeddings(text) == parts
