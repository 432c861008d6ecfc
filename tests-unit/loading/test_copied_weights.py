"""Host tensors that were filled from a FileTensor know their file, as those that a strategy read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from comfy.loading.file_tensor import FileTensor
from comfy.loading.sources import possible_source_of, source_of
from support.one_weight import SHAPE, Opened


def _linear() -> torch.nn.Linear:
    return torch.nn.Linear(SHAPE[1], SHAPE[0], bias=False)


def test_a_copying_load_remembers_the_bytes(opened: Opened) -> None:
    module = _linear()
    module.load_state_dict({"weight": opened.tensor})
    source = source_of(module.weight)
    assert source is not None
    assert (source.file, source.shape) == (opened.file, SHAPE)
    assert torch.equal(FileTensor.of(source, opened.loader.mover), opened.values)


WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "add": lambda tensor: tensor.add_(1),
    "copy": lambda tensor: tensor.copy_(torch.ones(SHAPE)),
    "a part": lambda tensor: tensor[0].zero_(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_later_write_makes_it_void(
    write: Callable[[torch.Tensor], object], opened: Opened
) -> None:
    module = _linear()
    module.load_state_dict({"weight": opened.tensor})
    with torch.no_grad():
        write(module.weight)
    assert source_of(module.weight) is None


def test_a_cast_is_no_copy_of_the_bytes(opened: Opened) -> None:
    half = torch.empty(SHAPE, dtype=torch.float16)
    half.copy_(opened.tensor)
    assert source_of(half) is None


def test_a_copy_into_a_part_says_nothing_about_the_whole(opened: Opened) -> None:
    whole = torch.empty(2 * SHAPE[0], SHAPE[1])
    whole[: SHAPE[0]].copy_(opened.tensor)
    assert source_of(whole) is None


def test_a_copy_onto_itself_reads_nothing(opened: Opened) -> None:
    parameter = torch.nn.Parameter(opened.tensor)
    module = _linear()
    module.weight = parameter
    module.load_state_dict({"weight": parameter})
    assert module.weight is parameter
    assert parameter.is_in_file
    assert opened.reads == 0


@pytest.mark.parametrize(
    ("given", "dtype"), [({}, torch.float32), ({"dtype": torch.float16}, torch.float16)]
)
def test_memory_of_the_same_shape_costs_no_read(
    given: dict[str, torch.dtype], dtype: torch.dtype, opened: Opened
) -> None:
    like = torch.empty_like(opened.tensor, **given)
    assert (type(like), like.dtype, like.shape) == (torch.Tensor, dtype, SHAPE)
    assert opened.reads == 0


def test_every_view_carries_upstreams_tag_of_its_own_bytes(opened: Opened) -> None:
    start = opened.path.stat().st_size - 96
    views = {
        0: torch.nn.Parameter(opened.tensor),
        24: opened.tensor[1:],
        48: opened.tensor.detach()[2:4].view(-1),
    }
    for offset, view in views.items():
        tag = view.untyped_storage()._comfy_tensor_file_slice
        assert (tag.offset, tag.size) == (start + offset, view.nbytes)
    assert opened.reads == 0


def test_in_inference_mode_the_bytes_must_tell(opened: Opened) -> None:
    with torch.inference_mode():
        module = _linear()
        module.load_state_dict({"weight": opened.tensor})
        assert source_of(module.weight) is None
        source = possible_source_of(module.weight)
        assert source is not None
        assert (source.file, source.shape) == (opened.file, SHAPE)
    # What torch counts is decided by the count.
    counted = _linear()
    counted.load_state_dict({"weight": opened.tensor})
    assert possible_source_of(counted.weight) is None
