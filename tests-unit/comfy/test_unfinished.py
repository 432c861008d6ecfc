"""Files that are being written: gone when the writer is, left alone while it is at work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfy import unfinished

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys, time
from comfy import unfinished
with unfinished.beside(sys.argv[1], ".png"):
    print(flush=True)
    time.sleep(600)
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks as POSIX has them")


@pytest.fixture
def writer(tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process in the middle of writing a file."""
    (tmp_path / "sub").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "sub" / "a.png")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def make_older(path: Path, seconds: float) -> None:
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


def test_what_a_killed_process_left_is_removed(
    tmp_path: Path, writer: subprocess.Popen[bytes]
) -> None:
    (left,) = (tmp_path / "sub").iterdir()
    assert unfinished.is_unfinished(left.name)
    assert left.suffix == ".png"
    make_older(left, 5)
    end(writer)
    unfinished.remove_abandoned(str(tmp_path))
    assert not left.exists()


def test_what_another_process_writes_stays(tmp_path: Path, writer: subprocess.Popen[bytes]) -> None:
    (written,) = (tmp_path / "sub").iterdir()
    # It may be a long film.
    make_older(written, 600)
    unfinished.remove_abandoned(str(tmp_path))
    assert written.exists()
    end(writer)


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    for name in (".hidden", "a.unfinished.png", "a.png", ".a.png"):
        (tmp_path / name).touch()
        make_older(tmp_path / name, 10_000)
    unfinished.remove_abandoned(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_stays_of_a_write_that_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), unfinished.beside(str(tmp_path / "a")):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_has_room(tmp_path: Path) -> None:
    path = tmp_path / ("\U0001f600" * 60)
    with unfinished.beside(str(path)) as made:
        os.replace(made, path)
    assert list(tmp_path.iterdir()) == [path]
