"""Stand-in trees with the graft, run in processes of their own on the simulated device."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy.loading.__main__ import main
from support.stand_in_process import run_stand_in
from support.stand_ins import GENERATIONS, plant

WIDTH, DEPTH = 1024, 6
KEY = "model.diffusion_model.blocks.{}.{}"
MIB = 1 << 20
# Allocators keep some; a second copy of the weights would be 24 MiB.
SLACK = 6 * MIB
FILE_SLICE = ("--load-strategy", "file-slice", "--load-staging-mb", "4")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


def _write(path: Path, width: int, depth: int, dtype: torch.dtype = torch.float32) -> Path:
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for number in range(depth):
        weight = torch.randn(width, width, generator=generator) / width**0.5
        weights[KEY.format(number, "weight")] = weight.to(dtype)
        weights[KEY.format(number, "bias")] = torch.randn(width, generator=generator).to(dtype)
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "path": str(_write(folder / "model.safetensors", WIDTH, DEPTH)),
        "warm_up": str(_write(folder / "small.safetensors", 8, 1)),
    }


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each generation one as it was, and one with the graft."""
    made = {}
    for name in GENERATIONS:
        made[f"bare {name}"] = plant(tmp_path_factory.mktemp(name) / "bare", name)
        made[name] = plant(tmp_path_factory.mktemp(name) / "grafted", name)
        assert main(["graft", str(made[name])]) == 0
    return made


def _run(tree: Path, files: dict[str, str], flags: Sequence[str], **request: Any) -> dict[str, Any]:
    variables, device = request.pop("environment", {}), request.pop("device", "simgpu:0")
    asked = {**files, "width": WIDTH, "depth": DEPTH, **request}
    return run_stand_in(tree, asked, flags, variables, device)


def _size(files: dict[str, str]) -> int:
    return os.path.getsize(files["path"])


def _expected(files: dict[str, str], patched: bool = False) -> torch.Tensor:
    """The network by torch's own functions."""
    weights = load_file(files["path"])
    x = torch.linspace(-1, 1, WIDTH).repeat(2, 1)
    for number in range(DEPTH):
        weight = weights[KEY.format(number, "weight")]
        if patched:
            weight = weight + 0.5 * torch.eye(WIDTH)
        x = torch.relu(x @ weight.T + weights[KEY.format(number, "bias")])
    return x.flatten()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_model_is_on_the_device_once_and_returns_to_its_file(
    generation: str, trees: dict[str, Path], files: dict[str, str]
) -> None:
    seen = _run(trees[generation], files, FILE_SLICE, rounds=2)

    size = _size(files)
    assert seen["kinds"] == seen["kinds_unloaded"] == ["FileTensor"]
    assert seen["built"] < SLACK
    assert seen["on_device"] > 0.99 * size
    # The device's memory is this process's: all of it, and nothing twice.
    assert seen["loaded"] < size + SLACK
    assert seen["unloaded"] < SLACK
    assert seen["on_device_unloaded"] == 0
    assert not seen["mapped_built"]
    for result in seen["results"]:
        torch.testing.assert_close(torch.tensor(result), _expected(files), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_without_flags_on_a_discrete_card_nothing_is_different(
    generation: str, trees: dict[str, Path], files: dict[str, str]
) -> None:
    grafted = _run(trees[generation], files, (), unified=False)
    bare = _run(trees[f"bare {generation}"], files, (), unified=False)

    same = ("kinds", "kinds_unloaded", "tags", "mapped", "free", "h2d_bytes", "d2h_bytes")
    same = (*same, "results", "uploaded_bytes", "on_device", "pinned")
    assert {name: grafted[name] for name in same} == {name: bare[name] for name in same}
    assert abs(grafted["unloaded"] - bare["unloaded"]) < SLACK


def test_without_the_graft_the_host_keeps_a_copy(
    trees: dict[str, Path], files: dict[str, str]
) -> None:
    # The measurement can tell: the same numbers, where they are not met.
    seen = _run(trees["bare copying"], files, ())
    assert seen["built"] > _size(files) - SLACK
    assert seen["unloaded"] > _size(files) - SLACK


def test_unified_memory_needs_no_flag(trees: dict[str, Path], files: dict[str, str]) -> None:
    environment = {"COMFY_LOAD_STAGING_MB": "4"}
    seen = _run(trees["tagged"], files, (), environment=environment, rounds=2)
    assert seen["loaded"] < _size(files) + SLACK
    assert seen["unloaded"] < SLACK
    assert seen["kinds_unloaded"] == ["FileTensor"]
    # The driver of the stand-in says 1 byte.
    assert seen["free"] > 64 * MIB


@pytest.mark.parametrize("generation", GENERATIONS)
def test_disable_mmap_maps_nothing(
    generation: str, trees: dict[str, Path], files: dict[str, str]
) -> None:
    flags = ("--disable-mmap", "--load-staging-mb", "4")
    seen = _run(trees[generation], files, flags, unified=False)
    assert not seen["mapped"]
    assert not seen["mapped_built"]
    assert seen["built"] < _size(files) + SLACK
    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(files), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("strategy", "kind", "mapped"),
    [("mmap", "Tensor", True), ("readinto", "Tensor", False), ("file-slice", "FileTensor", False)],
)
def test_the_environment_names_the_strategy(
    strategy: str, kind: str, mapped: bool, trees: dict[str, Path], files: dict[str, str]
) -> None:
    environment = {"COMFY_LOAD_STRATEGY": strategy, "COMFY_LOAD_STAGING_MB": "4"}
    seen = _run(trees["copying"], files, (), environment=environment)
    assert (seen["kinds"], seen["mapped"]) == ([kind], mapped)
    assert seen["loaded"] < _size(files) + SLACK
    assert seen["unloaded"] < SLACK


def test_a_patched_model_keeps_no_copy_of_the_unpatched_weights(
    trees: dict[str, Path], files: dict[str, str]
) -> None:
    patched = [f"diffusion_model.blocks.{number}.weight" for number in range(DEPTH)]
    seen = _run(trees["loop"], files, FILE_SLICE, patched=patched)

    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(files, patched=True), rtol=1e-4, atol=1e-5
    )
    patches = DEPTH * WIDTH * WIDTH * 4
    assert seen["loaded"] < _size(files) + patches + SLACK
    assert seen["unloaded"] < patches + SLACK


@pytest.mark.parametrize("generation", GENERATIONS)
def test_what_does_not_fit_is_read_for_each_call(
    generation: str, trees: dict[str, Path], files: dict[str, str]
) -> None:
    budget = _size(files) // 2
    seen = _run(trees[generation], files, FILE_SLICE, budget=budget, rounds=2)
    # The input is there, too.
    assert 0 < seen["on_device"] < budget + MIB
    assert seen["loaded"] < budget + SLACK
    assert seen["pinned"] == 0
    for result in seen["results"]:
        torch.testing.assert_close(torch.tensor(result), _expected(files), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("patched", [[], ["diffusion_model.blocks.0.weight"]])
def test_a_model_that_was_filled_by_copies_returns_to_its_file_too(
    patched: list[str], trees: dict[str, Path], files: dict[str, str]
) -> None:
    seen = _run(trees["tagged"], files, FILE_SLICE, copies=True, patched=patched, rounds=2)
    patches = len(patched) * WIDTH * WIDTH * 4
    assert seen["built"] < _size(files) + SLACK
    assert seen["loaded"] < _size(files) + patches + SLACK
    assert seen["unloaded"] < patches + SLACK
    assert seen["kinds_unloaded"] == ["FileTensor"]


def test_what_is_evicted_returns_to_the_file(trees: dict[str, Path], files: dict[str, str]) -> None:
    half = _size(files) // 2
    seen = _run(trees["copying"], files, FILE_SLICE, evict=half)
    assert seen["on_device_evicted"] <= half
    assert seen["evicted"] < half + SLACK
    assert seen["d2h_bytes"] < MIB
    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(files), rtol=1e-4, atol=1e-5
    )


def test_on_the_cpu_weights_are_read_before_the_network_runs(
    trees: dict[str, Path], files: dict[str, str]
) -> None:
    seen = _run(trees["copying"], files, (*FILE_SLICE, "--cpu"))
    assert seen["built"] < SLACK
    assert _size(files) - SLACK < seen["loaded"] < _size(files) + SLACK
    assert seen["unloaded"] < SLACK
    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(files), rtol=1e-4, atol=1e-5
    )


def test_weights_in_another_dtype_are_cast_as_before(
    trees: dict[str, Path], files: dict[str, str]
) -> None:
    seen = _run(trees["tagged"], files, FILE_SLICE, dtype="bfloat16")
    assert seen["loaded"] < _size(files) // 2 + SLACK
    assert seen["kinds_unloaded"] == ["Parameter"]
    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(files), rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--load-strategy=mmap", "--disable-mmap"), "contradict each other"),
        (("--load-staging-mb=0",), "--load-staging-mb is 0"),
    ],
)
def test_flags_that_contradict_end_the_program(
    flags: tuple[str, ...], complaint: str, trees: dict[str, Path]
) -> None:
    done = subprocess.run(
        [sys.executable, str(trees["loop"] / "main.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert complaint in done.stderr


def test_the_parser_starts_without_torch(trees: dict[str, Path]) -> None:
    code = "import sys, comfy.cli_args; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=trees["copying"],
    )
    assert done.stdout.strip() == "False"
