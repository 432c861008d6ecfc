"""Tests of the listing of folders."""

from __future__ import annotations

from pathlib import Path

from api_server.utils.file_operations import FileSystemOperations, is_file_info


def test_folders_and_files_are_told_with_relative_paths(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").write_text("four")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    found = FileSystemOperations.walk_directory(str(tmp_path))
    assert found == [
        {"name": "d.txt", "path": "d.txt", "type": "file", "size": 0},
        {"name": "a", "path": "a", "type": "directory"},
        {"name": "b", "path": "a/b", "type": "directory"},
        {"name": "c.txt", "path": "a/b/c.txt", "type": "file", "size": 4},
    ]
    assert [is_file_info(item) for item in found] == [True, False, False, True]


def test_a_folder_that_is_missing_is_empty(tmp_path: Path) -> None:
    assert FileSystemOperations.walk_directory(str(tmp_path / "none")) == []
