"""A server in this process for each test, with small nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import server_nodes
from support.running_server import Served, served


@pytest.fixture
def gate() -> Iterator[server_nodes.Gate]:
    """Opened at the end, so that nothing waits for ever."""
    made = server_nodes.Gate()
    yield made
    made.open()


@pytest.fixture
def server(tmp_path: Path, gate: server_nodes.Gate) -> Iterator[Served]:
    """A server that runs prompts."""
    with served(tmp_path, server_nodes.classes(gate)) as client:
        yield client


@pytest.fixture
def idle(tmp_path: Path, gate: server_nodes.Gate) -> Iterator[Served]:
    """A server whose prompts wait for ever."""
    with served(tmp_path, server_nodes.classes(gate), with_worker=False) as client:
        yield client
