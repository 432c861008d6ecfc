"""Moving a state dict home: each weight to its device, its source dropped before the next.

At no moment do host and device both hold more than one batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence

import torch

from comfy.loading.destinations import Want, cast_dtype
from comfy.loading.devices import Copy, DevicePort, device_errors
from comfy.loading.file_tensor import FileTensor
from comfy.loading.pages import typed
from comfy.loading.reader import CancelToken
from comfy.loading.sources import is_mapped, source_of
from comfy.loading.transfer import Transfer

# Small host tensors go together: a copy and a wait for each would cost more than their bytes.
BATCH_BYTES = 16 * 1024 * 1024

TargetDtype = Callable[[torch.Tensor], torch.dtype]


def target_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype that a weight gets if `dtype` is wanted of floating ones."""
    return cast_dtype(tensor.dtype, dtype)


def must_move(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether a tensor is not yet a private one on `device` in the wanted dtype."""
    if isinstance(tensor, FileTensor) or is_mapped(tensor):
        return True
    return tensor.device != device or target_dtype(tensor, dtype) != tensor.dtype


def file_wants(
    state_dict: MutableMapping[str, torch.Tensor], keys: Sequence[str], dtype_of: TargetDtype
) -> list[Want]:
    """The weights whose bytes come from their file: FileTensors, and mappings.

    A mapped page never goes to a device copy: engines that read it run at a hundredth of their
    speed on unified memory, and on others leave private copies of the pages behind.
    """
    wants = []
    for key in keys:
        tensor = state_dict[key]
        if not isinstance(tensor, FileTensor) and not is_mapped(tensor):
            continue
        source = source_of(tensor)
        if source is not None:
            wants.append(Want(key, source, dtype_of(tensor)))
    return wants


def place_from_files(
    state_dict: MutableMapping[str, torch.Tensor], wants: Sequence[Want], transfer: Transfer
) -> None:
    """Move weights from their files, replacing each entry as it arrives.

    Args:
        state_dict: Changed in place; two keys of one tensor share the moved one.
        wants: Of `file_wants`.
        transfer: To the destination.

    Note:
        On an error the weights that had arrived are in the dict, the others still in the file.
    """
    first: dict[tuple[object, ...], str] = {}
    twins: dict[str, list[str]] = {}
    unique = []
    for want in wants:
        same = (id(want.source.file), want.source.offset, want.source.nbytes, want.source.dtype)
        original = first.setdefault((*same, want.source.shape, want.dtype), want.key)
        if original == want.key:
            unique.append(want)
        else:
            twins.setdefault(original, []).append(want.key)
    for want, tensor in transfer.stream(unique):
        for key in (want.key, *twins.get(want.key, ())):
            state_dict[key] = tensor


def place_from_host(
    state_dict: MutableMapping[str, torch.Tensor],
    keys: Sequence[str],
    port: DevicePort,
    dtype_of: TargetDtype,
    cancel: CancelToken | None = None,
) -> int:
    """Move host tensors to a device, dropping each batch before the next.

    Args:
        state_dict: Changed in place; keys that share one tensor share the moved one.
        keys: Of host tensors in it.
        port: The device's.
        dtype_of: Tells each tensor's dtype on the device.
        cancel: Looked at before each batch.

    Returns:
        Bytes uploaded.

    Raises:
        NotEnoughMemory: If the device gives no memory; what was moved stays moved.
        DeviceCopyFailed: If the device fails in another way; likewise.
    """
    uploaded = 0
    shared = sharing(state_dict, keys)
    for batch in _batches(state_dict, list(shared)):
        if cancel is not None:
            cancel.check(path_of(state_dict[batch[0]]))
        uploaded += _place_batch(state_dict, batch, port, dtype_of)
        for key in batch:
            state_dict.update(dict.fromkeys(shared[key], state_dict[key]))
    return uploaded


def on_host(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """Make a private host tensor of one that `must_move` there."""
    source = tensor.detach()
    moved = source.to("cpu", target_dtype(tensor, dtype))
    # A FileTensor or a mapping is on the CPU already, and still not private.
    return moved.clone() if moved is source else moved


def path_of(tensor: torch.Tensor) -> str | None:
    """The file that a weight came from, if that is known."""
    source = source_of(tensor)
    return None if source is None else source.file.path


def sharing(
    state_dict: MutableMapping[str, torch.Tensor], keys: Sequence[str]
) -> dict[str, list[str]]:
    """Group keys whose tensors are the same memory, as tied weights are.

    Returns:
        The first key of each group, with the others.
    """
    first: dict[tuple[object, ...], str] = {}
    groups: dict[str, list[str]] = {}
    for key in keys:
        original = first.setdefault(_memory_of(state_dict[key]), key)
        if original == key:
            groups[key] = []
        else:
            groups[original].append(key)
    return groups


def _memory_of(tensor: torch.Tensor) -> tuple[object, ...]:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or not tensor.numel():
        return (id(tensor),)
    layout = tensor.dtype, tensor.size(), tensor.stride(), tensor.storage_offset()
    return (tensor.untyped_storage().data_ptr(), *layout)


def _batches(
    state_dict: MutableMapping[str, torch.Tensor], keys: Sequence[str]
) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for key in keys:
        batch.append(key)
        size += state_dict[key].nbytes
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _place_batch(
    state_dict: MutableMapping[str, torch.Tensor],
    keys: Sequence[str],
    port: DevicePort,
    dtype_of: TargetDtype,
) -> int:
    copies: list[Copy] = []
    placed: dict[str, torch.Tensor] = {}
    path, size = path_of(state_dict[keys[0]]), sum(state_dict[key].nbytes for key in keys)
    try:
        with torch.inference_mode(False), torch.no_grad():
            for key in keys:
                tensor = state_dict[key].detach()
                placed[key] = _begin(key, tensor, dtype_of(tensor), port, copies)
            with device_errors(port, size, path=path, tensor=keys[0]):
                port.wait(port.upload(copies))
        # Only now: a failed copy must leave the host tensors where they were.
        state_dict.update(placed)
        return sum(tensor.nbytes for tensor in placed.values())
    except BaseException:
        # Copies under way need both of their sides.
        with contextlib.suppress(RuntimeError):
            port.wait(None)
        raise
    finally:
        # An error that somebody keeps must not keep device memory.
        copies.clear()
        placed.clear()


def _begin(
    key: str, tensor: torch.Tensor, dtype: torch.dtype, port: DevicePort, copies: list[Copy]
) -> torch.Tensor:
    """Make a tensor's destination, and note the copy that fills it."""
    nbytes = tensor.numel() * dtype.itemsize
    with device_errors(port, nbytes, path=path_of(tensor), tensor=key):
        raw = port.empty(nbytes)
    if tensor.numel():
        copies.append(_flat_pair(tensor, raw, dtype))
    return typed(raw, dtype, tuple(tensor.shape))


def _flat_pair(tensor: torch.Tensor, raw: torch.Tensor, dtype: torch.dtype) -> Copy:
    flat = tensor.contiguous().view(-1)
    if tensor.dtype == dtype:
        return flat.view(torch.uint8), raw
    return flat, raw.view(dtype)
