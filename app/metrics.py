"""What a monitoring system may want to know, as families of Prometheus' metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from app.memory_pools import memory_pools
from app.weight_homes import weight_homes
from comfy import step_times
from comfy.loading import default_loader
from comfy_extras.memory_recording import measure

_PREFIX = "onecopy"


def make_registry(server: Any) -> CollectorRegistry:
    """Everything that one server tells; asked anew at each scrape, and kept nowhere else.

    Args:
        server: Has ``prompt_queue``.
    """
    registry = CollectorRegistry()
    registry.register(_OfServer(server))
    ProcessCollector(registry=registry)
    return registry


class _OfServer(Collector):
    """The metrics of one server."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def describe(self) -> list[Metric]:
        """None in advance: nothing is asked of hardware before somebody wants to know."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Ask all sources."""
        yield _gauge("uptime_seconds", "Seconds since the process began.", _uptime())
        yield from self._prompts()
        yield from _loads()
        yield from _memory()
        yield _steps()

    def _prompts(self) -> Iterator[Metric]:
        queue = self._server.prompt_queue
        running, pending = queue.get_current_queue_volatile()
        family = GaugeMetricFamily(
            f"{_PREFIX}_queue_prompts", "Prompts by state.", labels=["state"]
        )
        family.add_metric(["running"], len(running))
        family.add_metric(["pending"], len(pending))
        yield family
        ended = CounterMetricFamily(
            f"{_PREFIX}_prompts", "Prompts that ended, by how they did.", labels=["result"]
        )
        for result, count in dict(queue.ended).items():
            ended.add_metric([result], count)
        yield ended


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", text, value)


def _uptime() -> float:
    return max(0.0, time.time() - float(psutil.Process().create_time()))


def _loads() -> Iterator[Metric]:
    loader = default_loader()
    loads = SummaryMetricFamily(
        f"{_PREFIX}_load_seconds", "Files opened, by load strategy.", labels=["strategy"]
    )
    for strategy, total in loader.journal.totals().items():
        loads.add_metric([strategy], total.count, total.seconds)
    yield loads
    yield _counter("load_failures", "Files that could not be opened.", loader.journal.failures)
    yield _counter("read_bytes", "Bytes of weights read from files.", loader.files.bytes_read())
    yield _gauge("staging_bytes", "Held between files and devices.", loader.rings.nbytes)


def _memory() -> Iterator[Metric]:
    texts = {
        "total": "Size of each memory.",
        "free": "What can be allocated now.",
        "reserve": "What planning leaves free.",
        "headroom": "What weights may take.",
    }
    pools = memory_pools()
    for name, text in texts.items():
        family = GaugeMetricFamily(
            f"{_PREFIX}_memory_{name}_bytes",
            f"{text} A pool with unified=true is the host's memory under another name.",
            labels=["pool", "unified"],
        )
        for pool in pools:
            family.add_metric([pool.pool, str(pool.unified).lower()], getattr(pool, name))
        yield family
    now = measure(0.0)
    held = GaugeMetricFamily(
        f"{_PREFIX}_held_bytes", "Memory that this process holds.", labels=["memory"]
    )
    held.add_metric(["host"], now.host)
    held.add_metric(["device"], now.device)
    yield held
    yield _weights()


def _weights() -> Metric:
    homes = weight_homes().values()
    family = GaugeMetricFamily(
        f"{_PREFIX}_weight_bytes", "Weights of files in use, by home.", labels=["home"]
    )
    family.add_metric(["file"], sum(one.file for one in homes))
    family.add_metric(["host"], sum(one.host for one in homes))
    family.add_metric(["device"], sum(one.device for one in homes))
    return family


def _steps() -> Metric:
    family = SummaryMetricFamily(
        f"{_PREFIX}_step_seconds", "Steps of sampling, by sampler.", labels=["sampler"]
    )
    for sampler, total in step_times.STEP_TIMES.totals().items():
        family.add_metric([sampler], total.count, total.seconds)
    return family
