"""Saving: bytes as the library writes them, atomic, streaming, and a typed error for each failure."""

from __future__ import annotations

import os
import stat
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
from comfy.loading.errors import CannotBeSaved, LoadError, WeightSaveFailed
from comfy.loading.file_tensor import FileTensor
from comfy.loading.header import read_header
from comfy.loading.saving import PIECE_BYTES, save_state_dict
from comfy.loading.weight_file import FileTable, WeightSlice

ROOT = Path(__file__).parents[2]
DTYPES = [one.torch_dtype for one in ENCODINGS.values() if not one.is_raw]


def values(dtype: torch.dtype, *shape: int, seed: int = 1) -> torch.Tensor:
    """Random bytes seen as `dtype`: every bit pattern may occur."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Fetcher:
    """Reads for FileTensors, and remembers the longest read."""

    longest = 0

    def fill(self, source: WeightSlice, destination: torch.Tensor) -> None:
        self.longest = max(self.longest, source.nbytes)
        flat = destination.reshape(-1).view(torch.uint8)
        source.file.read_into(flat.numpy().data, source.offset, source.name)

    def fetch(self, source: WeightSlice, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        assert (device.type, dtype) == ("cpu", source.dtype)
        result = torch.empty(source.shape, dtype=dtype)
        self.fill(source, result)
        return result


def file_tensors(path: Path, fetcher: Fetcher | None = None) -> dict[str, FileTensor]:
    fetcher = fetcher or Fetcher()
    entries = read_header(FileTable().open(path)).entries
    return {name: FileTensor.of(source, fetcher) for name, source in entries.items()}


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
        from comfy.loading.transfer import ReadPolicy, Transfer
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


# -- atomic --------------------------------------------------------------------------------------


def test_link_stays_a_link_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    real = tmp_path / "disk" / "real.safetensors"
    real.write_bytes(b"old")
    (tmp_path / "link").symlink_to(real)
    save_state_dict({"w": torch.ones(2)}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_file(real)["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    previous = os.umask(mask)
    try:
        save_state_dict({}, tmp_path / "a")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == mode


def test_name_of_the_greatest_length_can_be_saved(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 120 + ".safetensors")
    save_state_dict({"w": torch.ones(1)}, path)
    assert load_file(path)["w"].tolist() == [1.0]


class _Stop(Exception):
    pass


@pytest.mark.parametrize("kind", [_Stop, KeyboardInterrupt])
def test_interrupted_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    descriptors = len(os.listdir("/proc/self/fd"))

    def stop(done: int, total: int) -> None:
        raise kind

    with pytest.raises(kind):
        save_state_dict({"w": torch.ones(10)}, path, progress=stop)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_source_that_ends_early_leaves_no_half_written_file(tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    save_file({"w": values(torch.float32, 1000)}, source)
    opened = file_tensors(source)
    os.truncate(source, os.path.getsize(source) - 100)
    with pytest.raises(LoadError, match=r"source\.safetensors"):
        save_state_dict(opened, tmp_path / "copy")
    assert os.listdir(tmp_path) == ["source.safetensors"]


_FULL = """
    import resource, sys, torch
    from comfy.loading.errors import WeightSaveFailed
    from comfy.loading.saving import save_state_dict

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        save_state_dict({"w": torch.ones(1 << 20)}, sys.argv[1])
    except WeightSaveFailed as err:
        print(err.errno)
        print(err)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_FULL), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    number, message = result.stdout.split("\n", 1)
    assert int(number) == 27  # EFBIG
    assert "model.safetensors" in message and "Free some space" in message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_folder_as_target_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WeightSaveFailed, match="it is a folder"):
        save_state_dict({"w": torch.ones(4)}, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_missing_folder_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(WeightSaveFailed, match="folder exists") as caught:
        save_state_dict({}, tmp_path / "missing" / "a.safetensors")
    assert caught.value.errno == 2


# -- what cannot be saved ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"bad": torch.zeros(2, dtype=torch.complex128)}, "'bad' has dtype torch.complex128"),
        ({"bad": torch.zeros(2, device="meta")}, "'bad' is on the meta device"),
        ({"bad": torch.eye(2).to_sparse()}, "'bad' is sparse"),
        ({"bad": 3}, "'bad' is a int"),
        ({7: torch.zeros(1)}, "must be a string, not 7"),
        ({"__metadata__": torch.zeros(1)}, "__metadata__"),
        ({"\ud800": torch.zeros(1)}, "not valid text"),
    ],
    ids=["dtype", "meta", "sparse", "no tensor", "name", "reserved name", "surrogate"],
)
def test_what_the_format_lacks_is_refused_before_a_file_is_made(
    tmp_path: Path, state: dict[str, torch.Tensor], match: str
) -> None:
    with pytest.raises(CannotBeSaved, match=match):
        save_state_dict(state, tmp_path / "a")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": {"b": "c"}}])
def test_metadata_that_is_not_text_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(CannotBeSaved, match="strings to strings"):
        save_state_dict({}, tmp_path / "a", metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_header_that_no_reader_accepts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotBeSaved, match="readers accept"):
        save_state_dict({}, tmp_path / "a", metadata={"a": "x" * 100_000_000})


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    state = {"a": torch.zeros(PIECE_BYTES + 5, dtype=torch.uint8), "b": torch.zeros(3)}
    save_state_dict(state, tmp_path / "a", progress=lambda done, total: seen.append((done, total)))
    total = PIECE_BYTES + 5 + 12
    assert seen == [(12, total), (12 + PIECE_BYTES, total), (total, total)]
