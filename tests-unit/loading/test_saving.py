"""Saving: bytes as the library writes them, atomic, streaming, and a typed error for each failure."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfy.loading.encodings import ENCODINGS
from comfy.loading.saving import PIECE_BYTES, save_state_dict
from support.to_save import Fetcher, bits, file_tensors, values

ROOT = Path(__file__).parents[2]
DTYPES = [one.torch_dtype for one in ENCODINGS.values() if not one.is_raw]


# -- the bytes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_file_of_any_dtype_equals_the_library_s(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {
        "b.weight": values(dtype, 3, 4),
        "a": values(dtype, 2, 2, 6),
        "empty": values(dtype, 0, 4),
    }
    save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    save_state_dict(state, tmp_path / "ours.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (
        tmp_path / "theirs.safetensors"
    ).read_bytes()


def test_file_of_all_dtypes_together_equals_the_library_s(tmp_path: Path) -> None:
    state = {f"{dtype}.{name}": values(dtype, 4, 4) for dtype in DTYPES for name in "ba"}
    save_file(state, tmp_path / "theirs")
    save_state_dict(state, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize(
    ("state", "metadata"),
    [
        ({}, None),
        ({"a": torch.ones(1)}, {}),
        ({"scalar": torch.tensor(3.5)}, None),
        (
            {'q"u\\o\nt\x1f\x7fe/': torch.zeros(2), "\u00e9\u2028\U0001f600": torch.ones(1)},
            {"k\t": "\u00e9\n"},
        ),
        ({"\uffff": torch.zeros(1), "\U00010000": torch.zeros(1), "Z": torch.zeros(1)}, None),
    ],
    ids=["nothing", "empty metadata", "scalar", "names to escape", "order of names"],
)
def test_header_equals_the_library_s(
    tmp_path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    save_file(state, tmp_path / "theirs", metadata=metadata)
    save_state_dict(state, tmp_path / "ours", metadata=metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_nothing_with_empty_metadata_is_a_valid_file(tmp_path: Path) -> None:
    # The library itself writes a header here that is not JSON (safetensors 0.8.0).
    save_state_dict({}, tmp_path / "ours", metadata={})
    with safe_open(tmp_path / "ours", framework="pt") as file:
        assert (file.metadata(), list(file.keys())) == ({}, [])


def test_library_reads_back_the_same_bits_and_metadata(tmp_path: Path) -> None:
    state = {"x": values(torch.bfloat16, 5, 7), "y": values(torch.float8_e4m3fn, 9)}
    save_state_dict(state, tmp_path / "a.safetensors", metadata={"b": "1", "a": "2"})
    loaded = load_file(tmp_path / "a.safetensors")
    assert {key: bits(tensor) for key, tensor in loaded.items()} == {
        key: bits(tensor) for key, tensor in state.items()
    }
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"b": "1", "a": "2"}


def _transposed() -> torch.Tensor:
    return values(torch.float16, 6, 5).T


def _strided() -> torch.Tensor:
    return values(torch.int64, 8, 6)[1::2, ::3]


def _expanded() -> torch.Tensor:
    return values(torch.float32, 4, 1).expand(4, 6)


def _conjugated() -> torch.Tensor:
    return torch.randn(3, 4, dtype=torch.complex64).conj()


def _wide_rows() -> torch.Tensor:
    return torch.arange(2 * (PIECE_BYTES + 64), dtype=torch.uint8).reshape(2, -1)[:, ::2].T.mT


def _packed() -> torch.Tensor:
    return values(torch.uint8, 4, 6).T.view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize(
    "make", [_transposed, _strided, _expanded, _conjugated, _wide_rows, _packed]
)
def test_tensor_of_any_strides_is_written_as_if_contiguous(
    tmp_path: Path, make: Callable[[], torch.Tensor]
) -> None:
    tensor = make()
    if tensor.dtype == torch.float4_e2m1fn_x2:
        expected = bits(tensor.view(torch.uint8))
    else:
        expected = bits(tensor.resolve_conj())
    assert not tensor.is_contiguous() or tensor.is_conj()
    save_state_dict({"t": tensor}, tmp_path / "a")
    assert bits(load_file(tmp_path / "a")["t"]) == expected


def test_tensors_that_share_memory_are_both_written(tmp_path: Path) -> None:
    base = values(torch.float32, 4, 4)
    save_state_dict({"whole": base, "row": base[1], "again": base}, tmp_path / "a")
    loaded = load_file(tmp_path / "a")
    assert bits(loaded["whole"]) == bits(loaded["again"]) == bits(base)
    assert bits(loaded["row"]) == bits(base[1])


def test_parameters_and_inference_tensors_are_written(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    with torch.inference_mode():
        inference = torch.randn(3)
    save_state_dict({"p": parameter, "i": inference}, tmp_path / "a")
    loaded = load_file(tmp_path / "a")
    assert torch.equal(loaded["p"], parameter) and torch.equal(loaded["i"], inference)


# -- tensors that are elsewhere ------------------------------------------------------------------


def test_tensor_in_a_file_goes_from_file_to_file(tmp_path: Path) -> None:
    state = {"big": values(torch.float32, 300, 70), "half": values(torch.bfloat16, 11)}
    save_file(state, tmp_path / "source.safetensors")
    opened = file_tensors(tmp_path / "source.safetensors")
    save_state_dict(opened, tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == (
        tmp_path / "source.safetensors"
    ).read_bytes()
    assert all(tensor.is_in_file for tensor in opened.values())


def test_large_tensor_in_a_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    state = {"w": torch.arange(PIECE_BYTES // 4 + 1000, dtype=torch.int32)}
    save_file(state, tmp_path / "source.safetensors")
    fetcher = Fetcher()
    save_state_dict(file_tensors(tmp_path / "source.safetensors", fetcher), tmp_path / "copy")
    assert torch.equal(load_file(tmp_path / "copy")["w"], state["w"])
    assert fetcher.longest == PIECE_BYTES


def test_transposed_tensor_in_a_file_is_written_right(tmp_path: Path) -> None:
    weight = values(torch.float32, 40, 30)
    save_file({"w": weight}, tmp_path / "source.safetensors")
    opened = file_tensors(tmp_path / "source.safetensors")["w"]
    save_state_dict({"w": opened.T}, tmp_path / "copy")
    assert bits(load_file(tmp_path / "copy")["w"]) == bits(weight.T)
    assert opened.is_in_file


def test_written_value_of_a_tensor_from_a_file_is_saved(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4)}, tmp_path / "source.safetensors")
    opened = file_tensors(tmp_path / "source.safetensors")["w"]
    opened[1] = 7.0
    save_state_dict({"w": opened}, tmp_path / "copy")
    assert load_file(tmp_path / "copy")["w"].tolist() == [0.0, 7.0, 0.0, 0.0]


@pytest.mark.parametrize("transposed", [False, True])
def test_tensor_on_a_device_is_written(tmp_path: Path, simgpu: object, transposed: bool) -> None:
    host = values(torch.float32, 50, 20)
    device = host.to("simgpu:0")
    save_state_dict({"w": device.T if transposed else device}, tmp_path / "a")
    assert bits(load_file(tmp_path / "a")["w"]) == bits(host.T if transposed else host)


def test_saving_over_the_source_of_the_tensors_is_safe(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = {"a": values(torch.float32, 100), "b": values(torch.float32, 50)}
    save_file(state, path)
    opened = file_tensors(path)
    save_state_dict({"b": opened["b"], "c": opened["a"]}, path)
    loaded = load_file(path)
    assert bits(loaded["c"]) == bits(state["a"]) and bits(loaded["b"]) == bits(state["b"])


def test_mapping_of_the_old_file_keeps_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    old = values(torch.float32, 64, 64)
    save_file({"w": old}, path)
    mapped = load_file(path)["w"]
    save_state_dict({"w": old + 1}, path)
    assert bits(mapped) == bits(old)


# -- memory --------------------------------------------------------------------------------------

_PEAK = """
    import sys, torch
    from comfy.loading.saving import save_state_dict

    def high() -> int:
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    def make(kind, path):
        if kind == "host":
            return torch.ones(8192, 2048)
        if kind == "transposed":
            return torch.ones(2048, 8192).T
        from comfy.loading.header import read_header
        from comfy.loading.file_tensor import FileTensor
        from comfy.loading.destinations import Want
        from comfy.loading.destinations import ReadPolicy
        from comfy.loading.transfer import Transfer
        from comfy.loading.weight_file import FileTable

        class Fetcher:
            def fill(self, source, out):
                Transfer(ReadPolicy()).run([Want("", source, source.dtype, out)])

        return FileTensor.of(read_header(FileTable().open(path)).entries["w"], Fetcher())

    kind, source, target = sys.argv[1:]
    tensor = make(kind, source)
    save_state_dict({"w": tensor[:1]}, target)  # brings in what torch loads on first use
    open("/proc/self/clear_refs", "w").write("5")
    before = high()
    save_state_dict({"w": tensor}, target)
    print(high() - before)
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's peak counter"
)
@pytest.mark.parametrize("kind", ["host", "transposed", "file"])
def test_peak_memory_is_pieces_not_the_tensor(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source.safetensors"
    if kind == "file":
        save_state_dict({"w": torch.ones(8192, 2048)}, source)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PEAK), kind, str(source), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert int(result.stdout) <= 3 * PIECE_BYTES < 8192 * 2048 * 4
    assert os.path.getsize(tmp_path / "out") > 8192 * 2048 * 4
