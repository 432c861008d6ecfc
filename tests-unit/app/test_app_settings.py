"""Tests of settings: merged, kept whole, and safe from each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import folder_paths
from app import user_manager
from app.user_manager import UserManager
from support.served_routes import Served, serve_table


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    monkeypatch.setattr(user_manager, "args", SimpleNamespace(multi_user=False))
    return tmp_path / "default" / "comfy.settings.json"


@pytest.fixture
def served(file: Path) -> Iterator[Served]:
    with serve_table(UserManager().add_routes) as server:
        yield server


def test_there_are_no_settings_at_first(served: Served, file: Path) -> None:
    assert served.get("/settings").json() == {}
    assert served.get("/settings/a").json() is None
    assert not file.parent.exists()


def test_settings_are_laid_over_each_other_one_level_deep(served: Served, file: Path) -> None:
    served.post("/settings", {"a": {"x": 1}, "b": 2})
    served.post("/settings", {"a": {"y": 1}})
    assert served.post("/settings/c", [None, 1.5]).status == 200
    expected = {"a": {"y": 1}, "b": 2, "c": [None, 1.5]}
    assert served.get("/settings").json() == expected
    assert file.read_text() == json.dumps(expected, indent=4)


@pytest.mark.parametrize("value", [None, False, 0, "", "1.58.1", [], {"a": [1]}])
def test_a_setting_may_be_any_json(served: Served, value: object) -> None:
    served.post("/settings/Comfy.Some.Thing", value)
    assert served.get("/settings/Comfy.Some.Thing").json() == value


def test_the_content_type_is_not_looked_at(served: Served) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert served.ask("POST", "/settings/a", '"1.58.1"', form).status == 200
    assert served.get("/settings/a").json() == "1.58.1"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/settings", b"{"),
        ("/settings", b""),
        ("/settings", b"[1]"),
        ("/settings", b'"text"'),
        ("/settings/a", b"{"),
        ("/settings/a", b""),
        ("/settings/a", b"NaN"),
        ("/settings/a", b"[-Infinity]"),
        ("/settings/a", b'"\xff"'),
        ("/settings/a", b"[" * 200_000),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_is_no_json_of_the_right_kind_changes_nothing(
    served: Served, file: Path, path: str, body: bytes
) -> None:
    served.post("/settings", {"kept": 1})
    before = file.read_bytes()
    assert served.ask("POST", path, body).status == 400
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", [b'{"a": 1', b"[1, 2]", b"", b"\xff\xfe", b'{"a": NaN}'])
def test_a_damaged_file_counts_for_nothing_and_is_kept_aside(
    served: Served, file: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_bytes(damage)
    assert served.get("/settings").json() == {}
    assert (file.parent / "comfy.settings.json.bak").read_bytes() == damage
    assert "comfy.settings.json is damaged" in caplog.text
    served.post("/settings/a", 1)
    assert served.get("/settings").json() == {"a": 1}


def test_changes_at_the_same_time_do_not_lose_each_other(served: Served) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: served.post(f"/settings/{n}", n), range(64)))
    assert {answer.status for answer in answers} == {200}
    assert served.get("/settings").json() == {str(n): n for n in range(64)}


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2F..%2Fx", "%2Fetc%2Fpasswd", "%00"])
def test_a_settings_name_is_no_path(served: Served, file: Path, name: str) -> None:
    answer = served.ask("POST", f"/settings/{name}", b"1")
    assert answer.status in (200, 404, 405)
    found = sorted(path.name for path in file.parent.parent.rglob("*"))
    assert found in ([], ["comfy.settings.json", "default"])


def test_custom_nodes_may_read_and_replace_settings(file: Path) -> None:
    manager = UserManager()
    request = SimpleNamespace(headers={})
    manager.settings.save_settings(request, {"a": 1})
    assert manager.settings.get_settings(request) == {"a": 1}
