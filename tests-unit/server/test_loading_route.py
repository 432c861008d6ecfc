"""GET /loading: files, strategies and reasons, homes, memory; nothing that pages may not know."""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import nodes
from api_server.routes import loading
from comfy.loading import LoadRequest, default_loader
from comfy.loading.errors import LoadError
from support import narrow
from support.running_server import Served
from support.simulated_device import SimulatedDevice

FOLDER = "checkpoints"
NAME = "drawings/narrow.safetensors"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / NAME
    path.parent.mkdir()
    narrow.write_checkpoint(path)
    return path


@pytest.fixture
def rooms(path: Path, idle: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    top = str(path.parent.parent)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([top], {".safetensors"}))
    yield idle
    comfy.model_management.unload_all_models()


@pytest.fixture
def on_simgpu(simgpu: SimulatedDevice) -> Iterator[SimulatedDevice]:
    comfy.model_management.set_run_device(simgpu.device)
    yield simgpu
    comfy.model_management.unload_all_models()
    comfy.model_management.set_run_device(None)


def told(rooms: Served, query: str = "") -> dict[str, Any]:
    answer = rooms.get(f"/loading{query}")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    found: dict[str, Any] = answer.json()
    return found


def of_file(rooms: Served) -> dict[str, Any]:
    (found,) = [one for one in told(rooms)["files"] if one["name"] == NAME]
    assert found["folder"] == FOLDER
    return dict(found)


def load(path: Path, strategy: str) -> Any:
    with comfy.utils.use_load_strategy(strategy):
        return comfy.sd.load_checkpoint_guess_config(str(path))


def test_a_file_is_told_with_strategy_reason_and_homes(rooms: Served, path: Path) -> None:
    before = default_loader().files.bytes_read(str(path))
    loaded = load(path, "file-slice")
    found = of_file(rooms)
    assert loaded[0] is not None
    assert (found["strategy"], found["row"]) == ("file-slice", 0)
    assert found["reasons"] == ["--load-strategy=file-slice"]
    assert found["loads"] >= 1
    assert found["size_bytes"] == path.stat().st_size
    assert found["bytes_read"] - before <= 4096
    assert found["homes"] == {"file": path.stat().st_size, "host": 0, "device": 0}
    assert (found["work"], found["problem"]) == (None, "")


def test_weights_read_to_the_host_are_at_home_there(rooms: Served, path: Path) -> None:
    before = default_loader().files.bytes_read(str(path))
    loaded = load(path, "readinto")
    found = of_file(rooms)
    assert loaded[0] is not None
    assert found["bytes_read"] > before
    assert found["seconds"] > 0
    assert found["gb_per_s"] > 0
    homes = found["homes"]
    assert homes["file"] + homes["host"] == path.stat().st_size
    assert homes["host"] > homes["file"]


def test_weights_on_the_device_are_at_home_there_and_nowhere_else(
    rooms: Served, path: Path, on_simgpu: SimulatedDevice
) -> None:
    model = load(path, "file-slice")[0]
    comfy.model_management.load_models_gpu([model])
    found, weights = of_file(rooms), model.model_size()
    assert weights == on_simgpu.allocated_bytes
    # The tables of the noise schedule are in no file.
    tables = sum(one.nbytes for one in model.model.model_sampling.buffers())
    assert found["homes"]["device"] == weights - tables
    assert found["homes"]["host"] == 0
    assert found["homes"]["file"] <= path.stat().st_size - weights // 4
    assert found["bytes_read"] >= weights // 4
    comfy.model_management.unload_all_models()
    assert of_file(rooms)["homes"] == {"file": path.stat().st_size, "host": 0, "device": 0}


def test_a_file_that_nobody_uses_has_no_homes(rooms: Served, path: Path) -> None:
    load(path, "file-slice")
    gc.collect()
    found = of_file(rooms)
    assert found["homes"] is None
    assert found["strategy"] == "file-slice"


def test_the_cache_is_told_as_far_as_the_system_tells_it(rooms: Served, path: Path) -> None:
    loaded = load(path, "file-slice")
    assert loaded[0] is not None
    cached = of_file(rooms)["cached_bytes"]
    assert cached is None or 0 <= cached <= path.stat().st_size


def test_a_failed_load_is_told_without_the_machines_folders(rooms: Served, path: Path) -> None:
    broken = path.parent / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[: 64 * 1024])
    with pytest.raises(LoadError):
        default_loader().open(LoadRequest(path=str(broken), device=None))
    (found,) = [one for one in told(rooms)["files"] if one["name"] == "drawings/broken.safetensors"]
    assert "incomplete" in found["problem"]
    assert str(path.parent) not in found["problem"]


def test_nothing_tells_the_folders_of_this_machine(rooms: Served, path: Path) -> None:
    loaded = load(path, "file-slice")
    assert loaded[0] is not None
    text = json.dumps(told(rooms))
    assert str(path.parent.parent) not in text
    assert folder_paths.base_path not in text


def test_memory_is_sampled_while_somebody_asks(rooms: Served) -> None:
    memory = told(rooms)["memory"]
    assert memory["fields"] == ["seconds", "host", "device", "weights", "at_home"]
    seconds, host, *_ = memory["samples"][-1]
    assert host > 0
    assert seconds <= memory["now"]
    bound = memory["bound"]
    parts = ("base", "weights", "staging", "slack")
    assert bound["total"] == sum(bound[part] for part in parts)
    assert bound["staging"] == default_loader().options.staging_bytes
    assert bound["peak"] >= host


def test_only_newer_samples_come_if_wanted(rooms: Served) -> None:
    first = told(rooms)["memory"]
    later = told(rooms, f"?since={first['now'] + 1000}")["memory"]
    assert later["samples"] == []


@pytest.mark.parametrize("since", ["soon", "nan", "inf", "-inf", ""])
def test_a_time_that_is_none_is_refused(rooms: Served, since: str) -> None:
    answer = rooms.get(f"/loading?since={since}")
    assert answer.status == 400
    assert "since" in answer.json()["error"]


def test_running_prompts_are_told(rooms: Served) -> None:
    assert told(rooms)["is_running"] is False
    rooms.server.prompt_queue.put((0, "a", {}, {}, [], {}))
    assert told(rooms)["is_running"] is True


def test_strategy_and_device_are_told(rooms: Served) -> None:
    strategy = told(rooms)["strategy"]
    assert strategy["requested"] == "auto"
    assert strategy["device"] == str(comfy.model_management.get_torch_device())
    assert strategy["unified"] is False
    pool = told(rooms)["pools"][0]
    assert pool["pool"] == "host"
    assert 0 < pool["free"] <= pool["total"]
    assert pool["headroom"] == max(0, pool["free"] - pool["reserve"])


def test_a_device_of_its_own_is_a_pool(rooms: Served, on_simgpu: SimulatedDevice) -> None:
    facts = told(rooms)
    assert [one["pool"] for one in facts["pools"]] == ["host", str(on_simgpu.device)]
    assert facts["strategy"]["device"] == str(on_simgpu.device)
    assert facts["pools"][1]["unified"] is on_simgpu.is_unified


def test_a_prompt_wakes_the_history(rooms: Served) -> None:
    before = time.monotonic()
    rooms.post("/prompt", {"prompt": {"1": {"class_type": "Nothing", "inputs": {}}}})
    time.sleep(0.6)
    memory = told(rooms)["memory"]
    elapsed = time.monotonic() - before
    first = memory["samples"][0]
    # The first sample is of the prompt's arrival, not of the question.
    assert 0.5 < memory["now"] - first[0] < elapsed + 0.5
    assert len(memory["samples"]) >= 2


@pytest.mark.usefixtures("rooms")
def test_the_page_finds_the_panel() -> None:
    folder = Path(nodes.EXTENSION_WEB_DIRS[loading.PANEL])
    assert (folder / "loading.js").is_file()


def test_it_can_be_asked_while_models_come_and_go(
    rooms: Served, path: Path, on_simgpu: SimulatedDevice
) -> None:
    model = load(path, "file-slice")[0]
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            comfy.model_management.load_models_gpu([model])
            comfy.model_management.unload_all_models()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        homes = [of_file(rooms)["homes"] for _ in range(40)]
    finally:
        ended.set()
        worker.join()
    size = path.stat().st_size
    assert on_simgpu.allocated_bytes == 0
    assert {one["host"] for one in homes} == {0}
    assert all(0 <= one["file"] <= size for one in homes)
    assert len({one["device"] for one in homes}) > 1


def test_meta_weights_have_no_home(rooms: Served, path: Path) -> None:
    state = default_loader().open(LoadRequest(path=str(path), device=torch.device("meta")))
    assert {one.device.type for one in state.state_dict.values()} == {"meta"}
    gc.collect()
    assert of_file(rooms)["homes"] is None
