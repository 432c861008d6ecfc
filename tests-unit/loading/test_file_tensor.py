"""What packs and torch do to a weight that is still in its file; each row of the table is a test."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comfy.loading.file_tensor import FileTensor
from support.one_weight import SHAPE, Opened

# -- questions that cost nothing -------------------------------------------------------------


def test_shape_questions_read_nothing(opened: Opened) -> None:
    tensor = opened.tensor
    assert tuple(tensor.shape) == SHAPE
    assert tensor.dtype == torch.float32
    assert tensor.device == torch.device("cpu")
    assert (tensor.nbytes, tensor.numel(), tensor.stride()) == (96, 24, (6, 1))
    assert tensor.is_contiguous()
    repr(tensor)
    assert opened.reads == 0


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda t: t[1:3],
    "one row": lambda t: t[2],
    "columns": lambda t: t[:, 2:4],
    "every second column": lambda t: t[:, ::2],
    "transposed": lambda t: t.t(),
    "permuted": lambda t: t.permute(1, 0),
    "flat": lambda t: t.view(-1),
    "reshaped": lambda t: t.reshape(2, 12),
    "unsqueezed": lambda t: t[None],
    "expanded": lambda t: t.expand(3, 4, 6),
    "as bytes": lambda t: t.view(torch.uint8),
    "as bytes, half": lambda t: t.view(torch.uint8)[1:3],
    "chunk": lambda t: t.chunk(2)[1],
    "split": lambda t: t.split([1, 3])[1],
    "unbound": lambda t: t.unbind(0)[3],
    "narrowed": lambda t: t.narrow(0, 1, 2),
    "diagonal": lambda t: t.diagonal(),
    "strided": lambda t: t.as_strided((2, 2), (1, 2), 3),
    "empty": lambda t: t[0:0],
    "view of a view": lambda t: t[1:].t()[2:, 1:],
}


@pytest.mark.parametrize("name", VIEWS)
def test_view_reads_nothing_and_has_the_right_values(opened: Opened, name: str) -> None:
    view = VIEWS[name](opened.tensor)
    assert isinstance(view, FileTensor)
    assert opened.reads == 0
    expected = VIEWS[name](opened.values)
    assert view.shape == expected.shape
    assert view.stride() == expected.stride()
    assert view.dtype == expected.dtype
    assert torch.equal(view, expected)


@pytest.mark.parametrize("name", VIEWS)
def test_view_inside_inference_mode_has_the_right_values(opened: Opened, name: str) -> None:
    with torch.inference_mode():
        view = VIEWS[name](opened.tensor)
        assert torch.equal(view, VIEWS[name](opened.values))


# torch counts these among its views, as they are ones where nothing has to be copied.
COPIES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "half": lambda t: t.half(),
    "another dtype": lambda t: t.to(torch.float64),
    "type of another": lambda t: t.type_as(torch.zeros(1, dtype=torch.bfloat16)),
    "forced": lambda t: t.to(torch.float32, copy=True),
    "contiguous": lambda t: t.t().contiguous(),
    "reshaped across strides": lambda t: t.t().reshape(2, 12),
    "flattened across strides": lambda t: t[:, 2:4].flatten(),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", COPIES)
def test_copy_has_the_right_values(opened: Opened, name: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        copied, expected = COPIES[name](opened.tensor), COPIES[name](opened.values)
        assert not isinstance(copied, FileTensor)
        assert copied.dtype == expected.dtype
        assert torch.equal(copied, expected)


@pytest.mark.parametrize("name", [n for n in VIEWS if n not in ("empty", "expanded")])
def test_write_into_a_view_is_seen_by_the_whole_tensor(opened: Opened, name: str) -> None:
    expected = opened.values.clone()
    VIEWS[name](expected).zero_()
    VIEWS[name](opened.tensor).zero_()
    assert torch.equal(opened.tensor, expected)


def test_row_slice_reads_only_its_rows(opened: Opened) -> None:
    assert torch.equal(opened.tensor[1:3] + 0, opened.values[1:3])
    assert opened.reads == 2 * 6 * 4


# -- reading ------------------------------------------------------------------------------------

READS: dict[str, Callable[[torch.Tensor], object]] = {
    "add": lambda t: t + 1,
    "self times self": lambda t: t * t,
    "matmul": lambda t: torch.ones(2, 6) @ t.t(),
    "linear": lambda t: nn.functional.linear(torch.ones(2, 6), t),
    "cat": lambda t: torch.cat([t, t]),
    "stack": lambda t: torch.stack([t, t]),
    "fancy index": lambda t: t[[2, 0]],
    "mask": lambda t: t[t > 5],
    "clone": lambda t: t.clone(),
    "contiguous of a transpose": lambda t: t.t().contiguous(),
    "to half": lambda t: t.to(torch.float16),
    "to double": lambda t: t.double(),
    "sum": lambda t: t.sum(),
    "item": lambda t: t[1, 2].item(),
    "tolist": lambda t: t.tolist(),
    "where": lambda t: torch.where(t > 3, t, -t),
    "einsum": lambda t: torch.einsum("ij,kj->ik", t, t),
    "foreach": lambda t: torch._foreach_mul([t, t], 2.0)[1],
    "sort": lambda t: torch.sort(t, descending=True).values,
    "bool": lambda t: bool((t[0] >= 0).all()),
    "float of one": lambda t: float(t[0, 1]),
}


@pytest.mark.parametrize("name", READS)
def test_reading_operation_gives_the_right_values_and_leaves_the_weight_in_the_file(
    opened: Opened, name: str
) -> None:
    result, expected = READS[name](opened.tensor), READS[name](opened.values)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(result, expected)
        assert not isinstance(result, FileTensor)
    else:
        assert result == expected
    assert opened.tensor.is_in_file


def test_operation_that_takes_a_weight_twice_reads_it_once(opened: Opened) -> None:
    opened.tensor * opened.tensor
    assert opened.reads == opened.tensor.nbytes


def test_to_the_same_dtype_and_device_is_the_same_object(opened: Opened) -> None:
    assert opened.tensor.to("cpu") is opened.tensor
    assert opened.tensor.float() is opened.tensor
    assert opened.tensor.contiguous() is opened.tensor
    assert opened.reads == 0


def test_to_meta_reads_nothing(opened: Opened) -> None:
    assert opened.tensor.to("meta").device.type == "meta"
    assert opened.reads == 0


def test_equal_compares_bytes(opened: Opened) -> None:
    assert torch.equal(opened.tensor, opened.values)
    assert not torch.equal(opened.tensor, opened.values + 1)


def test_copy_from_a_file_tensor_fills_the_destination(opened: Opened) -> None:
    target = torch.empty(SHAPE)
    assert target.copy_(opened.tensor) is target
    assert torch.equal(target, opened.values)


def test_copy_from_a_file_tensor_casts(opened: Opened) -> None:
    target = torch.empty(SHAPE, dtype=torch.float16)
    target.copy_(opened.tensor)
    assert torch.equal(target, opened.values.half())


def test_copy_into_a_part_of_a_larger_tensor(opened: Opened) -> None:
    target = torch.full((8, 6), -1.0)
    target[2:6].copy_(opened.tensor)
    assert torch.equal(target[2:6], opened.values)
    assert bool((target[:2] == -1).all())
    assert bool((target[6:] == -1).all())


def test_copy_into_an_inference_tensor(opened: Opened) -> None:
    with torch.inference_mode():
        target = torch.empty(SHAPE)
        target.copy_(opened.tensor)
        assert torch.equal(target, opened.values)


def test_broadcasting_copy_from_a_file_tensor(opened: Opened) -> None:
    target = torch.empty(3, *SHAPE)
    target.copy_(opened.tensor)
    assert torch.equal(target[2], opened.values)


# -- numpy, addresses, pickles ------------------------------------------------------------------


def test_numpy_shares_memory_with_the_tensor(opened: Opened) -> None:
    array = opened.tensor.numpy()
    assert np.array_equal(array, opened.values.numpy())
    array[0, 0] = 99
    assert opened.tensor[0, 0].item() == 99


def test_asarray_gives_the_values(opened: Opened) -> None:
    assert np.array_equal(np.asarray(opened.tensor), opened.values.numpy())


def test_dlpack_gives_the_values(opened: Opened) -> None:
    assert torch.equal(torch.from_dlpack(opened.tensor), opened.values)


def test_data_ptr_is_stable_and_not_null(opened: Opened) -> None:
    first = opened.tensor.data_ptr()
    assert first != 0
    assert opened.tensor.data_ptr() == first


def test_storage_of_a_weight_in_the_file_carries_upstreams_tag(opened: Opened) -> None:
    tag = opened.tensor.untyped_storage()._comfy_tensor_file_slice
    size = opened.path.stat().st_size
    assert (tag.offset, tag.size) == (size - 96, 96)
    assert tag.file_ref.fileno() > 2
    with tag.lock:
        assert opened.reads == 0


def test_deepcopy_reads_nothing_and_is_independent(opened: Opened) -> None:
    twin = copy.deepcopy(opened.tensor)
    assert isinstance(twin, FileTensor)
    assert opened.reads == 0
    twin.zero_()
    assert torch.equal(opened.tensor, opened.values)


def test_deepcopy_of_a_written_tensor_has_the_write(opened: Opened) -> None:
    opened.tensor.fill_(7)
    twin = copy.deepcopy(opened.tensor)
    assert bool((twin == 7).all())
    twin.zero_()
    assert bool((opened.tensor == 7).all())


def test_deepcopy_of_a_module_keeps_parameters(opened: Opened) -> None:
    twin = copy.deepcopy(opened.module())
    assert isinstance(twin.weight, nn.Parameter)
    assert isinstance(twin.weight, FileTensor)
    assert opened.reads == 0
    assert torch.equal(twin.weight, opened.values)


def test_pickle_gives_an_ordinary_tensor(opened: Opened) -> None:
    again = pickle.loads(pickle.dumps(opened.tensor))
    assert type(again) is torch.Tensor
    assert torch.equal(again, opened.values)


def test_torch_save_of_a_module_loads_with_weights_only(opened: Opened) -> None:
    stream = io.BytesIO()
    torch.save(opened.module().state_dict(), stream)
    stream.seek(0)
    again = torch.load(stream, weights_only=True)
    assert torch.equal(again["weight"], opened.values)


def test_pickled_parameter_stays_a_parameter(opened: Opened) -> None:
    again = pickle.loads(pickle.dumps(opened.module().weight))
    assert type(again) is nn.Parameter
    assert torch.equal(again, opened.values)


def _sum_in_child(connection: object, tensor: torch.Tensor) -> None:
    connection.send(float(tensor.sum()))  # type: ignore[attr-defined]


def test_tensor_travels_to_another_process(opened: Opened) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_sum_in_child, args=(there, opened.tensor))
    child.start()
    assert here.poll(60)
    assert here.recv() == float(opened.values.sum())
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool, torch.complex64],
    ids=str,
)
def test_every_kind_of_dtype_round_trips(tmp_path: Path, dtype: torch.dtype) -> None:
    opened = Opened(tmp_path / "x.safetensors", dtype)
    assert opened.tensor.dtype == dtype
    assert torch.equal(opened.tensor.clone().view(torch.uint8), opened.values.view(torch.uint8))
