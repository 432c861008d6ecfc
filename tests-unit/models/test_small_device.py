"""A device that cannot hold the model draws the same picture, and nothing is ever refused there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from support.memory_cap import Measured, run_measured
from support.whole_checkpoint import MIB, checkpoint_specs, draw

CAPACITY_BYTES = 1100 * MIB

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("unified", [True, False])
def test_picture_of_a_device_smaller_than_the_model_is_the_same(
    checkpoint: Path, whole: Measured, unified: bool
) -> None:
    assert whole.result["peak"] > sum(spec.nbytes for spec in checkpoint_specs())
    arguments = {"path": str(checkpoint), "unified": unified, "capacity_bytes": CAPACITY_BYTES}
    found = run_measured(draw, arguments=arguments, timeout_s=1200.0).succeeded().result
    assert found["peak"] <= CAPACITY_BYTES
    assert found["refusals"] == 0
    for name in ("latent", "picture"):
        expected = torch.tensor(whole.result[name])
        torch.testing.assert_close(torch.tensor(found[name]), expected, rtol=1e-4, atol=1e-4)
