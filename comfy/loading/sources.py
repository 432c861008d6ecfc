"""Which bytes of which file a tensor is: so that it can be dropped and read again.

Host tensors carry the answer on their storage, where it survives ``detach`` and ``nn.Parameter``.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from comfy.loading.file_tensor import FileTensor
from comfy.loading.weight_file import WeightSlice

_SOURCE_TAG = "_comfy_loading_source"
_MAPPED_TAG = "_comfy_loading_mapped"


def remember_source(tensor: torch.Tensor, source: WeightSlice, *, is_mapped: bool = False) -> None:
    """Note on a host tensor's storage which bytes of which file it is a copy, or a mapping, of."""
    storage = tensor.untyped_storage()
    setattr(storage, _SOURCE_TAG, (source, tensor.storage_offset(), _version(tensor)))
    if is_mapped:
        setattr(storage, _MAPPED_TAG, True)


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether a host tensor's pages are those of its file."""
    if isinstance(tensor, FileTensor) or tensor.device.type != "cpu":
        return False
    return hasattr(tensor.untyped_storage(), _MAPPED_TAG)


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def source_of(tensor: torch.Tensor) -> WeightSlice | None:
    """Tell which bytes of a file a tensor is, if dropping and reading it again would lose nothing.

    Args:
        tensor: A FileTensor, a host tensor that a strategy read, or anything else.

    Returns:
        The slice; None for tensors without a file behind them, for views that are not a
        contiguous part, and for tensors that were written to since they were read.

    Note:
        A write through ``.data`` or through a numpy array leaves no trace in torch, and is not
        seen here.
    """
    if isinstance(tensor, FileTensor):
        return tensor.file_slice
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    tag = getattr(tensor.untyped_storage(), _SOURCE_TAG, None)
    if tag is None:
        return None
    source: WeightSlice
    source, origin, version = tag
    if version is None or _version(tensor) != version or tensor.dtype != source.dtype:
        return None
    start = (tensor.storage_offset() - origin) * tensor.element_size()
    nbytes = tensor.numel() * tensor.element_size()
    if start < 0 or start + nbytes > source.nbytes:
        return None
    return replace(source, offset=source.offset + start, nbytes=nbytes, shape=tuple(tensor.shape))
