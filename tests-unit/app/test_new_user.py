"""Tests of what a new user finds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

import folder_paths
from app import new_user, user_manager
from app.user_manager import UserManager
from support.served_routes import serve_table


def test_a_new_user_finds_the_examples_and_settings_to_begin_with(tmp_path: Path) -> None:
    new_user.welcome(str(tmp_path / "default"))
    found = {path.name for path in (tmp_path / "default" / "workflows").iterdir()}
    assert found == set(os.listdir(new_user.EXAMPLES))
    assert f"{new_user.FIRST}.json" in found
    settings = json.loads((tmp_path / "default" / "comfy.settings.json").read_text())
    assert settings == {
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": "1.58.1",
        new_user.OPEN_AT_START: new_user.FIRST,
    }


def test_without_the_page_s_package_its_version_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_user, "PAGE", "no-such-package-anywhere")
    new_user.welcome(str(tmp_path))
    settings = json.loads((tmp_path / "comfy.settings.json").read_text())
    assert "Comfy.InstalledVersion" not in settings


@pytest.mark.parametrize("there", ["workflows/mine.json", "comfy.settings.json"])
def test_a_user_who_has_something_already_is_left_alone(tmp_path: Path, there: str) -> None:
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    new_user.welcome(str(tmp_path))
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


def test_examples_that_were_removed_do_not_come_back(tmp_path: Path) -> None:
    new_user.welcome(str(tmp_path))
    for path in (tmp_path / "workflows").iterdir():
        path.unlink()
    new_user.welcome(str(tmp_path))
    assert os.listdir(tmp_path / "workflows") == []


def test_a_folder_that_cannot_be_filled_is_told_and_no_reason_to_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    new_user.welcome(str(tmp_path / "file" / "default"))
    assert "The example workflows could not be put" in caplog.text


def test_the_only_user_and_added_ones_are_welcomed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    new_user.welcome_default()
    assert (tmp_path / "default" / "workflows" / "batch.json").is_file()
    monkeypatch.setattr(user_manager, "args", SimpleNamespace(multi_user=True))
    with serve_table(UserManager().add_routes) as server:
        user = server.post("/users", {"username": "Ann"}).json()
        listed = server.get("/userdata?dir=workflows", **{"Comfy-User": user}).json()
        assert "text_to_image.json" in listed
        setting = server.get(f"/settings/{new_user.OPEN_AT_START}", **{"Comfy-User": user})
        assert setting.json() == "text_to_image"
