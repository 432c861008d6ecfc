"""Folders of models that users name in a file are looked in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import mock_open, patch

import pytest
import yaml

import folder_paths
from utils.extra_config import load_extra_path_config


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Known folders of models, which the test may change."""
    known = {
        "checkpoints": (["/models/checkpoints"], {".safetensors"}),
        "text_encoders": (["/models/clip"], {".safetensors"}),
    }
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    return known


def _load(folder: Path, text: str) -> None:
    file = folder / "extra_model_paths.yaml"
    file.write_text(text, encoding="utf-8")
    load_extra_path_config(str(file))


def test_folders_are_added_below_the_base(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, f"mine:\n  base_path: {tmp_path}/base/\n  checkpoints: sub/../models\n")
    assert kinds["checkpoints"][0] == ["/models/checkpoints", str(tmp_path / "base" / "models")]


def test_each_line_is_a_folder_and_blank_ones_are_none(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "mine:\n  checkpoints: |\n    a\n\n    b\n")
    assert kinds["checkpoints"][0][1:] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_a_list_of_folders_is_taken_too(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "mine:\n  checkpoints: [a, b]\n")
    assert kinds["checkpoints"][0][1:] == [str(tmp_path / "a"), str(tmp_path / "b")]


@pytest.mark.parametrize("base", ["base_path: base", "base_path: ./other/../base"])
def test_a_relative_base_is_below_the_folder_of_the_file(
    tmp_path: Path, kinds: Any, base: str
) -> None:
    _load(tmp_path, f"mine:\n  {base}\n  checkpoints: a\n")
    assert kinds["checkpoints"][0][1:] == [str(tmp_path / "base" / "a")]


@pytest.mark.parametrize("base", ["", "base_path: nowhere\n  "])
def test_an_absolute_folder_is_taken_as_it_is(tmp_path: Path, kinds: Any, base: str) -> None:
    _load(tmp_path, f"mine:\n  {base}checkpoints: {tmp_path}/a\n")
    assert kinds["checkpoints"][0][1:] == [str(tmp_path / "a")]


def test_home_and_variables_are_expanded(
    tmp_path: Path, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("MY_MODELS", str(tmp_path / "variable"))
    home = "one:\n  base_path: ~/App/\n  checkpoints: a\n"
    variable = "two:\n  base_path: $MY_MODELS/x\n  checkpoints: b\n"
    _load(tmp_path, home + variable)
    assert kinds["checkpoints"][0][1:] == [
        str(tmp_path / "home" / "App" / "a"),
        str(tmp_path / "variable" / "x" / "b"),
    ]


def test_default_folders_come_first(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "mine:\n  is_default: true\n  checkpoints: a\n")
    assert kinds["checkpoints"][0] == [str(tmp_path / "a"), "/models/checkpoints"]


def test_old_names_of_kinds_are_known(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "mine:\n  clip: a\n")
    assert kinds["text_encoders"][0][1:] == [str(tmp_path / "a")]
    assert "clip" not in kinds


def test_new_kinds_and_packs_may_be_named(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "testing:\n  custom_nodes: testing_nodes\n  things: a\n")
    assert kinds["custom_nodes"][0] == [str(tmp_path / "testing_nodes")]
    assert kinds["things"] == ([str(tmp_path / "a")], set())


@pytest.mark.parametrize("text", ["", "# nothing\n", "mine:\n", "mine: {}\n"])
def test_an_empty_file_or_section_adds_nothing(tmp_path: Path, kinds: Any, text: str) -> None:
    _load(tmp_path, text)
    assert kinds["checkpoints"][0] == ["/models/checkpoints"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a\n- b\n", "the file must be a mapping"),
        ("mine: text\n", "section 'mine' must be a mapping"),
        ("mine:\n  5: a\n", "section 'mine' must be a mapping of names"),
        ("mine:\n  base_path: 5\n", "'base_path' in section 'mine' must be the path of a folder"),
        ("mine:\n  base_path: [a]\n", "'base_path' in section 'mine' must be the path of a folder"),
        ("mine:\n  checkpoints: 5\n", "'checkpoints' in section 'mine' must be a text"),
        ("mine:\n  checkpoints: [a, 5]\n", "'checkpoints' in section 'mine' must be a text"),
    ],
)
def test_another_shape_is_refused_with_its_place(
    tmp_path: Path, kinds: Any, text: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        _load(tmp_path, text)
    assert "extra_model_paths.yaml" in str(caught.value)


def test_no_yaml_is_an_error(tmp_path: Path, kinds: Any) -> None:
    with pytest.raises(yaml.YAMLError):
        _load(tmp_path, "a: [")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_extra_path_config(str(tmp_path / "missing.yaml"))


def test_names_in_other_scripts_are_read(tmp_path: Path, kinds: Any) -> None:
    _load(tmp_path, "mine:\n  checkpoints: modèles/絵\n")
    assert kinds["checkpoints"][0][1:] == [str(tmp_path / "modèles" / "絵")]


def test_what_third_parties_replace_is_called_through_its_module() -> None:
    config = {
        "mine": {"base_path": "/base", "is_default": True, "checkpoints": "a\nb", "loras": "c"}
    }
    calls: list[Any] = []
    with (
        patch("builtins.open", mock_open(read_data="anything")) as opened,
        patch("yaml.safe_load", return_value=config) as parsed,
        patch("folder_paths.add_model_folder_path", lambda *args: calls.append(args)),
    ):
        load_extra_path_config("some.yaml")
    opened.assert_called_once_with("some.yaml", "r", encoding="utf-8")
    parsed.assert_called_once()
    assert calls == [
        ("checkpoints", os.path.normpath("/base/a"), True),
        ("checkpoints", os.path.normpath("/base/b"), True),
        ("loras", os.path.normpath("/base/c"), True),
    ]
    assert config["mine"]["base_path"] == "/base"
