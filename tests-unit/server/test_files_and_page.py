"""Tests of files, models, users and the page where they are mounted: with ``/api`` and without."""

from __future__ import annotations

from pathlib import Path

import pytest

import folder_paths
from support.running_server import Served

NOT_THERE = 404

# What the page asks for when it starts with a fresh profile, and the status that it expects.
STARTUP = [
    ("/", 200),
    ("/user.css", NOT_THERE),
    ("/materialdesignicons.min.css", 200),
    ("/scripts/app.js", 200),
    ("/api/userdata/user.css", NOT_THERE),
    ("/api/features", 200),
    ("/api/users", 200),
    ("/api/system_stats", 200),
    ("/api/settings", 200),
    ("/api/userdata?dir=workflows&recurse=true&split=false&full_info=true", NOT_THERE),
    ("/api/i18n", 200),
    ("/api/extensions", 200),
    ("/api/userdata/comfy.templates.json", NOT_THERE),
    ("/api/userdata?dir=subgraphs&recurse=true&split=false&full_info=true", NOT_THERE),
    ("/api/object_info", 200),
    ("/api/global_subgraphs", 200),
    ("/api/jobs?status=in_progress,pending&limit=200&offset=0", 200),
    ("/api/jobs?status=completed,failed,cancelled&limit=64&offset=0", 200),
    ("/api/workflow_templates", 200),
    ("/api/experiment/models", 200),
    ("/internal/folder_paths", 200),
    ("/internal/logs/raw", 200),
    ("/api/userdata/workflows%2F.index.json", NOT_THERE),
]

DOUBLED = [
    ("/", 200),
    ("/extensions", 200),
    ("/workflow_templates", 200),
    ("/i18n", 200),
    ("/global_subgraphs", 200),
    ("/global_subgraphs/none", 200),
    ("/embeddings", 200),
    ("/models", 200),
    ("/models/checkpoints", 200),
    ("/models/unet", NOT_THERE),
    ("/view_metadata/checkpoints", NOT_THERE),
    ("/experiment/models", 200),
    ("/experiment/models/checkpoints", 200),
    ("/experiment/models/preview/checkpoints/0/none.safetensors", NOT_THERE),
    ("/view", NOT_THERE),
    ("/view?filename=", 400),
    ("/users", 200),
    ("/settings", 200),
    ("/settings/a", 200),
    ("/userdata", 400),
    ("/v2/userdata", 200),
    ("/userdata/none", NOT_THERE),
]


@pytest.mark.parametrize(("path", "status"), STARTUP)
def test_the_page_gets_what_it_asks_for_at_the_start(idle: Served, path: str, status: int) -> None:
    # The page sends the name of its user with every request; there is none.
    assert idle.get(path, headers={"Comfy-User": ""}).status == status


@pytest.mark.parametrize(("path", "status"), DOUBLED)
def test_addresses_are_served_with_and_without_the_prefix(
    idle: Served, path: str, status: int
) -> None:
    plain, prefixed = idle.get(path), idle.get(f"/api{path}")
    assert (plain.status, prefixed.status) == (status, status)
    assert plain.body == prefixed.body


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/internal/logs",
        "/api/scripts/app.js",
        "/api/extensions/onecopy-welcome/welcome.js",
    ],
)
def test_files_and_the_page_s_own_addresses_have_no_prefix(idle: Served, path: str) -> None:
    assert idle.get(path).status == NOT_THERE


def test_our_scripts_are_listed_and_given(idle: Served) -> None:
    listed = idle.get("/extensions").json()
    own = [path for path in listed if path.startswith("/extensions/onecopy-")]
    assert "/extensions/onecopy-welcome/welcome.js" in own
    assert {idle.get(path).status for path in own} == {200}
    assert all(path.startswith("/extensions/core/") for path in listed if path not in own)


def test_a_workflow_is_kept_found_and_removed_through_the_prefix(idle: Served) -> None:
    name = "/api/userdata/workflows%2FMine%20%231.json"
    told = idle.post(f"{name}?overwrite=false&full_info=true", {"nodes": []}).json()
    assert told["path"] == "workflows/Mine #1.json"
    assert idle.post(f"{name}?overwrite=false", {}).status == 409
    assert idle.get("/userdata?dir=workflows").json() == ["Mine #1.json"]
    assert idle.get(name).json() == {"nodes": []}


def test_a_picture_of_a_run_is_shown(idle: Served) -> None:
    path = Path(folder_paths.get_output_directory()) / "a.txt"
    path.write_text("drawn")
    assert idle.get("/api/view?filename=a.txt&subfolder=&type=output&rand=0.1").body == b"drawn"
