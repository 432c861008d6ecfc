"""Indexes of sharded checkpoints: which are refused, and what a good one says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfy.loading.errors import InvalidWeightFile, WeightReadFailed
from comfy.loading.shards import MAX_INDEX_BYTES, is_index, read_index
from support.bad_indexes import BAD_INDEXES, BadIndex
from support.watching import nothing_left_open


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files that may be shards, and a third one outside of it."""
    (tmp_path / "a.safetensors").touch()
    inner = tmp_path / "model"
    (inner / "folder").mkdir(parents=True)
    (inner / "a.safetensors").touch()
    (inner / "b.bin").touch()
    return inner


def _write(folder: Path, document: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("case", BAD_INDEXES, ids=str)
def test_malformed_index_is_refused(case: BadIndex, folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_bytes(case.content)
    with pytest.raises(InvalidWeightFile) as caught, nothing_left_open():
        read_index(path)
    assert caught.value.problem is case.problem
    assert case.told in caught.value.message
    assert caught.value.path == str(path)


def test_tensors_are_mapped_to_absolute_paths(folder: Path) -> None:
    path = _write(folder, {"weight_map": {"z": "b.bin", "a": "a.safetensors", "y": "b.bin"}})
    index = read_index(path)
    first, second = str(folder / "a.safetensors"), str(folder / "b.bin")
    assert index.path == str(path)
    assert index.files == (first, second)
    assert index.weight_map == {"z": second, "a": first, "y": second}
    assert list(index.weight_map) == ["z", "a", "y"]
    assert index.metadata == {}
    assert index.total_size is None


def test_relative_path_of_the_index_is_made_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(folder, {"weight_map": {"w": "b.bin"}})
    monkeypatch.chdir(folder)
    assert read_index(path.name).files == (str(folder / "b.bin"),)


@pytest.mark.parametrize("size", [0, 12, 12.0])
def test_metadata_is_plain_and_has_the_total_size(size: float, folder: Path) -> None:
    metadata = {"total_size": size, "more": {"list": [{"a": None}]}}
    index = read_index(_write(folder, {"metadata": metadata, "weight_map": {"w": "b.bin"}}))
    assert index.metadata == metadata
    assert type(index.metadata["more"]) is dict
    assert index.total_size == size


def test_shard_in_a_folder_below_is_found(folder: Path) -> None:
    (folder / "folder" / "c.safetensors").touch()
    path = _write(folder, {"weight_map": {"w": "folder/c.safetensors"}})
    assert read_index(path).files == (str(folder / "folder" / "c.safetensors"),)


def test_shard_that_is_a_link_to_elsewhere_is_found(folder: Path) -> None:
    (folder / "linked.safetensors").symlink_to(folder.parent / "a.safetensors")
    path = _write(folder, {"weight_map": {"w": "linked.safetensors"}})
    assert read_index(path).files == (str(folder / "linked.safetensors"),)


def test_huge_index_is_refused_unread(folder: Path) -> None:
    path = _write(folder, {})
    with path.open("r+b") as file:
        file.truncate(MAX_INDEX_BYTES + 1)
    with pytest.raises(InvalidWeightFile, match="100,000,001 bytes"):
        read_index(path)


def test_missing_index_is_a_missing_file(folder: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_index(folder / "none.index.json")
    assert isinstance(caught.value, WeightReadFailed)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors.index.json", True),
        ("pytorch_model.bin.index.json", True),
        ("MODEL.INDEX.JSON", True),
        ("model.safetensors", False),
        ("index.json", False),
        ("config.json", False),
    ],
)
def test_index_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_index(Path("folder") / name) is expected
