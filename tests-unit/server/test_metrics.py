"""GET /metrics: Prometheus' text format, read by Prometheus' own parser."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from comfy import step_times
from comfy.loading import LoadError, LoadRequest, default_loader
from comfy.step_times import StepTimes
from comfy_execution.queue import ExecutionStatus
from support.raw_files import write_safetensors
from support.running_server import Served

MIB = 1 << 20
Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]

_LINE = re.compile(
    r"^(# HELP [a-z_]+ .+|# TYPE [a-z_]+ (counter|gauge|summary|histogram|untyped)"
    r'|[a-z_]+(\{[a-z_]+="([^"\\\n]|\\[\\n"])*"(,[a-z_]+="([^"\\\n]|\\[\\n"])*")*\})? [-+.eE0-9]+)$'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"w": torch.zeros(256, 1024)})
    return path


def scraped(idle: Served) -> Values:
    answer = idle.get("/metrics")
    assert answer.status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def value(idle: Served, name: str, **labels: str) -> float:
    return scraped(idle)[name, tuple(sorted(labels.items()))]


def load(path: Path, strategy: str = "readinto") -> Any:
    options = default_loader().options
    chosen = type(options)(strategy=strategy)
    return default_loader().open(LoadRequest(path=str(path), device=None), options=chosen)


def end(idle: Served, status: ExecutionStatus) -> None:
    queue = idle.server.prompt_queue
    queue.put((0, "a", {}, {}, [], {}))
    taken = queue.get()
    assert taken is not None
    queue.task_done(taken[1], {}, status)


def test_the_format_is_0_0_4(idle: Served) -> None:
    answer = idle.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not _LINE.match(line)] == []


def test_every_family_has_help_and_a_type_before_its_values(idle: Served) -> None:
    lines = idle.get("/metrics").body.decode().splitlines()
    types = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    helps = [line.split()[2] for line in lines if line.startswith("# HELP")]
    assert helps == list(types)
    for line in lines:
        if not line.startswith("#"):
            name = re.split(r"[ {]", line)[0]
            family = re.sub(r"_(sum|count)$", "", name)
            assert name in types or types.get(family) == "summary", line
    assert all(name.endswith("_total") for name, kind in types.items() if kind == "counter")


def test_odd_names_are_escaped(idle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    times = StepTimes()
    name = 'a "quoted"\nname with \\ and é'
    times.timed(name, None)()
    monkeypatch.setattr(step_times, "STEP_TIMES", times)
    text = idle.get("/metrics").body.decode()
    assert r'{sampler="a \"quoted\"\nname with \\ and é"} 1.0' in text
    assert value(idle, "onecopy_step_seconds_count", sampler=name) == 1


def test_prompts_are_counted_by_state(idle: Served) -> None:
    queue = idle.server.prompt_queue
    for prompt_id in "abc":
        queue.put((0, prompt_id, {}, {}, [], {}))
    queue.get()
    assert value(idle, "onecopy_queue_prompts", state="running") == 1
    assert value(idle, "onecopy_queue_prompts", state="pending") == 2


def test_endings_only_grow(idle: Served) -> None:
    end(idle, ExecutionStatus("success", True, []))
    end(idle, ExecutionStatus("error", False, [("execution_error", {})]))
    end(idle, ExecutionStatus("error", False, [("execution_interrupted", {})]))
    idle.server.prompt_queue.wipe_history()
    end(idle, ExecutionStatus("success", True, []))
    found = {
        result: value(idle, "onecopy_prompts_total", result=result)
        for result in ("success", "error", "interrupted")
    }
    assert found == {"success": 2, "error": 1, "interrupted": 1}


def test_bytes_and_loads_are_counted(idle: Served, path: Path) -> None:
    load(path)
    before = scraped(idle)
    load(path)
    after = scraped(idle)
    read, strategy = ("onecopy_read_bytes_total", ()), (("strategy", "readinto"),)
    assert after[read] - before[read] == MIB
    count, seconds = (
        ("onecopy_load_seconds_count", strategy),
        ("onecopy_load_seconds_sum", strategy),
    )
    assert after[count] - before[count] == 1
    assert after[seconds] > before[seconds]


def test_failed_loads_are_counted(idle: Served, path: Path) -> None:
    before = value(idle, "onecopy_load_failures_total")
    path.write_bytes(b"no weights at all")
    with pytest.raises(LoadError):
        load(path)
    assert value(idle, "onecopy_load_failures_total") == before + 1


def test_weights_in_use_are_told_by_home(idle: Served, path: Path) -> None:
    before = value(idle, "onecopy_weight_bytes", home="host")
    loaded = load(path)
    assert loaded.state_dict
    assert value(idle, "onecopy_weight_bytes", home="host") == before + MIB


def test_steps_are_told_by_sampler(idle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 5.0])
    times = StepTimes(lambda: next(clock))
    callback = times.timed("euler", None)
    callback()
    callback()
    monkeypatch.setattr(step_times, "STEP_TIMES", times)
    assert value(idle, "onecopy_step_seconds_count", sampler="euler") == 2
    assert value(idle, "onecopy_step_seconds_sum", sampler="euler") == 5.0


def test_memory_is_told_by_pool(idle: Served) -> None:
    found = scraped(idle)
    host = (("pool", "host"), ("unified", "false"))
    total = found["onecopy_memory_total_bytes", host]
    assert 0 < found["onecopy_memory_free_bytes", host] <= total
    assert total <= psutil.virtual_memory().total
    held = found["onecopy_held_bytes", (("memory", "host"),)]
    assert 0.3 < held / psutil.Process().memory_info().rss < 3


def test_uptime_is_that_of_the_process(idle: Served) -> None:
    wanted = time.time() - psutil.Process().create_time()
    assert abs(value(idle, "onecopy_uptime_seconds") - wanted) < 10


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux' /proc")
def test_the_usual_metrics_of_processes_are_there(idle: Served) -> None:
    found = scraped(idle)
    assert found["process_resident_memory_bytes", ()] > MIB
    assert found["process_cpu_seconds_total", ()] > 0
    assert found["process_open_fds", ()] > 0


def test_counters_never_fall_between_scrapes(idle: Served, path: Path) -> None:
    def counters() -> Values:
        families = text_string_to_metric_families(idle.get("/metrics").body.decode())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            if family.type in ("counter", "summary")
            for sample in family.samples
        }

    before = counters()
    load(path)
    end(idle, ExecutionStatus("success", True, []))
    after = counters()
    assert {key for key, number in before.items() if after[key] < number} == set()
