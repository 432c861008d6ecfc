"""The start imports nothing that only few prompts need, and takes little memory beside torch's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import startup

# Large packages, each needed by some node or none. What torch itself imports is not ours.
FOREIGN = (
    "av",
    "comfy_aimdo",
    "cv2",
    "diffusers",
    "huggingface_hub",
    "kornia",
    "matplotlib",
    "onnxruntime",
    "pandas",
    "pydantic",
    "pytest",
    "requests",
    "scipy",
    "sentencepiece",
    "sklearn",
    "spandrel",
    "sympy",
    "tokenizers",
    "torchaudio",
    "torchvision",
    "transformers",
    "urllib3",
)
# The server, all nodes and the core, beside torch's own.
MOST_BYTES = 1.35


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of all packages that a start imports."""
    told = startup.import_report(tmp_path_factory.mktemp("start"))
    return {one.name for one in startup.packages(told)}


@pytest.mark.slow
def test_a_start_imports_the_server_and_torch(imported: set[str]) -> None:
    assert {"torch", "aiohttp", "server", "comfy_extras"} <= imported


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_a_start_leaves_out_what_few_prompts_need(imported: set[str], name: str) -> None:
    assert name not in imported


@pytest.mark.slow
def test_an_idle_program_has_little_memory_beside_that_of_torch(tmp_path: Path) -> None:
    _, idle = startup.start(tmp_path)
    assert idle <= MOST_BYTES * startup.torch_bytes()
