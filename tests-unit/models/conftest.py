"""The full-size checkpoint of these tests: written once, deleted when they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.cold import evict
from support.layouts import write_weights
from support.memory_cap import Measured, run_measured
from support.narrow import write_checkpoint
from support.whole_checkpoint import checkpoint_specs, draw_small, draw_unload_and_load_again

Measure = Callable[..., Measured]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SD 1.5 in half precision, 2.1 GB of made-up weights."""
    path = tmp_path_factory.mktemp("whole") / "sd15.safetensors"
    yield write_weights(path, checkpoint_specs())
    path.unlink()


@pytest.fixture(scope="session")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Run a function on a cold file, in a process that has already drawn a small picture."""
    small = write_checkpoint(tmp_path_factory.mktemp("small") / "narrow.safetensors")

    def measured(act: Callable[..., object], path: Path, **arguments: object) -> Measured:
        evict(path)
        return run_measured(
            act,
            arguments={"path": str(path), **arguments},
            before=draw_small,
            before_arguments={"path": str(small)},
            timeout_s=1200.0,
        ).succeeded()

    return measured


@pytest.fixture(scope="session")
def whole(checkpoint: Path, measure: Measure) -> Measured:
    """A picture from a device without limit, the models unloaded, and loaded again."""
    return measure(draw_unload_and_load_again, checkpoint)
