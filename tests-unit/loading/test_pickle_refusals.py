"""Malformed and malicious checkpoints: nothing of them is run, each refusal is typed."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comfy.loading.errors import (
    InvalidWeightFile,
    LoadError,
    NotEnoughMemory,
    TruncatedWeightFile,
)
from comfy.loading.memory import Pool
from comfy.loading.pickles import PickledTensor, read_pickle
from comfy.loading.weight_file import FileTable
from support.bad_pickles import BAD_PICKLES, INFLATING, BadPickle, calls
from support.files import write_compressed_checkpoint
from support.pickle_parts import FORMATS, Tensor, dumps, write_archive, write_legacy
from support.watching import NoTensors, nothing_left_open


def _entries(path: Path) -> dict[str, object]:
    return read_pickle(FileTable().open(path)).entries


def _save(path: Path, state: object, form: str = "zip") -> Path:
    torch.save(state, path, **FORMATS[form])
    return path


def _refusal(path: Path) -> InvalidWeightFile:
    with pytest.raises(InvalidWeightFile) as caught:
        _entries(path)
    return caught.value


class TestMalformed:
    """Each file of the corpus."""

    @pytest.mark.parametrize("case", BAD_PICKLES, ids=str)
    def test_is_refused_and_says_why(
        self, case: BadPickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        path = case.write(tmp_path / "model.ckpt")
        with nothing_left_open():
            error = _refusal(path)
        assert error.problem is case.problem
        assert case.told in error.message
        assert error.path == str(path)
        assert error.hint.endswith(".")
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        "case",
        [case for case in BAD_PICKLES if case.name not in INFLATING and "sparse" not in case.name],
        ids=str,
    )
    def test_is_refused_before_any_tensor_is_made(self, case: BadPickle, tmp_path: Path) -> None:
        path = case.write(tmp_path / "model.ckpt")
        with NoTensors():
            _refusal(path)

    @pytest.mark.parametrize("form", ["zip", "legacy"])
    @pytest.mark.parametrize("part", range(1, 40))
    def test_every_truncation_is_refused(self, form: str, part: int, tmp_path: Path) -> None:
        state = {"a": torch.arange(100.0), "b": torch.ones(30, dtype=torch.float16)}
        path = _save(tmp_path / "model.pt", state, form)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * part // 40])
        with pytest.raises((InvalidWeightFile, TruncatedWeightFile)), nothing_left_open():
            _entries(path)

    def test_missing_storage_bytes_are_told_in_numbers(self, tmp_path: Path) -> None:
        path = write_legacy(tmp_path / "model.pt", {"w": Tensor()})
        path.write_bytes(path.read_bytes()[:-6])
        with pytest.raises(TruncatedWeightFile) as caught:
            _entries(path)
        assert (caught.value.wanted, caught.value.got) == (16, 10)

    def test_the_calls_of_the_corpus_would_do_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        pickle.loads(dumps({"w": calls()["posix.system"]}))
        assert (tmp_path / "was_run").exists()

    def test_refusal_of_code_says_what_and_what_to_do(self, tmp_path: Path) -> None:
        path = write_archive(tmp_path / "evil.ckpt", {"w": calls()["posix.system"]})
        assert str(_refusal(path)) == (
            "evil.ckpt: UnsafePickle: the pickle asks for 'posix.system', which no weights need."
            " A pickle can run any code while it is loaded, so it was refused; nothing of it was"
            " run. Get the model as .safetensors, or convert it where it can do no harm."
            f" (file: {path})"
        )

    def test_safetensors_under_a_wrong_name_is_recognised(self, tmp_path: Path) -> None:
        path = tmp_path / "model.pt"
        path.write_bytes(b"\x02\0\0\0\0\0\0\0{}")
        assert "looks like safetensors" in _refusal(path).hint

    def test_advice_to_load_without_protection_is_not_repeated(self, tmp_path: Path) -> None:
        state = {"s": torch.eye(2).to_sparse(), "n": np.float64(1)}
        assert "weights_only" not in str(_refusal(_save(tmp_path / "model.pt", state)))

    def test_compressed_records_that_do_not_fit_are_refused_before_inflating(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_compressed_checkpoint(tmp_path / "model.pt", {"w": torch.zeros(1 << 18)})
        monkeypatch.setattr("comfy.loading.pickle_zip.host_pool", lambda: Pool("host", 1, 1 << 19))
        with pytest.raises(NotEnoughMemory) as caught, NoTensors():
            _entries(path)
        assert (caught.value.need, caught.value.available) == (1 << 20, 1 << 19)


class TestFuzz:
    """Damage at random: a typed error or a result, never anything else."""

    @pytest.fixture(scope="class", params=["zip", "legacy", "zip, protocol 4", "compressed"])
    @staticmethod
    def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("fuzz") / "good.pt"
        weights = torch.nn.Linear(3, 2).state_dict()
        if request.param == "compressed":
            return write_compressed_checkpoint(path, weights)
        return _save(
            path, {"state_dict": weights, "n": [1, 2.5, "x", None, (True,)]}, request.param
        )

    @given(data=st.data())
    def test_damaged_file_is_refused_or_read(self, good: Path, data: st.DataObject) -> None:
        content = bytearray(good.read_bytes())
        places = st.integers(0, len(content) - 1)
        changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)
        for place, byte in data.draw(changes):
            content[place] = byte
        path = good.with_name("bad.pt")
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of names that are there twice
            try:
                entries = _entries(path)
            except LoadError:
                return
        size = path.stat().st_size
        pieces = [value.slice for value in entries.values() if isinstance(value, PickledTensor)]
        assert all(piece.offset >= 0 and piece.end <= size for piece in pieces)
