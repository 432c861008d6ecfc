"""Files are whole or not there, and what is in them can be read again."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from comfy import image_saving
from comfy.cli_args import args


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({"a": [1, "ü", None, True]}, {"a": [1, "ü", None, True]}),
        ({"a": math.nan, "b": [math.inf, 1.5]}, {"a": None, "b": [None, 1.5]}),
        ((1, {"b": -math.inf}), [1, {"b": None}]),
    ],
)
def test_json_is_what_pages_can_read(value: Any, read: Any) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(image_saving.strict_json(value), parse_constant=refuse) == read


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        image_saving.strict_json({"a": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises((ValueError, RecursionError)):
        image_saving.strict_json(loop)


def test_the_graph_and_what_goes_with_it_become_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = image_saving.graph_metadata({"1": {}}, {"workflow": [1]})
    assert found == {"prompt": '{"1": {}}', "workflow": "[1]"}
    assert image_saving.graph_metadata(None, None) == {}
    monkeypatch.setattr(args, "disable_metadata", True)
    assert image_saving.graph_metadata({"1": {}}, {"workflow": [1]}) == {}


@pytest.mark.parametrize("name", ["", "€", "a\0b", "n" * 80])
def test_an_entry_whose_name_a_png_cannot_hold_is_told_and_left_out(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    found = image_saving.png_texts({"1": {}}, {name: 1, "grün": 2, "n" * 79: 3})
    assert found == {"prompt": '{"1": {}}', "grün": "2", "n" * 79: "3"}
    assert f"The entry {name!r}" in caplog.text


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with image_saving.whole_path(path) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"older")
    with pytest.raises(KeyError), image_saving.whole_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"older"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_what_the_users_mask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with image_saving.whole_file(tmp_path / "a") as file:
            file.write(b"a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
