"""The simulated copy stream is asynchronous, ordered, slow on demand, and fails on demand."""

from __future__ import annotations

import time

import pytest
import torch

from comfy.loading.devices import open_port
from comfy.loading.hardware import probe
from support.faults import thread_names
from support.simulated_device import SimulatedDevice, SimulatedPort

MIB = 1024 * 1024


@pytest.fixture
def port(simgpu: SimulatedDevice) -> SimulatedPort:
    return SimulatedPort(simgpu.device)


def test_loading_finds_port_and_facts(simgpu: SimulatedDevice) -> None:
    assert isinstance(open_port(simgpu.device), SimulatedPort)
    assert probe(simgpu.device) == simgpu.profile()


def test_an_upload_arrives_by_its_event(simgpu: SimulatedDevice, port: SimulatedPort) -> None:
    source = torch.arange(256, dtype=torch.uint8)
    destination = port.empty(256)
    port.wait(port.upload([(source, destination)]))
    assert destination.cpu().equal(source)
    assert (simgpu.counters.uploads, simgpu.counters.uploaded_bytes) == (1, 256)


def test_an_upload_casts_on_the_way(port: SimulatedPort) -> None:
    source = torch.randn(1000, dtype=torch.float32)
    destination = port.empty(2000).view(torch.float16)
    port.wait(port.upload([(source, destination)]))
    assert destination.cpu().equal(source.half())


def test_a_slow_upload_is_under_way_when_upload_returns(
    simgpu: SimulatedDevice, port: SimulatedPort
) -> None:
    simgpu.copies.delay_s_per_mib = 0.2
    event = port.upload([(torch.ones(MIB, dtype=torch.uint8), port.empty(MIB))])
    assert not event.query()
    begin = time.perf_counter()
    port.wait(event)
    assert event.query()
    assert time.perf_counter() - begin > 0.1


def test_memory_used_again_too_early_gives_wrong_weights(
    simgpu: SimulatedDevice, port: SimulatedPort
) -> None:
    simgpu.copies.delay_s_per_mib = 0.1
    slot = torch.ones(MIB, dtype=torch.uint8)
    destination = port.empty(MIB)
    event = port.upload([(slot, destination)])
    slot.zero_()
    port.wait(event)
    arrived = destination.cpu()
    assert not arrived[-1].item()
    assert not arrived.equal(torch.ones(MIB, dtype=torch.uint8))


def test_uploads_keep_their_order(simgpu: SimulatedDevice, port: SimulatedPort) -> None:
    simgpu.copies.delay_s_per_mib = 0.05
    destination = port.empty(MIB)
    events = [
        port.upload([(torch.full((MIB,), value, dtype=torch.uint8), destination)])
        for value in range(4)
    ]
    port.wait(events[-1])
    assert all(event.query() for event in events)
    assert destination.cpu().unique().tolist() == [3]


@pytest.mark.parametrize("wait_for", ["port", "module"])
def test_synchronising_waits_for_everything(
    simgpu: SimulatedDevice, port: SimulatedPort, wait_for: str
) -> None:
    simgpu.copies.delay_s_per_mib = 0.05
    event = port.upload([(torch.ones(MIB, dtype=torch.uint8), port.empty(MIB))])
    if wait_for == "port":
        port.wait(None)
    else:
        torch.get_device_module("simgpu").synchronize("simgpu:0")
    assert event.query()


def test_a_failed_upload_is_told_by_its_event_only(
    simgpu: SimulatedDevice, port: SimulatedPort
) -> None:
    simgpu.fail_upload(2)
    source, destination = torch.ones(8, dtype=torch.uint8), port.empty(8)
    events = [port.upload([(source, destination)]) for _ in range(3)]
    port.wait(events[0])
    with pytest.raises(RuntimeError, match="copy engine failed"):
        port.wait(events[1])
    port.wait(events[2])


def test_shapes_that_differ_are_refused(port: SimulatedPort) -> None:
    event = port.upload([(torch.ones(8, dtype=torch.uint8), port.empty(9))])
    with pytest.raises(ValueError, match="cannot copy shape"):
        port.wait(event)


def test_no_thread_stays_when_the_stream_is_idle(
    simgpu: SimulatedDevice, port: SimulatedPort
) -> None:
    before = thread_names()
    port.upload([(torch.ones(8, dtype=torch.uint8), port.empty(8))])
    simgpu.copies.drain()
    assert thread_names() == before


def test_registration_is_kept_count_of(simgpu: SimulatedDevice, port: SimulatedPort) -> None:
    buffer = torch.empty(MIB, dtype=torch.uint8)
    assert port.register(buffer)
    assert simgpu.registered == {buffer.data_ptr(): MIB}
    with pytest.raises(RuntimeError, match="registered already"):
        port.register(buffer)
    port.unregister(buffer)
    assert not simgpu.registered


def test_registration_can_be_refused(simgpu: SimulatedDevice, port: SimulatedPort) -> None:
    simgpu.can_register = False
    assert not port.register(torch.empty(MIB, dtype=torch.uint8))
    assert not simgpu.registered


def test_a_full_device_refuses_the_port(simgpu: SimulatedDevice, port: SimulatedPort) -> None:
    simgpu.capacity_bytes = simgpu.allocated_bytes + MIB
    with pytest.raises(torch.OutOfMemoryError):
        port.empty(2 * MIB)
    assert port.free_bytes() == (MIB, simgpu.capacity_bytes)
