"""A program among secrets, for tests that send it hostile requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import hostile
from support.live_program import picture, succeeds
from support.running_server import Program


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the base directory in it, and around that what requests must not reach."""
    around = tmp_path_factory.mktemp("hostile")
    hostile.make_folder(around)
    return around


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Program]:
    """The program; a sound prompt runs there when all tests of a file are over."""
    with hostile.served_with_secrets(folder) as program:
        yield program
        succeeds(program, picture(0x123456))


@pytest.fixture
def untouched(running: Program, folder: Path) -> Iterator[None]:
    """No file outside the allowed folders changes, and the program lives."""
    before = hostile.outside(folder)
    yield
    assert hostile.outside(folder) == before
    assert running.process.poll() is None
