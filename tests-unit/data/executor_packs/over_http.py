"""A pack for `tests-unit/e2e/test_executor_over_http.py`: every way in which a node can steer a run."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import torch

from comfy.comfy_types import IO, ComfyNodeABC, InputTypeDict
from comfy.utils import ProgressBar
from comfy_api.v0_0_2 import ComfyAPI, ComfyAPISync
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, is_link

_SIDE = 8
_api, _api_sync = ComfyAPI(), ComfyAPISync()


def _grey(value: float) -> torch.Tensor:
    return torch.full((1, _SIDE, _SIDE, 3), float(value))


class Base(ComfyNodeABC):
    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES = (IO.ANY,)
    TAKES: ClassVar[dict[str, Any]] = {"value": (IO.ANY, {})}

    @classmethod
    def INPUT_TYPES(cls) -> InputTypeDict:
        return {"required": dict(cls.TAKES)}


class Grey(Base):
    RETURN_TYPES = (IO.IMAGE,)
    TAKES: ClassVar = {"value": (IO.FLOAT, {"min": 0.0, "max": 1.0})}

    def run(self, value: float) -> Any:
        return (_grey(value),)


class Choose(Base):
    """Needs one of two pictures."""

    RETURN_TYPES = (IO.IMAGE,)
    TAKES: ClassVar = {
        "first": (IO.IMAGE, {"lazy": True}),
        "second": (IO.IMAGE, {"lazy": True}),
        "take_second": (IO.BOOLEAN, {}),
    }

    async def check_lazy_status(self, take_second: bool, **pictures: Any) -> list[str]:
        await asyncio.sleep(0)
        wanted = "second" if take_second else "first"
        return [wanted] if pictures[wanted] is None else []

    def run(self, take_second: bool, first: Any = None, second: Any = None) -> Any:
        return (second if take_second else first,)


class Mean(Base):
    """Takes any number of pictures, one of them declared."""

    RETURN_TYPES = (IO.IMAGE,)
    TAKES: ClassVar = {"first": (IO.IMAGE, {})}

    def run(self, **pictures: torch.Tensor) -> Any:
        return (torch.stack(list(pictures.values())).mean(0),)


class Each(Base):
    """Its elements go on one by one."""

    OUTPUT_IS_LIST = (True,)
    TAKES: ClassVar = {"values": (IO.STRING, {})}

    def run(self, values: str) -> Any:
        return ([float(word) for word in values.split()],)


class BelowHalf(Base):
    """Blocks what is not."""

    def run(self, value: float) -> Any:
        return (value if value < 0.5 else ExecutionBlocker(None),)


class GreyOrGraph(Base):
    """A picture by itself below one half, and by a graph above."""

    def run(self, value: float) -> Any:
        if value < 0.5:
            return (_grey(value),)
        graph = GraphBuilder()
        made = graph.node("Grey", value=value)
        return {"result": (made.out(0),), "expand": graph.finalize()}


class Halve(Base):
    """Halves a number so many times, by expanding to itself."""

    TAKES: ClassVar = {"value": (IO.ANY, {}), "times": (IO.INT, {})}

    def run(self, value: float, times: int) -> Any:
        if not times:
            return (value,)
        graph = GraphBuilder()
        rest = graph.node("Halve", value=value / 2, times=times - 1)
        rest.set_override_display_id("loop")
        return {"result": (rest.out(0),), "expand": graph.finalize()}


class Loop(Base):
    """Expands to nodes that wait for each other."""

    def run(self, value: Any) -> Any:
        graph = GraphBuilder()
        one = graph.node("Mean", first=value)
        two = graph.node("Mean", first=one.out(0))
        one.set_input("other", two.out(0))
        return {"result": (two.out(0),), "expand": graph.finalize()}


class Copies(Base):
    """Runs a node that hangs on a raw link once more."""

    TAKES: ClassVar = {"link": (IO.IMAGE, {"rawLink": True})}
    RETURN_TYPES = (IO.IMAGE,)

    def run(self, link: Any) -> Any:
        assert is_link(link)
        graph = GraphBuilder()
        mean = graph.node("Mean", first=link, other=graph.node("Grey", value=1.0).out(0))
        return {"result": (mean.out(0),), "expand": graph.finalize()}


class Together(Base):
    """Waits, and tells how many waited at the same time."""

    TAKES: ClassVar = {"value": (IO.ANY, {}), "others": (IO.INT, {})}
    waiting: ClassVar[int] = 0
    met: ClassVar[asyncio.Event | None] = None

    async def run(self, value: Any, others: int) -> Any:
        kind = type(self)
        if kind.met is None or kind.met.is_set():
            kind.met = asyncio.Event()
        met, kind.waiting = kind.met, kind.waiting + 1
        if kind.waiting == others:
            kind.waiting = 0
            met.set()
        await asyncio.wait_for(met.wait(), 20)
        return (value,)


class Fails(Base):
    TAKES: ClassVar = {"value": (IO.ANY, {}), "how": (["at once", "waiting", "in time"], {})}

    async def run(self, value: Any, how: str) -> Any:
        if how == "in time":
            await asyncio.wait_for(asyncio.sleep(20), 0.01)
        if how == "waiting":
            await asyncio.sleep(0.01)
        raise RuntimeError(f"The pack fails {how}.")


class Changing(Base):
    """Is another one each time, if it is told so by a constant."""

    TAKES: ClassVar = {"value": (IO.ANY, {}), "changes": (IO.BOOLEAN, {})}
    count: ClassVar[int] = 0

    @classmethod
    async def IS_CHANGED(cls, value: Any, changes: bool) -> Any:
        await asyncio.sleep(0)
        cls.count += 1
        return cls.count if changes else ""

    def run(self, value: Any, changes: bool) -> Any:
        return (value,)


class Picky(Base):
    """Takes numbers of any size, and pictures, but not the number seven."""

    TAKES: ClassVar = {"first": ("IMAGE,FLOAT", {"max": 1.0}), "second": (IO.FLOAT, {"max": 1.0})}

    @classmethod
    async def VALIDATE_INPUTS(cls, input_types: dict[str, str], **values: Any) -> Any:
        await asyncio.sleep(0)
        if not set(input_types.values()) <= {"IMAGE", "FLOAT"}:
            return f"not {input_types}"
        return "seven is refused" if values["second"] == 7.0 else True

    def run(self, first: Any, second: float) -> Any:
        return (second,)


class Tells(Base):
    """Reports two steps."""

    TAKES: ClassVar = {"value": (IO.ANY, {}), "how": (["bar", "async", "sync"], {})}

    async def run(self, value: Any, how: str) -> Any:
        bar = ProgressBar(2)
        for step in (1, 2):
            if how == "bar":
                bar.update(1)
            elif how == "async":
                await _api.execution.set_progress(step, 2)
            else:
                _api_sync.execution.set_progress(step, 2)
            await asyncio.sleep(0)
        return (value,)


class Shown(Base):
    """Shows a number, or the mean of a picture."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    async def run(self, value: Any) -> Any:
        await asyncio.sleep(0)
        mean = value.mean().item() if isinstance(value, torch.Tensor) else value
        return {"ui": {"shown": [mean]}}


NODE_CLASS_MAPPINGS = {
    one.__name__: one
    for one in (
        *(Grey, Choose, Mean, Each, BelowHalf, GreyOrGraph, Halve, Loop, Copies, Together),
        *(Fails, Changing, Picky, Tells, Shown),
    )
}
