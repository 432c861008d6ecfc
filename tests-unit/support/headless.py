"""Runs ``main.py`` as a user does: in a process of its own, its files in a folder of the test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.environments import environment

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "workflows"

# A pack whose node does what its input says.
_PACK = """
import time

class Trouble:
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"deed": ("STRING", {})}}

    def run(self, deed):
        print("a pack talks")
        if deed == "raise":
            raise RuntimeError("the pack is in trouble")
        if deed == "hang":
            print("hanging", flush=True)
            time.sleep(600)
        return {}

NODE_CLASS_MAPPINGS = {"Trouble": Trouble}
"""


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Attributes:
        status: Its exit status.
        out: Its standard output.
        err: Its standard error.
    """

    status: int
    out: str
    err: str

    @property
    def paths(self) -> list[Path]:
        """The lines of standard output as paths."""
        return [Path(line) for line in self.out.splitlines()]


class Program:
    """Starts ``main.py`` with folders of a test's own."""

    def __init__(self, folder: Path) -> None:
        """Make the folders, and a pack with the node ``Trouble``.

        Args:
            folder: Where output, input and temporary files go.
        """
        self.folder = folder
        pack = folder / "packs" / "trouble"
        pack.mkdir(parents=True)
        (pack / "__init__.py").write_text(_PACK)
        self.config = folder / "paths.yaml"
        self.config.write_text("test:\n  custom_nodes: packs\n")

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start it; the command line's folders come before the words."""
        folders = [
            f"--{kind}-directory={self.folder / kind}" for kind in ("output", "input", "temp")
        ]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *folders, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Some other folder: nothing may depend on where it is started.
            cwd=self.folder,
            env=environment(),
        )

    def run(self, *words: str | Path, given: str | None = None) -> Finished:
        """Start it and wait.

        Args:
            words: Of the command line.
            given: For standard input.
        """
        process = self.start(*words)
        out, err = process.communicate(given, timeout=240)
        return Finished(process.returncode, out, err)

    def with_pack(self, prompt: dict[str, Any]) -> list[str]:
        """Words that run a prompt of which the pack ``Trouble`` is a part."""
        path = self.folder / "prompt.json"
        path.write_text(json.dumps(prompt))
        return ["--run", str(path), "--extra-model-paths-config", str(self.config)]
