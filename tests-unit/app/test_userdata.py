"""Tests of users' files: what is listed, read, written, moved and removed, and nothing outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import folder_paths
from app import json_files, user_manager
from app.user_manager import UserManager
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve_table


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    monkeypatch.setattr(user_manager, "args", SimpleNamespace(multi_user=False))
    return tmp_path / "user" / "default"


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    with serve_table(UserManager().add_routes) as server:
        yield server


@pytest.fixture
def filled(folder: Path) -> Path:
    (folder / "workflows" / "Sub").mkdir(parents=True)
    (folder / "workflows" / "b.json").write_text("{}")
    (folder / "workflows" / ".index.json").write_text("{}")
    (folder / "workflows" / ".b.json.x.unfinished").write_text("half")
    (folder / "workflows" / "Sub" / "a.json").write_text("[1]")
    return folder


# -- listing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dir=workflows", ["b.json"]),
        ("dir=workflows&recurse=true", ["Sub/a.json", "b.json"]),
        ("dir=workflows%2FSub", ["a.json"]),
        (
            "dir=workflows&recurse=true&split=true",
            [["Sub/a.json", "Sub", "a.json"], ["b.json", "b.json"]],
        ),
    ],
)
def test_files_are_listed(served: Served, filled: Path, query: str, expected: list[object]) -> None:
    assert served.get(f"/userdata?{query}").json() == expected


def test_all_about_files_is_told_and_wins_over_parts_of_names(served: Served, filled: Path) -> None:
    os.utime(filled / "workflows" / "b.json", (1, 2.5))
    query = "dir=workflows&recurse=true&split=true&full_info=true"
    first, second = served.get(f"/userdata?{query}").json()
    assert second == {
        "path": "b.json",
        "size": 2,
        "modified": 2.5,
        "created": (filled / "workflows" / "b.json").stat().st_ctime,
    }
    assert (first["path"], first["size"]) == ("Sub/a.json", 3)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?dir=", 400),
        ("?dir=missing", 404),
        ("?dir=workflows%2Fb.json", 404),
        ("?dir=..", 403),
        ("?dir=%2Fetc", 403),
        ("?dir=..%2F..", 403),
        ("?dir=%252e%252e", 403),
        ("?dir=..%5C..", 403),
        ("?dir=C%3A%5C", 403),
        ("?dir=a%00", 403),
        ("?dir=out", 403),
    ],
)
def test_what_cannot_be_listed(served: Served, filled: Path, query: str, status: int) -> None:
    plant_ways_out(filled)
    assert served.get(f"/userdata{query}").status == status


def test_all_below_the_users_folder_is_told(served: Served, filled: Path) -> None:
    found = served.get("/v2/userdata").json()
    assert [(one["type"], one["name"], one["path"]) for one in found] == [
        ("directory", "Sub", "workflows/Sub"),
        ("directory", "workflows", "workflows"),
        ("file", ".index.json", "workflows/.index.json"),
        ("file", "a.json", "workflows/Sub/a.json"),
        ("file", "b.json", "workflows/b.json"),
    ]
    assert set(found[-1]) == {"name", "path", "type", "size", "modified"}
    assert set(found[0]) == {"name", "path", "type"}
    below = served.get("/v2/userdata?path=workflows%2FSub").json()
    assert [one["path"] for one in below] == ["workflows/Sub/a.json"]


def test_a_user_without_a_folder_has_no_files(served: Served, folder: Path) -> None:
    assert served.get("/v2/userdata").json() == []
    assert not folder.exists()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("missing", 404),
        ("workflows%2Fb.json", 400),
        ("..", 400),
        ("%252e%252e", 400),
        ("%2Fetc", 400),
        ("..%5C..", 400),
        ("out", 400),
        ("a%00", 400),
    ],
)
def test_what_has_no_tree(served: Served, filled: Path, path: str, status: int) -> None:
    plant_ways_out(filled)
    assert served.get(f"/v2/userdata?path={path}").status == status


# -- one file --------------------------------------------------------------------------------------


def test_a_file_is_written_read_and_removed(served: Served, folder: Path) -> None:
    answer = served.ask("POST", "/userdata/workflows%2Fa.json", b"\x00\xff{}")
    assert (answer.status, answer.body) == (200, b'"workflows/a.json"')
    assert (folder / "workflows" / "a.json").read_bytes() == b"\x00\xff{}"
    assert served.get("/userdata/workflows%2Fa.json").body == b"\x00\xff{}"
    assert served.ask("DELETE", "/userdata/workflows%2Fa.json").status == 204
    assert served.get("/userdata/workflows%2Fa.json").status == 404
    assert served.ask("DELETE", "/userdata/workflows%2Fa.json").status == 404


def test_a_name_that_is_encoded_twice_is_decoded_twice(served: Served, folder: Path) -> None:
    assert served.ask("POST", "/userdata/workflows%252Fa%2520b.json", b"1").status == 200
    assert (folder / "workflows" / "a b.json").read_bytes() == b"1"


def test_all_about_a_written_file_is_told_if_wanted(served: Served, folder: Path) -> None:
    told = served.ask("POST", "/userdata/a.json?full_info=true", b"12345").json()
    facts = (folder / "a.json").stat()
    assert told == {
        "path": "a.json",
        "size": 5,
        "modified": facts.st_mtime,
        "created": facts.st_ctime,
    }


def test_a_file_is_replaced_unless_that_is_forbidden(served: Served, folder: Path) -> None:
    served.ask("POST", "/userdata/a.json", b"1")
    assert served.ask("POST", "/userdata/a.json?overwrite=false", b"2").status == 409
    assert (folder / "a.json").read_bytes() == b"1"
    assert served.ask("POST", "/userdata/a.json", b"3").status == 200
    assert (folder / "a.json").read_bytes() == b"3"
    assert os.listdir(folder) == ["a.json"]


def test_a_file_moves_to_a_folder_that_is_made(served: Served, filled: Path) -> None:
    answer = served.ask("POST", "/userdata/workflows%2Fb.json/move/new%2Fc.json")
    assert answer.json() == "new/c.json"
    assert (filled / "new" / "c.json").read_text() == "{}"
    assert not (filled / "workflows" / "b.json").exists()


def test_a_move_replaces_unless_that_is_forbidden(served: Served, filled: Path) -> None:
    (filled / "c.json").write_text("old")
    path = "/userdata/workflows%2Fb.json/move/c.json"
    assert served.ask("POST", f"{path}?overwrite=false").status == 409
    assert (filled / "c.json").read_text() == "old"
    assert served.ask("POST", f"{path}?full_info=true").json()["size"] == 2
    assert (filled / "c.json").read_text() == "{}"


def test_nothing_moves_from_nowhere(served: Served, filled: Path) -> None:
    assert served.ask("POST", "/userdata/none/move/c.json").status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/userdata/workflows"),
        ("DELETE", "/userdata/workflows"),
        ("POST", "/userdata/workflows/move/b"),
        ("GET", "/userdata/."),
        ("POST", "/userdata/%2e"),
        ("DELETE", "/userdata/workflows%2F.."),
    ],
)
def test_folders_are_no_files(served: Served, filled: Path, method: str, path: str) -> None:
    before = sorted(filled.rglob("*"))
    assert served.ask(method, path).status in (403, 404, 405)
    assert sorted(filled.rglob("*")) == before


@pytest.mark.parametrize(
    "path", ["/userdata/workflows", "/userdata/workflows%2Fb.json%2Fx", f"/userdata/{'n' * 300}"]
)
def test_what_the_system_refuses_to_write_is_a_bad_request(
    served: Served, filled: Path, path: str
) -> None:
    assert served.ask("POST", path, b"1").status == 400


def test_a_changed_file_is_not_taken_from_the_browsers_store(served: Served, folder: Path) -> None:
    served.ask("POST", "/userdata/a.json", b"1")
    first = served.get("/userdata/a.json")
    assert first.headers["Cache-Control"] == "no-cache"
    assert served.get("/userdata/a.json", **{"If-None-Match": first.headers["ETag"]}).status == 304
    served.ask("POST", "/userdata/a.json", b"22")
    again = served.get("/userdata/a.json", **{"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body) == (200, b"22")


def test_pages_in_users_files_do_not_run(served: Served, folder: Path) -> None:
    for name in ("page.html", "PAGE.HTM", "page.xht", "picture.svg", "sheet.xsl", "feed.rss"):
        served.ask("POST", f"/userdata/{name}", b"<script>1</script>")
        headers = served.get(f"/userdata/{name}").headers
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["X-Content-Type-Options"] == "nosniff"
    served.ask("POST", "/userdata/user.css", b"a {}")
    assert served.get("/userdata/user.css").headers["Content-Type"] == "text/css"


@pytest.mark.parametrize("name", TRAVERSALS)
@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("GET", "/userdata/{}"),
        ("POST", "/userdata/{}"),
        ("DELETE", "/userdata/{}"),
        ("POST", "/userdata/{}/move/stolen.txt"),
        ("POST", "/userdata/mine.txt/move/{}"),
    ],
)
def test_no_name_leads_out(
    served: Served, folder: Path, tmp_path: Path, name: str, method: str, form: str
) -> None:
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    plant_ways_out(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    answer = served.ask(method, form.format(name), b"overwritten")
    # Dots in place of a segment leave another address, on which nothing answers.
    assert answer.status in (400, 403, 404, 405)
    assert b"the secret" not in answer.body
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_body_beyond_the_limit_is_refused(folder: Path) -> None:
    with serve_table(UserManager().add_routes, client_max_size=100) as server:
        assert server.ask("POST", "/userdata/a", b"x" * 101).status == 413
        assert server.ask("POST", "/userdata/a", b"x" * 99).status == 200


# -- what third parties' tests replace --------------------------------------------------------------


def test_the_path_of_a_file_is_asked_of_the_manager_at_each_request(tmp_path: Path) -> None:
    manager = UserManager()
    with serve_table(manager.add_routes) as server:
        manager.get_request_user_filepath = (  # type: ignore[method-assign]
            lambda request, file, **settings: os.path.join(tmp_path, file) if file else tmp_path
        )
        assert server.ask("POST", "/userdata/test.txt", b"1").body == b'"test.txt"'
        assert (tmp_path / "test.txt").read_bytes() == b"1"
        assert server.get("/v2/userdata").json()[0]["name"] == "test.txt"


def test_names_have_slashes_where_the_system_has_none(
    served: Served, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sep", "\\")
    assert served.get("/userdata?dir=workflows&recurse=true").json() == ["Sub/a.json", "b.json"]
    answer = served.ask("POST", "/userdata/workflows%2Fnew.json", b"1")
    assert answer.json() == "workflows/new.json"


# -- whole or not at all ---------------------------------------------------------------------------


def test_a_write_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"before")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        json_files.write_whole(str(path), b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_write_keeps_rights_and_the_link_it_goes_through(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    real.write_bytes(b"before")
    real.chmod(0o640)
    (tmp_path / "link.json").symlink_to(real)
    json_files.write_whole(str(tmp_path / "link.json"), b"after")
    assert real.read_bytes() == b"after"
    assert real.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "link.json").is_symlink()


def test_a_new_file_has_the_rights_that_others_get(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    json_files.write_whole(str(tmp_path / "new"), b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
