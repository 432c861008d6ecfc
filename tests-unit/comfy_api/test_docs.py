"""The example in docs/nodes.md is a node that works."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs" / "nodes.md"


@pytest.fixture
def brighten() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "docs_nodes"}
    exec(compile(code, str(DOCS), "exec", dont_inherit=True), names)
    extension = asyncio.run(names["comfy_entrypoint"]())
    (node,) = asyncio.run(extension.get_node_list())
    return node


def test_the_example_is_listed(brighten: Any) -> None:
    info = brighten.GET_NODE_INFO_V1()
    assert info["input_order"] == {"required": ["image", "factor"], "optional": ["mask"]}


def test_the_example_brightens_what_the_mask_shows(brighten: Any) -> None:
    image = torch.full((1, 1, 2, 3), 0.25)
    mask = torch.tensor([[[0.0, 1.0]]])
    (output,) = brighten.EXECUTE_NORMALIZED(image=image, factor=2.0, mask=mask).args
    assert output[0, 0, :, 0].tolist() == [0.25, 0.5]
