"""Which bytes of which file a tensor is: so that it can be dropped and read again.

Host tensors carry the answer on their storage, where it survives ``detach`` and ``nn.Parameter``.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import torch

from comfy.loading.file_tensor import FileTensor
from comfy.loading.weight_file import WeightFile
from comfy.loading.weight_slice import WeightSlice

_SOURCE_TAG = "_comfy_loading_source"
_MAPPED_TAG = "_comfy_loading_mapped"
_copies_lock = threading.Lock()


class _Tag:
    """What a storage is a copy of; gone when the storage is.

    Attributes:
        source: The bytes in the file.
        origin: Where they begin in the storage, in elements.
        version: Of the tensor when they were read; None if torch counts none.
    """

    __slots__ = ("__weakref__", "origin", "source", "version")

    def __init__(self, source: WeightSlice, origin: int, version: int | None) -> None:
        self.source = source
        self.origin = origin
        self.version = version


def remember_source(tensor: torch.Tensor, source: WeightSlice, *, is_mapped: bool = False) -> None:
    """Note on a host tensor's storage which bytes of which file it is a copy, or a mapping, of."""
    storage = tensor.untyped_storage()
    tag = _Tag(source, int(tensor.storage_offset()), _version(tensor))
    setattr(storage, _SOURCE_TAG, tag)
    if is_mapped:
        setattr(storage, _MAPPED_TAG, True)
        return
    with _copies_lock:
        source.file.host_copies.add(tag)


def host_bytes(file: WeightFile) -> int:
    """Bytes of a file that host tensors hold which were read from it; mapped pages are not counted."""
    with _copies_lock:
        copies = list(file.host_copies)
    return sum(one.source.nbytes for one in copies if isinstance(one, _Tag))


def is_copy(tensor: torch.Tensor) -> bool:
    """Whether a host tensor is counted by `host_bytes`, or is mapped."""
    return tensor.device.type == "cpu" and hasattr(tensor.untyped_storage(), _SOURCE_TAG)


def remember_copy(tensor: torch.Tensor, source: WeightSlice) -> None:
    """Note the same of a host tensor that ``tensor.copy_(file_tensor)`` is filling.

    Torch counts that write after it is done; every later one makes the note void. In inference
    mode it counts none: then only `possible_source_of` tells.
    """
    storage = tensor.untyped_storage()
    if hasattr(storage, _MAPPED_TAG):
        return
    version = None if torch.is_inference_mode_enabled() else _version(tensor)
    counted = None if version is None else version + 1
    tag = _Tag(source, int(tensor.storage_offset()), counted)
    setattr(storage, _SOURCE_TAG, tag)
    with _copies_lock:
        source.file.host_copies.add(tag)


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
    tag = _tag_of(tensor)
    if tag is None or tag.version is None or tag.version != _version(tensor):
        return None
    return _range_of(tensor, tag)


def possible_source_of(tensor: torch.Tensor) -> WeightSlice | None:
    """Tell which bytes of a file a host tensor was filled with, where torch counted no writes.

    Args:
        tensor: Any.

    Returns:
        The slice; whoever drops the tensor compares its bytes first. None if `source_of` decides.
    """
    tag = None if isinstance(tensor, FileTensor) else _tag_of(tensor)
    return None if tag is None or tag.version is not None else _range_of(tensor, tag)


def _tag_of(tensor: torch.Tensor) -> _Tag | None:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    tag: _Tag | None = getattr(tensor.untyped_storage(), _SOURCE_TAG, None)
    return tag


def _range_of(tensor: torch.Tensor, tag: _Tag) -> WeightSlice | None:
    """The part of a tag's bytes that a tensor is; None if it is none, or of another dtype."""
    source = tag.source
    start = int(tensor.storage_offset() - tag.origin) * tensor.element_size()
    nbytes = tensor.numel() * tensor.element_size()
    if tensor.dtype != source.dtype or start < 0 or start + nbytes > source.nbytes:
        return None
    return replace(source, offset=source.offset + start, nbytes=nbytes, shape=tuple(tensor.shape))
