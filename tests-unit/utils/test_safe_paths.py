"""Tests of the guard that keeps names from requests inside their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.safe_paths import below, inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "a.txt").write_text("a")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "secret.txt").write_text("secret")
    return made


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("sub/a.txt",), "sub/a.txt"),
        (("sub", "a.txt"), "sub/a.txt"),
        (("sub\\a.txt",), "sub/a.txt"),
        (("", "sub//./a.txt"), "sub/a.txt"),
        (("new/folder", "b.txt"), "new/folder/b.txt"),
        (("other/../sub/a.txt",), "sub/a.txt"),
        (("..a", "b..", "...", "c"), "..a/b../.../c"),
        (("one: b.txt",), "one: b.txt"),
        (("%2e%2e/a",), "%2e%2e/a"),
        ((), ""),
    ],
)
def test_names_below_the_folder_are_joined(
    root: Path, parts: tuple[str, ...], expected: str
) -> None:
    assert inside(str(root), *parts) == os.path.normpath(root / expected)


ESCAPES = [
    ("..",),
    ("../rooted/secret.txt",),
    ("sub/../../rooted/secret.txt",),
    ("sub", "..", "..", "rooted"),
    ("..\\rooted\\secret.txt",),
    ("sub\\..\\..\\rooted",),
    ("/etc/passwd",),
    ("sub", "/etc/passwd"),
    ("\\\\server\\share",),
    ("\\windows",),
    ("C:\\windows",),
    ("c:/windows",),
    ("C:windows",),
    ("sub/C:/windows",),
    ("a.txt\0.png",),
    ("\0",),
    ("a\ud800",),
]


@pytest.mark.parametrize("parts", ESCAPES, ids=repr)
def test_names_that_lead_out_are_refused(root: Path, parts: tuple[str, ...]) -> None:
    assert inside(str(root), *parts) is None
    assert below(str(root), *parts) is None


def test_a_link_that_leads_out_is_refused_with_all_below_it(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path / "rooted")
    (root / "file.txt").symlink_to(tmp_path / "rooted" / "secret.txt")
    assert inside(str(root), "out") is None
    assert inside(str(root), "out/secret.txt") is None
    assert inside(str(root), "out", "new.txt") is None
    assert inside(str(root), "file.txt") is None


def test_where_links_are_wanted_they_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "out").symlink_to(tmp_path / "rooted")
    assert below(str(root), "out/secret.txt") == str(root / "out" / "secret.txt")


def test_a_link_inside_the_folder_and_a_linked_folder_serve(root: Path, tmp_path: Path) -> None:
    (root / "alias").symlink_to(root / "sub")
    assert inside(str(root), "alias/a.txt") == str(root / "alias" / "a.txt")
    (tmp_path / "elsewhere").symlink_to(root)
    linked = str(tmp_path / "elsewhere")
    assert inside(linked, "sub/a.txt") == os.path.join(linked, "sub", "a.txt")


def test_a_neighbour_whose_name_begins_alike_is_outside(root: Path, tmp_path: Path) -> None:
    (root / "near").symlink_to(tmp_path / "rooted")
    assert os.path.realpath(root / "near").startswith(str(root))
    assert inside(str(root), "near") is None


def test_the_top_of_the_disk_has_everything_inside() -> None:
    assert inside("/", "etc/hosts") == "/etc/hosts"


def test_a_colon_names_a_stream_on_windows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inside(str(root), "notes.txt:hidden") is not None
    monkeypatch.setattr("utils.safe_paths.os.name", "nt")
    assert inside(str(root), "notes.txt:hidden") is None
