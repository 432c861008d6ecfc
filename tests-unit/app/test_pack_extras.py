"""Tests of what packs bring for the page: example workflows, translations, subgraphs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

import folder_paths
from app.custom_node_manager import CustomNodeManager
from app.subgraph_manager import SubgraphManager
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve

WORKFLOW_FOLDERS = ["example_workflows", "example", "examples", "workflow", "workflows"]


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "base" / "custom_nodes"
    folder.mkdir(parents=True)
    kinds = {"custom_nodes": ([str(folder), str(tmp_path / "none")], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    return folder


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def served(packs: Path) -> Iterator[Served]:
    loaded = {"a": str(packs / "a"), "b c": str(packs / "b c")}

    def fill(app: web.Application) -> None:
        routes = web.RouteTableDef()
        CustomNodeManager().add_routes(routes, app, loaded.items())
        SubgraphManager().add_routes(routes, loaded.items())
        app.add_routes(routes)

    with serve(fill) as server:
        yield server


def test_without_packs_there_is_nothing(served: Served) -> None:
    assert served.get("/workflow_templates").json() == {}
    assert served.get("/i18n").json() == {}
    assert served.get("/global_subgraphs").json() == {}


@pytest.mark.parametrize("name", WORKFLOW_FOLDERS)
def test_workflows_of_packs_are_listed_and_those_of_loaded_ones_served(
    served: Served, packs: Path, name: str
) -> None:
    for pack in ("a", "b c", "not loaded"):
        _write(packs / pack / name / "first.json", {"pack": pack})
        _write(packs / pack / name / "first.jpg", "picture")
        _write(packs / pack / "other" / "second.json", {})
    _write(packs / "without" / "x.json", {})
    listed = served.get("/workflow_templates").json()
    assert listed == {"a": ["first"], "b c": ["first"], "not loaded": ["first"]}
    given = served.get("/api/workflow_templates/b%20c/first.json")
    assert given.json() == {"pack": "b c"}
    assert given.headers["Content-Type"] == "application/json"
    assert served.get("/api/workflow_templates/a/first.jpg").body == b"picture"
    assert served.get("/api/workflow_templates/not%20loaded/first.json").status == 404
    assert served.get("/api/workflow_templates/a/second.json").status == 404


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize("form", ["a/{}", "{}/secret.txt", "a/{}/secret.txt"])
def test_no_workflow_is_outside_its_folder(
    served: Served, packs: Path, name: str, form: str
) -> None:
    _write(packs / "a" / "workflows" / "x.json", {})
    plant_ways_out(packs / "a" / "workflows")
    _write(packs.parent.parent / "secret.txt", "the secret")
    answer = served.get(f"/api/workflow_templates/{form.format(name)}")
    assert answer.status == 404
    assert b"the secret" not in answer.body


def test_translations_of_all_packs_are_merged(served: Served, packs: Path) -> None:
    _write(packs / "a" / "locales" / "en" / "main.json", {"x": 1, "commands": {"old": 1}})
    _write(packs / "a" / "locales" / "en" / "commands.json", {"new": 2})
    _write(packs / "a" / "locales" / "en" / "settings.json", {})
    _write(packs / "a" / "locales" / "en" / "nodeDefs.json", {"N": {"name": "n", "tip": "t"}})
    _write(packs / "a" / "locales" / "fr" / "nodeDefs.json", "{ broken")
    _write(packs / "b c" / "locales" / "en" / "nodeDefs.json", {"N": {"name": "m"}, "O": 1})
    _write(packs / "b c" / "locales" / "en" / "main.json", {"x": 3})
    _write(packs / "b c" / "locales" / "de" / "main.json", ["no object"])
    # Browsers cannot read what Python takes for a number.
    _write(packs / "b c" / "locales" / "fr" / "settings.json", '{"x": NaN}')
    assert served.get("/i18n").json() == {
        "en": {
            "x": 3,
            "commands": {"new": 2},
            "nodeDefs": {"N": {"name": "m", "tip": "t"}, "O": 1},
        },
        "fr": {},
        "de": {},
    }


def test_translations_are_looked_for_once(packs: Path) -> None:
    manager = CustomNodeManager()
    before = manager.build_translations()
    _write(packs / "late" / "locales" / "en" / "main.json", {"x": 1})
    assert manager.build_translations() is before


def test_subgraphs_of_packs_are_listed_without_and_given_with_their_data(
    served: Served, packs: Path
) -> None:
    path = packs / "b c" / "subgraphs" / "Blend.json"
    _write(path, '{"é": 1}')
    identity = hashlib.sha256(f"custom_node{path.as_posix()}".encode()).hexdigest()
    entry = {
        "source": "custom_node",
        "name": "Blend",
        "info": {"node_pack": "custom_nodes.b c"},
    }
    assert served.get("/global_subgraphs").json() == {identity: entry}
    given = served.get(f"/global_subgraphs/{identity}").json()
    assert given == {**entry, "data": '{"é": 1}'}


@pytest.mark.parametrize("identity", ["0" * 64, "x", *TRAVERSALS])
def test_an_unknown_subgraph_is_nothing(served: Served, packs: Path, identity: str) -> None:
    _write(packs / "a" / "subgraphs" / "x.json", {})
    answer = served.get(f"/global_subgraphs/{identity}")
    assert (answer.status, answer.body) == (200, b"null") or identity in ("..", "%2e%2e")
