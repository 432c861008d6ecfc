"""Moving a state dict home: each weight to its device, its source dropped before the next.

At no moment do host and device both hold more than one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence

import torch

from comfy.loading.destinations import Want, cast_dtype
from comfy.loading.devices import Copy, DevicePort
from comfy.loading.errors import NotEnoughMemory
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
        state_dict: Changed in place.
        keys: Of host tensors in it.
        port: The device's.
        dtype_of: Tells each tensor's dtype on the device.
        cancel: Looked at before each batch.

    Returns:
        Bytes uploaded.

    Raises:
        NotEnoughMemory: If the device gives no memory; what was moved stays moved.
    """
    uploaded = 0
    for batch in _batches(state_dict, keys):
        if cancel is not None:
            cancel.check()
        uploaded += _place_batch(state_dict, batch, port, dtype_of)
    return uploaded


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
    with torch.inference_mode(False), torch.no_grad():
        for key in keys:
            tensor = state_dict[key].detach()
            dtype = dtype_of(tensor)
            raw = _device_memory(port, tensor.numel() * dtype.itemsize)
            placed[key] = typed(raw, dtype, tuple(tensor.shape))
            if tensor.numel():
                copies.append(_flat_pair(tensor, raw, dtype))
        port.wait(port.upload(copies))
    # Only now: a failed copy must leave the host tensors where they were.
    state_dict.update(placed)
    return sum(tensor.nbytes for tensor in placed.values())


def _flat_pair(tensor: torch.Tensor, raw: torch.Tensor, dtype: torch.dtype) -> Copy:
    flat = tensor.contiguous().view(-1)
    if tensor.dtype == dtype:
        return flat.view(torch.uint8), raw
    return flat, raw.view(dtype)


def _device_memory(port: DevicePort, nbytes: int) -> torch.Tensor:
    try:
        return port.empty(nbytes)
    except (torch.OutOfMemoryError, MemoryError) as err:
        free, _ = port.free_bytes()
        raise NotEnoughMemory(nbytes, free, f"memory of {port.device}") from err
