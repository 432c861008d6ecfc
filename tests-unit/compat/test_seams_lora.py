"""`comfy.lora`'s functions, which custom nodes replace: defined there, and called through it."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import comfy.lora
import comfy.utils

ROOT = Path(__file__).parents[2]
SEAMS = {"calculate_weight", "load_lora", "model_lora_keys_clip", "model_lora_keys_unet"}
_OURS = sorted(
    {
        *ROOT.glob("*.py"),
        *(
            file
            for folder in ("comfy", "comfy_extras", "comfy_execution")
            for file in ROOT.glob(f"{folder}/**/*.py")
        ),
    }
)


@pytest.mark.parametrize("name", sorted(SEAMS))
def test_seam_is_defined_in_its_public_module(name: str) -> None:
    assert getattr(comfy.lora, name).__module__ == "comfy.lora"


@pytest.mark.parametrize("path", _OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_of_ours_imports_a_seam_by_name(path: Path) -> None:
    taken = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "comfy.lora"
        for alias in node.names
    }
    assert not taken & SEAMS


def test_patches_of_a_merged_model_go_through_the_replaced_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original, keys = comfy.lora.calculate_weight, []

    def spy(patches: Any, weight: torch.Tensor, key: str, *args: Any, **kwargs: Any) -> Any:
        keys.append((key, len(patches)))
        return original(patches, weight, key, *args, **kwargs)

    monkeypatch.setattr(comfy.lora, "calculate_weight", spy)
    inner = (1.0, (torch.ones(2, 2),), 1.0, None, None)
    value = [(torch.ones(2, 2), lambda weight, inplace=False: weight), inner]
    got = comfy.lora.calculate_weight([(1.0, value, 0.0, None, None)], torch.ones(2, 2), "w")
    assert torch.equal(got, torch.full((2, 2), 2.0))
    assert keys == [("w", 1), ("w", 1)]


def test_names_follow_the_replaced_map_of_unets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(
        state_dict=lambda: {"diffusion_model.own.weight": torch.empty(0)},
        model_config=SimpleNamespace(unet_config={}),
    )
    monkeypatch.setattr(
        comfy.utils, "unet_to_diffusers", lambda config: {"theirs.weight": "own.weight"}
    )
    named = comfy.lora.model_lora_keys_unet(model)
    assert named["lora_unet_theirs"] == "diffusion_model.own.weight"
