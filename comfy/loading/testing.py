# ruff: noqa: D102 - the name of a test is its sentence
"""The contract of a load strategy as a test suite: ours runs it, and a third party's can.

In a test file, with nothing but pytest::

    from comfy.loading.testing import StrategyContract


    class TestMine(StrategyContract):
        factory = MyStrategy

The strategy is registered under its name in a Loader of its own, and opens real files.
"""

from __future__ import annotations

import copy
import gc
import json
import math
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch

from comfy.loading.contents import read_contents
from comfy.loading.encodings import ENCODINGS
from comfy.loading.errors import LoadCancelled, LoadError
from comfy.loading.loader import LoadedFile, Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken
from comfy.loading.registry import LoadStrategy, StrategyRegistry
from comfy.loading.weight_file import FileTable

RawTensor = tuple[str, tuple[int, ...], bytes]
"""Header name of the dtype, shape in the header, bytes."""

_SPARE_BYTES = 3 * 4096


def write_raw(path: Path, tensors: Mapping[str, RawTensor]) -> None:
    """Write a safetensors file with the tensors in this order, whatever their alignment."""
    header: dict[str, Any] = {"__metadata__": {"made_by": "comfy.loading.testing"}}
    position = 0
    for name, (encoding, shape, data) in tensors.items():
        end = position + len(data)
        header[name] = {"dtype": encoding, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, _, data in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def sample_tensors(seed: int = 1) -> dict[str, RawTensor]:
    """Tensors of every dtype: large, small, askew, scalar and empty."""
    generator = torch.Generator().manual_seed(seed)

    def noise(nbytes: int) -> bytes:
        data = torch.randint(0, 60, (nbytes,), dtype=torch.uint8, generator=generator)
        return data.numpy().tobytes()

    tensors: dict[str, RawTensor] = {}
    for encoding in ENCODINGS.values():
        shape = (6, 8)
        tensors[f"small.{encoding.name}"] = (
            encoding.name,
            shape,
            noise(math.prod(shape) * encoding.bits // 8),
        )
    tensors["flag"] = ("BOOL", (3,), b"\1\0\1")
    tensors["large.BF16"] = ("BF16", (1100, 1024), noise(1100 * 1024 * 2))
    tensors["askew"] = ("U8", (3,), noise(3))
    tensors["askew.F16"] = ("F16", (1024, 700), noise(1024 * 700 * 2))
    tensors["askew.F32"] = ("F32", (700, 1024), noise(1024 * 700 * 4))
    tensors["scalar"] = ("F32", (), noise(4))
    tensors["empty"] = ("F16", (0, 4), b"")
    tensors["empty.huge"] = ("F16", (0, 2**40, 2**40), b"")
    tensors["small.BOOL"] = ("BOOL", (6, 8), bytes(48))
    return tensors


class StrategyContract:
    """Subclass it and set `factory`; every test is inherited.

    Attributes:
        factory: Makes the strategy.
    """

    factory: ClassVar[Callable[[], LoadStrategy]]

    # -- helpers, for subclasses to use or replace ---------------------------------------------

    def strategy(self) -> LoadStrategy:
        """A new strategy."""
        return type(self).factory()

    def loader(self, **options: Any) -> Loader:
        """A Loader that knows only this strategy."""
        strategy = self.strategy()
        registry = StrategyRegistry({})
        registry.register(strategy.name, lambda: strategy)
        return Loader(
            LoadOptions(strategy=strategy.name, **options), run_device="cpu", registry=registry
        )

    def open(self, path: Path, dtype: torch.dtype | None = None, **kwargs: Any) -> LoadedFile:
        """Load a file with this strategy."""
        return self.loader().open(LoadRequest(path=str(path), device=None, dtype=dtype), **kwargs)

    def sample(self, folder: Path) -> tuple[Path, dict[str, RawTensor]]:
        """Write the sample file."""
        path, tensors = folder / "sample.safetensors", sample_tensors()
        write_raw(path, tensors)
        return path, tensors

    # -- the contract --------------------------------------------------------------------------

    def test_facts_are_declared(self) -> None:
        strategy = self.strategy()
        assert isinstance(strategy.name, str)
        assert strategy.name not in ("", "auto")
        assert isinstance(strategy.maps_files, bool)

    def test_estimate_is_pure_and_says_what_is_read(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        request = LoadRequest(path=str(path), device=None)
        opened = self.loader().open(request)
        slices = {key: slice_ for key, slice_ in _slices(path).items() if key in opened.state_dict}
        read = sum(one.file.bytes_read for one in slices.values())
        first = self.strategy().estimate(slices, request)
        assert first == self.strategy().estimate(slices, request)
        assert sum(one.file.bytes_read for one in slices.values()) == read
        assert first.file == sum(len(data) for _, _, data in tensors.values())
        assert first.host <= first.file + _SPARE_BYTES

    def test_bytes_dtypes_and_shapes_are_those_of_the_file(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        state = self.open(path).state_dict
        for name, (encoding_name, shape, data) in tensors.items():
            encoding = ENCODINGS[encoding_name]
            assert as_bytes(state[name]) == data, name
            assert state[name].dtype == encoding.torch_dtype, name
            if encoding.packing == 1 and not encoding.is_raw:
                assert tuple(state[name].shape) == shape, name
            assert state[name].is_contiguous(), name

    def test_keys_come_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        assert list(self.open(path).state_dict) == list(tensors)

    def test_metadata_is_returned(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        assert self.open(path).metadata == {"made_by": "comfy.loading.testing"}

    def test_cast_applies_to_floating_weights_only(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        plain, cast = self.open(path).state_dict, self.open(path, torch.float32).state_dict
        for name in ("large.BF16", "askew.F16", "small.F8_E4M3", "small.F64", "scalar"):
            assert cast[name].dtype == torch.float32, name
            expected = plain[name].clone().to(torch.float32)
            assert as_bytes(cast[name]) == as_bytes(expected), name
        for name in ("small.I64", "small.BOOL", "small.F4", "small.F8_E8M0", "small.C64"):
            assert cast[name].dtype == plain[name].dtype, name
            assert as_bytes(cast[name]) == as_bytes(plain[name]), name

    def test_writes_never_reach_the_file(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        before = path.read_bytes()
        state = self.open(path).state_dict
        for name in tensors:
            with torch.no_grad():
                state[name].view(-1).view(torch.uint8).zero_()
            assert not any(as_bytes(state[name])), name
        del state
        gc.collect()
        assert path.read_bytes() == before

    def test_values_behave_as_ordinary_tensors(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        state = self.open(path).state_dict
        for name in ("large.BF16", "askew.F16", "small.F32", "scalar"):
            data = tensors[name][2]
            assert as_bytes(copy.deepcopy(state[name])) == data, name
            assert as_bytes(pickle.loads(pickle.dumps(state[name]))) == data, name
            assert as_bytes(state[name].clone()) == data, name
            assert torch.equal(state[name], state[name].clone()), name
            assert state[name].data_ptr() != 0, name
        large = self.open(path).state_dict["small.F32"]
        assert torch.equal(large[2:4] + 1, large.clone()[2:4] + 1)
        assert large.numpy().shape == (6, 8)

    def test_survivor_keeps_only_its_own_bytes(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        state = self.open(path).state_dict
        for name in ("small.F32", "large.BF16"):
            survivor = state[name]
            assert survivor.untyped_storage().nbytes() <= survivor.nbytes + _SPARE_BYTES, name

    def test_no_descriptor_is_left_when_the_values_are_gone(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        before = descriptors_of(path)
        opened = self.open(path)
        del opened
        gc.collect()
        assert descriptors_of(path) == before == 0

    def test_file_is_mapped_only_if_that_is_declared(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        strategy = self.strategy()
        with watch_mappings(path) as seen:
            opened = self.open(path)
        assert opened.state_dict
        if not strategy.maps_files:
            assert not seen

    def test_cancel_before_the_first_byte(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        token = CancelToken()
        token.cancel()
        try:
            opened = self.open(path, torch.float32, cancel=token)
        except LoadCancelled as err:
            assert err.path == str(path)
        else:
            # Allowed only to a strategy that had nothing to read.
            assert opened.report.bytes_read == 0
        gc.collect()

    def test_progress_reaches_the_end(self, tmp_path: Path) -> None:
        path, _ = self.sample(tmp_path)
        told: list[tuple[int, int]] = []
        opened = self.open(
            path, torch.float32, progress=lambda done, all_: told.append((done, all_))
        )
        assert told or opened.report.bytes_read == 0
        assert all(done <= whole for done, whole in told)
        if told:
            assert told[-1][0] == told[-1][1]

    def test_changed_file_is_an_error_not_other_weights(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        loader = self.loader()
        opened = loader.open(LoadRequest(path=str(path), device=None))
        other = tmp_path / "other"
        write_raw(other, sample_tensors(seed=2))
        os.replace(other, path)
        try:
            found = as_bytes(opened.state_dict["large.BF16"])
        except LoadError as err:
            assert err.path == str(path)
        else:
            assert found == tensors["large.BF16"][2]

    def test_two_threads_may_open_the_same_file(self, tmp_path: Path) -> None:
        path, tensors = self.sample(tmp_path)
        loader = self.loader()
        found: list[bytes] = []

        def work() -> None:
            opened = loader.open(LoadRequest(path=str(path), device=None))
            found.append(as_bytes(opened.state_dict["large.BF16"]))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [tensors["large.BF16"][2]] * 4


def as_bytes(tensor: torch.Tensor) -> bytes:
    """All bytes of a tensor, in C order, from any device."""
    host = tensor.detach().to("cpu").contiguous()
    if not host.numel():
        return b""
    return bytes(host.view(-1).view(torch.uint8).numpy().tobytes())


def descriptors_of(path: Path) -> int:
    """How many descriptors of this process lead to a file; 0 where the system cannot tell."""
    if not sys.platform.startswith("linux"):
        return 0
    status, found = os.stat(path), 0
    for name in os.listdir("/proc/self/fd"):
        try:
            other = os.stat(f"/proc/self/fd/{name}")
        except OSError:
            continue
        found += (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino)
    return found


@contextmanager
def watch_mappings(path: Path) -> Iterator[list[str]]:
    """Sample this process's mappings from another thread; yields the lines that name `path`."""
    seen: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while True:
            seen.extend(line for line in _maps() if str(path) in line)
            if ended.wait(0.0005):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def _maps() -> list[str]:
    if not sys.platform.startswith("linux"):
        return []
    return Path("/proc/self/maps").read_text().splitlines()


def _slices(path: Path) -> dict[str, Any]:
    return dict(read_contents(str(path), FileTable()).slices)
