"""Every built-in strategy keeps the contract; so does one that a third party registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from comfy.loading.plan import LoadPlan
from comfy.loading.registry import OpenContext
from comfy.loading.strategies.file_slice import FileSlice
from comfy.loading.strategies.mmap import Mmap
from comfy.loading.strategies.readinto import ReadInto
from comfy.loading.testing import StrategyContract
from comfy.loading.weight_slice import WeightSlice


class TestMmap(StrategyContract):
    factory = Mmap


class TestReadInto(StrategyContract):
    factory = ReadInto


class TestFileSlice(StrategyContract):
    factory = FileSlice


class _LargeInFileSmallOnHost(ReadInto):
    """What a plug-in might do: small weights on the host, large ones in the file."""

    name: ClassVar[str] = "mixed"

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        small = {key: one for key, one in slices.items() if one.nbytes < 4096}
        large = {key: one for key, one in slices.items() if one.nbytes >= 4096}
        state = super().open(small, plan, context) | FileSlice().open(large, plan, context)
        return {key: state[key] for key in slices}


class TestPlugIn(StrategyContract):
    factory = _LargeInFileSmallOnHost
