"""How much of a model may come to a device: arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy.admission import FULL, Beside, beside, budget, demand_room, largest_weight
from comfy.loading.devices import DeviceFull
from comfy.loading.memory import Pool

FIGURES: dict[str, Any] = {
    "asked": 100,
    "minimum": None,
    "usual": 800,
    "reserve": 50,
    "extra": 400,
    "is_extra_fixed": False,
    "staging": 64,
    "cast": 10,
    "capacity": 8000,
}


@pytest.mark.parametrize(
    ("changes", "inference", "reserve", "staging"),
    [
        ({}, 800, 400, 64),
        ({"asked": 3000}, 3000, 400, 64),
        ({"capacity": 400}, 100, 50, 50),
        ({"capacity": 400, "is_extra_fixed": True}, 100, 400, 50),
        ({"reserve": 900}, 800, 900, 64),
    ],
)
def test_what_must_stay_free(
    changes: dict[str, Any], inference: int, reserve: int, staging: int
) -> None:
    room = beside(**{**FIGURES, **changes})
    assert (room.inference, room.reserve, room.staging) == (inference, reserve, staging)
    assert room.total == inference + reserve + staging + 10


def test_a_model_in_part_leaves_room_for_the_smallest_pass() -> None:
    room = beside(**{**FIGURES, "asked": 3000, "minimum": 1000})
    assert (room.inference, room.inference_least) == (3000, 1000)
    assert room.total - room.least == 2000


@pytest.mark.parametrize(
    ("missing", "free", "granted"),
    [(100, 200, FULL), (101, 200, 101), (150, 200, 140), (100, 50, 0), (0, 0, 0)],
)
def test_budget(missing: int, free: int, granted: int) -> None:
    room = Beside(inference=100, inference_least=60, reserve=0, staging=0, cast=0)
    assert budget(missing, room, free) == granted


def test_refusal_tells_the_numbers() -> None:
    room = Beside(inference=100, inference_least=100, reserve=0, staging=20, cast=10)
    demand_room(Pool("memory", 100, 30), room, 0, "a model")
    with pytest.raises(DeviceFull, match="a model") as caught:
        demand_room(Pool("memory", 100, 29), room, 0, "a model")
    assert (caught.value.need, caught.value.available) == (30, 29)
    assert isinstance(caught.value, torch.OutOfMemoryError)


@pytest.mark.parametrize(("itemsize", "nbytes"), [(0, 24), (4, 48)])
def test_largest_weight(itemsize: int, nbytes: int) -> None:
    module = torch.nn.Linear(4, 3).half()
    assert largest_weight(module, itemsize) == nbytes
    assert largest_weight(object()) == 0
