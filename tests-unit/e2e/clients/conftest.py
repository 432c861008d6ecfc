"""The program, serving for clients that others wrote."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.base_folder import furnish
from support.running_server import Program, program


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The program as it comes, with the checkpoint that ships with it."""
    with program(furnish(tmp_path_factory.mktemp("base"))) as started:
        yield started
