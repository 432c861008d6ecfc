"""Fixtures for the tests of `comfy.loading`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.one_weight import Opened


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "one.safetensors")
    yield opened
    assert opened.path.read_bytes() == opened.before, "a write reached the file"
