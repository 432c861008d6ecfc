"""Weight adapters: small tensors of a LoRA file that stand for a change of a whole weight."""

from __future__ import annotations

from comfy.weight_adapter.base import WeightAdapterBase
from comfy.weight_adapter.boft import BOFTAdapter
from comfy.weight_adapter.dora import weight_decompose
from comfy.weight_adapter.glora import GLoRAAdapter
from comfy.weight_adapter.loha import LoHaAdapter
from comfy.weight_adapter.lokr import LoKrAdapter
from comfy.weight_adapter.lora import LoRAAdapter
from comfy.weight_adapter.oft import OFTAdapter

adapters: list[type[WeightAdapterBase]] = [
    LoRAAdapter,
    LoHaAdapter,
    LoKrAdapter,
    GLoRAAdapter,
    OFTAdapter,
    BOFTAdapter,
]
"""Asked in this order which of them a module's tensors are; custom nodes may append theirs."""

__all__ = [
    "BOFTAdapter",
    "GLoRAAdapter",
    "LoHaAdapter",
    "LoKrAdapter",
    "LoRAAdapter",
    "OFTAdapter",
    "WeightAdapterBase",
    "adapters",
    "weight_decompose",
]
