"""Bytes on their way are told as progress of the node that loads, whichever node that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import comfy.model_management
import comfy.progress
import folder_paths
from comfy.loading import LoadOptions, default_loader
from support import narrow
from support.prompts import node
from support.running_server import Listener, Served, served

# Bytes are told by the thousand, steps are few.
MOST_STEPS = 100
TEXT = {"text": "a red circle", "clip": ["load", 1]}
PROMPT = {
    "load": node("CheckpointLoaderSimple", ckpt_name="narrow.safetensors"),
    "text": node("CLIPTextEncode", **TEXT),
    "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
    "sample": node(
        "KSampler",
        seed=1,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
        model=["load", 0],
        positive=["text", 0],
        negative=["text", 0],
        latent_image=["latent", 0],
    ),
    "decode": node("VAEDecode", samples=["sample", 0], vae=["load", 2]),
    "show": node("PreviewImage", images=["decode", 0]),
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    narrow.write_checkpoint(folder / "narrow.safetensors")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(folder)], {".safetensors"})
    )
    # A file this small is loaded before anyone is told.
    monkeypatch.setattr(comfy.progress, "HOOK_INTERVAL_S", 0.0)
    before = default_loader().options
    with served(tmp_path) as client:
        yield client
    default_loader().configure(before)
    comfy.model_management.unload_all_models()


def run(server: Served, strategy: str) -> tuple[str, Listener]:
    default_loader().configure(LoadOptions(strategy=strategy))
    page = server.listen("page")
    prompt_id = server.queue(PROMPT, client_id="page")
    page.wait_for_end(prompt_id)
    assert "execution_success" in page.kinds()
    return prompt_id, page


def of_bytes(page: Listener) -> dict[str, list[dict[str, Any]]]:
    """The progress in bytes that was told, by node."""
    found: dict[str, list[dict[str, Any]]] = {}
    for data in page.of("progress"):
        if data["max"] > MOST_STEPS:
            found.setdefault(data["node"], []).append(data)
    return found


def test_a_loader_that_reads_tells_its_bytes(server: Served) -> None:
    prompt_id, page = run(server, "readinto")
    told = of_bytes(page)["load"]
    assert {one["prompt_id"] for one in told} == {prompt_id}
    assert told[-1]["value"] == told[-1]["max"] > 100_000
    assert [one["value"] for one in told] == sorted(one["value"] for one in told)


def test_weights_that_go_home_later_are_told_of_the_nodes_that_need_them(server: Served) -> None:
    prompt_id, page = run(server, "file-slice")
    told = of_bytes(page)
    assert set(told) == {"text", "sample", "decode"}
    for one in told.values():
        assert one[-1]["value"] == one[-1]["max"]
        assert {data["prompt_id"] for data in one} == {prompt_id}


@pytest.mark.parametrize(("strategy", "node_id"), [("readinto", "load"), ("file-slice", "sample")])
def test_the_state_of_the_node_has_the_bytes_too(
    server: Served, strategy: str, node_id: str
) -> None:
    _, page = run(server, strategy)
    states = [data["nodes"].get(node_id) for data in page.of("progress_state")]
    in_bytes = [one for one in states if one is not None and one["max"] > MOST_STEPS]
    assert {one["state"] for one in in_bytes} >= {"running"}
    assert max(one["value"] for one in in_bytes) == in_bytes[0]["max"]
    assert {one["display_node_id"] for one in in_bytes} == {node_id}


def test_steps_are_told_after_the_bytes(server: Served) -> None:
    _, page = run(server, "file-slice")
    of_sampler = [data for data in page.of("progress") if data["node"] == "sample"]
    kinds = [data["max"] > MOST_STEPS for data in of_sampler]
    assert kinds == sorted(kinds, reverse=True)
    assert [data["value"] for data in of_sampler if data["max"] <= MOST_STEPS] == [1, 2]


def test_a_second_prompt_loads_nothing(server: Served) -> None:
    _, page = run(server, "file-slice")
    before = len(page.of("progress"))
    changed = {**PROMPT, "latent": node("EmptyLatentImage", width=64, height=32, batch_size=1)}
    page.wait_for_end(server.queue(changed, client_id="page"))
    later = page.of("progress")[before:]
    assert later
    assert [data for data in later if data["max"] > MOST_STEPS] == []
