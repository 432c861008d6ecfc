"""Names that custom nodes replace at run time: our own path must go through the replaced one.

A seam is defined in its public module, called through the module, and known to nothing below.
"""

from __future__ import annotations

import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import comfy.key_tables
import comfy.utils

ROOT = Path(__file__).parents[2]

# Module -> names that packs assign to, or set.
SEAMS = {
    "comfy.utils": {
        "load_torch_file",
        "PROGRESS_BAR_ENABLED",
        "PROGRESS_BAR_HOOK",
        "UNET_MAP_BASIC",
    },
}
_OURS = [
    *ROOT.glob("*.py"),
    *(
        file
        for name in ("comfy", "comfy_extras", "comfy_execution")
        for file in ROOT.glob(f"{name}/**/*.py")
    ),
]


def from_imports(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                yield node.module, alias.name


@pytest.mark.parametrize("path", _OURS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_of_ours_imports_a_seam_by_name(path: Path) -> None:
    taken = {(module, name) for module, name in from_imports(path) if name in SEAMS.get(module, ())}
    assert taken == set()


@pytest.mark.parametrize("name", ["load_torch_file", "save_torch_file", "unet_to_diffusers"])
def test_seam_is_defined_in_its_public_module(name: str) -> None:
    assert getattr(comfy.utils, name).__module__ == "comfy.utils"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("enabled", "drawn"), [(True, True), (False, False)])
def test_directly_set_progress_switch_is_obeyed_by_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool, drawn: bool
) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(comfy.utils.progress, "LARGE_FILE_BYTES", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", enabled)
    comfy.utils.load_torch_file(tmp_path / "model.safetensors", device="cpu")
    assert ("model.safetensors" in terminal.getvalue()) is drawn


def test_directly_set_hook_is_told_by_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *args, **kwargs: calls.append(args)
    )
    comfy.utils.ProgressBar(3).update(1)
    assert calls == [(1, 3, None)]


UNET = {"num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [0]}


def test_replaced_table_is_what_the_unet_map_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {("input_blocks.0.0.weight", "conv_in.weight"), ("extra.native", "extra.diffusers")}
    monkeypatch.setattr(comfy.utils, "UNET_MAP_BASIC", table)
    mapped = comfy.utils.unet_to_diffusers(UNET)
    assert mapped["extra.diffusers"] == "extra.native"
    assert "conv_out.weight" not in mapped


def test_pair_added_to_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfy.utils, "UNET_MAP_BASIC", set(comfy.key_tables.UNET_MAP_BASIC))
    comfy.utils.UNET_MAP_BASIC.add(("extra.native", "extra.diffusers"))
    assert comfy.utils.unet_to_diffusers(UNET)["extra.diffusers"] == "extra.native"
