"""Prompts of wrong kinds, that lead out of folders, or are huge: refused, or an error of a node."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.hostile import MIB
from support.live_program import (
    listing,
    node,
    picture,
    succeeds,
)
from support.running_server import Program

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("untouched")]

SHOW = node("PreviewImage", images=["1", 0])
WRONG_PROMPTS: dict[str, Any] = {
    "null": None,
    "number": 5,
    "text": "x",
    "list": [],
    "empty": {},
    "node is null": {"1": None},
    "node is a list": {"1": ["EmptyImage"]},
    "no class": {"1": {"inputs": {}}},
    "class is a number": {"1": {"class_type": 5, "inputs": {}}},
    "class is a list": {"1": {"class_type": ["EmptyImage"], "inputs": {}}},
    "class is an attribute": {"1": {"class_type": "__class__", "inputs": {}}},
    "no inputs": {"1": {"class_type": "PreviewImage"}},
    "inputs are a list": {"1": {"class_type": "PreviewImage", "inputs": []}},
    "inputs are null": {"1": {"class_type": "PreviewImage", "inputs": None}},
    "link to nothing": {"1": node("PreviewImage", images=["9", 0])},
    "link to no output": {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=0)}
    | {"2": node("PreviewImage", images=["1", 99])},
    "link to a negative output": {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("PreviewImage", images=["1", -1]),
    },
    "link by a text": {"1": node("PreviewImage", images=["9", "0"])},
    "link by a list": {"1": node("PreviewImage", images=[["9"], 0])},
    "link by null": {"1": node("PreviewImage", images=[None, None])},
    "link of three": {"1": node("PreviewImage", images=["9", 0, 0])},
    "object for a number": {"1": node("EmptyImage", width={}, height=8, batch_size=1), "2": SHOW},
    "text for a number": {"1": node("EmptyImage", width="x", height=8, batch_size=1), "2": SHOW},
    "far too large": {"1": node("EmptyImage", width=10**400, height=8, batch_size=1), "2": SHOW},
    "itself": {"1": node("PreviewImage", images=["1", 0])},
    "name of a file": {
        "1": node("LoadImage", image="../../secret.png"),
        "2": SHOW,
    },
    "absolute name of a file": {"1": node("LoadImage", image="/etc/passwd"), "2": SHOW},
    "weights from elsewhere": {
        "1": node("CheckpointLoaderSimple", ckpt_name="../../../secret.safetensors"),
        "2": node("CLIPTextEncode", text="", clip=["1", 1]),
        "3": node("PreviewAny", source=["2", 0]),
    },
}


@pytest.mark.parametrize("name", WRONG_PROMPTS)
def test_a_prompt_of_wrong_kinds_is_refused(running: Program, name: str) -> None:
    answer = running.post("/prompt", {"prompt": WRONG_PROMPTS[name]})
    assert answer.status == 400, answer
    told = answer.json()
    assert set(told) == {"error", "node_errors"}
    assert set(told["error"]) == {"type", "message", "details", "extra_info"}


@pytest.mark.parametrize(
    "extra",
    [
        {"number": {}},
        {"number": "soon"},
        {"number": []},
        {"client_id": {"a": 1}},
        {"client_id": ["a"]},
        {"extra_data": "x"},
        {"extra_data": [1]},
        {"extra_data": {"client_id": [1]}},
        {"partial_execution_targets": "show"},
        {"partial_execution_targets": {"show": 1}},
        {"partial_execution_targets": [{"show": 1}]},
    ],
    ids=str,
)
def test_what_comes_with_a_prompt_is_looked_at(running: Program, extra: dict[str, Any]) -> None:
    answer = running.post("/prompt", {"prompt": picture(1), **extra})
    assert answer.status == 400, answer


@pytest.mark.parametrize(
    "extra",
    [
        {"extra_data": {"extra_pnginfo": "x"}},
        {"extra_data": {"extra_pnginfo": [1]}},
        {"extra_data": {"extra_pnginfo": {"workflow": 5}}},
        {"extra_data": {"preview_method": {"a": 1}}},
        {"prompt_id": {"a": 1}},
        {"prompt_id": "x" * 10_000},
        {"prompt_id": "../../../x"},
        {"number": 1e300},
        {"number": -1e300},
        {"front": "maybe"},
    ],
    ids=lambda value: str(value)[:60],
)
def test_odd_company_of_a_prompt_breaks_nothing(running: Program, extra: dict[str, Any]) -> None:
    assert running.post("/prompt", {"prompt": picture(2), **extra}).status in (200, 400)
    succeeds(running, picture(3))
    for path in ("/queue", "/history", "/api/jobs"):
        assert running.get(path).status == 200


# -- prompts that fail while they run --------------------------------------------------------------

PLAIN = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
OUT = (
    "../../planted",
    "/tmp/../planted",
    "a/../../../planted",
    "..\\..\\planted",
    "%2e%2e/../../planted",
)


def fails(running: Program, prompt: dict[str, Any]) -> None:
    answer = running.post("/prompt", {"prompt": prompt})
    if answer.status == 200:
        entry = running.wait_for_history(answer.json()["prompt_id"])
        assert entry["status"]["status_str"] == "error", entry
    else:
        assert answer.status == 400


@pytest.mark.parametrize("prefix", [*OUT, "nul\0", "x" * 5000])
@pytest.mark.parametrize("kind", ["SaveImage", "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveLatent"])
def test_no_prefix_of_a_name_leads_out(
    running: Program, folder: Path, kind: str, prefix: str
) -> None:
    before = listing(folder, ("base/log.txt", "base/temp", "base/output"))
    inputs: dict[str, Any] = {"images": ["1", 0], "filename_prefix": prefix}
    inputs |= {"fps": 1, "lossless": True, "quality": 1, "method": "default", "compress_level": 1}
    prompt = {"1": PLAIN, "2": node(kind, **inputs)}
    if kind == "SaveLatent":
        prompt = {
            "1": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "2": node(kind, samples=["1", 0], filename_prefix=prefix),
        }
    if "\\" in prefix:
        # A name of its own where backslashes separate nothing.
        running.post("/prompt", {"prompt": prompt})
        succeeds(running, picture(6))
    else:
        fails(running, prompt)
    assert listing(folder, ("base/log.txt", "base/temp", "base/output")) == before


def test_a_value_where_a_picture_belongs_is_an_error_of_its_node(running: Program) -> None:
    fails(running, {"1": node("PreviewImage", images=5)})
    fails(running, {"1": PLAIN, "2": node("PreviewImage", images="x")})


def test_a_picture_larger_than_any_memory_is_an_error_of_its_node(running: Program) -> None:
    huge = node("EmptyImage", width=16384, height=16384, batch_size=4096, color=0)
    fails(running, {"1": huge, "2": node("PreviewImage", images=["1", 0])})
    succeeds(running, picture(8))


# -- large graphs ----------------------------------------------------------------------------------

COUNT = 10_000


def chain(first: dict[str, Any]) -> dict[str, Any]:
    last = COUNT - 2
    inner = {str(i): node("ImageInvert", image=[str(i - 1), 0]) for i in range(1, last + 1)}
    return {"0": first, **inner, "show": node("PreviewImage", images=[str(last), 0])}


def compact(prompt: dict[str, Any], **more: Any) -> bytes:
    """Under the limit of this server, which is small."""
    return json.dumps({"prompt": prompt, **more}, separators=(",", ":")).encode()


def test_a_chain_of_ten_thousand_nodes_runs_and_holds_nobody_up(running: Program) -> None:
    page = running.listen("page")
    begun = time.monotonic()
    prompt = chain(node("EmptyImage", width=8, height=8, batch_size=1, color=7))
    body = compact(prompt, client_id="page")
    assert len(body) < MIB
    answer = running.request("POST", "/prompt", data=body)
    assert answer.status == 200, answer
    # Other requests wait while a prompt is looked at.
    waits = [time.monotonic() - begun]
    prompt_id = answer.json()["prompt_id"]
    while not running.get(f"/history/{prompt_id}").json():
        begun = time.monotonic()
        assert running.get("/prompt").status == 200
        waits.append(time.monotonic() - begun)
        time.sleep(0.05)
    assert max(waits) < 5
    (entry,) = running.get(f"/history/{prompt_id}").json().values()
    assert entry["status"]["status_str"] == "success"
    page.wait_for_end(prompt_id)
    assert {one["node"] for one in page.of("executing")} == {*prompt, None}
    page.close()


@pytest.mark.parametrize("back_to", ["1", str(COUNT - 2)])
def test_a_circle_of_ten_thousand_nodes_is_refused(running: Program, back_to: str) -> None:
    body = compact(chain(node("ImageInvert", image=[back_to, 0])))
    answer = running.request("POST", "/prompt", data=body)
    assert answer.status == 400
    assert running.get("/prompt").status == 200


def test_ten_thousand_outputs_that_are_all_wrong_are_refused(running: Program) -> None:
    body = compact({str(i): node("PreviewImage", images=["x", 0]) for i in range(COUNT)})
    begun = time.monotonic()
    answer = running.request("POST", "/prompt", data=body)
    assert answer.status == 400
    assert time.monotonic() - begun < 20
