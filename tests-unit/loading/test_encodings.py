"""The dtypes of the format."""

from __future__ import annotations

import pytest
import safetensors
import torch

from comfy.loading import encodings
from comfy.loading.encodings import ENCODINGS, Encoding
from support.header_parts import entry, packed


def test_they_are_the_22_of_safetensors() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(packed({"a": entry("F7")}, b"\0\0"))
    told = str(caught.value).partition("expected one of ")[2].partition(" at line")[0]
    assert told == ", ".join(f"`{name}`" for name in ENCODINGS)
    assert len(ENCODINGS) == 22


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=lambda encoding: encoding.name)
def test_bits_are_those_of_torch(encoding: Encoding) -> None:
    assert encoding.is_raw or encoding.bits * encoding.packing == encoding.torch_dtype.itemsize * 8


def test_dtype_that_this_torch_lacks_is_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "float4_e2m1fn_x2")
    lacking = encodings._encoding("F4", 4, "float4_e2m1fn_x2", 2)
    assert lacking.torch_form((2, 4), 4) == (torch.uint8, (4,))


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        ENCODINGS["F7"] = ENCODINGS["F4"]  # type: ignore[index]
