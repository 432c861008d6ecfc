"""Weights brought layer by layer: what is read ahead, how much, and what happens when that fails."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading import source_of
from comfy.loading.destinations import Want
from comfy.loading.errors import NotEnoughMemory, WeightFileChanged
from comfy.residency_stream import LayerStream, StreamedLayer
from support.one_weight import Opened

PATIENCE_S = 30.0


class _Fetches:
    """A `Fetch` that tells what it is asked for, in order, and can be made to fail or wait."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.finished: dict[str, threading.Event] = {}
        self.begun: dict[str, threading.Event] = {}
        self.errors: dict[str, list[Exception]] = {}
        self.gate: threading.Event | None = None

    def __call__(self, wants: Sequence[Want]) -> dict[str, torch.Tensor]:
        name = wants[0].key
        self.asked.append(name)
        self.begun.setdefault(name, threading.Event()).set()
        if self.gate is not None and threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(PATIENCE_S)
        if self.errors.get(name):
            raise self.errors[name].pop()
        self.finished.setdefault(name, threading.Event()).set()
        return {name: torch.zeros(1)}

    def await_finished(self, name: str) -> None:
        assert self.finished.setdefault(name, threading.Event()).wait(PATIENCE_S)


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    return Opened(tmp_path / "one.safetensors")


class _Model:
    """Layers whose weights are named a, b, c, ..., and their stream."""

    def __init__(self, opened: Opened, sizes: dict[str, int]) -> None:
        source = source_of(opened.tensor)
        assert source is not None
        self.modules = {name: torch.nn.Identity() for name in sizes}
        self.fetches = _Fetches()
        layers = {
            id(self.modules[name]): StreamedLayer((Want(name, source, torch.float32),), size)
            for name, size in sizes.items()
        }
        self.stream = LayerStream(layers, self.fetches)

    def borrow(self, name: str) -> Any:
        loan = self.stream.borrow(self.modules[name])
        assert loan.get(name) is not None
        return loan


def test_the_next_layer_is_read_while_this_one_computes(opened: Opened) -> None:
    model = _Model(opened, {"a": 10, "b": 10, "c": 10})
    loan = model.borrow("a")
    # Nobody has asked for b: it is read all the same, while "a" is still lent.
    model.fetches.await_finished("b")
    loan.release()
    assert model.fetches.asked == ["a", "b"]
    model.borrow("b")
    model.fetches.await_finished("c")
    assert model.fetches.asked == ["a", "b", "c"]
    model.stream.close()


def test_a_layer_that_is_being_read_is_waited_for_and_not_read_twice(opened: Opened) -> None:
    model = _Model(opened, {"a": 10, "b": 10})
    model.fetches.gate = threading.Event()
    model.borrow("a")
    assert model.fetches.begun.setdefault("b", threading.Event()).wait(PATIENCE_S)
    waiting = threading.Timer(0.01, model.fetches.gate.set)
    waiting.start()
    model.borrow("b")
    assert model.fetches.asked == ["a", "b"]
    model.stream.close()


def test_no_more_is_read_ahead_than_the_largest_layer_has(opened: Opened) -> None:
    model = _Model(opened, {"a": 40, "b": 10, "c": 10, "d": 10, "e": 20, "f": 10})
    assert model.stream.buffer_bytes == 80
    model.borrow("a")
    for name in "bcd":
        model.fetches.await_finished(name)
    model.stream.drop()
    assert model.fetches.asked == ["a", "b", "c", "d"]
    model.stream.close()


def test_the_order_is_learnt_from_the_calls(opened: Opened) -> None:
    model = _Model(opened, {"a": 10, "b": 10, "c": 10})
    for name in "acb":
        model.borrow(name)
    model.stream.drop()
    model.fetches.asked.clear()
    model.fetches.finished.clear()
    model.borrow("a")
    model.fetches.await_finished("c")
    model.stream.drop()
    assert model.fetches.asked == ["a", "c"]
    model.stream.close()


def test_a_layer_that_is_left_out_costs_its_read_and_nothing_else(opened: Opened) -> None:
    model = _Model(opened, {"a": 20, "b": 10, "c": 10, "d": 10})
    model.borrow("a")
    model.fetches.await_finished("b")
    model.fetches.await_finished("c")
    model.borrow("c")
    model.fetches.await_finished("d")
    model.borrow("d")
    assert model.fetches.asked[:4] == ["a", "b", "c", "d"]
    assert model.fetches.asked.count("c") == 1
    model.stream.close()


def test_a_layer_that_is_not_streamed_borrows_nothing(opened: Opened) -> None:
    model = _Model(opened, {"a": 10})
    loan = model.stream.borrow(torch.nn.Identity())
    assert loan.get("weight") is None
    assert model.fetches.asked == []


def test_reading_ahead_that_finds_no_memory_is_done_again_when_it_is_needed(
    opened: Opened,
) -> None:
    model = _Model(opened, {"a": 10, "b": 10})
    model.fetches.errors["b"] = [NotEnoughMemory(10, 5, "memory of a test")]
    model.borrow("a")
    model.borrow("b")
    assert model.fetches.asked == ["a", "b", "b"]
    model.stream.close()


def test_memory_that_is_missing_twice_is_an_error(opened: Opened) -> None:
    model = _Model(opened, {"a": 10, "b": 10})
    model.fetches.errors["b"] = [NotEnoughMemory(10, 5, "pool"), NotEnoughMemory(10, 5, "pool")]
    model.borrow("a")
    with pytest.raises(NotEnoughMemory):
        model.borrow("b")
    model.stream.close()


def test_an_error_of_reading_ahead_is_raised_where_the_layer_is_needed(opened: Opened) -> None:
    before = set(threading.enumerate())
    model = _Model(opened, {"a": 10, "b": 10, "c": 10})
    model.fetches.errors["b"] = [WeightFileChanged("model.safetensors", "a", "b")]
    model.borrow("a")
    with pytest.raises(WeightFileChanged, match="it was a and is now b"):
        model.borrow("b")
    model.stream.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_weights_that_were_read_in_a_second_try_are_freed_when_they_are_released(
    opened: Opened,
) -> None:
    model = _Model(opened, {"a": 10, "b": 10})
    model.fetches.errors["b"] = [NotEnoughMemory(10, 5, "memory of a test")]
    model.borrow("a")
    loan = model.borrow("b")
    weight = weakref.ref(loan.get("b"))
    loan.release()
    assert weight() is None
    model.stream.close()


@pytest.mark.usefixtures("no_collector")
def test_an_error_of_reading_ahead_keeps_no_layer_once_it_is_gone(opened: Opened) -> None:
    model = _Model(opened, {"a": 10, "b": 10})
    model.fetches.errors["b"] = [WeightFileChanged("model.safetensors", "a", "b")]
    model.borrow("a")
    layer = weakref.ref(model.modules["b"])
    try:
        model.borrow("b")
    except WeightFileChanged:
        raised = True
    model.stream.close()
    del model
    assert raised
    assert layer() is None


def test_released_weights_are_freed_though_the_loan_lives(opened: Opened) -> None:
    model = _Model(opened, {"a": 10})
    loan = model.borrow("a")
    loan.release()
    assert loan.get("a") is None
