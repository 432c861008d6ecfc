"""The makers of files write what the safetensors library reads, the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import struct
import typing
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from support import cold, files, raw_files
from support.files import FileSet, RawTensor, SetName, Spec, make_file_set

MIB = 1024 * 1024
SETS = typing.get_args(SetName)


def _load(made: FileSet) -> dict[str, torch.Tensor]:
    return {name: value for path in made.files for name, value in load_file(path).items()}


def _header(path: Path) -> dict[str, dict[str, list[int]]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_by_safetensors(tmp_path: Path, name: SetName) -> None:
    made = make_file_set(name, tmp_path)
    assert sum(value.nbytes for value in _load(made).values()) == made.nbytes


@pytest.mark.parametrize("name", SETS)
def test_sets_differ_by_seed_only(tmp_path: Path, name: SetName) -> None:
    digests = [
        [hashlib.sha256(path.read_bytes()).digest() for path in made.files]
        for made in (
            make_file_set(name, tmp_path / "first", seed=1),
            make_file_set(name, tmp_path / "again", seed=1),
            make_file_set(name, tmp_path / "other", seed=2),
        )
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", ["A", "D", "E"])
def test_values_are_finite(tmp_path: Path, name: SetName) -> None:
    values = _load(make_file_set(name, tmp_path)).values()
    assert all(value.float().isfinite().all() for value in values)


@pytest.mark.parametrize("encoding", ["F16", "BF16", "F32"])
def test_set_a_has_the_dtype_asked_for(tmp_path: Path, encoding: str) -> None:
    made = make_file_set("A", tmp_path, encoding=encoding)
    assert {value.dtype for value in _load(made).values()} == {raw_files.dtype_of(encoding)}
    assert made.nbytes == pytest.approx(6 * MIB, rel=0.2)


def test_set_b_has_the_tensors_of_set_a(tmp_path: Path) -> None:
    whole, shards = _load(make_file_set("A", tmp_path)), make_file_set("B", tmp_path)
    index = json.loads(shards.path.read_text())
    assert len(shards.files) == 4
    assert set(index["weight_map"]) == set(whole)
    parts = _load(shards)
    assert all(parts[name].equal(value) for name, value in whole.items())


def test_set_d_is_misaligned_throughout(tmp_path: Path) -> None:
    made = make_file_set("D", tmp_path)
    length = struct.unpack("<Q", made.path.read_bytes()[:8])[0]
    entries = {name: e for name, e in _header(made.path).items() if name != "__metadata__"}
    assert next(iter(entries)) == "three"
    sizes = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8}
    positions = [
        (8 + length + entry["data_offsets"][0]) % sizes[str(entry["dtype"])]
        for entry in entries.values()
        if entry["dtype"] in sizes
    ]
    assert any(positions)


def test_a_larger_factor_makes_more_small_tensors(tmp_path: Path) -> None:
    few = make_file_set("C", tmp_path / "few", factor=1e-5)
    many = make_file_set("C", tmp_path / "many", factor=1e-3)
    assert len(_load(many)) > 5 * len(_load(few))


@pytest.mark.parametrize("dtype", files.ENCODINGS, ids=str)
def test_tensors_of_every_dtype_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    raw = torch.arange(48, dtype=torch.uint8) % 2
    tensor = raw.view(dtype).reshape(-1, 3)
    path = files.write_safetensors(tmp_path / "x.safetensors", {"x": tensor}, {"a": "b"})
    loaded = load_file(path)["x"]
    assert loaded.dtype == dtype
    assert loaded.shape == tensor.shape
    assert loaded.view(torch.uint8).equal(tensor.view(torch.uint8))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"a": "b"}


def test_the_header_can_be_in_another_order_than_the_data(tmp_path: Path) -> None:
    tensors = {"first": torch.ones(3), "second": torch.zeros(2)}
    path = files.write_safetensors(
        tmp_path / "x.safetensors", tensors, header_order=["second", "first"]
    )
    assert list(_header(path)) == ["second", "first"]
    assert load_file(path)["first"].equal(tensors["first"])


def test_raw_tensors_can_lie(tmp_path: Path) -> None:
    wrong = RawTensor("F32", (3,), b"too short")
    path = files.write_safetensors(tmp_path / "x.safetensors", {"x": wrong})
    with pytest.raises(SafetensorError):
        load_file(path)


def test_raw_files_are_written_literally(tmp_path: Path) -> None:
    path = files.write_raw(tmp_path / "x", b"{}", b"rest", length=99)
    assert path.read_bytes() == struct.pack("<Q", 99) + b"{}rest"


@pytest.mark.parametrize("encoding", ["F4", "BF16", "BOOL", "I64"])
def test_sizes_of_specs_are_those_of_the_file(tmp_path: Path, encoding: str) -> None:
    spec = Spec("x", encoding, (3, 8))
    path = files.write_specs(tmp_path / "x.safetensors", [spec])
    assert load_file(path)["x"].nbytes == spec.nbytes


def test_a_large_file_has_no_two_equal_pieces(tmp_path: Path) -> None:
    path = files.write_large(tmp_path / "x.safetensors", 8 * MIB, largest_bytes=4 * MIB)
    loaded = load_file(path)
    assert max(value.nbytes for value in loaded.values()) == 4 * MIB
    assert sum(value.nbytes for value in loaded.values()) == 8 * MIB
    whole = loaded["blocks.0000.weight"].view(torch.uint8)
    pieces = {piece.numpy().tobytes() for piece in whole.split(64 * 1024)}
    assert len(pieces) == 64


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("is_nested", [False, True])
def test_checkpoints_are_read_by_torch(tmp_path: Path, is_legacy: bool, is_nested: bool) -> None:
    path = files.write_checkpoint(
        tmp_path / "x.ckpt", {"x": torch.ones(3)}, nested=is_nested, legacy=is_legacy
    )
    assert path.read_bytes().startswith(b"PK") != is_legacy
    loaded = torch.load(path, weights_only=True)
    state = loaded["state_dict"] if is_nested else loaded
    assert state["x"].equal(torch.ones(3))


def test_a_compressed_checkpoint_is_smaller_than_its_weights(tmp_path: Path) -> None:
    path = files.write_compressed_checkpoint(tmp_path / "x.ckpt", {"x": torch.zeros(MIB)})
    assert path.stat().st_size < MIB
    assert torch.load(path, weights_only=True)["state_dict"]["x"].numel() == MIB
    assert [child.name for child in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    cold.evict(path)
    if cold.resident_bytes(path):
        pytest.skip("this filesystem keeps its files in memory")
    return path


def test_eviction_empties_the_cache_and_reading_fills_it(written: Path) -> None:
    written.read_bytes()
    assert cold.resident_fraction(written) == 1.0
    cold.evict(written)
    assert cold.resident_fraction(written) == 0.0


def test_warming_part_of_a_file_leaves_the_rest_cold(written: Path) -> None:
    cold.warm(written, MIB, 2 * MIB)
    assert cold.resident_bytes(written) == MIB


def test_both_ways_of_counting_agree(written: Path) -> None:
    cold.warm(written, 0, 3 * MIB)
    with open(written, "rb") as file:
        asked = cold._pages_by_cachestat(file.fileno())
        looked = cold._pages_by_mincore(file.fileno(), 4 * MIB)
    if asked is None:
        pytest.skip("this kernel has no cachestat")
    assert asked == looked == 3 * MIB // 4096
