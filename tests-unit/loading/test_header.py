"""The safetensors header: what is refused, under which name, and what a valid one becomes."""

from __future__ import annotations

import gc
import json
import logging
import math
import time
import tracemalloc
from pathlib import Path

import pytest
import safetensors
import torch

from comfy.loading import header
from comfy.loading.errors import (
    HeaderProblem,
    InvalidWeightFile,
    WeightFileChanged,
    WeightReadFailed,
)
from comfy.loading.header import ENCODINGS, MAX_HEADER_BYTES, read_header, read_raw_header
from comfy.loading.weight_file import FileTable
from comfy.loading.weight_slice import WeightSlice
from support.bad_headers import BAD_HEADERS, STRICTER, STRICTER_HEADERS, BadHeader
from support.bad_indexes import BAD_INDEXES
from support.bad_pickles import BAD_PICKLES
from support.header_parts import (
    VALID_TEXT,
    entry,
    packed,
    safe_open_verdict,
    safetensors_verdict,
    with_length,
)
from support.watching import NoTensors, most_ticks, nothing_left_open


def _write(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _read(path: Path, *, compat: bool = False) -> header.Header:
    return read_header(FileTable().open(path), compat=compat)


def _refusal(path: Path) -> InvalidWeightFile:
    with pytest.raises(InvalidWeightFile) as caught:
        _read(path)
    return caught.value


def _tensor(piece: WeightSlice) -> torch.Tensor:
    data = bytearray(piece.nbytes)
    piece.file.read_into(memoryview(data), piece.offset)
    flat = torch.tensor(list(data), dtype=torch.uint8).view(piece.dtype)
    return flat.reshape(piece.shape)


def _nbytes(dtype: str, shape: list[int]) -> int:
    return math.prod(shape) * ENCODINGS[dtype].bits // 8


def _one(dtype: str, shape: list[int]) -> bytes:
    size = _nbytes(dtype, shape)
    return packed({"x": entry(dtype, shape, [0, size])}, bytes(at % 2 for at in range(size)))


class TestMalformed:
    """Each file of the corpus, judged by us and by safetensors."""

    @pytest.mark.parametrize("case", (*BAD_HEADERS, *STRICTER_HEADERS), ids=str)
    def test_is_refused_under_its_name(self, case: BadHeader, tmp_path: Path) -> None:
        path = case.write(tmp_path / "model.safetensors")
        error = _refusal(path)
        assert error.problem is case.problem
        assert error.tensor == case.tensor
        assert error.path == str(path)
        assert f"{path.stat().st_size:,} bytes" in str(error)
        assert str(path) in str(error)
        assert case.problem.value in str(error)
        assert case.tensor is None or f"'{case.tensor}'" in error.message
        assert error.got is not None
        assert error.hint.endswith(".")

    @pytest.mark.parametrize("case", BAD_HEADERS, ids=str)
    def test_is_refused_by_safetensors_under_the_same_name(
        self, case: BadHeader, tmp_path: Path
    ) -> None:
        path = case.write(tmp_path / "model.safetensors")
        assert safe_open_verdict(path) is case.problem
        assert safetensors_verdict(path.read_bytes()) is case.problem

    @pytest.mark.parametrize("case", BAD_HEADERS, ids=str)
    def test_is_refused_in_compat_mode_too(self, case: BadHeader, tmp_path: Path) -> None:
        path = case.write(tmp_path / "model.safetensors")
        with pytest.raises(InvalidWeightFile) as caught:
            _read(path, compat=True)
        assert caught.value.problem is case.problem

    @pytest.mark.parametrize("case", (*BAD_HEADERS, *STRICTER_HEADERS), ids=str)
    def test_leaves_nothing_open_and_makes_no_tensor(self, case: BadHeader, tmp_path: Path) -> None:
        path = case.write(tmp_path / "model.safetensors")
        with nothing_left_open(), NoTensors():
            _refusal(path)

    @pytest.mark.parametrize("case", STRICTER_HEADERS, ids=str)
    def test_stricter_rules_are_warnings_in_compat_mode(
        self, case: BadHeader, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = case.write(tmp_path / "model.safetensors")
        assert safetensors_verdict(case.content) is None
        with caplog.at_level(logging.WARNING):
            first = _read(path, compat=True)
            second = _read(path, compat=True)
        assert first.entries.keys() == second.entries.keys() == {"a"}
        assert [case.problem.value in record.getMessage() for record in caplog.records] == [True]
        assert str(path) in caplog.text

    def test_corpus_is_large_and_its_names_are_unique(self) -> None:
        names = [case.name for case in (*BAD_HEADERS, *STRICTER_HEADERS)]
        assert len(names) == len(set(names)) >= 80

    @pytest.mark.parametrize("problem", HeaderProblem)
    def test_every_problem_has_a_case(self, problem: HeaderProblem) -> None:
        cases = (*BAD_HEADERS, *STRICTER_HEADERS, *BAD_INDEXES, *BAD_PICKLES)
        assert problem in {case.problem for case in cases}

    def test_stricter_cases_are_those_that_are_documented(self) -> None:
        assert {case.problem for case in STRICTER_HEADERS} == STRICTER

    @pytest.mark.parametrize("cut", range(0, 185, 3))
    def test_every_truncation_is_refused_as_by_safetensors(self, cut: int, tmp_path: Path) -> None:
        table = {"a": entry("F32", [4], [0, 16]), "b": entry("BF16", [3, 8], [16, 64])}
        content = packed(table, bytes(64))[:cut]
        path = _write(tmp_path, content)
        assert _refusal(path).problem is safetensors_verdict(content) is not None

    def test_worse_problem_comes_first(self, tmp_path: Path) -> None:
        twice = VALID_TEXT[:-1] + "," + VALID_TEXT[1:]
        path = _write(tmp_path, with_length(twice.encode(), b"\0"))
        assert _refusal(path).problem is HeaderProblem.METADATA_INCOMPLETE_BUFFER

    def test_dimension_that_torch_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        content = packed({"a": entry("U8", [0, 1 << 63], [0, 0])})
        assert safetensors_verdict(content) is None
        assert _refusal(_write(tmp_path, content)).problem is HeaderProblem.VALIDATION_OVERFLOW

    def test_number_of_extreme_length_in_an_unknown_field_is_refused(self, tmp_path: Path) -> None:
        text = VALID_TEXT.replace('"dtype"', '"x":0.' + "1" * 5000 + ',"dtype"')
        content = with_length(text.encode(), b"\0\0")
        assert safetensors_verdict(content) is None
        problem = HeaderProblem.INVALID_HEADER_DESERIALIZATION
        assert _refusal(_write(tmp_path, content)).problem is problem

    def test_claimed_header_is_not_allocated(self, tmp_path: Path) -> None:
        path = _write(tmp_path, with_length(b"{}", b"", MAX_HEADER_BYTES))
        tracemalloc.start()
        try:
            _refusal(path)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20

    @pytest.mark.parametrize(
        ("start", "told"),
        [
            (b"version https://git-lfs", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "web page"),
            (b"PK\x03\x04\0\0\0\0", "PyTorch checkpoint"),
            (b"GGUF\3\0\0\0\0\0", "GGUF"),
        ],
    )
    def test_other_formats_are_recognised(self, start: bytes, told: str, tmp_path: Path) -> None:
        assert told in _refusal(_write(tmp_path, start)).hint

    def test_message_tells_what_where_and_what_to_do(self, tmp_path: Path) -> None:
        path = _write(tmp_path, packed({"w": entry("F32", [256], [0, 1024])}, bytes(1000)))
        size = path.stat().st_size
        assert str(_refusal(path)) == (
            "model.safetensors: MetadataIncompleteBuffer: the last tensor, 'w', ends at byte"
            f" {size + 24:,}, behind the end of the file. The file has {size:,} bytes. The file"
            f" is incomplete; download it again. (file: {path})"
        )


class TestValid:
    """What a valid header becomes."""

    @pytest.mark.parametrize("dtype", [name for name in ENCODINGS if not name.startswith("F6")])
    def test_dtype_shape_and_bytes_are_those_of_safetensors(
        self, dtype: str, tmp_path: Path
    ) -> None:
        path = _write(tmp_path, _one(dtype, [3, 4]))
        mine = _tensor(_read(path).entries["x"])
        with safetensors.safe_open(path, framework="pt") as file:
            theirs = file.get_tensor("x")
        assert mine.dtype is theirs.dtype
        assert mine.shape == theirs.shape
        assert mine.view(torch.uint8).tolist() == theirs.view(torch.uint8).tolist()

    @pytest.mark.parametrize("dtype", ENCODINGS)
    def test_every_dtype_is_accepted_as_by_safetensors(self, dtype: str, tmp_path: Path) -> None:
        content = _one(dtype, [2, 4])
        assert safetensors_verdict(content) is None
        piece = _read(_write(tmp_path, content)).entries["x"]
        assert piece.encoding == dtype
        assert piece.nbytes == _nbytes(dtype, [2, 4])
        assert piece.nbytes == math.prod(piece.shape) * piece.dtype.itemsize

    @pytest.mark.parametrize("shape", [[2], [3, 2], [1, 2], [2, 2, 2], [0], [3, 0], [0, 4]])
    def test_packed_float4_halves_the_last_dimension_as_safetensors_does(
        self, shape: list[int], tmp_path: Path
    ) -> None:
        path = _write(tmp_path, _one("F4", shape))
        piece = _read(path).entries["x"]
        with safetensors.safe_open(path, framework="pt") as file:
            theirs = file.get_tensor("x")
        assert (piece.dtype, piece.shape) == (theirs.dtype, tuple(theirs.shape))

    @pytest.mark.parametrize("shape", [[2, 3], [4, 1], [2, 2, 1], [0, 3], [1, 0, 1]])
    def test_float4_that_safetensors_cannot_give_is_its_bytes(
        self, shape: list[int], tmp_path: Path
    ) -> None:
        path = _write(tmp_path, _one("F4", shape))
        piece = _read(path).entries["x"]
        assert (piece.dtype, piece.shape) == (torch.uint8, (_nbytes("F4", shape),))
        with (
            safetensors.safe_open(path, framework="pt") as file,
            pytest.raises(safetensors.SafetensorError),
        ):
            file.get_tensor("x")

    @pytest.mark.parametrize("dtype", ["F6_E2M3", "F6_E3M2"])
    @pytest.mark.parametrize("shape", [[4], [2, 4], [0], [4, 0]])
    def test_float6_is_its_bytes(self, dtype: str, shape: list[int], tmp_path: Path) -> None:
        piece = _read(_write(tmp_path, _one(dtype, shape))).entries["x"]
        assert (piece.dtype, piece.shape) == (torch.uint8, (_nbytes(dtype, shape),))

    @pytest.mark.parametrize("shape", [[], [0], [0, 5], [1] * 70, [0, 1 << 40, 1 << 40]])
    def test_odd_shapes_are_accepted(self, shape: list[int], tmp_path: Path) -> None:
        content = _one("F32", shape)
        assert safetensors_verdict(content) is None
        assert _read(_write(tmp_path, content)).entries["x"].shape == tuple(shape)

    @pytest.mark.parametrize(
        "text",
        [
            VALID_TEXT + " \n\t\r",
            VALID_TEXT.replace('"a"', '""'),
            VALID_TEXT.replace('"a"', r'"\u0061\ud83d\ude00\u0000"'),
            VALID_TEXT.replace('"a"', '"[{\\"]}\\\\"'),
            VALID_TEXT.replace('"dtype"', '"x":1,"x":[null,1e-400,-0,{"y":true}],"dtype"'),
            VALID_TEXT.replace('"dtype"', '"x":' + "[" * 125 + "]" * 125 + ',"dtype"'),
            VALID_TEXT.replace('"U8"', r'"\u00558"'),
            '{"__metadata__":null,' + VALID_TEXT[1:],
            '{"__metadata__":{},' + VALID_TEXT[1:],
        ],
    )
    def test_odd_texts_are_accepted(self, text: str, tmp_path: Path) -> None:
        content = with_length(text.encode(), b"\0\0")
        assert safetensors_verdict(content) is None
        (piece,) = _read(_write(tmp_path, content)).entries.values()
        assert (piece.dtype, piece.shape) == (torch.uint8, (2,))

    def test_order_is_that_of_the_header_and_ranges_may_be_in_another(self, tmp_path: Path) -> None:
        table = {"z": entry(offsets=[2, 4]), "a": entry(offsets=[4, 6]), "m": entry()}
        path = _write(tmp_path, packed(table, bytes(range(6))))
        entries = _read(path).entries
        assert list(entries) == ["z", "a", "m"]
        assert {name: _tensor(piece).tolist() for name, piece in entries.items()} == {
            "z": [2, 3],
            "a": [4, 5],
            "m": [0, 1],
        }
        assert [piece.name for piece in entries.values()] == ["z", "a", "m"]

    @pytest.mark.parametrize("metadata", [{}, {"format": "pt", "é": "[]"}])
    def test_metadata_is_returned(self, metadata: dict[str, str], tmp_path: Path) -> None:
        content = packed({"__metadata__": metadata, "a": entry()}, b"\0\0")
        assert _read(_write(tmp_path, content)).metadata == metadata

    def test_absent_metadata_is_none(self, tmp_path: Path) -> None:
        assert _read(_write(tmp_path, packed({"a": entry()}, b"\0\0"))).metadata is None

    def test_metadata_that_looks_like_a_tensor_is_metadata(self, tmp_path: Path) -> None:
        metadata = {"dtype": "U8", "shape": "[2]", "data_offsets": "[0,2]"}
        path = _write(tmp_path, packed({"__metadata__": metadata, "a": entry()}, b"\0\0"))
        assert _read(path).metadata == metadata

    def test_file_without_tensors_is_valid(self, tmp_path: Path) -> None:
        read = _read(_write(tmp_path, packed({})))
        assert read.entries == {}
        assert read.header_bytes == 2

    def test_reading_counts_no_weight_byte_and_leaves_nothing_open(self, tmp_path: Path) -> None:
        path = _write(tmp_path, _one("F32", [4]))
        file = FileTable().open(path)
        with nothing_left_open(), NoTensors():
            read_header(file)
        assert file.bytes_read == 0
        assert not file.is_open

    def test_replaced_file_is_refused(self, tmp_path: Path) -> None:
        path = _write(tmp_path, _one("F32", [4]))
        file = FileTable().open(path)
        _write(tmp_path, _one("F32", [5]))
        with pytest.raises(WeightFileChanged):
            read_header(file)

    def test_parsing_needs_no_file(self) -> None:
        raw = VALID_TEXT.encode()
        parsed = header.parse(raw, 8 + len(raw) + 2, path="nowhere")
        assert parsed.entries["a"] == header.TableEntry(ENCODINGS["U8"], (2,), 0, 2)
        assert parsed.header_bytes == len(raw)


def _many(count: int) -> bytes:
    table = {
        f"model.diffusion_model.blocks.{at}.attn.weight": entry(
            "BF16", [64, 32], [at * 4096, at * 4096 + 4096]
        )
        for at in range(count)
    }
    return json.dumps(table, separators=(",", ":")).encode()


@pytest.fixture(scope="module")
def raw() -> bytes:
    """The text of a header of 20,000 tensors."""
    return _many(20_000)


class TestManyTensors:
    """A header of 20,000 tensors."""

    @staticmethod
    def _parse(raw: bytes) -> header.ParsedHeader:
        return header.parse(raw, 8 + len(raw) + 20_000 * 4096, path="model.safetensors")

    def test_time_grows_with_the_number_of_tensors_and_no_faster(self) -> None:
        def best_s(count: int) -> float:
            raw = _many(count)
            times = []
            for _ in range(5):
                gc.collect()
                # A collection of all of torch's objects may or may not fall into the time.
                gc.disable()
                start = time.perf_counter()
                header.parse(raw, 8 + len(raw) + count * 4096, path="model.safetensors")
                times.append(time.perf_counter() - start)
                gc.enable()
            return min(times)

        # Twice the tensors cost twice the time; whatever looked at all of them for each, four times.
        assert any(best_s(20_000) < 3 * best_s(10_000) for _ in range(5))

    def test_lets_other_threads_run(self, raw: bytes) -> None:
        assert len(self._parse(raw).entries) == 20_000
        assert most_ticks(lambda: self._parse(raw), enough=4) >= 4


class TestRawHeader:
    """The unchecked text, for those who only show it."""

    def test_is_the_text_of_the_header(self, tmp_path: Path) -> None:
        path = _write(tmp_path, with_length(b'{"broken"', b"\0"))
        assert read_raw_header(path, 1000) == b'{"broken"'

    @pytest.mark.parametrize(("limit", "found"), [(9, True), (8, False), (0, False)])
    def test_is_none_if_it_is_longer_than_wanted(
        self, limit: int, found: bool, tmp_path: Path
    ) -> None:
        path = _write(tmp_path, with_length(b'{"broken"'))
        assert (read_raw_header(path, limit) is not None) is found

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"\0\0", HeaderProblem.HEADER_TOO_SMALL),
            (with_length(b"{}", b"", 50), HeaderProblem.INVALID_HEADER_LENGTH),
        ],
    )
    def test_of_a_short_file_is_refused(
        self, content: bytes, problem: HeaderProblem, tmp_path: Path
    ) -> None:
        with pytest.raises(InvalidWeightFile) as caught, nothing_left_open():
            read_raw_header(_write(tmp_path, content), 1000)
        assert caught.value.problem is problem

    def test_of_a_missing_file_is_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError) as caught:
            read_raw_header(tmp_path / "none.safetensors", 1000)
        assert isinstance(caught.value, WeightReadFailed)
