"""Tensors that are computed when they are saved: laziness, what may be done to them, what is held."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comfy.loading import DeferredTensor, save_state_dict
from comfy.loading.errors import CannotBeSaved, FrozenTensor

VALUES = torch.arange(24, dtype=torch.float16).reshape(6, 4)


class Recipe:
    """Makes `VALUES` in parts, and counts."""

    def __init__(self, rows: int = 6) -> None:
        self.rows = rows
        self.times = 0

    def __call__(self) -> Iterator[torch.Tensor]:
        self.times += 1
        yield from VALUES.split(self.rows)

    def promise(self) -> DeferredTensor:
        return DeferredTensor(VALUES.to("meta"), self)


@pytest.mark.parametrize("rows", [6, 4, 1])
def test_saved_bytes_are_those_of_all_parts(tmp_path: Path, rows: int) -> None:
    recipe = Recipe(rows)
    save_state_dict({"a": recipe.promise(), "b": VALUES.clone()}, tmp_path / "f.safetensors")
    saved = load_file(tmp_path / "f.safetensors")
    assert torch.equal(saved["a"], VALUES)
    assert torch.equal(saved["b"], VALUES)
    assert recipe.times == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.t(),
        lambda one: one.to(torch.float32),
        lambda one: one.chunk(3)[1],
        lambda one: one.reshape(4, 6),
        lambda one: one[2:5, 1],
        lambda one: torch.cat([one, VALUES, one]),
        lambda one: torch.cat([one, VALUES], dim=1),
        lambda one: one * 2 + VALUES,
        lambda one: one.detach().contiguous(),
    ],
    ids=["turned", "cast", "cut", "reshaped", "indexed", "joined", "beside", "computed", "same"],
)
@pytest.mark.parametrize("inference", [False, True])
def test_changes_are_made_when_it_is_saved(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], inference: bool
) -> None:
    recipe = Recipe(4)
    with torch.inference_mode(inference):
        promised = change(recipe.promise())
        assert recipe.times == 0
        assert isinstance(promised, DeferredTensor)
        assert promised.shape == change(VALUES).shape
        save_state_dict({"a": promised}, tmp_path / "f.safetensors")
    assert torch.equal(load_file(tmp_path / "f.safetensors")["a"], change(VALUES))


@pytest.mark.parametrize(
    "ask", [lambda one: one.sum().item(), lambda one: bool(torch.equal(one, VALUES))]
)
def test_what_is_no_tensor_is_told_at_once(ask: Callable[[torch.Tensor], object]) -> None:
    assert ask(Recipe(2).promise()) == ask(VALUES)


@pytest.mark.parametrize(
    "write", [lambda one: one.mul_(0), lambda one: torch.add(one, one, out=one)]
)
def test_write_that_would_be_lost_is_refused(write: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(FrozenTensor, match="Clone it first"):
        write(Recipe().promise())


def test_copy_of_it_may_be_written_to() -> None:
    destination = torch.zeros(6, 4)
    destination.copy_(Recipe(4).promise())
    assert torch.equal(destination, VALUES.float())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (VALUES[:5], "48 bytes of torch.float16, and came out with 40 bytes"),
        (torch.cat([VALUES, VALUES]), "came out with 96 bytes"),
        (VALUES.view(torch.int16), "bytes of torch.int16"),
    ],
    ids=["too few", "too many", "other dtype"],
)
def test_broken_promise_is_told_and_leaves_no_file(
    tmp_path: Path, made: torch.Tensor, told: str
) -> None:
    promised = DeferredTensor(VALUES.to("meta"), lambda: iter((made,)))
    with pytest.raises(CannotBeSaved, match=f"'some.weight'.*{told}"):
        save_state_dict({"some.weight": promised}, tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_each_part_is_dropped_before_the_next_is_computed(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def row(number: int) -> torch.Tensor:
        assert all(one() is None for one in alive)
        made = VALUES[number : number + 1].clone()
        alive.append(weakref.ref(made))
        return made

    def rows() -> Iterator[torch.Tensor]:
        for number in range(6):
            yield row(number)

    first, second = (DeferredTensor(VALUES.to("meta"), rows) for _ in range(2))
    save_state_dict({"a": first, "b": second}, tmp_path / "f.safetensors")
    assert len(alive) == 12


def test_error_of_a_recipe_leaves_no_file(tmp_path: Path) -> None:
    def fails() -> Iterator[torch.Tensor]:
        yield VALUES[:2]
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        save_state_dict({"a": DeferredTensor(VALUES, fails)}, tmp_path / "f.safetensors")
    assert list(tmp_path.iterdir()) == []
