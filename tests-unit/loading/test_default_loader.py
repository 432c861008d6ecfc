"""The process's own Loader: chosen by flags, by environment twins, or by `configure`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.loading
from support.files import write_safetensors
from support.memory_cap import Measured, run_measured

LOAD = """
from comfy.loading import LoadOptions, configure, default_loader, load
exec(args["before"])
opened = load(args["path"])
result = {
    "strategy": opened.plan.strategy,
    "row": opened.plan.row,
    "reasons": list(opened.plan.reasons),
    "threads": opened.plan.threads,
    "cache": opened.plan.cache,
    "staging": default_loader().options.staging_bytes,
    "same": default_loader() is default_loader(),
}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", {"w": torch.arange(8.0)})


def run(path: Path, environment: dict[str, str], before: str = "") -> Measured:
    arguments = {"path": str(path), "before": before}
    return run_measured(LOAD, arguments=arguments, environment=environment, in_group=False)


def told(path: Path, environment: dict[str, str], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = run(path, environment, before).succeeded().result
    return result


def test_environment_chooses_for_who_never_parses_arguments(path: Path) -> None:
    environment = {
        "COMFY_LOAD_STRATEGY": "file-slice",
        "COMFY_DISABLE_MMAP": "1",
        "COMFY_LOAD_THREADS": "3",
        "COMFY_LOAD_CACHE": "drop",
        "COMFY_LOAD_STAGING_MB": "8",
    }
    found = told(path, environment)
    assert (found["strategy"], found["row"]) == ("file-slice", 0)
    assert (found["threads"], found["cache"]) == (3, "drop")
    assert found["staging"] == 8 * 1024 * 1024
    assert found["same"]


def test_environment_can_forbid_mappings(path: Path) -> None:
    free, forbidden = told(path, {}), told(path, {"COMFY_DISABLE_MMAP": "1"})
    # The file was written a moment ago: it is cached, and mapping it would be best.
    assert (free["strategy"], free["row"]) == ("mmap", 1)
    assert forbidden["strategy"] == "readinto"
    assert any("--disable-mmap" in reason for reason in forbidden["reasons"])


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"COMFY_DISABLE_MMAP": "perhaps"}, "COMFY_DISABLE_MMAP='perhaps'"),
        ({"COMFY_LOAD_THREADS": "many"}, "COMFY_LOAD_THREADS='many'"),
        ({"COMFY_LOAD_STRATEGY": "mmap", "COMFY_DISABLE_MMAP": "1"}, "contradict"),
    ],
    ids=["switch", "number", "conflict"],
)
def test_malformed_environment_is_an_error_before_any_file_is_opened(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    measured = run(tmp_path / "missing.safetensors", environment)
    assert measured.error == "FlagConflict"
    assert message in measured.message


def test_configure_stands_above_the_environment(path: Path) -> None:
    before = "configure(LoadOptions('readinto'), run_device='cpu')"
    found = told(path, {"COMFY_LOAD_STRATEGY": "file-slice"}, before)
    assert found["strategy"] == "readinto"


# -- in this process -------------------------------------------------------------------------------


def test_load_takes_a_path_object_and_any_keys(path: Path) -> None:
    opened = comfy.loading.load(path, keys=iter(["w"]), strategy="readinto")  # type: ignore[arg-type]
    assert list(opened.state_dict) == ["w"]


def test_strategy_of_a_call_keeps_the_other_options(path: Path) -> None:
    options = comfy.loading.LoadOptions(threads=2, allow_mmap=False)
    opened = comfy.loading.load(str(path), options=options, strategy="file-slice")
    assert (opened.plan.strategy, opened.plan.threads) == ("file-slice", 2)
    with pytest.raises(comfy.loading.LoadError, match="contradict"):
        comfy.loading.load(str(path), options=options, strategy="mmap")


def test_every_name_of_the_package_leads_somewhere() -> None:
    for name in comfy.loading.__all__:
        assert getattr(comfy.loading, name) is not None
    assert set(dir(comfy.loading)) == set(comfy.loading.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        comfy.loading.nothing  # noqa: B018 - the access is what is tested
