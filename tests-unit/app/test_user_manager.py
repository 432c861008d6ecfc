"""Tests of users, their ids and the paths of their files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import folder_paths
from app import new_user, user_manager
from app.user_manager import UserManager
from support.served_routes import Served, serve_table


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user"
    monkeypatch.setattr(folder_paths, "user_directory", str(folder))
    monkeypatch.setattr(user_manager, "args", SimpleNamespace(multi_user=False))
    return folder


@pytest.fixture
def many(users: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(user_manager, "args", SimpleNamespace(multi_user=True))
    return users


@pytest.fixture
def served(many: Path) -> Iterator[Served]:
    with serve_table(UserManager().add_routes) as server:
        yield server


def _from(user: str | None) -> SimpleNamespace:
    return SimpleNamespace(headers={} if user is None else {"comfy-user": user})


@pytest.mark.parametrize("header", [None, "", "someone", "__system"])
def test_with_one_user_the_header_says_nothing(users: Path, header: str | None) -> None:
    assert UserManager().get_request_user_id(_from(header)) == "default"


@pytest.mark.parametrize("header", [None, "", "nobody", "__system", "__", "../x"])
def test_with_many_users_only_known_ones_are_let_in(many: Path, header: str | None) -> None:
    manager = UserManager()
    manager.users["__system"] = "planted"
    with pytest.raises(KeyError, match="Unknown user"):
        manager.get_request_user_id(_from(header))


def test_a_user_that_was_added_is_known_also_after_a_restart(many: Path) -> None:
    user = UserManager().add_user(" Ann / Bée ")
    assert user.startswith("Ann-B-e_")
    again = UserManager()
    assert again.users == {user: "Ann / Bée"}
    assert again.get_request_user_id(_from(user)) == user


def test_a_program_for_one_user_keeps_the_users_of_one_for_many(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = UserManager().add_user("Ann")
    monkeypatch.setattr(user_manager.args, "multi_user", False)
    alone = UserManager()
    other = alone.add_user("Bob")
    with pytest.raises(ValueError, match="Ann"):
        alone.add_user("Ann")
    monkeypatch.setattr(user_manager.args, "multi_user", True)
    assert UserManager().users.items() >= {user: "Ann", other: "Bob"}.items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "username not provided"),
        ("  ", "username not provided"),
        ("__system", "System User prefix not allowed"),
        (" __x", "System User prefix not allowed"),
    ],
)
def test_names_that_are_no_users_are_refused(many: Path, name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        UserManager().add_user(name)
    assert not (many / "users.json").exists()


def test_a_path_is_below_the_users_folder_and_its_folder_is_made(users: Path) -> None:
    path = UserManager().get_request_user_filepath(_from(None), "workflows%2Fa.json")
    assert path == str(users / "default" / "workflows" / "a.json")
    assert (users / "default" / "workflows").is_dir()


def test_where_no_folder_is_wanted_none_is_made(users: Path) -> None:
    manager = UserManager()
    assert manager.get_request_user_filepath(_from(None), "x/a", create_dir=False) is not None
    assert manager.get_request_user_filepath(_from(None), None, create_dir=False) is not None
    assert not (users / "default").exists()


@pytest.mark.parametrize("file", ["../a", "..%2fa", "/etc/passwd", "a/../../b", "..\\a", "a\0"])
def test_no_path_is_outside_the_users_folder(users: Path, file: str) -> None:
    assert UserManager().get_request_user_filepath(_from(None), file) is None


@pytest.mark.parametrize("user", ["..", ".", "a/../..", "/etc"])
def test_an_id_in_the_list_of_users_cannot_name_another_folder(many: Path, user: str) -> None:
    many.mkdir()
    (many / "users.json").write_text(json.dumps({user: "planted"}))
    assert UserManager().get_request_user_filepath(_from(user), "a.txt") is None


def test_other_types_of_files_are_not_known(users: Path) -> None:
    with pytest.raises(KeyError, match="models"):
        UserManager().get_request_user_filepath(_from(None), "a", type="models")


def test_a_damaged_list_of_users_is_kept_aside(
    many: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many.mkdir()
    (many / "users.json").write_text('{"half')
    assert UserManager().users == {}
    assert (many / "users.json.bak").read_text() == '{"half'
    assert "users.json is damaged" in caplog.text


def test_old_leftovers_of_killed_writes_are_removed_and_young_ones_stay(users: Path) -> None:
    folder = users / "default"
    folder.mkdir(parents=True)
    old, young = folder / ".a.1.unfinished", folder / ".a.2.unfinished"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1, 1))
    UserManager()
    assert not old.exists()
    assert young.exists()


# -- requests --------------------------------------------------------------------------------------


def test_one_user_is_told_by_whether_its_folder_exists(users: Path) -> None:
    with serve_table(UserManager().add_routes) as server:
        assert server.get("/users").json() == {"storage": "server", "migrated": False}
        (users / "default").mkdir()
        assert server.get("/users").json() == {"storage": "server", "migrated": True}


def test_users_are_added_and_listed_and_their_settings_are_their_own(served: Served) -> None:
    ann, bob = (served.post("/users", {"username": name}).json() for name in ("Ann", "Bob"))
    assert served.get("/users").json() == {
        "storage": "server",
        "users": {ann: "Ann", bob: "Bob"},
    }
    served.post("/settings/colour", "red", **{"Comfy-User": ann})
    assert served.get("/settings/colour", **{"Comfy-User": ann}).json() == "red"
    assert served.get("/settings/colour", **{"Comfy-User": bob}).json() is None


@pytest.mark.parametrize(
    "body", [{}, [], "Ann", {"username": 3}, {"username": ""}, {"username": "__x"}, None]
)
def test_no_user_is_made_of_a_bad_request(served: Served, body: object) -> None:
    answer = served.post("/users", body)
    assert answer.status == 400
    assert answer.json()["error"]
    assert served.get("/users").json()["users"] == {}


def test_a_name_is_taken_once(served: Served) -> None:
    assert served.post("/users", {"username": "Ann"}).status == 200
    answer = served.post("/users", {"username": "Ann "})
    assert answer.status == 400
    assert answer.json()["error"] == 'There is a user named "Ann" already.'


def test_of_requests_at_once_for_one_name_one_is_granted(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.post, "/users", {"username": "Ann"}) for _ in range(8)]
    statuses = sorted(one.result().status for one in asked)
    assert statuses == [200] + [400] * 7
    assert list(served.get("/users").json()["users"].values()) == ["Ann"]


def test_others_are_answered_while_a_new_user_s_files_are_written(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()

    def slow(folder: str) -> None:
        begun.set()
        answered.wait(10)

    monkeypatch.setattr(new_user, "welcome", slow)
    with ThreadPoolExecutor(1) as pool:
        added = pool.submit(served.post, "/users", {"username": "Ann"})
        assert begun.wait(10)
        assert served.get("/users").status == 200
        assert not added.done()
        answered.set()
        assert added.result().status == 200


@pytest.mark.parametrize("user", ["nobody", "__system", ""])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/settings", 401),
        ("GET", "/settings/a", 401),
        ("POST", "/settings", 401),
        ("POST", "/settings/a", 401),
        ("GET", "/userdata?dir=x", 403),
        ("GET", "/v2/userdata", 403),
        ("GET", "/userdata/a", 403),
        ("POST", "/userdata/a", 403),
        ("DELETE", "/userdata/a", 403),
        ("POST", "/userdata/a/move/b", 403),
    ],
)
def test_strangers_and_parts_of_the_program_are_turned_away(
    served: Served, many: Path, user: str, method: str, path: str, status: int
) -> None:
    (many / "__system").mkdir()
    (many / "__system" / "a").write_text("inner")
    answer = served.ask(method, path, "{}", {"Comfy-User": user})
    assert answer.status == status
    assert os.listdir(many) == ["__system"]
    assert (many / "__system" / "a").read_text() == "inner"
