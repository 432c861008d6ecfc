"""The simulated device behaves as a real one towards torch, and counts what it does."""

from __future__ import annotations

import copy
import gc
import io
import mmap
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from support import census
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024

pytestmark = pytest.mark.usefixtures("simgpu")


@pytest.fixture
def host() -> torch.Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x: x @ x, id="matmul"),
        pytest.param(lambda x: x + 1, id="number"),
        pytest.param(lambda x: x.mul(2).relu(), id="chain"),
        pytest.param(lambda x: x[1:, ::2], id="slice"),
        pytest.param(lambda x: x[torch.tensor([2, 0])], id="host-index"),
        pytest.param(lambda x: x[x > 0], id="mask"),
        pytest.param(lambda x: x.t().contiguous(), id="transpose"),
        pytest.param(lambda x: x.reshape(2, 8).permute(1, 0), id="reshape"),
        pytest.param(lambda x: x[None].expand(3, 4, 4), id="expand"),
        pytest.param(lambda x: torch.cat([x, x]).chunk(2)[1], id="cat-chunk"),
        pytest.param(lambda x: torch.where(x > 0, x, torch.zeros_like(x)), id="where"),
        pytest.param(lambda x: x.softmax(-1).cumsum(0), id="softmax"),
        pytest.param(lambda x: x.topk(2).values, id="topk"),
        pytest.param(lambda x: torch.einsum("ij,jk->ik", x, x), id="einsum"),
        pytest.param(lambda x: (x > 0) & True, id="wrapped-number"),
        pytest.param(lambda x: x.to(torch.float8_e4m3fn).to(torch.bfloat16), id="fp8"),
        pytest.param(lambda x: x.view(torch.uint8), id="view-dtype"),
        pytest.param(lambda x: torch.fft.fftn(x), id="fft"),
        pytest.param(lambda x: torch.linalg.inv(x), id="inverse"),
        pytest.param(lambda x: functional.pad(x, (1, 2)), id="pad"),
        pytest.param(lambda x: torch.add(x, x, out=torch.empty(0, device=x.device)), id="out"),
        pytest.param(lambda x: torch.mm(x, x, out=torch.empty(0, device=x.device)), id="out-host"),
        pytest.param(lambda x: x.unfold(0, 2, 1), id="unfold"),
        pytest.param(lambda x: torch._foreach_mul([x, x], 2.0)[1], id="foreach"),
        pytest.param(lambda x: torch.arange(6, device=x.device).view(2, 3), id="arange"),
        pytest.param(lambda x: torch.full((2,), 7, device=x.device), id="full"),
        pytest.param(lambda x: torch.tensor([1, 2], device=x.device), id="tensor"),
        pytest.param(lambda x: x.new_zeros(3), id="new-zeros"),
        pytest.param(lambda x: torch.eye(3, device=x.device).tril(), id="eye"),
    ],
)
def test_operators_give_what_the_cpu_gives(
    host: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    there = compute(host.to("simgpu"))
    assert there.device == torch.device("simgpu", 0)
    torch.testing.assert_close(there.cpu(), compute(host), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(3, 4, 3), (1, 3, 8)),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), (1, 3, 8, 8)),
        (nn.Conv3d(3, 4, 3), (1, 3, 4, 8, 8)),
        (nn.ConvTranspose2d(3, 4, 2), (1, 3, 8, 8)),
        (nn.Linear(4, 4), (3, 4)),
        (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
        (nn.LayerNorm(4), (2, 4)),
        (nn.RMSNorm(4), (2, 4)),
        (nn.BatchNorm2d(3).eval(), (1, 3, 4, 4)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), (1, 3, 4, 4)),
        (nn.AvgPool2d(2), (1, 3, 4, 4)),
        (nn.PixelShuffle(2), (1, 4, 2, 2)),
        (nn.GELU("tanh"), (5,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@torch.no_grad()
def test_modules_give_what_the_cpu_gives(module: nn.Module, shape: tuple[int, ...]) -> None:
    given = torch.randn(shape)
    expected = module(given)
    there = copy.deepcopy(module).to("simgpu")(given.to("simgpu"))
    assert there.device.type == "simgpu"
    torch.testing.assert_close(there.cpu(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_gives_what_the_cpu_gives(is_masked: bool) -> None:
    query = torch.randn(1, 2, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).tril() if is_masked else None
    there = functional.scaled_dot_product_attention(
        *[query.to("simgpu")] * 3, attn_mask=mask.to("simgpu") if is_masked else None
    )
    expected = functional.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    torch.testing.assert_close(there.cpu(), expected, rtol=1e-4, atol=1e-5)


def test_embedding_takes_indices_on_the_device() -> None:
    layer = nn.Embedding(5, 3).to("simgpu")
    assert layer(torch.tensor([4], device="simgpu")).equal(layer.weight[4:])


def test_a_write_through_a_view_reaches_the_base(host: torch.Tensor) -> None:
    base = host.to("simgpu")
    base[1:].mul_(0)
    base[0, 0] = 9.0
    assert base[0, 0].item() == 9.0
    assert not base[1:].any().item()
    assert base[1:].data_ptr() - base.data_ptr() == base.stride(0) * 4


def test_a_device_tensor_is_an_ordinary_tensor(host: torch.Tensor) -> None:
    there = host.to("simgpu:1")
    assert type(there) is torch.Tensor
    assert there.device == torch.device("simgpu:1")
    assert there.untyped_storage().nbytes() == 64
    assert there.untyped_storage().data_ptr() == there.data_ptr() != 0
    assert "device='simgpu:1'" in repr(there)


def test_copies_of_objects_are_independent(host: torch.Tensor) -> None:
    there = host.to("simgpu")
    twin = copy.deepcopy(there)
    twin.zero_()
    assert there.cpu().equal(host)


def test_a_tensor_survives_torch_save(host: torch.Tensor) -> None:
    buffer = io.BytesIO()
    torch.save(host.to("simgpu:1"), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer)
    assert loaded.device == torch.device("simgpu:1")
    assert loaded.cpu().equal(host)


def test_a_module_on_meta_takes_device_tensors_as_they_are(host: torch.Tensor) -> None:
    weight = host.to("simgpu")
    with torch.device("meta"):
        layer = nn.Linear(4, 4, bias=False)
    layer.load_state_dict({"weight": weight}, assign=True)
    assert layer.weight.data_ptr() == weight.data_ptr()


def test_parameters_can_be_swapped(host: torch.Tensor) -> None:
    parameter, other = nn.Parameter(host.clone()), nn.Parameter(host.to("simgpu"))
    torch.utils.swap_tensors(parameter, other)
    assert (parameter.device.type, other.device.type) == ("simgpu", "cpu")


def test_gradients_flow(host: torch.Tensor) -> None:
    weight = host.to("simgpu").requires_grad_()
    (weight * weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.cpu(), 2 * host)


@pytest.mark.parametrize("other", ["cpu", "simgpu:1"])
@pytest.mark.parametrize("mix", [torch.add, torch.mm, lambda x, y: torch.cat([x, y])])
def test_tensors_of_two_devices_do_not_mix(
    host: torch.Tensor, other: str, mix: Callable[..., object]
) -> None:
    with pytest.raises(RuntimeError, match="at least two devices"):
        mix(host.to("simgpu"), host.to(other))


def test_numpy_is_refused(host: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="simgpu"):
        host.to("simgpu").numpy()


def test_device_memory_is_memory_of_this_process() -> None:
    before = census.memory().rss_anon
    weight = torch.ones(32 * MIB, dtype=torch.uint8, device="simgpu")
    during = census.memory().rss_anon
    del weight
    after = census.memory().rss_anon
    assert 31 * MIB < during - before < 36 * MIB
    assert abs(after - before) < 4 * MIB


def test_untouched_memory_is_not_resident() -> None:
    before = census.memory().rss_anon
    weight = torch.empty(64 * MIB, dtype=torch.uint8, device="simgpu")
    assert census.memory().rss_anon - before < 4 * MIB
    assert weight.data_ptr() % mmap.PAGESIZE == 0


@pytest.mark.parametrize("count", [100, 100_000], ids=["small", "mapped"])
def test_allocated_bytes_follow_the_last_view(simgpu: SimulatedDevice, count: int) -> None:
    start = simgpu.allocated_bytes
    whole = torch.empty(count, dtype=torch.uint8, device="simgpu")
    view = whole[10:20]
    assert simgpu.allocated_bytes - start == count
    del whole
    assert simgpu.allocated_bytes - start == count
    del view
    assert simgpu.allocated_bytes == start


def test_allocated_bytes_fall_although_an_error_is_under_way(simgpu: SimulatedDevice) -> None:
    start = simgpu.allocated_bytes
    with pytest.raises(RuntimeError, match="at least two devices"):
        torch.zeros(4, 4, device="simgpu") + torch.zeros(4, 4)
    gc.collect()
    assert simgpu.allocated_bytes == start


def test_the_peak_counts_two_copies(simgpu: SimulatedDevice) -> None:
    start = simgpu.allocated_bytes
    weight = torch.ones(1 * MIB, dtype=torch.uint8, device="simgpu")
    weight = weight.clone()
    assert simgpu.allocated_bytes - start == MIB
    assert simgpu.peak_bytes - start == 2 * MIB
    simgpu.reset_peak()
    assert simgpu.peak_bytes == simgpu.allocated_bytes


def test_each_index_counts_its_own(simgpu: SimulatedDevice, second_simgpu: SimulatedDevice) -> None:
    first, second = simgpu.allocated_bytes, second_simgpu.allocated_bytes
    weight = torch.empty(1000, dtype=torch.uint8, device="simgpu:1")
    assert simgpu.allocated_bytes == first
    assert second_simgpu.allocated_bytes - second == weight.nbytes


def test_copies_by_torch_are_counted(simgpu: SimulatedDevice, host: torch.Tensor) -> None:
    there = host.to("simgpu")
    there.cpu()
    there.clone()
    counters = simgpu.counters
    assert (counters.h2d_copies, counters.h2d_bytes) == (1, 64)
    assert (counters.d2h_copies, counters.d2h_bytes) == (1, 64)


def test_a_full_device_says_so(simgpu: SimulatedDevice) -> None:
    simgpu.capacity_bytes = simgpu.allocated_bytes + 2 * MIB
    first = torch.empty(1 * MIB, dtype=torch.uint8, device="simgpu")
    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 3\.00 MiB"):
        torch.empty(3 * MIB, dtype=torch.uint8, device="simgpu")
    assert simgpu.free_bytes()[0] == MIB
    assert torch.get_device_module("simgpu").mem_get_info() == simgpu.free_bytes()
    del first
    torch.empty(2 * MIB, dtype=torch.uint8, device="simgpu")


def test_the_nth_allocation_can_be_made_to_fail(simgpu: SimulatedDevice) -> None:
    simgpu.fail_allocation(2)
    torch.empty(10, device="simgpu")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(10, device="simgpu")
    torch.empty(10, device="simgpu")


def test_the_device_tells_its_facts(simgpu: SimulatedDevice) -> None:
    simgpu.capacity_bytes = 64 * MIB
    assert simgpu.profile().unified
    assert simgpu.profile().total_bytes == 64 * MIB
    simgpu.is_unified = False
    assert not simgpu.profile().unified


def test_reset_forgets_limits_and_counters(simgpu: SimulatedDevice, host: torch.Tensor) -> None:
    simgpu.capacity_bytes = 0
    simgpu.fail_allocation(1)
    simgpu.fail_upload(1)
    simgpu.can_register = False
    simgpu.reset()
    assert host.to("simgpu").cpu().equal(host)
    assert simgpu.can_register
    assert simgpu.counters.uploads == 0
