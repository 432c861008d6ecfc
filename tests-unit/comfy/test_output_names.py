"""Names of saved pictures: their folder, their variables, a number that is free."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

import folder_paths


def test_the_counter_is_one_more_than_the_highest(tmp_path: Path) -> None:
    for name in ("x_00001_.png", "x_00041_.png", "x_abc_.png", "y_00099_.png", "x_7.png"):
        (tmp_path / name).touch()
    saved = folder_paths.get_save_image_path("x", str(tmp_path))
    assert saved == (str(tmp_path) + os.sep, "x", 42, "", "x")


@pytest.mark.parametrize(
    ("taken", "number"),
    [("x_0_00001_.png", 2), ("x_11_00007_.png", 8), ("x_%batch_num%_00004_.mp4", 5)],
)
def test_pictures_named_by_their_place_in_a_batch_are_not_written_over(
    tmp_path: Path, taken: str, number: int
) -> None:
    for name in (taken, "x_00099_.png", "x_y_00099_.png"):
        (tmp_path / name).touch()
    assert folder_paths.get_save_image_path("x_%batch_num%", str(tmp_path))[2] == number


def test_signs_of_patterns_in_a_name_mean_themselves(tmp_path: Path) -> None:
    for name in ("a.b[1]_00003_.png", "aXb1_00099_.png"):
        (tmp_path / name).touch()
    assert folder_paths.get_save_image_path("a.b[1]", str(tmp_path))[2] == 4


def test_subfolders_are_made(tmp_path: Path) -> None:
    folder, name, counter, subfolder, prefix = folder_paths.get_save_image_path(
        "a/b/pic", str(tmp_path)
    )
    assert (name, counter, subfolder, prefix) == ("pic", 1, os.path.join("a", "b"), "a/b/pic")
    assert Path(folder) == tmp_path / "a" / "b"
    assert os.path.isdir(folder)


def test_variables_are_replaced(tmp_path: Path) -> None:
    name = folder_paths.get_save_image_path("%width%x%height%_%year%", str(tmp_path), 64, 32)[1]
    assert name == f"64x32_{time.localtime().tm_year:04}"


@pytest.mark.parametrize("prefix", ["../x", "/x/y", "a/../../x"])
def test_saving_outside_is_refused(tmp_path: Path, prefix: str) -> None:
    inside = tmp_path / "output"
    inside.mkdir()
    with pytest.raises(ValueError, match="outside the output folder"):
        folder_paths.get_save_image_path(prefix, str(inside))
    assert os.listdir(tmp_path) == ["output"]
