"""A second run of the shipped checkpoint: which nodes run again, and what is read of its file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import comfy.model_management
import comfy.utils
import folder_paths
from app.headless.run import Runner
from app.headless.workflow_file import read
from comfy.loading import default_loader

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = ROOT / "examples" / "workflows" / "text_to_image.json"

pytestmark = pytest.mark.slow


class Session:
    """A runner, and what each of its runs does."""

    def __init__(self) -> None:
        self.screen = io.StringIO()
        self.runner = Runner(Console(file=self.screen, width=200))

    def run(self, *changes: str) -> tuple[set[str], int]:
        """Run the example.

        Returns:
            Ids of the nodes that ran, and the bytes that were read of weight files.
        """
        self.screen.truncate(0)
        before = _bytes_read()
        outcome = self.runner.run(read(str(WORKFLOW)), ["Sampler.steps=2", *changes])
        assert outcome.problems == []
        ran = set(re.findall(r"(\d+) [^\n:]+: done in", self.screen.getvalue()))
        return ran, _bytes_read() - before


def _bytes_read() -> int:
    return default_loader().files.bytes_read()


@pytest.fixture(params=["file-slice", "readinto"])
def session(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    loader, hook = default_loader(), comfy.utils.PROGRESS_BAR_HOOK
    monkeypatch.setattr(loader, "options", replace(loader.options, strategy=request.param))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    comfy.model_management.unload_all_models()
    yield Session()
    comfy.model_management.unload_all_models()
    comfy.utils.set_progress_bar_global_hook(hook)


def test_another_seed_runs_the_sampler_and_what_follows_and_reads_no_weight(
    session: Session,
) -> None:
    ran, nbytes = session.run()
    assert ran == {"1", "2", "3", "4", "5", "6", "7"}
    assert nbytes > 10 * 1024 * 1024
    assert session.run("Sampler.seed=2") == ({"5", "6", "7"}, 0)


def test_another_text_runs_only_what_depends_on_it_and_reads_no_weight(session: Session) -> None:
    session.run()
    ran, nbytes = session.run("Prompt.text=a blue star on a white background")
    assert ran == {"2", "5", "6", "7"}
    assert nbytes == 0


def test_the_same_prompt_again_runs_nothing(session: Session) -> None:
    session.run()
    assert session.run() == (set(), 0)
