"""Fixtures for all tests; what they are made of is in `support`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from support import simulated_device

# A slow machine is no failure, and a failure must come again on the next run.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True)
hypothesis.settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Import tests by their path: several have one name, and others' settings may be in force."""
    config.option.importmode = "importlib"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a real GPU where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if wanting and not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_user() -> Iterator[None]:
    """Keep the environment twins of the loading flags out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COMFY_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _the_log_as_it_was() -> Iterator[None]:
    """Take away handlers and the level that a test of the program's log has set for all."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if one not in handlers]:
        # pytest's own come and go with each phase of a test.
        if not type(handler).__module__.startswith("_pytest."):
            root.removeHandler(handler)


def _lend(index: int) -> Iterator[simulated_device.SimulatedDevice]:
    device = simulated_device.install()[index]
    device.reset()
    yield device
    device.reset()


@pytest.fixture
def simgpu() -> Iterator[simulated_device.SimulatedDevice]:
    """The controls of ``simgpu:0``, all counters at zero, no limits, fast copies."""
    yield from _lend(0)


@pytest.fixture
def second_simgpu() -> Iterator[simulated_device.SimulatedDevice]:
    """The controls of ``simgpu:1``."""
    yield from _lend(1)
