"""Programs that others wrote, in a virtual environment of their own that is kept for the next time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ROOT / ".cache" / "other_programs"
_LONGEST_INSTALLATION_S = 240
_LONGEST_RUN_S = 120


class NotInstalled(Exception):
    """The programs cannot be had here; the text says why."""


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Programs:
    """An environment.

    Attributes:
        bin: The folder of its commands.
        home: The user's folder, as they see it.
    """

    bin: Path
    home: Path

    def run(self, *words: str, cwd: Path | None = None) -> Ended:
        """Run a command of the environment, as a user without any settings."""
        kept = {key: os.environ[key] for key in ("LANG", "TMPDIR") if key in os.environ}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        ended = subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd or self.home,
            stdin=subprocess.DEVNULL,
            timeout=_LONGEST_RUN_S,
            env={**kept, "PATH": path, "HOME": str(self.home), "OMP_NUM_THREADS": "1"},
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)


def installed(requirements: Path) -> Path:
    """The commands' folder of an environment that has what a file lists; made if it is not there.

    Raises:
        NotInstalled: It cannot be made.
    """
    mark = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _KEPT / mark
    done = folder / "installed"
    if not done.exists():
        python = folder / "bin" / "python"
        _do(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = ("-m", "pip", "--disable-pip-version-check", "install", "-q", "-r")
        _do(str(python), *pip, str(requirements))
        done.touch()
    return folder / "bin"


def _do(*words: str) -> None:
    try:
        subprocess.run(
            words, check=True, capture_output=True, text=True, timeout=_LONGEST_INSTALLATION_S
        )
    except subprocess.CalledProcessError as err:
        raise NotInstalled((err.stderr.strip().splitlines() or ["no reason was told"])[-1]) from err
    except (OSError, subprocess.TimeoutExpired) as err:
        raise NotInstalled(str(err)) from err
