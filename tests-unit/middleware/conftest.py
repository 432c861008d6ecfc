"""A server in this process whose prompts wait for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.running_server import Served, served


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Served]:
    """A server with no flags set."""
    with served(tmp_path, with_worker=False) as client:
        yield client
