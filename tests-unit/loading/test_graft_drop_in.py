"""The drop-in for an unchanged ComfyUI: its zip, its script before the start, its patches."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy.loading.__main__ import main
from support.environments import environment
from support.stand_in_process import run_stand_in
from support.stand_ins import GENERATIONS, contents, plant

ROOT = Path(__file__).resolve().parents[2]
WIDTH, DEPTH = 1024, 6
KEY = "model.diffusion_model.blocks.{}.{}"
SLACK = 6 << 20

# What ComfyUI's main does, up to its modules.
PROGRAM = """
import json, logging, runpy, sys
logging.basicConfig(level=logging.DEBUG)
import comfy.options
comfy.options.enable_args_parsing()
import comfy.cli_args
runpy.run_path("custom_nodes/onecopy-loader/prestartup_script.py")
seen = {"torch_before": "torch" in sys.modules}
import torch, comfy.utils, comfy.model_base, comfy.model_patcher, comfy.model_management
loaded = comfy.utils.load_torch_file(FILE)
sd = loaded[0] if isinstance(loaded, tuple) else loaded
seen["kinds"] = sorted({type(one).__name__ for one in sd.values()})
seen["mapped"] = "model.safetensors" in open("/proc/self/maps").read()
model = comfy.model_base.BaseModel(WIDTH, DEPTH)
model.load_model_weights(sd, "model.diffusion_model.")
cpu = torch.device("cpu")
patcher = comfy.model_patcher.ModelPatcher(model, cpu, cpu)
seen["kinds_built"] = sorted({type(one).__name__ for one in model.parameters()})
patcher.partially_load(cpu)
seen["kinds_loaded"] = sorted({type(one).__name__ for one in model.parameters()})
with torch.no_grad():
    result = model.diffusion_model(torch.linspace(-1, 1, WIDTH).repeat(2, 1))
seen["result"] = result.flatten().tolist()
patcher.detach()
seen["kinds_unloaded"] = sorted({type(one).__name__ for one in model.parameters()})
json.dump(seen, sys.stdout)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("built") / "onecopy-loader.zip"
    subprocess.run(
        [sys.executable, str(ROOT / "tools/build_custom_node.py"), str(target)],
        check=True,
        capture_output=True,
        cwd=target.parent,
    )
    return target


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = torch.Generator().manual_seed(5)
    weights = {}
    for number in range(DEPTH):
        weight = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
        weights[KEY.format(number, "weight")] = weight
        weights[KEY.format(number, "bias")] = torch.randn(WIDTH, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(weights, path)
    return path


def _expected(file: Path) -> torch.Tensor:
    weights, x = load_file(file), torch.linspace(-1, 1, WIDTH).repeat(2, 1)
    for number in range(DEPTH):
        x = torch.relu(
            x @ weights[KEY.format(number, "weight")].T + weights[KEY.format(number, "bias")]
        )
    return x.flatten()


def _start(tree: Path, file: Path, **variables: str) -> tuple[dict[str, Any], str]:
    head = f"FILE, WIDTH, DEPTH = {str(file)!r}, {WIDTH}, {DEPTH}\n"
    done = subprocess.run(
        [sys.executable, "-c", head + PROGRAM],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
        env=environment(**variables),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def _installed(folder: Path, generation: str, archive: Path) -> Path:
    tree = plant(folder, generation)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tree / "custom_nodes")
    return tree


def test_the_zip_is_complete_and_needs_nothing_of_this_project(archive: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    assert {name.split("/")[0] for name in files} == {"onecopy-loader"}
    for name in ("__init__.py", "prestartup_script.py", "README.md", "pyproject.toml", "LICENSE"):
        assert f"onecopy-loader/{name}" in files
    code = {name: content for name, content in files.items() if name.endswith(".py")}
    assert "onecopy-loader/onecopy_loading/grafted/runtime.py" in code
    assert not [name for name in code if "graft_" in name]
    assert not [name for name, content in code.items() if b"comfy.loading" in content]
    for name, content in code.items():
        compile(content, name, "exec")


def test_building_twice_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    subprocess.run(
        [sys.executable, str(ROOT / "tools/build_custom_node.py"), str(again)],
        check=True,
        capture_output=True,
    )
    assert again.read_bytes() == archive.read_bytes()


def test_its_module_has_no_nodes() -> None:
    scope: dict[str, Any] = {}
    exec((ROOT / "tools/custom_node/__init__.py").read_text(), scope)
    assert scope["NODE_CLASS_MAPPINGS"] == scope["NODE_DISPLAY_NAME_MAPPINGS"] == {}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mappings are read from /proc")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_unchanged_tree_loads_by_the_environment(
    generation: str, archive: Path, file: Path, tmp_path: Path
) -> None:
    tree = _installed(tmp_path / "ComfyUI", generation, archive)
    before = contents(tree)
    seen, log = _start(tree, file, COMFY_LOAD_STRATEGY="file-slice")

    assert not seen["torch_before"]
    assert seen["kinds"] == seen["kinds_built"] == seen["kinds_unloaded"] == ["FileTensor"]
    assert seen["kinds_loaded"] == ["Parameter"]
    assert not seen["mapped"]
    assert "weights are loaded by onecopy_loading" in log
    torch.testing.assert_close(torch.tensor(seen["result"]), _expected(file), rtol=1e-4, atol=1e-5)
    assert contents(tree) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mappings are read from /proc")
def test_it_rests_without_a_wish(archive: Path, file: Path, tmp_path: Path) -> None:
    seen, _ = _start(_installed(tmp_path / "ComfyUI", "tagged", archive), file)
    assert seen["kinds"] == ["Tensor"]
    assert seen["kinds_built"] == seen["kinds_unloaded"] == ["Parameter"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mappings are read from /proc")
def test_it_rests_where_loading_is_in_the_trees_own_files(
    archive: Path, file: Path, tmp_path: Path
) -> None:
    tree = _installed(tmp_path / "ComfyUI", "copying", archive)
    assert main(["graft", str(tree)]) == 0
    _, log = _start(tree, file, COMFY_LOAD_STRATEGY="file-slice")
    assert "Loading is a part of this ComfyUI's own files: nothing is patched." in log
    assert "weights are loaded by onecopy_loading" not in log


# -- the patches, on the simulated device ------------------------------------------------------------


def _run(tree: Path, file: Path, *flags: str, **request: Any) -> dict[str, Any]:
    small = file.with_name("small.safetensors")
    save_file({KEY.format(0, "weight"): torch.eye(8), KEY.format(0, "bias"): torch.ones(8)}, small)
    variables = {
        **request.pop("environment", {}),
        "STAND_IN_HOOKS": "comfy.loading.grafted.runtime",
    }
    asked = {"path": str(file), "warm_up": str(small), "width": WIDTH, "depth": DEPTH, **request}
    return run_stand_in(tree, asked, flags, variables)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("budget", [0, WIDTH * WIDTH * 4 * 4])
def test_patched_functions_keep_the_promise_of_the_inserted_lines(
    generation: str, budget: int, file: Path, tmp_path: Path
) -> None:
    tree, size = plant(tmp_path / "ComfyUI", generation), file.stat().st_size
    environment = {"COMFY_LOAD_STRATEGY": "file-slice", "COMFY_LOAD_STAGING_MB": "4"}
    seen = _run(tree, file, environment=environment, budget=budget)

    assert seen["kinds"] == seen["kinds_unloaded"] == ["FileTensor"]
    assert seen["built"] < SLACK
    assert seen["loaded"] < (budget or size) + SLACK
    assert seen["unloaded"] < SLACK
    assert seen["on_device_unloaded"] == 0
    assert seen["d2h_bytes"] < SLACK
    assert seen["free"] > 64 << 20
    torch.testing.assert_close(
        torch.tensor(seen["results"][0]), _expected(file), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="mappings are read from /proc")
def test_the_programs_own_flag_maps_nothing(file: Path, tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "tagged")
    seen = _run(tree, file, "--disable-mmap", environment={"COMFY_LOAD_STAGING_MB": "4"})
    assert not seen["mapped"]
    assert not seen["mapped_built"]
    assert seen["unloaded"] < SLACK
