"""Pickled checkpoints: their tensors are ranges of the file, their values plain."""

from __future__ import annotations

import sys
import types
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from comfy.loading.errors import (
    HeaderProblem,
    InvalidWeightFile,
    NotASlice,
    WeightFileChanged,
)
from comfy.loading.pickle_machine import Inert
from comfy.loading.pickles import PickledTensor, read_pickle
from comfy.loading.weight_file import FileTable
from support.census import mapped_files
from support.files import write_compressed_checkpoint
from support.pickle_parts import FORMATS, Storage, Tensor, write_archive
from support.watching import NoTensors, most_ticks, nothing_left_open

DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e8m0fnu,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
    torch.float4_e2m1fn_x2,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)


def _entries(path: Path) -> dict[str, object]:
    return read_pickle(FileTable().open(path)).entries


def _load(value: object) -> torch.Tensor:
    """The tensor that an entry describes, read as a strategy would."""
    if isinstance(value, torch.Tensor):
        return value
    assert isinstance(value, PickledTensor)
    piece = value.slice
    assert piece.shape == (piece.nbytes // piece.dtype.itemsize,)
    data = bytearray(piece.nbytes)
    piece.file.read_into(memoryview(data), piece.offset)
    flat = torch.tensor(list(data), dtype=torch.uint8).view(piece.dtype)
    return flat.as_strided(value.size, value.stride)


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    def content(tensor: torch.Tensor) -> bytes:
        return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist())

    alike = (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    return alike and (not mine.numel() or content(mine) == content(theirs))


def _save(path: Path, state: object, form: str = "zip") -> Path:
    torch.save(state, path, **FORMATS[form])
    return path


def _refusal(path: Path) -> InvalidWeightFile:
    with pytest.raises(InvalidWeightFile) as caught:
        _entries(path)
    return caught.value


class TestTensors:
    """Real files of torch.save, compared with what was saved."""

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype_is_a_range_of_the_file(
        self, form: str, dtype: torch.dtype, tmp_path: Path
    ) -> None:
        saved = torch.arange(64, dtype=torch.uint8).view(dtype).reshape(2, -1)
        if dtype is torch.bool:
            saved = torch.tensor([[True, False], [False, True]])
        path = _save(tmp_path / "model.pt", {"w": saved}, form)
        value = _entries(path)["w"]
        assert isinstance(value, PickledTensor)
        assert value.is_contiguous
        assert value.as_slice().shape == saved.shape
        assert value.slice.nbytes == saved.nbytes
        assert _same(_load(value), saved)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_every_dtype_is_what_torch_load_gives(self, dtype: torch.dtype, tmp_path: Path) -> None:
        saved = torch.zeros(16, dtype=torch.uint8).view(dtype)
        path = _save(tmp_path / "model.pt", {"w": saved, "s": saved[:1].reshape(())})
        theirs = torch.load(path, weights_only=True)
        mine = _entries(path)
        assert _same(_load(mine["w"]), theirs["w"])
        assert _same(_load(mine["s"]), theirs["s"])

    @pytest.mark.parametrize("form", ["zip", "legacy"])
    @pytest.mark.parametrize(
        ("name", "used"),
        [
            ("scalar", 4),
            ("empty", 0),
            ("empty with axes", 0),
            ("middle", 24),
            ("transposed", 256),
            ("block", 76),
            ("expanded", 4),
            ("parameter", 256),
            ("requires grad", 256),
        ],
    )
    def test_view_is_the_part_of_the_storage_that_it_uses(
        self, form: str, name: str, used: int, tmp_path: Path
    ) -> None:
        base = torch.arange(64.0)
        state = {
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0),
            "empty with axes": base[:0].reshape(3, 0, 2),
            "middle": base[3:9],
            "transposed": base.view(8, 8).t(),
            "block": base.view(8, 8)[1:4, 2:5],
            "expanded": base[:1].expand(5, 4),
            "parameter": torch.nn.Parameter(base.clone()),
            "requires grad": base.clone().requires_grad_(),
        }
        path = _save(tmp_path / "model.pt", state, form)
        value = _entries(path)[name]
        assert isinstance(value, PickledTensor)
        assert value.slice.nbytes == used
        assert value.slice.name == name
        assert value.is_contiguous is state[name].is_contiguous()
        loaded = _load(value)
        assert _same(loaded, state[name])
        assert _same(loaded, torch.load(path, weights_only=True)[name])

    def test_strided_view_is_no_slice(self, tmp_path: Path) -> None:
        state = {"w": torch.arange(6.0).view(2, 3).t()}
        value = _entries(_save(tmp_path / "model.pt", state))["w"]
        assert isinstance(value, PickledTensor)
        with pytest.raises(NotASlice, match="not contiguous"):
            value.as_slice()

    def test_tensors_that_share_a_storage_overlap_in_the_file(self, tmp_path: Path) -> None:
        base = torch.arange(8.0)
        state = {"all": base, "tail": base[4:], "tied": base}
        entries = _entries(_save(tmp_path / "model.pt", state))
        whole, tail, tied = entries["all"], entries["tail"], entries["tied"]
        assert isinstance(whole, PickledTensor)
        assert isinstance(tail, PickledTensor)
        assert tail.slice.offset == whole.slice.offset + 16
        assert tied == whole

    def test_tensor_with_attributes_is_a_tensor(self, tmp_path: Path) -> None:
        saved = torch.ones(3)
        saved.note = "kept by torch, not by us"  # type: ignore[attr-defined]
        assert _same(_load(_entries(_save(tmp_path / "model.pt", {"w": saved}))["w"]), saved)

    def test_stored_archive_is_not_read_mapped_or_kept_open(self, tmp_path: Path) -> None:
        path = _save(tmp_path / "model.pt", {"w": torch.ones(1000)})
        file = FileTable().open(path)
        with nothing_left_open(), NoTensors():
            read_pickle(file)
        assert file.bytes_read == 0
        assert not file.is_open
        assert str(path) not in mapped_files()

    def test_replaced_file_is_refused(self, tmp_path: Path) -> None:
        path = _save(tmp_path / "model.pt", {"w": torch.ones(4)})
        file = FileTable().open(path)
        _save(path, {"w": torch.ones(400)})
        with pytest.raises(WeightFileChanged):
            read_pickle(file)

    def test_records_beyond_4_gib_are_found(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        with torch.serialization.skip_data():  # five gigabytes that are a hole in the file
            torch.save({"hole": torch.empty(5 << 30, dtype=torch.uint8), "w": torch.ones(4)}, path)
        entries = _entries(path)
        hole, value = entries["hole"], entries["w"]
        assert isinstance(hole, PickledTensor)
        assert isinstance(value, PickledTensor)
        assert hole.slice.nbytes == 5 << 30
        assert value.slice.offset > 5 << 30
        with path.open("r+b") as file:
            file.seek(value.slice.offset)
            file.write(bytes(torch.arange(4.0).view(torch.uint8).tolist()))
        theirs = torch.load(path, weights_only=True, mmap=True)["w"]
        assert theirs.tolist() == [0, 1, 2, 3]

    def test_other_threads_run_meanwhile(self, tmp_path: Path) -> None:
        state = {f"blocks.{at}.weight": torch.zeros(1) for at in range(3000)}
        path = _save(tmp_path / "model.pt", state)
        assert list(_entries(path)) == list(state)
        assert most_ticks(lambda: _entries(path), enough=4) >= 4


class TestCompressed:
    """Archives that somebody packed again."""

    def test_tensors_are_inflated(self, tmp_path: Path) -> None:
        base = torch.arange(1 << 19, dtype=torch.float32)
        state = {
            "w": base,
            "view": base.view(512, -1).t()[3:5],
            "half": torch.ones(9, dtype=torch.bfloat16),
            "scalar": torch.tensor(2.0),
            "empty": torch.empty(0, 3),
            "byte": torch.arange(99, dtype=torch.uint8).view(torch.float8_e4m3fn)[5:],
            "complex": torch.tensor([1 + 2j]),
        }
        path = write_compressed_checkpoint(tmp_path / "model.pt", state)
        with nothing_left_open():
            entries = _entries(path)
        assert [type(value) for key, value in entries.items() if key != "empty"] == [
            torch.Tensor
        ] * 6
        assert {key: _same(_load(entries[key]), state[key]) for key in state} == dict.fromkeys(
            state, True
        )

    def test_shared_storage_is_inflated_once(self, tmp_path: Path) -> None:
        base = torch.arange(8.0)
        path = write_compressed_checkpoint(tmp_path / "model.pt", {"a": base, "b": base[2:]})
        entries = _entries(path)
        first, second = entries["a"], entries["b"]
        assert isinstance(first, torch.Tensor)
        assert isinstance(second, torch.Tensor)
        assert second.data_ptr() == first.data_ptr() + 8

    def test_stored_records_of_a_mixed_archive_stay_ranges(self, tmp_path: Path) -> None:
        state = {"a": Tensor(), "b": Tensor(Storage("1"))}
        path = write_archive(tmp_path / "model.pt", state, records={"data/0": bytes(16)})
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data/1", bytes(16))
        entries = _entries(path)
        assert isinstance(entries["a"], PickledTensor)
        assert isinstance(entries["b"], torch.Tensor)


class TestValues:
    """What a checkpoint holds beside tensors."""

    @pytest.mark.parametrize("form", FORMATS)
    def test_plain_values_are_kept(self, form: str, tmp_path: Path) -> None:
        state = {
            "int": [0, -1, 255, 256, 65536, -(1 << 31), 1 << 31, 1 << 80, -(1 << 80)],
            "float": [0.5, float("inf")],
            "text": ["", "é😀", "x" * 300],
            "bytes": [b"", b"\xff" * 300, bytearray(b"ab"), bytearray()],
            "more": {"none": None, "tuple": (1, (2, 3, 4, 5), ()), "set": {1, 2}},
            "torch": (
                torch.float16,
                torch.Size([1, 2]),
                torch.device("cpu"),
                torch.device("cuda:1"),
            ),
            "complex": 1 - 2j,
            "counter": Counter({"a": 2}),
            (1, "key"): True,
        }
        entries = _entries(_save(tmp_path / "model.pt", state, form))
        assert entries == state
        assert repr(entries) == repr(state)

    @pytest.mark.parametrize(
        "number",
        [np.float64(2.5), np.float32(-1), np.int64(7), np.bool_(True), np.complex64(1j)],
        ids=repr,
    )
    @pytest.mark.parametrize("form", ["zip", "legacy", "zip, protocol 4"])
    def test_numbers_of_numpy_are_kept(self, number: np.generic, form: str, tmp_path: Path) -> None:
        loaded = _entries(_save(tmp_path / "model.pt", {"n": number, "m": 1}, form))["n"]
        assert loaded == number
        assert type(loaded) is type(number)

    def test_versions_of_layers_are_kept(self, tmp_path: Path) -> None:
        state = torch.nn.BatchNorm2d(2).state_dict()
        entries = _entries(_save(tmp_path / "model.pt", state))
        assert isinstance(entries, OrderedDict)
        assert entries._metadata == state._metadata  # type: ignore[attr-defined]

    def test_class_of_the_first_checkpoints_is_harmless(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = "pytorch_lightning.callbacks.model_checkpoint"
        kind = type("ModelCheckpoint", (), {"__module__": name})
        with monkeypatch.context() as patch:
            for parent in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
                patch.setitem(sys.modules, parent, types.ModuleType(parent))
            patch.setattr(sys.modules[name], "ModelCheckpoint", kind, raising=False)
            state = {"callbacks": {kind: {"best": 1}}, "state_dict": {"w": torch.ones(2)}}
            path = _save(tmp_path / "model.ckpt", state)
        assert list(_entries(path)) == ["w"]

    def test_class_of_the_first_checkpoints_cannot_be_made(self, tmp_path: Path) -> None:
        table = b"\x80\x02cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)R."
        error = _refusal(write_archive(tmp_path / "model.ckpt", table=table))
        assert "which may not be called" in error.message

    def test_mentioned_class_is_a_name(self, tmp_path: Path) -> None:
        table = b"\x80\x02}X\x01\x00\x00\x00kctorch.nn.parameter\nParameter\ns."
        entries = _entries(write_archive(tmp_path / "model.ckpt", table=table))
        assert entries == {"k": Inert("torch.nn.parameter.Parameter")}


class TestUnwrapping:
    """Which dictionary is the table of weights."""

    @pytest.mark.parametrize(
        ("state", "keys"),
        [
            ({"state_dict": {"w": 1}, "epoch": 3}, ["w"]),
            ({"state_dict": {"w": 1}}, ["w"]),
            ({"model": {"w": 1, "b": 2}}, ["w", "b"]),
            ({"model": {"w": 1}, "epoch": 3}, ["model", "epoch"]),
            ({"model": {"state_dict": {"w": 1}}}, ["state_dict"]),
            ({"w": 1}, ["w"]),
            ({"state_dict": 5, "w": 1}, ["state_dict", "w"]),
            ({"state_dict": {}, "w": 1}, []),
            ({}, []),
        ],
    )
    @pytest.mark.parametrize("form", ["zip", "legacy"])
    def test_is_that_of_upstream(
        self, state: dict[str, object], keys: list[str], form: str, tmp_path: Path
    ) -> None:
        assert list(_entries(_save(tmp_path / "model.pt", state, form))) == keys

    def test_nested_tensors_stay_ranges(self, tmp_path: Path) -> None:
        state = {"name": "x", "string_to_param": {"*": torch.nn.Parameter(torch.ones(2, 3))}}
        nested = _entries(_save(tmp_path / "model.pt", state))["string_to_param"]
        assert isinstance(nested, dict)
        assert isinstance(nested["*"], PickledTensor)


class TestOtherKinds:
    """Tensors that have no range in a file come through torch's own safe loader."""

    @pytest.mark.parametrize("form", ["zip", "legacy"])
    @pytest.mark.parametrize(
        "kind", ["sparse", "compressed sparse", "conjugate", "negative", "meta", "quantised"]
    )
    @pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
    @pytest.mark.filterwarnings("ignore:Sparse")
    @pytest.mark.filterwarnings("ignore:.*quantize")
    def test_is_what_torch_load_gives(self, form: str, kind: str, tmp_path: Path) -> None:
        made = {
            "sparse": lambda: torch.eye(3).to_sparse(),
            "compressed sparse": lambda: torch.eye(3).to_sparse_csr(),
            "conjugate": lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(),
            "negative": lambda: torch.tensor([1 + 2j]).conj().imag,
            "meta": lambda: torch.empty(3, device="meta"),
            "quantised": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        }[kind]()
        path = _save(tmp_path / "model.pt", {"a": made, "b": torch.ones(2)}, form)
        with nothing_left_open():
            entries = _entries(path)
        theirs = torch.load(path, weights_only=True)
        assert repr(entries) == repr(theirs)
        assert str(path) not in mapped_files()

    def test_class_that_the_user_allowed_is_loaded(self, tmp_path: Path) -> None:
        path = _save(tmp_path / "model.pt", {"class": Storage, "w": torch.ones(1)})
        assert "support.pickle_parts.Storage" in _refusal(path).message
        with torch.serialization.safe_globals([Storage]):
            assert _entries(path)["class"] is Storage
        assert _refusal(path).problem is HeaderProblem.UNSAFE_PICKLE
