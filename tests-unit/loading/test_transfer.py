"""Bytes arrive once, right, in bounded memory, also while copies are slow and things fail."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from comfy.loading.contents import read_contents
from comfy.loading.destinations import ReadPolicy, Want
from comfy.loading.devices import open_port
from comfy.loading.errors import LoadCancelled, NotEnoughMemory, WeightFileChanged
from comfy.loading.reader import CancelToken
from comfy.loading.staging import StagingRing
from comfy.loading.testing import as_bytes, descriptors_of, sample_tensors, write_raw
from comfy.loading.transfer import Transfer
from comfy.loading.weight_file import FileTable
from comfy.loading.weight_slice import WeightSlice
from support.simulated_device import SimulatedDevice

KIB = 1024
POLICIES = [
    ReadPolicy(threads=threads, piece_bytes=256 * KIB, direct=direct, cache=cache)
    for threads, direct, cache in [
        (1, False, "keep"),
        (3, False, "drop"),
        (2, True, "evict"),
        (4, True, "drop"),
    ]
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "sample.safetensors"
    write_raw(file, sample_tensors())
    return file


@pytest.fixture
def slices(path: Path) -> dict[str, WeightSlice]:
    return dict(read_contents(str(path), FileTable()).slices)


@pytest.fixture
def ring(simgpu: SimulatedDevice) -> StagingRing:
    return StagingRing(open_port(simgpu.device), slots=3, slot_bytes=256 * KIB)


def plain(slices: dict[str, WeightSlice]) -> list[Want]:
    return [Want(key, one, one.dtype) for key, one in slices.items()]


def expected() -> dict[str, bytes]:
    return {name: data for name, (_, _, data) in sample_tensors().items()}


def live_readers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("weight-reader")]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_host_destinations_get_the_bytes(
    slices: dict[str, WeightSlice], policy: ReadPolicy
) -> None:
    found = Transfer(policy).run(plain(slices))
    assert {key: as_bytes(tensor) for key, tensor in found.items()} == expected()
    assert {key: (one.dtype, one.shape) for key, one in slices.items()} == {
        key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in found.items()
    }


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("delay_s_per_mib", [0.0, 0.02])
def test_device_destinations_get_the_bytes_also_while_copies_are_slow(
    slices: dict[str, WeightSlice],
    policy: ReadPolicy,
    ring: StagingRing,
    simgpu: SimulatedDevice,
    delay_s_per_mib: float,
) -> None:
    simgpu.copies.delay_s_per_mib = delay_s_per_mib
    found = Transfer(policy, port=ring.port, ring=ring).run(plain(slices))
    assert {tensor.device for tensor in found.values()} == {simgpu.device}
    assert {key: as_bytes(tensor) for key, tensor in found.items()} == expected()


def test_slots_are_not_used_again_before_their_copy_is_done(
    tmp_path: Path, ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    # One tensor that passes every slot many times; each 4 KiB of it is unlike the others.
    data = b"".join(number.to_bytes(4, "little") * KIB for number in range(1024))
    path = tmp_path / "long.safetensors"
    write_raw(path, {"long": ("I32", (KIB * 1024,), data)})
    simgpu.copies.delay_s_per_mib = 0.1
    slices = dict(read_contents(str(path), FileTable()).slices)
    policy = ReadPolicy(threads=3, piece_bytes=256 * KIB)
    found = Transfer(policy, port=ring.port, ring=ring).run(plain(slices))
    assert as_bytes(found["long"]) == data


CASTS = [
    ("askew.F16", torch.float32),
    ("large.BF16", torch.float16),
    ("small.F8_E4M3", torch.bfloat16),
    ("askew.F32", torch.float8_e4m3fn),
    ("small.F64", torch.float16),
    ("scalar", torch.float16),
    ("empty", torch.float32),
]


@pytest.mark.parametrize(("name", "dtype"), CASTS)
@pytest.mark.parametrize("to_device", [False, True], ids=["host", "device"])
def test_casts_equal_those_of_torch(
    slices: dict[str, WeightSlice],
    ring: StagingRing,
    name: str,
    dtype: torch.dtype,
    to_device: bool,
) -> None:
    want = Want(name, slices[name], dtype)
    where = {"port": ring.port, "ring": ring} if to_device else {}
    original = Transfer(POLICIES[0]).run([Want(name, slices[name], slices[name].dtype)])[name]
    found = Transfer(POLICIES[1], **where).run([want])[name]
    assert found.dtype == dtype
    assert as_bytes(found) == as_bytes(original.to(dtype))


def test_given_destination_is_filled(
    slices: dict[str, WeightSlice], ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    source = slices["askew.F16"]
    for dtype in (torch.float16, torch.float32):
        out = torch.empty(source.shape, dtype=dtype, device=simgpu.device)
        found = Transfer(POLICIES[0], port=ring.port, ring=ring).run(
            [Want("askew.F16", source, dtype, out)]
        )
        assert found["askew.F16"] is out
        host = Transfer(POLICIES[0]).run([Want("askew.F16", source, dtype)])["askew.F16"]
        assert as_bytes(out) == as_bytes(host)


def test_results_are_ordinary_tensors_inside_inference_mode(
    slices: dict[str, WeightSlice],
) -> None:
    with torch.inference_mode():
        for _, tensor in Transfer(POLICIES[1]).stream(plain(slices)):
            assert not tensor.is_inference()
            # The caller's own mode must not change while the iterator is suspended.
            assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("name", ["small.F32", "large.BF16", "askew", "scalar", "empty"])
def test_single_result_is_an_ordinary_tensor_inside_inference_mode(
    slices: dict[str, WeightSlice], name: str
) -> None:
    with torch.inference_mode():
        want = Want(name, slices[name], slices[name].dtype)
        found = Transfer(POLICIES[0]).run([want])[name]
    assert not found.is_inference()
    assert as_bytes(found) == expected()[name]


def test_progress_counts_every_byte_once(slices: dict[str, WeightSlice]) -> None:
    told: list[tuple[int, int]] = []
    Transfer(POLICIES[1], progress=lambda *args: told.append(args)).run(plain(slices))
    total = sum(one.nbytes for one in slices.values())
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_each_byte_is_read_once(slices: dict[str, WeightSlice]) -> None:
    file = next(iter(slices.values())).file
    before = file.bytes_read
    Transfer(ReadPolicy(threads=2, piece_bytes=256 * KIB)).run(plain(slices))
    total = sum(one.nbytes for one in slices.values())
    assert total <= file.bytes_read - before <= total * 1.01


# -- failures -----------------------------------------------------------------------------------


def fails(
    act: Callable[[], object], error: type[Exception], path: Path, ring: StagingRing | None = None
) -> Exception:
    """Run what must fail, and check that nothing is left of it but the error."""
    with pytest.raises(error) as caught:
        act()
    assert not live_readers()
    if ring is not None:
        # Every slot is back: all of them can be taken at once.
        slots = [ring.acquire(lambda: False) for _ in ring.slots]
        for slot in slots:
            ring.release(slot)
    gc.collect()
    return caught.value


def test_cancel_half_way_leaves_nothing(
    slices: dict[str, WeightSlice], path: Path, ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    token = CancelToken()

    def progress(done: int, total: int) -> None:
        if done > total // 2:
            token.cancel()

    transfer = Transfer(POLICIES[1], port=ring.port, ring=ring, cancel=token, progress=progress)
    fails(lambda: transfer.run(plain(slices)), LoadCancelled, path, ring)
    assert simgpu.allocated_bytes == 0
    assert descriptors_of(path) == 0


def test_full_device_is_told_with_numbers_and_leaves_nothing(
    slices: dict[str, WeightSlice], path: Path, ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    simgpu.capacity_bytes = 3 * KIB * KIB
    transfer = Transfer(POLICIES[1], port=ring.port, ring=ring)
    error = fails(lambda: transfer.run(plain(slices)), NotEnoughMemory, path, ring)
    assert error.path == str(path)
    assert error.need > 0
    assert simgpu.allocated_bytes == 0
    assert descriptors_of(path) == 0
    simgpu.capacity_bytes = None
    found = Transfer(POLICIES[1], port=ring.port, ring=ring).run(plain(slices))
    assert {key: as_bytes(tensor) for key, tensor in found.items()} == expected()


def test_failed_copy_is_an_error_and_leaves_nothing(
    slices: dict[str, WeightSlice], path: Path, ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    simgpu.fail_upload(3)
    transfer = Transfer(POLICIES[0], port=ring.port, ring=ring)
    with pytest.raises(RuntimeError, match="copy engine failed"):
        transfer.run(plain(slices))
    assert not live_readers()
    gc.collect()
    assert simgpu.allocated_bytes == 0


def test_file_changed_half_way_is_an_error(slices: dict[str, WeightSlice], path: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done > total // 2:
            os.utime(path, ns=(1, 1))

    transfer = Transfer(ReadPolicy(threads=1, piece_bytes=64 * KIB), progress=progress)
    fails(lambda: transfer.run(plain(slices)), WeightFileChanged, path)


def test_error_of_the_progress_callback_stops_the_readers(
    slices: dict[str, WeightSlice], path: Path, ring: StagingRing
) -> None:
    def progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    transfer = Transfer(POLICIES[3], port=ring.port, ring=ring, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        transfer.run(plain(slices))
    assert not live_readers()
    assert descriptors_of(path) == 0


def test_caught_error_keeps_no_weights(
    slices: dict[str, WeightSlice], ring: StagingRing, simgpu: SimulatedDevice
) -> None:
    token = CancelToken()
    transfer = Transfer(
        POLICIES[0],
        port=ring.port,
        ring=ring,
        cancel=token,
        progress=lambda done, total: token.cancel() if done > total // 2 else None,
    )
    with pytest.raises(LoadCancelled) as caught:
        transfer.run(plain(slices))
    # The error, with its traceback and all frames, is still held here.
    assert caught.value.__traceback__ is not None
    assert simgpu.allocated_bytes == 0


# -- the ring -------------------------------------------------------------------------------------


def test_ring_registers_exactly_its_slots(simgpu: SimulatedDevice) -> None:
    ring = StagingRing(open_port(simgpu.device), slots=4, slot_bytes=256 * KIB)
    assert ring.is_registered
    assert sorted(simgpu.registered.values()) == [256 * KIB] * 4
    ring.close()
    assert not simgpu.registered


def test_ring_works_where_registration_is_refused(
    slices: dict[str, WeightSlice], simgpu: SimulatedDevice
) -> None:
    simgpu.can_register = False
    ring = StagingRing(open_port(simgpu.device), slots=2, slot_bytes=256 * KIB)
    assert not ring.is_registered
    found = Transfer(POLICIES[0], port=ring.port, ring=ring).run(plain(slices))
    assert {key: as_bytes(tensor) for key, tensor in found.items()} == expected()
    ring.close()


def test_no_two_slots_share_memory(ring: StagingRing) -> None:
    starts = sorted(slot.bytes.data_ptr() for slot in ring.slots)
    assert all(start % 4096 == 0 for start in starts)
    assert all(b - a >= ring.slot_bytes for a, b in itertools.pairwise(starts))


def test_acquire_ends_when_stopped(ring: StagingRing) -> None:
    taken = [ring.acquire(lambda: False) for _ in ring.slots]
    assert all(taken)
    assert ring.acquire(lambda: True) is None
