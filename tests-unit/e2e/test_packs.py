"""Packs of custom nodes in the running program: each door that packs have, opened by a small one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import pack_texts
from support.live_program import Prompt, link_checkpoint, node, sampled, succeeds
from support.packs import one_node, write_pack
from support.running_server import Program, program

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPACED = "with a space"
PACKS: dict[str, dict[str, str]] = {
    "classic": {"__init__.py": pack_texts.CLASSIC},
    "v3": {"__init__.py": pack_texts.V3},
    "routed": {"__init__.py": pack_texts.ROUTED},
    SPACED: {
        "__init__.py": pack_texts.WITH_WEB,
        "pyproject.toml": pack_texts.WITH_WEB_PROJECT,
        "js/a.js": pack_texts.JAVASCRIPT,
        "js/deep/b.js": pack_texts.JAVASCRIPT,
        "js/c.css": "a {}",
        "panel/d.js": pack_texts.JAVASCRIPT,
        "secret.js": "",
    },
    "broken": {"__init__.py": pack_texts.BROKEN},
    "leaving": {"__init__.py": pack_texts.LEAVING},
    "early": {"__init__.py": pack_texts.EARLY, "prestartup_script.py": pack_texts.PRESTART},
    "attention": {"__init__.py": pack_texts.ATTENTION},
    "sampling": {"__init__.py": pack_texts.SAMPLING},
    "seam": {"__init__.py": pack_texts.SEAM},
    "choices": {"__init__.py": pack_texts.CHOICES},
    "folders": {"__init__.py": pack_texts.FOLDERS, "odd/a.odd": "an odd thing", "odd/b.txt": ""}
    | {"things/t.safetensors": ""},
    "lone.py": {"": one_node("Lone")},
    "asleep.disabled": {"__init__.py": one_node("Asleep")},
}


def write_packs(folder: Path) -> None:
    for name, files in PACKS.items():
        write_pack(folder / "custom_nodes", name, files)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("packs")
    link_checkpoint(folder)
    write_packs(folder)
    with program(folder) as one:
        yield one


@pytest.fixture(scope="module")
def info(running: Program) -> dict[str, Any]:
    return dict(running.get("/object_info").json())


def shown(running: Program, prompt: Prompt, source: str = "1") -> str:
    """What a node gives, as text."""
    entry = succeeds(running, {**prompt, "shown": node("PreviewAny", source=[source, 0])})
    return str(entry["outputs"]["shown"]["text"][0])


def through(kind: str, seed: int = 1) -> Prompt:
    """Sample with a model that a pack has patched."""
    return {**sampled(seed, model=("patch", 0)), "patch": node(kind, model=["model", 0])}


def seen(running: Program, name: str) -> dict[str, int]:
    return dict(running.get(f"/seen/{name}").json())


# -- nodes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "display_name", "module"),
    [
        ("ClassicDouble", "Twice as Much", "custom_nodes.classic"),
        ("NewDouble", "Twice, Newly", "custom_nodes.v3"),
        ("Lone", "The Lone", "custom_nodes.lone"),
    ],
)
def test_nodes_of_packs_are_described(
    info: dict[str, Any], name: str, display_name: str, module: str
) -> None:
    assert info[name]["display_name"] == display_name
    assert info[name]["python_module"] == module


@pytest.mark.parametrize("name", ["ClassicDouble", "NewDouble"])
def test_nodes_of_packs_run(running: Program, name: str) -> None:
    assert shown(running, {"1": node(name, value=4)}) == "8"


def test_names_of_built_in_nodes_stay_theirs(info: dict[str, Any]) -> None:
    assert info["KSampler"]["python_module"] == "nodes"
    assert "steps" in info["KSampler"]["input"]["required"]


@pytest.mark.parametrize(
    ("pack", "reason"), [("broken", "a_package_that_nobody_has"), ("leaving", "SystemExit")]
)
def test_a_pack_that_fails_is_named_and_stops_no_other(
    running: Program, info: dict[str, Any], pack: str, reason: str
) -> None:
    lines = running.said().splitlines()
    assert any("(IMPORT FAILED)" in line and line.endswith(f"/{pack}") for line in lines)
    assert reason in running.said()
    assert "Lone" in info


def test_a_pack_that_is_switched_off_by_its_name_stays_out(info: dict[str, Any]) -> None:
    assert "Asleep" not in info


def test_a_prestart_script_ran_before_torch(running: Program) -> None:
    assert shown(running, {"1": node("WhenStarted")}) == "early"


# -- the server's doors ----------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_routes_of_a_pack_are_served_with_and_without_prefix(running: Program, prefix: str) -> None:
    assert running.get(f"{prefix}/routed/hello").json() == {"word": "hello"}


def test_routes_that_a_pack_gives_the_application_are_served_as_they_are(running: Program) -> None:
    assert running.get("/alone").body == b"as it is"
    assert running.get("/api/alone").status == 404


def test_a_pack_tells_pages_what_it_likes(running: Program) -> None:
    page = running.listen("of-pack")
    running.post("/routed/tell", {"word": [1, 2]})
    assert page.wait_for("routed.told") == {"word": [1, 2]}
    page.close()


def test_a_pack_changes_prompts_before_they_are_looked_at(running: Program) -> None:
    entry = succeeds(running, {"1": node("PreviewAny", source="x")})
    assert entry["prompt"][3]["marked"] is True


def test_scripts_for_the_page_are_listed_and_served(running: Program) -> None:
    listed = running.get("/extensions").json()
    spaced = "/extensions/with%20a%20space"
    wanted = [f"{spaced}/a.js", f"{spaced}/deep/b.js", "/extensions/panel-of-tests/d.js"]
    assert set(wanted) <= set(listed)
    for path in wanted:
        answer = running.get(path)
        assert (answer.status, answer.body.decode()) == (200, pack_texts.JAVASCRIPT)
        assert "javascript" in answer.headers["Content-Type"]
    assert not any("secret" in path or path.endswith(".css") for path in listed)
    assert running.get(f"{spaced}/c.css").status == 200
    assert running.get(f"{spaced}/secret.js").status == 404


# -- models and sampling ---------------------------------------------------------------------------


def pixels(running: Program, prompt: Prompt) -> bytes:
    (image,) = succeeds(running, prompt)["outputs"]["show"]["images"]
    query = "&".join(f"{key}={value}" for key, value in image.items())
    answer = running.get(f"/view?{query}&channel=rgb")
    assert answer.status == 200
    return answer.body


def test_a_patch_of_attention_reaches_every_layer_and_no_other_run(running: Program) -> None:
    plain = pixels(running, sampled(seed=5))
    patched = pixels(running, through("PatchAttention", seed=5))
    counts = seen(running, "Attention")
    assert counts["attn1"] > 0
    assert counts["attn2"] > 0
    # Self-attention by itself, and cross-attention inside the replacement.
    assert counts["override"] >= counts["attn1"]
    assert patched != plain
    assert pixels(running, {**sampled(seed=5), "other": node("PreviewAny", source="y")}) == plain
    assert seen(running, "Attention") == counts


def test_wrappers_of_the_sampler_are_called(running: Program) -> None:
    assert pixels(running, through("PatchSampling", seed=6)) != pixels(running, sampled(seed=6))
    counts = seen(running, "Sampling")
    assert counts == {"outer": 1, "cfg": 2, "post": 2, "unet": 2}


def test_a_replaced_loader_of_files_is_used(running: Program) -> None:
    succeeds(running, through("PatchSeam", seed=7))
    counts = seen(running, "Seam")
    assert counts["patches"] == 1
    assert counts["loads"] >= 1


def test_a_sampler_and_a_scheduler_of_a_pack_can_be_chosen(
    running: Program, info: dict[str, Any]
) -> None:
    inputs = info["KSampler"]["input"]["required"]
    assert "at_once" in inputs["sampler_name"][0]
    assert "halves" in inputs["scheduler"][0]
    prompt = sampled(seed=8)
    prompt["sampler"]["inputs"] |= {"sampler_name": "at_once", "scheduler": "halves"}
    succeeds(running, prompt)


# -- folders ---------------------------------------------------------------------------------------


def test_folders_of_a_pack_are_listed_and_read(running: Program, info: dict[str, Any]) -> None:
    assert {"things_of_tests", "odd_things"} <= set(running.get("/models").json())
    assert running.get("/models/odd_things").json() == ["a.odd"]
    assert running.get("/models/things_of_tests").json() == ["t.safetensors"]
    assert info["PickThing"]["input"]["required"]["name"][0] == ["a.odd"]
    assert shown(running, {"1": node("PickThing", name="a.odd")}) == "an odd thing"


# -- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [[], ["classic", SPACED, "lone.py"]])
def test_packs_are_left_out_but_for_those_that_are_named(
    tmp_path: Path, allowed: list[str]
) -> None:
    write_packs(tmp_path)
    named = ["--whitelist-custom-nodes", *allowed] if allowed else []
    with program(tmp_path, "--disable-all-custom-nodes", *named) as running:
        found = running.get("/object_info").json()
        assert "KSampler" in found
        of_packs = {
            one["python_module"]
            for one in found.values()
            if one["python_module"].startswith("custom_nodes")
        }
        assert of_packs == ({"custom_nodes.classic", "custom_nodes.lone"} if allowed else set())
        assert running.get("/routed/x").status == 404
        listed = running.get("/extensions").json()
        assert any("space" in path for path in listed) == bool(allowed)
        assert "nobody_has" not in running.said()
