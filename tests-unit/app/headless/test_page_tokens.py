"""Tokens in file names that the page replaces."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from app.headless.page_tokens import replace_in_prefixes

NOW = datetime(2026, 3, 4, 15, 6, 7)
PROMPT: dict[str, Any] = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0]}, "_meta": {}},
    "2": {"class_type": "KSampler", "inputs": {"seed": 6}, "_meta": {"title": "My v1.5"}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "a/b: c?"}, "_meta": {"title": "T"}},
}


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("plain", "plain"),
        ("%date:yyyy-MM-dd%/x", "2026-03-04/x"),
        ("%date:yy-M-d hh-mm-ss%", "26-3-4 15-06-07"),
        ("%date:h_m_s%", "15_6_7"),
        ("s%KSampler.seed%", "s5"),
        ("s%My v1.5.seed%", "s6"),
        ("%T.text%", "a_b_ c_"),
        ("%KSampler.model%", "%KSampler.model%"),
        ("%Gone.seed%", "%Gone.seed%"),
        ("%None.seed%", "%None.seed%"),
        ("%.seed%", "%.seed%"),
        ("%year%-%width%-%batch_num%", "%year%-%width%-%batch_num%"),
    ],
)
def test_tokens_are_replaced_as_the_page_does_and_others_stay(prefix: str, name: str) -> None:
    save = {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix}, "_meta": {}}
    replace_in_prefixes({**PROMPT, "9": save}, NOW)
    assert save["inputs"] == {"filename_prefix": name}
    assert PROMPT["1"]["inputs"]["seed"] == 5
